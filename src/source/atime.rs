//! Access times: when reading moves them, and opening without.

use crate::attr::{Attr, Time};
use rustix::fs::{OFlags, StatVfsMountFlags, fstatvfs};
use rustix::io::{Errno, Result};
use std::os::fd::BorrowedFd;

/// When reading moves access times on a filesystem; mount(8) has the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtimeRule {
    /// Never.
    Never,
    /// When it is not newer than the last change, or a day old.
    Relative,
    /// With every read.
    Strict,
}

impl AtimeRule {
    /// Of the mount that `fd` lies in.
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

    /// Whether reading an inode with these attributes moves its access time.
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

/// Has `open` open something that leaves access times alone, where that is allowed: it is a privilege of the owner.
/// Where `flags` have O_NOATIME already, nothing else will do.
///
/// # Errors
/// Those of `open`; EPERM where O_NOATIME was asked for and is not allowed.
pub fn quietly<T>(flags: OFlags, open: impl Fn(OFlags) -> Result<T>) -> Result<T> {
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) if !flags.contains(OFlags::NOATIME) => open(flags),
        outcome => outcome,
    }
}
