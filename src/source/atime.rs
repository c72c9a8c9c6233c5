//! Access times: when a read moves them, and opening with O_NOATIME.

use crate::attr::{Attr, Time};
use rustix::fs::{OFlags, StatVfsMountFlags, fstatvfs};
use rustix::io::{Errno, Result};
use std::os::fd::BorrowedFd;

/// When a read moves the access time on a filesystem; see mount(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtimeRule {
    /// Never.
    Never,
    /// If it is not later than the last change, or older than a day (relatime).
    Relative,
    /// At every read (strictatime).
    Strict,
}

impl AtimeRule {
    /// The rule of the mount of `fd`.
    pub fn of(fd: BorrowedFd<'_>) -> Self {
        let flags = fstatvfs(fd).map_or(StatVfsMountFlags::empty(), |s| s.f_flag);
        match flags {
            f if f.intersects(StatVfsMountFlags::NOATIME | StatVfsMountFlags::RDONLY) => {
                AtimeRule::Never
            }
            f if f.contains(StatVfsMountFlags::RELATIME) => AtimeRule::Relative,
            _ => AtimeRule::Strict,
        }
    }

    /// Whether a read of an inode with these attributes moves its access time.
    pub fn is_due(self, attr: &Attr) -> bool {
        const DAY: i64 = 24 * 60 * 60;
        match self {
            AtimeRule::Never => false,
            AtimeRule::Strict => true,
            AtimeRule::Relative => {
                attr.atime <= attr.mtime
                    || attr.atime <= attr.ctime
                    || Time::now().sec - attr.atime.sec >= DAY
            }
        }
    }
}

/// Calls `open` with O_NOATIME. If that is not permitted (the caller does not own the file), calls it without, unless `flags`
/// have O_NOATIME.
///
/// # Errors
/// Those of `open`; EPERM if `flags` have O_NOATIME and it is not permitted.
pub fn open_noatime<T>(flags: OFlags, open: impl Fn(OFlags) -> Result<T>) -> Result<T> {
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) if !flags.contains(OFlags::NOATIME) => open(flags),
        outcome => outcome,
    }
}
