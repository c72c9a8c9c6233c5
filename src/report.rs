//! What a mount says of itself when it is asked: the names of the questions, and the answers as JSON. docs/status.md describes
//! both for users. Fields are added, and never renamed or removed, as long as [`VERSION`] stays.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What the names of all questions begin with. A question is an extended attribute of the root of a mount.
pub const PREFIX: &[u8] = b"system.mmfs.";

/// Version of the questions and of their answers.
pub const VERSION: u32 = 1;

/// The longest answer, in bytes: what the kernel takes for a value (XATTR_SIZE_MAX).
pub const MAX_ANSWER: usize = 64 << 10;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// `system.mmfs.1.status`: a [`Status`].
    Status,
    /// `system.mmfs.1.trace.N`: a [`Trace`], of requests from the number N on.
    Trace(u64),
    /// `system.mmfs.1.waiting`: a [`Trace`] of requests that are not answered, the oldest first.
    Waiting,
}

impl Question {
    /// Reads the name of an attribute; `None` if it belongs to no question, of whatever version.
    ///
    /// # Errors
    /// EOPNOTSUPP for another version and for an unknown question, EINVAL for a number that is none.
    pub fn parse(name: &[u8]) -> Option<Result<Self, Errno>> {
        let rest = name.strip_prefix(PREFIX)?;
        let mut words = rest.split(|&byte| byte == b'.');
        let known = match (words.next(), words.next(), words.next(), words.next()) {
            (Some(b"1"), Some(b"status"), None, None) => Ok(Self::Status),
            (Some(b"1"), Some(b"waiting"), None, None) => Ok(Self::Waiting),
            (Some(b"1"), Some(b"trace"), Some(from), None) => number(from).map(Self::Trace),
            (Some(b"1"), Some(b"status" | b"trace" | b"waiting"), ..) => Err(Errno::INVAL),
            _ => Err(Errno::OPNOTSUPP),
        };
        Some(known)
    }

    /// The name of the attribute.
    pub fn name(self) -> String {
        let prefix = String::from_utf8_lossy(PREFIX);
        match self {
            Self::Status => format!("{prefix}{VERSION}.status"),
            Self::Trace(from) => format!("{prefix}{VERSION}.trace.{from}"),
            Self::Waiting => format!("{prefix}{VERSION}.waiting"),
        }
    }
}

fn number(digits: &[u8]) -> Result<u64, Errno> {
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| all_digits);
    text.and_then(|text| text.parse().ok()).ok_or(Errno::INVAL)
}

/// What a mount does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`VERSION`].
    pub protocol: u32,
    /// Version of the program.
    pub version: String,
    /// Its process, in its own namespace.
    pub pid: u32,
    /// The user that has mounted.
    pub uid: u32,
    /// What is served.
    pub source: Source,
    /// Where it was mounted first. Empty where another program has made the mount.
    pub mount_point: Path,
    /// The kind of view.
    pub view: String,
    /// When it was mounted, in seconds since 1970.
    pub since: u64,
    /// For how long, in microseconds.
    pub uptime_us: u64,
    /// Options as meant, defaults included.
    pub options: Options,
    /// What of the kernel is in use.
    pub kernel: Kernel,
    /// Requests by kind, those that have come at all.
    pub requests: Vec<Requests>,
    /// Requests that are not answered yet.
    pub waiting: Waiting,
    /// What is in use.
    pub usage: Usage,
}

/// The longest text of a path, in characters. JSON may take six bytes for each, and an answer has several paths of up to 4,095 bytes.
const MAX_TEXT: usize = 1000;

/// A path. Few are not text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Path {
    /// For people: what is no UTF-8 is replaced, and what is long is cut.
    pub text: String,
    /// The bytes themselves, in hexadecimal.
    pub hex: String,
}

