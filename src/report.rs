//! Questions to a mount, and their answers as JSON. docs/status.md describes both for users. As long as [`VERSION`]
//! is the same, fields may be added, but not renamed or removed.

mod path;
mod question;

pub use path::Path;
pub use question::{PREFIX, Question};

use path::{MAX_STORE_TEXT, MAX_TEXT};
use serde::{Deserialize, Serialize};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Version of the questions and of their answers.
pub const VERSION: u32 = 1;

/// The longest answer, in bytes: the kernel's limit for the value of an extended attribute (XATTR_SIZE_MAX).
pub const MAX_ANSWER: usize = 64 << 10;

/// What has become of a discard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Discarded {
    /// It has ended. Until then, the question is asked again.
    pub done: bool,
    /// The sentence that says why changes stay. Null: they are given up.
    pub refused: Option<String>,
}

/// The status of a mount.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`VERSION`].
    pub protocol: u32,
    /// Version of the program.
    pub version: String,
    /// The daemon's process id in its own pid namespace.
    pub pid: u32,
    /// The mounting user.
    pub uid: u32,
    /// The tree being served.
    pub source: Source,
    /// The mount point given at the start. Empty if another program has made the mount.
    pub mount_point: Path,
    /// The kind of view: `shared` or `private`.
    pub view: String,
    /// The store of a private view. Null for a shared one.
    pub store: Option<Store>,
    /// Time of the mount, in seconds since 1970.
    pub since: u64,
    /// Time since the mount, in microseconds.
    pub uptime_us: u64,
    /// The options in effect, including defaults.
    pub options: Options,
    /// The kernel features in use.
    pub kernel: Kernel,
    /// Requests by kind. A kind without requests is left out.
    pub requests: Vec<Requests>,
    /// Requests that are not answered yet.
    pub waiting: Waiting,
    /// Resources in use.
    pub usage: Usage,
}

/// The store of a private view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Store {
    /// Its directory.
    pub path: Path,
    /// Bytes of files in it.
    pub used: u64,
    /// `--store-limit`. Null: none.
    pub limit: Option<u64>,
    /// Changed files whose file in the source was changed, replaced or removed since. Those that requests have come across, up to
    /// 10,000.
    pub conflicts: u64,
    /// Up to [`MAX_CONFLICTS`] of them, fewer if their paths are long: the paths below the source.
    pub conflicting: Vec<Path>,
}

impl Store {
    /// What a view reports, without the paths of conflicts.
    pub fn new(report: &StoreReport) -> Self {
        Self {
            path: Path::cut(&report.directory, MAX_STORE_TEXT),
            used: report.used,
            limit: report.limit,
            conflicts: report.conflicts,
            conflicting: Vec::new(),
        }
    }
}

impl Status {
    /// Adds the paths of conflicts, as many as an answer has room for.
    pub fn add_conflicts(&mut self, ways: &[Vec<u8>]) {
        let len = |json: serde_json::Result<Vec<u8>>| json.map_or(MAX_ANSWER, |json| json.len());
        let mut room = MAX_ANSWER.saturating_sub(len(serde_json::to_vec(self)) + 1);
        let Some(store) = &mut self.store else {
            return;
        };
        for way in ways.iter().take(MAX_CONFLICTS) {
            let path = Path::cut(OsStr::from_bytes(way).as_ref(), MAX_TEXT);
            // A comma stands between two.
            let needs = len(serde_json::to_vec(&path)) + 1;
            if needs > room {
                return;
            }
            room -= needs;
            store.conflicting.push(path);
        }
    }
}

/// Conflicts that a status names.
pub const MAX_CONFLICTS: usize = 100;

/// The source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// Its path when it was mounted.
    pub path: Path,
    /// Device number of its root. Another directory may have the path now.
    pub device: u64,
    /// Inode number of its root.
    pub inode: u64,
    /// Whether its root is known to have been removed. False on a network filesystem, because the source is not accessed.
    pub removed: bool,
}

