//! Files whose length says nothing of what a read returns, as on procfs. They are told by what they do: files that have
//! their bytes in pages can be mapped, files whose contents are made when they are read cannot.

use super::file::Mapping;
use super::window::Window;
use crate::attr::Attr;
use rustix::io::{Errno, pread};
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::Relaxed;

impl Mapping {
    /// Finds out whether the length in `attr` is to be believed. It is where it comes with blocks, so most files cost
    /// nothing.
    pub(super) fn look_for_length(&self, fd: BorrowedFd<'_>, attr: &Attr) {
        let is_doubtful = attr.size == 0 || attr.blocks == 0;
        let is_doubtful = is_doubtful && !self.made_here.load(Relaxed);
        if is_doubtful && !self.is_without_length() && self.has_no_length(fd, attr) {
            self.unmappable.store(true, Relaxed);
            self.without_length.store(true, Relaxed);
        }
        self.length_looked_for.store(true, Relaxed);
    }

    /// Whether another open may read through the description for readers.
    pub fn shares_descriptions(&self) -> bool {
        self.length_looked_for.load(Relaxed) && !self.is_without_length()
    }

    fn has_no_length(&self, fd: BorrowedFd<'_>, attr: &Attr) -> bool {
        // Opening does not move the access time. Mapping and reading do, where O_NOATIME is not allowed.
        let page = rustix::param::page_size() as u64;
        let lease = self.context.space.reserve(page);
        let map = lease.and_then(|lease| Window::map(fd, 0, lease, self.context.handler));
        match map.map_err(|error| Errno::from_io_error(&error)) {
            // What can be mapped neither blocks a read nor is consumed by it.
            Ok(_) => attr.size == 0 && self.reads_without_length(fd, attr),
            // That says nothing of the file.
            Err(Some(Errno::NOMEM | Errno::AGAIN)) => false,
            Err(_) => true,
        }
    }
    /// Whether a file that had the length 0 in `attr` gives bytes all the same. One that is written and truncated
    /// meanwhile changes; the times of one that is made when it is read may, too, so it is asked several times.
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
