//! Files whose length says nothing about the bytes a read returns, as on procfs. mmfs tells them by mmap(2): a file that has
//! its bytes in pages can be mapped, a file whose bytes are made at each read cannot.

use super::file::Mapping;
use super::window::Window;
use crate::attr::Attr;
use rustix::io::{Errno, pread};
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::Relaxed;

impl Mapping {
    /// Determines whether the length in `attr` can be trusted. A file with length and blocks needs no system call.
    pub(super) fn look_for_length(&self, fd: BorrowedFd<'_>, attr: &Attr) {
        let is_doubtful = attr.size == 0 || attr.blocks == 0;
        let is_doubtful = is_doubtful && !self.created_here.load(Relaxed);
        if is_doubtful && !self.is_without_length() && self.has_no_length(fd, attr) {
            self.unmappable.store(true, Relaxed);
            self.without_length.store(true, Relaxed);
        }
        self.length_looked_for.store(true, Relaxed);
    }

    /// Whether another open may use the description for readers.
    pub fn shares_descriptions(&self) -> bool {
        self.length_looked_for.load(Relaxed) && !self.is_without_length()
    }

    fn has_no_length(&self, fd: BorrowedFd<'_>, attr: &Attr) -> bool {
        // The caller's open(2) has not moved the access time. Mapping and reading move it where O_NOATIME is not allowed.
        let page = rustix::param::page_size() as u64;
        let lease = self.context.space.reserve(page);
        let map = lease.and_then(|lease| Window::map(fd, 0, lease, self.context.handler));
        match map.map_err(|error| Errno::from_io_error(&error)) {
            // A read of a file that can be mapped does not block, and consumes nothing.
            Ok(_) => attr.size == 0 && self.reads_without_length(fd, attr),
            // These errors say nothing about the file.
            Err(Some(Errno::NOMEM | Errno::AGAIN)) => false,
            Err(_) => true,
        }
    }
    /// Whether a file of length 0 in `attr` returns bytes all the same. If it was written and truncated meanwhile, its
    /// attributes have changed. The times of a file made at each read may change, too, so this tries several times.
    fn reads_without_length(&self, fd: BorrowedFd<'_>, attr: &Attr) -> bool {
        const TRIES: usize = 5;
        let mut before = *attr;
        for _ in 0..TRIES {
            if !matches!(pread(fd, &mut [0], 0), Ok(1)) {
                return false;
            }
            match self.source.stat(fd) {
                Ok(now) if now.size != 0 => return false,
                Ok(now) if now.is_as(&before) => return true,
                Ok(now) => before = now,
                Err(_) => return false,
            }
        }
        true
    }
}