impl Path {
    /// Writes down a path.
    pub fn new(path: &std::path::Path) -> Self {
        let bytes = path.as_os_str().as_encoded_bytes();
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        if let Some((at, _)) = text.char_indices().nth(MAX_TEXT) {
            text.replace_range(at.., "…");
        }
        Path {
            text,
            hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    /// The path itself; `None` if it cannot be read.
    pub fn path(&self) -> Option<std::path::PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        let byte = |at| u8::from_str_radix(self.hex.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..self.hex.len()).step_by(2).map(byte).collect();
        bytes.map(|bytes| std::ffi::OsString::from_vec(bytes).into())
    }
}

/// The source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// Where it was.
    pub path: Path,
    /// Device and inode number of its root: another directory may be at the path by now.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
    /// Whether its root is known to have been removed. The source is not asked, so of one on another machine this is not known.
    pub removed: bool,
}

/// Options as meant.
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
    /// `--map-budget`; null: derived from the machine.
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
    /// Generic options of mount(8) that are set: `noexec`, `nosuid`, `nodev`, `noatime`, `sync`, `dirsync`.
    pub flags: Vec<String>,
    /// `--log`.
    pub log: Option<Path>,
}

/// What of the kernel is in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kernel {
    /// As uname(2) says.
    pub release: String,
    /// FUSE features that mmfs asked for and has.
    pub in_use: Vec<String>,
    /// FUSE features that this kernel lacks.
    pub missing: Vec<String>,
    /// What mmfs does otherwise where it cannot be had.
    pub features: Vec<Feature>,
}

/// Something that may not be had everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Feature {
    /// `passthrough`, `clone`, `handles`, `read-ahead`.
    pub name: String,
    /// Whether it is in use.
    pub in_use: bool,
    /// What is done instead and why, or how far it is in use.
    pub note: String,
}

impl Feature {
    /// `note` says what is done instead and why, or how far it is in use.
    pub fn new(name: &str, in_use: bool, note: impl Into<String>) -> Self {
        Feature {
            name: name.into(),
            in_use,
            note: note.into(),
        }
    }
}

/// The requests of a kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    /// As in linux/fuse.h, in lower case: `read`. `forget` counts inodes, not requests. `control` are questions like this one.
    pub kind: String,
    /// Those that came.
    pub count: u64,
    /// Those that were answered. The durations are theirs.
    pub answered: u64,
    /// Those that were answered with an error.
    pub errors: u64,
    /// Microseconds from reading the request to having sent its answer: of all together.
    pub total_us: u64,
    /// Half took no longer than this.
    pub p50_us: u64,
    /// 99 of 100 took no longer than this.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

/// Requests that are not answered yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// How many there are.
    pub requests: u64,
    /// For how long the oldest waits, in microseconds.
    pub oldest_us: u64,
    /// Inodes with a request that waits for ten seconds or longer.
    pub files_not_answering: u64,
    /// Requests that were read and wait for a thread.
    pub queued: u64,
}

/// What is in use. Of most there is a limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Open files.
    pub open_files: u64,
    /// Open directories.
    pub open_directories: u64,
    /// Inodes that the kernel knows.
    pub known_nodes: u64,
    /// Page tables, in bytes: VmPTE of proc_pid_status(5).
    pub page_tables: u64,
    /// Memory of the process that is resident, mapped files included, in bytes: VmRSS.
    pub resident: u64,
    /// Spare threads that work.
    pub spare_threads: Share,
    /// Times the kernel was told to forget or to replace what it had cached.
    pub invalidations: u64,
    /// What the view uses.
    #[serde(flatten)]
    pub view: ViewUsage,
}

/// What a view says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ViewReport {
    /// What it uses.
    pub usage: ViewUsage,
    /// Device and inode number of its root at the source.
    pub root: (u64, u64),
    /// Whether inodes are found again by exported handles, and not by their names alone.
    pub by_handle: bool,
    /// Whether the root is known to have been removed.
    pub removed: bool,
}

