//! Files whose length says nothing of what a read returns, as on procfs. They are told by what they do: files that have
//! their bytes in pages can be mapped, files whose contents are made when they are read cannot.

use super::file::Mapping;
use super::window::Window;
use crate::attr::Attr;
use crate::source::reopen;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::{Errno, Result, pread, read, retry_on_intr};
use std::os::fd::{BorrowedFd, OwnedFd};
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
    }

    fn has_no_length(&self, fd: BorrowedFd<'_>, attr: &Attr) -> bool {
        // Opening does not move the access time. Mapping and reading do, where O_NOATIME is not allowed.
        let page = rustix::param::page_size() as u64;
        let lease = self.context.space.reserve(page);
        let map = lease.and_then(|lease| Window::map(fd, 0, lease, self.context.handler));
        match map.map_err(|error| Errno::from_io_error(&error)) {
            // What can be mapped neither blocks a read nor is consumed by it.
            Ok(_) => {
                let reads = || matches!(pread(fd, &mut [0], 0), Ok(1));
                // It may have grown since `attr` was seen.
                let is_empty = || self.source.stat(fd).is_ok_and(|now| now.size == 0);
                attr.size == 0 && reads() && is_empty()
            }
            // That says nothing of the file.
            Err(Some(Errno::NOMEM | Errno::AGAIN)) => false,
            Err(_) => true,
        }
    }
}

/// How one handle reads a file that has no positions, as on fusectl: in the order of the bytes, through a description of
/// its own, whose next byte is at the offset held here.
#[derive(Debug, Default)]
pub(super) struct InSequence(Mutex<Option<(OwnedFd, u64)>>);

impl InSequence {
    /// Reads what the file at `fd` gives at once: where there is no length, another read may wait for more.
    pub(super) fn read_once(
        &self,
        fd: BorrowedFd<'_>,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize> {
        match retry_on_intr(|| pread(fd, &mut *buffer, offset)) {
            Err(Errno::SPIPE) => self.read_on(fd, buffer, offset),
            outcome => outcome,
        }
    }

    fn read_on(&self, fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut own = self.0.lock();
        if own.as_ref().is_none_or(|(_, next)| *next != offset) {
            if offset != 0 {
                return Err(Errno::SPIPE);
            }
            *own = Some((reopen(fd, OFlags::RDONLY)?, 0));
        }
        let (own, next) = own.as_mut().ok_or(Errno::SPIPE)?;
        let count = retry_on_intr(|| read(&*own, &mut *buffer))?;
        *next += count as u64;
        Ok(count)
    }
}
