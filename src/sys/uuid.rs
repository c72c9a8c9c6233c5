//! `FS_IOC_GETFSUUID` of ioctl(2): what tells a filesystem from others, in later mounts too.

use super::last_errno;
use rustix::io::{Errno, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// `_IOR(0x15, 0, struct fsuuid2)`.
const FS_IOC_GETFSUUID: libc::Ioctl = 0x8011_1500_u32 as libc::Ioctl;

/// `struct fsuuid2`.
#[repr(C)]
#[derive(Default)]
struct Uuid {
    len: u8,
    uuid: [u8; 16],
}

/// The UUID of the filesystem that a file or directory is on. It must be open, not O_PATH.
///
/// # Errors
/// ENOTTY if the filesystem has none, or before Linux 6.9.
pub fn filesystem_uuid(fd: BorrowedFd<'_>) -> Result<[u8; 16]> {
    let mut answer = Uuid::default();
    // SAFETY: `answer` is a `struct fsuuid2`, which the kernel fills; it keeps no pointer.
    let status = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_GETFSUUID, &raw mut answer) };
    match status {
        0 if answer.len == 16 && answer.uuid != [0; 16] => Ok(answer.uuid),
        0 => Err(Errno::NOTTY),
        _ => Err(last_errno()),
    }
}
