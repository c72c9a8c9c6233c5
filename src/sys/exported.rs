//! Exported handles: `name_to_handle_at(2)` and `open_by_handle_at(2)`.

use super::last_errno;
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use smallvec::SmallVec;
use std::ffi::{CStr, c_int};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `MAX_HANDLE_SZ` of open_by_handle_at(2): the longest handle, in bytes.
const MAX_BYTES: usize = 128;

/// `struct file_handle`, with room for the longest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: c_int,
    f_handle: [u8; MAX_BYTES],
}

/// The result of `name_to_handle_at(2)`: the same for the whole life of an inode, and never that of another inode.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExportedHandle(SmallVec<[u8; 16]>);

impl ExportedHandle {
    /// A hash that distinguishes two inodes that had the same number one after the other.
    pub fn life(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// The inode number in it, for the two types that most filesystems use: FILEID_INO32_GEN, and the type of XFS with 64 bits.
    pub fn ino(&self) -> Option<u64> {
        let (kind, bytes) = self.0.split_first_chunk::<4>()?;
        match c_int::from_ne_bytes(*kind) {
            1 => Some(u32::from_ne_bytes(*bytes.first_chunk()?).into()),
            0x81 => Some(u64::from_ne_bytes(*bytes.first_chunk()?)),
            _ => None,
        }
    }

    /// Its type and its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn pack(raw: &RawHandle) -> Self {
        let bytes = &raw.f_handle[..(raw.handle_bytes as usize).min(MAX_BYTES)];
        ExportedHandle(
            raw.handle_type
                .to_ne_bytes()
                .iter()
                .chain(bytes)
                .copied()
                .collect(),
        )
    }

    fn unpack(&self) -> RawHandle {
        let (kind, bytes) = self.0.split_at(size_of::<c_int>());
        let mut f_handle = [0; MAX_BYTES];
        f_handle[..bytes.len()].copy_from_slice(bytes);
        let handle_type = c_int::from_ne_bytes([kind[0], kind[1], kind[2], kind[3]]);
        RawHandle {
            handle_bytes: bytes.len() as u32,
            handle_type,
            f_handle,
        }
    }
}

/// The exported handle of the inode behind `fd`, which may be O_PATH. `None` if the filesystem exports none.
///
/// # Errors
/// Those of name_to_handle_at(2), such as ENOMEM.
pub fn name_to_handle_at(fd: impl AsFd) -> Result<Option<ExportedHandle>> {
    handle_of(fd.as_fd(), c"", libc::AT_EMPTY_PATH)
}

/// The exported handle of `name` in the directory `dir`. Symbolic links are not followed.
///
/// # Errors
/// As `name_to_handle_at`.
pub fn name_to_handle_in(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<ExportedHandle>> {
    handle_of(dir, name, 0)
}

fn handle_of(dir: BorrowedFd<'_>, path: &CStr, flags: c_int) -> Result<Option<ExportedHandle>> {
    let mut raw = RawHandle {
        handle_bytes: MAX_BYTES as u32,
        handle_type: 0,
        f_handle: [0; MAX_BYTES],
    };
    let mut mount_id: c_int = 0;
    // SAFETY: the path is a C string; `raw` is a `struct file_handle` whose `handle_bytes` states the
    // room behind it; `mount_id` is a live int; the kernel keeps none of the pointers.
    let status = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            flags,
        )
    };
    if status < 0 {
        return match last_errno() {
            errno @ (Errno::NOMEM | Errno::STALE | Errno::IO | Errno::INTR) => Err(errno),
            _ => Ok(None),
        };
    }
    Ok(Some(ExportedHandle::pack(&raw)))
}

/// Opens the inode of an exported handle. `mount` is any descriptor on its filesystem that is not O_PATH.
///
/// # Errors
/// ESTALE if the inode is gone, EPERM without CAP_DAC_READ_SEARCH; see open_by_handle_at(2).
pub fn open_by_handle_at(
    mount: BorrowedFd<'_>,
    handle: &ExportedHandle,
    flags: OFlags,
) -> Result<OwnedFd> {
    /// The state that causes ENOMEM lasts microseconds.
    const TRIES: usize = 16;
    // The kernel also returns ENOMEM while the number of a removed inode is given to a new one (iget_locked finds it
    // I_CREATING). A moment later it returns ESTALE. A real lack of memory lasts.
    for _ in 1..TRIES {
        match open_once(mount, handle, flags) {
            Err(Errno::NOMEM) => std::thread::yield_now(),
            outcome => return outcome,
        }
    }
    open_once(mount, handle, flags)
}

fn open_once(mount: BorrowedFd<'_>, handle: &ExportedHandle, flags: OFlags) -> Result<OwnedFd> {
    let mut raw = handle.unpack();
    let flags = flags | OFlags::CLOEXEC;
    // SAFETY: `raw` is a `struct file_handle` whose `handle_bytes` lie within it; the kernel only reads it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut raw,
            flags.bits(),
        )
    };
    if fd < 0 {
        return Err(last_errno());
    }
    // SAFETY: the call just returned this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}
