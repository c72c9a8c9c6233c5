//! `FS_IOC_GETFSUUID` of ioctl(2), and `f_fsid` of btrfs: what tells a filesystem from others, in later mounts too.

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

/// `f_type` of statfs(2).
const BTRFS: u64 = 0x9123_683e;

/// The UUID of the filesystem that a file or directory is on. It must be open, not O_PATH. Subvolumes of one btrfs have one UUID, and
/// inode numbers of their own. So theirs is `f_fsid`, which btrfs makes of the UUID and the number of the subvolume: both stay.
///
/// # Errors
/// ENOTTY if the filesystem has none, or before Linux 6.9, unless it is btrfs.
pub fn filesystem_uuid(fd: BorrowedFd<'_>) -> Result<[u8; 16]> {
    match rustix::fs::fstatfs(fd)?.f_type as u64 {
        BTRFS => {
            let number = rustix::fs::fstatvfs(fd)?.f_fsid;
            Ok(u128::from(number).to_be_bytes())
        }
        _ => shared_uuid(fd),
    }
}

fn shared_uuid(fd: BorrowedFd<'_>) -> Result<[u8; 16]> {
    let mut answer = Uuid::default();
    // SAFETY: `answer` is a `struct fsuuid2`, which the kernel fills; it keeps no pointer.
    let status = unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_GETFSUUID, &raw mut answer) };
    match status {
        0 if answer.len == 16 && answer.uuid != [0; 16] => Ok(answer.uuid),
        0 => Err(Errno::NOTTY),
        _ => Err(last_errno()),
    }
}
