//! `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`, see ioctl_xfs_fsgetxattr(2): the kernel asks for them
//! whenever chattr(1) changes flags.

use super::last_errno;
use rustix::io::Result;
use std::os::fd::{AsFd, AsRawFd};

/// `struct fsxattr` of linux/fs.h, which is passed on as it is.
pub type FsXattr = [u8; 28];

/// `_IOR('X', 31, struct fsxattr)`
pub const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
/// `_IOW('X', 32, struct fsxattr)`
pub const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;

/// The extended inode flags behind a descriptor.
///
/// # Errors
/// ENOTTY or EOPNOTSUPP where the filesystem has none.
pub fn fs_ioc_fsgetxattr(fd: impl AsFd) -> Result<FsXattr> {
    let mut attr: FsXattr = [0; 28];
    // SAFETY: the request writes one `struct fsxattr`, 28 bytes without need for alignment, to the pointer.
    let status = unsafe {
        libc::ioctl(
            fd.as_fd().as_raw_fd(),
            FS_IOC_FSGETXATTR.into(),
            attr.as_mut_ptr(),
        )
    };
    if status < 0 {
        Err(last_errno())
    } else {
        Ok(attr)
    }
}

/// Sets the extended inode flags.
///
/// # Errors
/// EPERM for who may not; those of `fs_ioc_fsgetxattr`.
pub fn fs_ioc_fssetxattr(fd: impl AsFd, attr: &FsXattr) -> Result<()> {
    // SAFETY: the request reads one `struct fsxattr`, 28 bytes without need for alignment, from the pointer.
    let status = unsafe {
        libc::ioctl(
            fd.as_fd().as_raw_fd(),
            FS_IOC_FSSETXATTR.into(),
            attr.as_ptr(),
        )
    };
    if status < 0 {
        Err(last_errno())
    } else {
        Ok(())
    }
}
