//! `statmount(2)`, of which nothing is asked but whether the mount is there.

use super::last_errno;
use rustix::io::Errno;

/// __NR_statmount, the same on every architecture but alpha.
const SYS_STATMOUNT: libc::c_long = 457;

/// `struct mnt_id_req` in its first size.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mount: u64,
    wanted: u64,
}

/// Whether the mount with this unique number is still mounted somewhere; false where the kernel does not tell.
pub fn is_mounted(mount: u64) -> bool {
    let request = Request {
        size: size_of::<Request>() as u32,
        spare: 0,
        mount,
        wanted: 0,
    };
    let mut answer = [0u64; 64]; // `struct statmount` has 512 bytes
    // SAFETY: the request states its size, the answer's is passed; both live on, and the kernel keeps no pointer.
    let status = unsafe {
        libc::syscall(
            SYS_STATMOUNT,
            &raw const request,
            &raw mut answer,
            size_of_val(&answer),
            0,
        )
    };
    status == 0 || last_errno() == Errno::OVERFLOW
}
