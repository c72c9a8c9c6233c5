//! Opening once more what is open.

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Result;
use rustix::mount::{OpenTreeFlags, open_tree};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// The path under which a descriptor, O_PATH ones included, can be opened again and named in calls that
/// take no descriptor.
pub fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Opens the inode behind `fd` once more, with an open file description of its own.
///
/// # Errors
/// Those of open(2).
pub fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    fs::open(
        proc_path(fd.as_fd()),
        flags | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
    )
}

/// An O_PATH descriptor on the inode behind `fd`.
///
/// # Errors
/// Those of open(2).
pub fn hold(fd: &OwnedFd) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    // It need not find the way through /proc, but container engines refuse it.
    open_tree(fd, c"", flags).or_else(|_| reopen(fd, OFlags::PATH))
}
