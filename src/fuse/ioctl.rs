//! The ioctl(2) calls of lsattr(1) and chattr(1): FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR.

use crate::fs::Fs;
use crate::sys::inode_flags::{FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR};
use crate::view::Tree;
use rustix::fs::IFlags;
use rustix::io::{Errno, Result};

// The FUSE protocol has 32 bits for them.
const GETFLAGS: u32 = libc::FS_IOC_GETFLAGS as u32;
const SETFLAGS: u32 = libc::FS_IOC_SETFLAGS as u32;

/// Runs the ioctl(2) `cmd` with the argument `given` on an open handle, and returns its result.
pub fn answer<T: Tree>(
    fs: &Fs<T>,
    (node, fh): (u64, u64),
    cmd: u32,
    given: &[u8],
) -> Result<Vec<u8>> {
    match cmd {
        GETFLAGS => fs
            .inode_flags(fh)
            .map(|flags| flags.bits().to_ne_bytes().to_vec()),
        FS_IOC_FSGETXATTR => fs.extended_flags(fh).map(|attr| attr.to_vec()),
        SETFLAGS => {
            let flags = IFlags::from_bits_retain(u32::from_ne_bytes(*argument(given)?));
            fs.set_inode_flags(node, fh, flags).map(|()| Vec::new())
        }
        FS_IOC_FSSETXATTR => fs
            .set_extended_flags(node, fh, argument(given)?)
            .map(|()| Vec::new()),
        _ => Err(Errno::NOTTY),
    }
}

/// The argument of an ioctl(2). The kernel has copied as many bytes as the number `cmd` encodes.
fn argument<const N: usize>(in_data: &[u8]) -> Result<&[u8; N]> {
    in_data.first_chunk().ok_or(Errno::INVAL)
}
