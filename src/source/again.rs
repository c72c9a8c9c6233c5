//! Opening an inode again by its descriptor.

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Result;
use rustix::mount::{OpenTreeFlags, open_tree};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// A path to open a descriptor again, also one that is O_PATH, and for calls that take no descriptor.
pub fn proc_path(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// Opens the inode behind `fd` again. The result is a new open file description.
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
    // open_tree(2) needs no /proc, but the seccomp filters of container engines refuse it.
    open_tree(fd, c"", flags).or_else(|_| reopen(fd, OFlags::PATH))
}
