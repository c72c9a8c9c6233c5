//! `cachestat(2)`.

use super::last_errno;
use rustix::io::Result;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

/// The number is the same on all architectures of Rust's Linux targets; libc defines it for few.
const CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range`.
#[repr(C)]
struct Asked {
    offset: u64,
    len: u64,
}

/// `struct cachestat`, in pages.
#[repr(C)]
#[derive(Default)]
struct Found {
    cached: u64,
    dirty: u64,
    under_writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// How many pages of a range of bytes are in the page cache. Takes less than a microsecond if pages are in large folios.
///
/// # Errors
/// ENOSYS before Linux 6.5. EPERM for a file that this process neither owns nor may write (since Linux 6.14), and from a
/// seccomp filter. EOPNOTSUPP for hugetlbfs. overlayfs always returns 0 pages.
pub fn cached_pages(fd: impl AsFd, range: &Range<u64>) -> Result<u64> {
    let asked = Asked {
        offset: range.start,
        len: range.end.saturating_sub(range.start),
    };
    let mut found = Found::default();
    let no_flags: libc::c_uint = 0;
    // SAFETY: the call reads `asked` and fills in `found`, which have the layout it expects and outlive it.
    let status = unsafe {
        libc::syscall(
            CACHESTAT,
            fd.as_fd().as_raw_fd(),
            &raw const asked,
            &raw mut found,
            no_flags,
        )
    };
    if status < 0 {
        Err(last_errno())
    } else {
        Ok(found.cached)
    }
}