/// The options in effect.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// `owner`, `owner and root`, `everyone`.
    pub access: String,
    /// `-r`.
    pub read_only: bool,
    /// `--threads`.
    pub threads: u64,
    /// `--window-size`.
    pub window_size: u64,
    /// `--map-budget`. Null: derived from the machine's limits.
    pub map_budget: Option<u64>,
    /// `--write-path`.
    pub write_path: String,
    /// `--sync-on-close`.
    pub sync_on_close: bool,
    /// `--attr-timeout`, in seconds.
    pub attr_timeout: f64,
    /// `--entry-timeout`, in seconds.
    pub entry_timeout: f64,
    /// `--direct-io`.
    pub direct_io: bool,
    /// `--passthrough`.
    pub passthrough: bool,
    /// `--auto-unmount`.
    pub auto_unmount: bool,
    /// Generic options of mount(8) that are set, of `noexec`, `nosuid`, `nodev`, `nosymfollow`, `noatime`, `sync`,
    /// `dirsync`.
    pub flags: Vec<String>,
    /// `--private`.
    pub store: Option<Path>,
    /// `--ephemeral`.
    pub ephemeral: bool,
    /// `--store-limit`. Null: none.
    pub store_limit: Option<u64>,
    /// `--on-source-change`: `stop`, `follow`, `copy`. Null: the view is shared.
    pub on_source_change: Option<String>,
    /// `--log`.
    pub log: Option<Path>,
}

/// The kernel features in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kernel {
    /// The release of uname(2).
    pub release: String,
    /// FUSE features that mmfs has asked for and the kernel has.
    pub in_use: Vec<String>,
    /// FUSE features that mmfs has asked for and the kernel lacks.
    pub missing: Vec<String>,
    /// Features that need a privilege, a kernel version or a filesystem.
    pub features: Vec<Feature>,
}

/// A feature that is not available everywhere. mmfs works without it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Feature {
    /// `passthrough`, `clone`, `handles`, `read-ahead`.
    pub name: String,
    /// Whether it is in use.
    pub in_use: bool,
    /// Why it is not in use and what mmfs does instead, or which limits it has.
    pub note: String,
}

impl Feature {
    /// A feature. `note` is described at [`Feature::note`].
    pub fn new(name: &str, in_use: bool, note: impl Into<String>) -> Self {
        Feature {
            name: name.into(),
            in_use,
            note: note.into(),
        }
    }
}

/// The requests of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    /// The name as in linux/fuse.h, in lower case, for example `read`. `forget` counts inodes, not requests. `control` counts
    /// questions of the control channel.
    pub kind: String,
    /// Requests that have arrived.
    pub count: u64,
    /// Requests that were answered. The durations are of these.
    pub answered: u64,
    /// Requests that were answered with an error.
    pub errors: u64,
    /// Sum of all durations in microseconds. A duration is the time from reading the request until its answer is sent.
    pub total_us: u64,
    /// Median duration, in microseconds.
    pub p50_us: u64,
    /// 99th percentile of the durations, in microseconds.
    pub p99_us: u64,
    /// Longest duration, in microseconds.
    pub max_us: u64,
}

/// Requests that are not answered yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// Number of such requests.
    pub requests: u64,
    /// How long the oldest has waited, in microseconds.
    pub oldest_us: u64,
    /// Inodes with a request that has waited for ten seconds or longer.
    pub files_not_answering: u64,
    /// Requests that no thread has taken yet.
    pub queued: u64,
}

/// Resources in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Open files.
    pub open_files: u64,
    /// Open directories.
    pub open_directories: u64,
    /// Inodes to which the kernel holds references.
    pub known_nodes: u64,
    /// Page tables, in bytes: VmPTE of proc_pid_status(5).
    pub page_tables: u64,
    /// Resident memory of the process including mapped files, in bytes: VmRSS of proc_pid_status(5).
    pub resident: u64,
    /// Spare threads that run a job.
    pub spare_threads: Share,
    /// Notifications to the kernel to drop or replace cached contents.
    pub invalidations: u64,
    /// Resources of the view.
    #[serde(flatten)]
    pub view: ViewUsage,
}