/// What a view uses.
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
    /// Descriptors kept to save work.
    pub kept_descriptors: Share,
    /// Copies from or to a mapping that faulted. The bytes were read or written otherwise, if they could be.
    pub faults: u64,
    /// Those of them that ended in EIO.
    pub faults_eio: u64,
    /// Written bytes that the source has lost after they had been answered, as often as that was found.
    pub lost_writes: u64,
}

/// How much of what there may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Share {
    /// In use.
    pub used: u64,
    /// The most there may be.
    pub limit: u64,
}

impl Share {
    /// So much of so much.
    pub fn new(used: usize, limit: usize) -> Self {
        Share {
            used: used as u64,
            limit: limit as u64,
        }
    }
}

/// Some requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trace {
    /// [`VERSION`].
    pub protocol: u32,
    /// The number to go on with.
    pub next: u64,
    /// The requests, in order.
    pub requests: Vec<Request>,
}

/// A request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// Its number, in the order of the answers. 0 for one that waits.
    pub number: u64,
    /// When it came, in microseconds since 1970.
    pub time_us: u64,
    /// As in [`Requests`].
    pub kind: String,
    /// Its node, which is the number `ls -i` shows of most inodes, 1 of the root; or the directory of its name.
    pub node: u64,
    /// The offset that it names, or 0.
    pub offset: u64,
    /// The bytes that it names, or 0.
    pub length: u64,
    /// How long it took, or has been waiting.
    pub took_us: u64,
    /// 0 for success.
    pub errno: i32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn questions_are_read_as_they_are_written() {
        for question in [
            Question::Status,
            Question::Waiting,
            Question::Trace(0),
            Question::Trace(u64::MAX),
        ] {
            let name = question.name();
            assert_eq!(Question::parse(name.as_bytes()), Some(Ok(question)));
        }
    }

    #[test]
    fn other_names_are_refused_and_those_of_others_left_alone() {
        for (name, errno) in [
            (&b"system.mmfs."[..], Errno::OPNOTSUPP),
            (b"system.mmfs.1", Errno::OPNOTSUPP),
            (b"system.mmfs.1.", Errno::OPNOTSUPP),
            (b"system.mmfs.2.status", Errno::OPNOTSUPP),
            (b"system.mmfs.01.status", Errno::OPNOTSUPP),
            (b"system.mmfs.1.Status", Errno::OPNOTSUPP),
            (b"system.mmfs.1.\xff\xfe", Errno::OPNOTSUPP),
            (b"system.mmfs.1.status.", Errno::INVAL),
            (b"system.mmfs.1.trace", Errno::INVAL),
            (b"system.mmfs.1.trace.", Errno::INVAL),
            (b"system.mmfs.1.trace.-1", Errno::INVAL),
            (b"system.mmfs.1.trace.+1", Errno::INVAL),
            (b"system.mmfs.1.trace.1.2", Errno::INVAL),
            (b"system.mmfs.1.trace.18446744073709551616", Errno::INVAL),
            (b"system.mmfs.1.trace.\xff", Errno::INVAL),
        ] {
            assert_eq!(Question::parse(name), Some(Err(errno)), "{name:?}");
        }
        for name in [
            &b"system.mmfs"[..],
            b"system.posix_acl_access",
            b"user.mmfs.1.status",
            b"",
        ] {
            assert_eq!(Question::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn paths_keep_their_bytes() {
        for bytes in [&b"/a b\n\x1b[2J\"\\"[..], b"/\xff\xfe", b""] {
            let path = std::path::Path::new(OsStr::from_bytes(bytes));
            let written = serde_json::to_string(&Path::new(path)).expect("JSON");
            let read: Path = serde_json::from_str(&written).expect("a path");
            assert_eq!(read.path().as_deref(), Some(path));
        }
    }

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
            let json = serde_json::to_vec(&status).expect("JSON");
            assert!(json.len() < MAX_ANSWER - (16 << 10), "{}", json.len());
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
