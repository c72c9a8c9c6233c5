//! The checked form of the command line, which the rest of the program reads.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Everything one mount is told at its start.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The tree being served, absolute.
    pub source: PathBuf,
    /// Where it is shown, absolute; `/dev/fd/N` for a mounted /dev/fuse that was left open for us.
    pub mount_point: PathBuf,
    /// Stay attached to the terminal and run in the foreground.
    pub foreground: bool,
    /// Who besides the mounting user may enter.
    pub access: Access,
    /// Let fusermount3 take the mount down should the daemon die.
    pub auto_unmount: bool,
    /// Threads that serve requests, at least 1.
    pub threads: usize,
    /// Bytes of a file that one window covers, a multiple of the page size, at least 64 KiB.
    pub window_size: u64,
    /// Bytes of address space that windows may take; `None`: derived from the machine's limits.
    pub map_budget: Option<u64>,
    /// Which way in-place writes take.
    pub write_path: WritePath,
    /// Wait for written pages to reach the device at the last close of a written file.
    pub sync_on_close: bool,
    /// How long the kernel caches attributes.
    pub attr_timeout: Duration,
    /// How long the kernel caches names.
    pub entry_timeout: Duration,
    /// Bypass the kernel's page cache on every open.
    pub direct_io: bool,
    /// Let the kernel serve the bytes of open files from the source by itself, where it can.
    pub passthrough: bool,
    /// mount(8)'s generic flags.
    pub flags: MountFlags,
    /// First column of /proc/mounts.
    pub fsname: OsString,
    /// The type shows as `fuse.<subtype>`.
    pub subtype: OsString,
    /// Where log lines go, and how many of them.
    pub log: LogConfig,
    /// Names the process while the mount lives.
    pub pid_file: Option<PathBuf>,
}

/// mount(8)'s generic flags, with the meaning they have there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// Nothing may be changed through the mount.
    pub read_only: bool,
    /// No program may be executed from the mount.
    pub no_exec: bool,
    /// suid and sgid bits are not honoured on the mount.
    pub no_suid: bool,
    /// Device nodes are not honoured on the mount.
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

/// Who besides the mounting user may enter the mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// Nobody.
    #[default]
    Owner,
    /// Root.
    OwnerAndRoot,
    /// Everybody, under the files' own permissions.
    Everyone,
}

/// Which way in-place writes take to the source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WritePath {
    /// The mapped region or pwrite(2), whichever is measured to be faster for the size.
    #[default]
    Auto,
    /// The mapped region for everything that does not extend the file.
    Region,
}

/// Where log lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Append to this file instead of standard error.
    pub file: Option<PathBuf>,
    /// `-v` counts up, `-q` counts down from the default (warnings).
    pub verbosity: i8,
    /// Standard error stays ours for as long as the mount lives.
    pub foreground: bool,
}
