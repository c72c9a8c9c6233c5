//! Which filesystem of the source is which.

use rustix::fs::{self, StatVfsMountFlags};
use std::os::fd::BorrowedFd;

/// What fstatfs(2) says of a filesystem and of no other of the same device number: `f_type` and `f_fsid`. Not enough to
/// tell two of a type whose `f_fsid` is made from the device number. And the flags of the mount that the kernel goes by when
/// something is opened in it: what lies in a bind mount that is read-only must not be opened in another that is not.
pub(super) type Identity = (u64, u64, StatVfsMountFlags);

/// What identifies the filesystem that `fd` lies on; `None` where the filesystem does not answer.
pub(super) fn identity(fd: BorrowedFd<'_>) -> Option<Identity> {
    const RULES: StatVfsMountFlags = StatVfsMountFlags::RDONLY
        .union(StatVfsMountFlags::NOATIME)
        .union(StatVfsMountFlags::NODIRATIME)
        .union(StatVfsMountFlags::RELATIME);
    let kind = fs::fstatfs(fd).ok()?.f_type as u64;
    let all = fs::fstatvfs(fd).ok()?;
    Some((kind, all.f_fsid, all.f_flag & RULES))
}
