//! Which filesystem of the source is which, and by what rules it is mounted at a place.

use rustix::fs::{self, StatVfsMountFlags};
use std::os::fd::BorrowedFd;

/// What fstatfs(2) says of a filesystem and of no other of the same device number: `f_type` and `f_fsid`. Not enough to
/// tell two of a type whose `f_fsid` is made from the device number.
pub(super) type Identity = (u64, u64);

/// The flags of a mount that the kernel goes by when something is opened in it. What lies in a bind mount that is read-only
/// must not be opened in another that is not.
pub(super) type Rules = StatVfsMountFlags;

/// `None` where the filesystem does not answer.
pub(super) fn identity(fd: BorrowedFd<'_>) -> Option<Identity> {
    let kind = fs::fstatfs(fd).ok()?.f_type as u64;
    Some((kind, fs::fstatvfs(fd).ok()?.f_fsid))
}

/// Those of the mount that `fd` lies in, now; none where the filesystem does not answer.
pub(super) fn rules(fd: BorrowedFd<'_>) -> Rules {
    let known = Rules::RDONLY | Rules::NOATIME | Rules::NODIRATIME | Rules::RELATIME;
    fs::fstatvfs(fd).map_or(Rules::empty(), |all| all.f_flag & known)
}