/// The report of a view.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ViewReport {
    /// Resources in use.
    pub usage: ViewUsage,
    /// Device and inode number of its root at the source.
    pub root: (u64, u64),
    /// Whether the view finds inodes again by exported handles. Otherwise it finds them by their names only.
    pub by_handle: bool,
    /// Whether the root is known to have been removed.
    pub removed: bool,
    /// The store of a private view.
    pub store: Option<StoreReport>,
}

/// The report of a private view's store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// Its directory.
    pub directory: std::path::PathBuf,
    /// Bytes of files in it.
    pub used: u64,
    /// So many at most.
    pub limit: Option<u64>,
    /// The number of conflicts found so far.
    pub conflicts: u64,
    /// The paths below the source of up to [`MAX_CONFLICTS`] of them.
    pub conflicting: Vec<Vec<u8>>,
}

/// Resources that a view uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ViewUsage {
    /// Windows.
    pub windows: Share,
    /// Bytes mapped by windows.
    pub mapped: Share,
    /// Descriptors of open files.
    pub file_descriptors: Share,
    /// Descriptors of open directories.
    pub listing_descriptors: Share,
    /// Descriptors kept open to save later opens.
    pub kept_descriptors: Share,
    /// Copies from or to a mapping that faulted. mmfs then used pread(2) or pwrite(2).
    pub faults: u64,
    /// Faults that ended in EIO.
    pub faults_eio: u64,
    /// How often mmfs found that the source had lost bytes of an answered write.
    pub lost_writes: u64,
}

/// Usage of a resource, and its limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Share {
    /// In use.
    pub used: u64,
    /// The maximum.
    pub limit: u64,
}

impl Share {
    /// `used` of `limit`.
    pub fn new(used: usize, limit: usize) -> Self {
        Share {
            used: used as u64,
            limit: limit as u64,
        }
    }
}

/// A list of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trace {
    /// [`VERSION`].
    pub protocol: u32,
    /// The number for the next question.
    pub next: u64,
    /// The requests, in order.
    pub requests: Vec<Request>,
}

/// A request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// Its number, in the order of the answers. 0 if it is not answered yet.
    pub number: u64,
    /// Its arrival, in microseconds since 1970.
    pub time_us: u64,
    /// As in [`Requests`].
    pub kind: String,
    /// Its node id. That is 1 for the root, and for most inodes the number that `ls -i` shows. For a request with a name, that of
    /// the directory.
    pub node: u64,
    /// The offset in the request, or 0.
    pub offset: u64,
    /// The length in the request in bytes, or 0.
    pub length: u64,
    /// Its duration, or how long it has waited, in microseconds.
    pub took_us: u64,
    /// 0 for success.
    pub errno: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_paths_fit_into_an_answer() {
        for byte in [b"\x01", b"\xff", b"\"", b"a"] {
            let path = Path::new(OsStr::from_bytes(&byte.repeat(4095)).as_ref());
            let mut status = Status {
                mount_point: path.clone(),
                ..Status::default()
            };
            status.options.log = Some(path.clone());
            status.source.path = path;
            let store = StoreReport {
                directory: OsStr::from_bytes(&byte.repeat(4095)).into(),
                ..StoreReport::default()
            };
            status.store = Some(Store::new(&store));
            let json = serde_json::to_vec(&status).expect("JSON");
            assert!(json.len() < MAX_ANSWER - (10 << 10), "{}", json.len());
            status.add_conflicts(&vec![byte.repeat(4095); 200]);
            let json = serde_json::to_vec(&status).expect("JSON");
            assert!(json.len() <= MAX_ANSWER, "{}", json.len());
            let read: Status = serde_json::from_slice(&json).expect("a status");
            assert_eq!(read, status);
        }
    }

    #[test]
    fn an_answer_with_fields_of_a_later_program_is_read() {
        let status: Status = serde_json::from_str(r#"{"pid": 7, "later": [1]}"#).expect("a status");
        assert_eq!((status.pid, status.requests.len()), (7, 0));
    }
}
