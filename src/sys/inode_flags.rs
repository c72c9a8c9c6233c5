//! `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`, see ioctl_xfs_fsgetxattr(2). The kernel sends them when chattr(1) changes
//! flags.

use rustix::io::Result;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl};
use std::os::fd::AsFd;

/// `struct fsxattr` of linux/fs.h, passed on unchanged.
pub type FsXattr = [u8; 28];

/// `_IOR('X', 31, struct fsxattr)`
pub const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
/// `_IOW('X', 32, struct fsxattr)`
pub const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;

/// The extended inode flags behind a descriptor.
///
/// # Errors
/// ENOTTY or EOPNOTSUPP if the filesystem has none.
pub fn fs_ioc_fsgetxattr(fd: impl AsFd) -> Result<FsXattr> {
    // SAFETY: the request writes one `struct fsxattr`, 28 bytes without need for alignment.
    unsafe {
        ioctl(
            fd,
            Getter::<{ FS_IOC_FSGETXATTR as Opcode }, FsXattr>::new(),
        )
    }
}

/// Sets the extended inode flags.
///
/// # Errors
/// EPERM if not permitted; those of `fs_ioc_fsgetxattr`.
pub fn fs_ioc_fssetxattr(fd: impl AsFd, attr: &FsXattr) -> Result<()> {
    // SAFETY: the request reads one `struct fsxattr`, 28 bytes without need for alignment.
    unsafe {
        ioctl(
            fd,
            Setter::<{ FS_IOC_FSSETXATTR as Opcode }, FsXattr>::new(*attr),
        )
    }
}
