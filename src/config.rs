//! The checked form of the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// All settings of one mount.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The tree being served, absolute.
    pub source: PathBuf,
    /// The store, if the view is private. `None`: it is shared.
    pub store: Option<StoreConfig>,
    /// The mount point, absolute. `/dev/fd/N` if the parent process passed a mounted /dev/fuse as descriptor N.
    pub mount_point: PathBuf,
    /// Stay attached to the terminal and run in the foreground.
    pub foreground: bool,
    /// Which users besides the mounting user may access the mount.
    pub access: Access,
    /// Let fusermount3 unmount if the daemon dies.
    pub auto_unmount: bool,
    /// Threads that serve requests, at least 1.
    pub threads: usize,
    /// Bytes of a file that one window covers, a multiple of the page size, at least 64 KiB.
    pub window_size: u64,
    /// Bytes of address space that windows may take. `None`: derived from the machine's limits.
    pub map_budget: Option<u64>,
    /// How writes within a file reach the source.
    pub write_path: WritePath,
    /// Wait for written pages to reach the device at the last close of a written file.
    pub sync_on_close: bool,
    /// How long the kernel caches attributes.
    pub attr_timeout: Duration,
    /// How long the kernel caches names.
    pub entry_timeout: Duration,
    /// Bypass the kernel's page cache on every open.
    pub direct_io: bool,
    /// Let the kernel read and write open files of the source by itself, where it can.
    pub passthrough: bool,
    /// Generic options of mount(8).
    pub flags: MountFlags,
    /// First column of /proc/mounts.
    pub fsname: OsString,
    /// The type shows as `fuse.<subtype>`.
    pub subtype: OsString,
    /// Where log lines go, and which of them.
    pub log: LogConfig,
    /// File that holds the daemon's process id while the mount exists.
    pub pid_file: Option<PathBuf>,
}

/// Bytes of a file that one window covers, if nobody says otherwise.
const WINDOW: u64 = 1 << 30;

impl Config {
    /// For reading a source without mounting it.
    pub fn unmounted(source: PathBuf) -> Self {
        Config {
            fsname: source.clone().into(),
            source,
            store: None,
            mount_point: PathBuf::new(),
            foreground: true,
            access: Access::Owner,
            auto_unmount: false,
            threads: 1,
            window_size: WINDOW,
            map_budget: None,
            write_path: WritePath::Auto,
            sync_on_close: false,
            attr_timeout: Duration::ZERO,
            entry_timeout: Duration::ZERO,
            direct_io: false,
            passthrough: false,
            flags: MountFlags {
                read_only: true,
                no_atime: true,
                ..MountFlags::default()
            },
            subtype: OsString::new(),
            log: LogConfig::default(),
            pid_file: None,
        }
    }
}

/// Generic options of mount(8), with the meaning they have there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// Nothing may be changed through the mount.
    pub read_only: bool,
    /// No program may be executed from the mount.
    pub no_exec: bool,
    /// suid and sgid bits have no effect on the mount.
    pub no_suid: bool,
    /// Device files cannot be opened on the mount.
    pub no_dev: bool,
    /// The kernel follows no symbolic link of the mount.
    pub no_symfollow: bool,
    /// Reading leaves access times alone, on the source too where that is allowed.
    pub no_atime: bool,
    /// Every write reaches the device before it is answered.
    pub sync: bool,
    /// Every change of a directory reaches the device before it is answered.
    pub dir_sync: bool,
}

/// Which users besides the mounting user may access the mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    #[default]
    Owner,
    /// Root.
    OwnerAndRoot,
    /// All users, subject to the permissions of each file.
    Everyone,
}

/// Where a private view keeps its changes, and what it does when the source changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// The directory of the store, absolute. `None`: one is made that goes with the mount.
    pub directory: Option<PathBuf>,
    /// Where that one is made, absolute: `$TMPDIR`. Empty if none is.
    pub temporary: PathBuf,
    /// How many bytes of files it may hold.
    pub limit: Option<u64>,
    /// The source may be another than the one the store was made for.
    pub base_moved: bool,
    /// What a changed file does when its file in the source changes, too.
    pub on_source_change: OnSourceChange,
}

impl StoreConfig {
    /// A store in this directory, without limit, of a source that has not moved.
    pub fn of_directory(directory: PathBuf) -> Self {
        Self {
            directory: Some(directory),
            temporary: PathBuf::new(),
            limit: None,
            base_moved: false,
            on_source_change: OnSourceChange::default(),
        }
    }
}

/// What a changed file of a private view does when its file in the source changes, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnSourceChange {
    /// Its pages that come from the source cannot be read any more (EIO).
    #[default]
    Stop,
    /// Its pages that come from the source show what the source has now.
    Follow,
    /// It cannot be: the first write copies the whole file.
    Copy,
}

/// How writes within a file reach the source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WritePath {
    /// Through the mapping or by pwrite(2). The size decides, by measurement of which is faster.
    #[default]
    Auto,
    /// Through the mapping, for every write that does not extend the file.
    Region,
}

/// Where log lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Append log lines to this file, not to standard error.
    pub file: Option<PathBuf>,
    /// `-v` counts up, `-q` counts down from the default (warnings).
    pub verbosity: i8,
    /// mmfs runs in the foreground, so standard error stays open.
    pub foreground: bool,
}
