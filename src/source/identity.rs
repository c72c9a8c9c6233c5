//! Which filesystem of the source a descriptor is on, and with which flags it is mounted there.

use super::again::proc_path;
use crate::sys::uuid::filesystem_uuid;
use rustix::fs::{self, Mode, OFlags, StatVfsMountFlags};
use std::os::fd::{AsFd, BorrowedFd};

/// `f_type` and `f_fsid` of fstatfs(2), to tell filesystems with the same device number apart. Two of the same type cannot be
/// told apart if `f_fsid` is made from the device number.
pub(super) type Identity = (u64, u64);

/// Mount flags that the kernel applies when something is opened. An inode found in a read-only bind mount must not be opened in
/// a writable one.
pub(super) type Rules = StatVfsMountFlags;

/// `None` if fstatfs(2) fails.
pub(super) fn identity(fd: BorrowedFd<'_>) -> Option<Identity> {
    let kind = fs::fstatfs(fd).ok()?.f_type as u64;
    Some((kind, fs::fstatvfs(fd).ok()?.f_fsid))
}

/// The present flags of the mount of `fd`. Empty if fstatvfs(2) fails.
pub(super) fn rules(fd: BorrowedFd<'_>) -> Rules {
    let known = Rules::RDONLY | Rules::NOATIME | Rules::NODIRATIME | Rules::RELATIME;
    fs::fstatvfs(fd).map_or(Rules::empty(), |all| all.f_flag & known)
}

/// By what a later mount finds a filesystem of the source again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lasting {
    /// Its UUID, if it has one.
    pub uuid: Option<[u8; 16]>,
    /// The path by which it was found: that of its mount.
    pub path: Vec<u8>,
}

impl Lasting {
    /// Of the filesystem on which `fd` is the first inode found.
    pub(super) fn of(fd: BorrowedFd<'_>) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME | OFlags::CLOEXEC;
        let open = |flags| fs::openat(fd, c".", flags, Mode::empty());
        // Only the owner and root may have O_NOATIME. Listing moves an access time, opening does not.
        let open = open(flags).or_else(|_| open(flags - OFlags::NOATIME));
        Lasting {
            uuid: open.and_then(|fd| filesystem_uuid(fd.as_fd())).ok(),
            path: fs::readlink(proc_path(fd), Vec::new())
                .map_or_else(|_| Vec::new(), |path| path.into_bytes()),
        }
    }
}
