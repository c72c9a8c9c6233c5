//! `statmount(2)`, to see whether a mount exists. `open_tree(2)` with `mount_setattr(2)`, to make a read-only clone of a mount.

use super::{last_errno, passing, process};
use rustix::fs::CWD;
use rustix::io::{Errno, Result};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::WaitOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// __NR_statmount, the same on all architectures except alpha.
const SYS_STATMOUNT: libc::c_long = 457;

/// `struct mnt_id_req` in its first version.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mount: u64,
    wanted: u64,
}

/// Whether the mount with this unique number exists. False if the kernel does not tell.
pub fn is_mounted(mount: u64) -> bool {
    let request = Request {
        size: size_of::<Request>() as u32,
        spare: 0,
        mount,
        wanted: 0,
    };
    let mut answer = [0u64; 64]; // `struct statmount` has 512 bytes.
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

/// A read-only clone of the mount of `fd`, with the inode behind `fd` as its root. The result is O_PATH. The clone is in no
/// mount namespace, and lacks what is mounted below. Nothing opened through it can be changed, and reading moves no access
/// time.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN; ENOSYS before Linux 5.12.
pub fn clone_read_only(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let clone = open_tree(fd, c"", clone | OpenTreeFlags::AT_EMPTY_PATH)?;
    make_read_only(clone)
}

/// As `clone_read_only`, for the directory at `path`, without the right to make clones: a child process makes the clone in a
/// user namespace of its own. No other thread may exist yet.
///
/// # Errors
/// EPERM if the system forbids user namespaces. EINVAL if something is mounted below: the kernel does not uncover directories
/// for a user who may not unmount it.
pub fn clone_read_only_as_user(path: &Path) -> Result<OwnedFd> {
    let stream = SocketType::STREAM;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, stream, SocketFlags::CLOEXEC, None)?;
    let errno_of = |error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let Some(child) = process::fork().map_err(errno_of)? else {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let sent = process::leave_namespaces()
            .and_then(|()| open_tree(CWD, path, flags))
            .and_then(make_read_only)
            .and_then(|clone| passing::send(&theirs, clone));
        process::exit_at_once(sent.map_or_else(Errno::raw_os_error, |()| 0));
    };
    drop(theirs);
    let clone = passing::receive(ours);
    let status =
        rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()))?;
    clone.ok_or_else(|| {
        let code = status.and_then(|(_, status)| status.exit_status());
        Errno::from_raw_os_error(code.filter(|&code| code != 0).unwrap_or(libc::EIO))
    })
}

fn make_read_only(mount: OwnedFd) -> Result<OwnedFd> {
    /// `struct mount_attr` in its first version.
    #[repr(C)]
    struct Attributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    // A read-only mount moves no access times. MOUNT_ATTR_NOATIME is refused in user namespaces.
    let attributes = Attributes {
        set: libc::MOUNT_ATTR_RDONLY,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: the path is a C string; the attributes' size is passed; both live on, and the kernel keeps no pointer.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    match status {
        0 => Ok(mount),
        _ => Err(last_errno()),
    }
}
