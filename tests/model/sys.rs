//! Three calls that no library offers in a safe form: a client's mapping, read and written, and truncate(2).

#![allow(
    unsafe_code,
    reason = "a mapping is memory that others may change; each use is argued below"
)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::ptr;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
use rustix::param::page_size;

/// A shared mapping of whole pages, unmapped when dropped.
struct View {
    start: *mut libc::c_void,
    len: usize,
    // Where the bytes that were asked for begin.
    skip: usize,
}

/// What a shared mapping of the file shows at `at`, which must lie within the file.
pub fn map_read(file: BorrowedFd<'_>, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let view = View::new(file, at, len, ProtFlags::READ)?;
    let carrier = memfd_create("carrier", MemfdFlags::CLOEXEC)?;
    // The kernel copies, not we: a page that cannot be had is EFAULT then, not a SIGBUS that kills the test.
    view.each_byte(len, |from, left, done| {
        // SAFETY: `from` is valid for `left` bytes (`each_byte`), and nothing in Rust refers to them.
        unsafe { libc::pwrite(carrier.as_raw_fd(), from, left, done) }
    })?;
    let mut bytes = vec![0; len];
    let count = rustix::io::pread(&carrier, &mut bytes[..], 0)?;
    assert_eq!(count, len, "a memfd reads in one piece");
    Ok(bytes)
}

/// Stores into a shared mapping of the file at `at`, which must lie within the file, and syncs it.
pub fn map_write(file: BorrowedFd<'_>, at: u64, bytes: &[u8]) -> Result<(), Errno> {
    let view = View::new(file, at, bytes.len(), ProtFlags::READ | ProtFlags::WRITE)?;
    let carrier = memfd_create("carrier", MemfdFlags::CLOEXEC)?;
    let count = rustix::io::pwrite(&carrier, bytes, 0)?;
    assert_eq!(count, bytes.len(), "a memfd is written in one piece");
    view.each_byte(bytes.len(), |to, left, done| {
        // SAFETY: `to` is valid for `left` bytes (`each_byte`), and nothing in Rust refers to them.
        unsafe { libc::pread(carrier.as_raw_fd(), to, left, done) }
    })?;
    // SAFETY: the range is exactly the one that was mapped.
    unsafe { msync(view.start, view.len, MsyncFlags::SYNC) }
}

/// truncate(2), which follows symbolic links.
pub fn truncate(path: &Path, len: u64) -> Result<(), Errno> {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `path` is a string ended by a zero and outlives the call.
    let failed = unsafe { libc::truncate(path.as_ptr(), len as i64) } != 0;
    if failed { Err(last_error()) } else { Ok(()) }
}

impl View {
    fn new(
        file: BorrowedFd<'_>,
        at: u64,
        len: usize,
        protection: ProtFlags,
    ) -> Result<Self, Errno> {
        let skip = usize::try_from(at % page_size() as u64).expect("less than a page");
        let whole = (skip + len).next_multiple_of(page_size());
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                whole,
                protection,
                MapFlags::SHARED,
                file,
                at - skip as u64,
            )?
        };
        Ok(Self {
            start,
            len: whole,
            skip,
        })
    }

    // Calls `copy(address, bytes left, bytes done)` until `len` bytes are done. `skip + len` lies within the
    // mapping (`new` rounded it up), so every address passed is valid for the bytes left.
    fn each_byte(
        &self,
        len: usize,
        mut copy: impl FnMut(*mut libc::c_void, usize, i64) -> isize,
    ) -> Result<(), Errno> {
        let mut done = 0;
        while done < len {
            let address = self.start.wrapping_byte_add(self.skip + done);
            let offset = i64::try_from(done).expect("a small offset");
            match usize::try_from(copy(address, len - done, offset)) {
                Ok(0) => return Err(Errno::IO),
                Ok(count) => done += count,
                Err(_) => return Err(last_error()),
            }
        }
        Ok(())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped, and no pointer into it outlives `self`.
        unsafe { munmap(self.start, self.len) }.expect("a mapping of our own can be unmapped");
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).expect("a system call failed")
}
