//! Which filesystem of the source a descriptor is on, and with which flags it is mounted there.

use rustix::fs::{self, StatVfsMountFlags};
use std::os::fd::BorrowedFd;

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
