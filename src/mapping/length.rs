//! Files whose length says nothing of what a read returns, as on procfs. They are told by what they do: files that have
//! their bytes in pages can be mapped, files whose contents are made when they are read cannot.

use super::file::Mapping;
use super::read::read_copied;
use super::readahead::ReadPattern;
use super::window::Window;
use crate::attr::Attr;
use crate::source::reopen;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::{Errno, Result, pread, read, retry_on_intr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
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

    /// Lends what a file without a length gives at once, through `own`, the description of the open. What such a file gives
    /// may depend on when it was opened and on what was read before, so opens share none.
    pub fn read_once<R>(
        &self,
        own: Option<Arc<OwnedFd>>,
        (offset, len): (u64, usize),
        pattern: &ReadPattern,
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R {
        let fd = match own.map_or_else(|| self.readable(), Ok) {
            Ok(fd) => fd,
            Err(errno) => return lend(Err(errno)),
        };
        let read = |fd: BorrowedFd<'_>, buffer: &mut [u8], offset| {
            pattern.in_sequence.read_once(fd, buffer, offset)
        };
        read_copied(fd.as_fd(), offset, len, read, lend)
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

/// How one open reads a file that has no positions, as on fusectl: in the order of the bytes.
#[derive(Debug, Default)]
pub(super) struct InSequence(Mutex<Sequence>);

#[derive(Debug, Default)]
struct Sequence {
    /// Where the next byte is read from.
    next: u64,
    /// A description of which the first byte was read a second time.
    again: Option<OwnedFd>,
}

impl InSequence {
    /// Reads what the description `fd` gives at once: where there is no length, another read may wait for more.
    fn read_once(&self, fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize> {
        match retry_on_intr(|| pread(fd, &mut *buffer, offset)) {
            Err(Errno::SPIPE) => self.read_on(fd, buffer, offset),
            outcome => outcome,
        }
    }

    fn read_on(&self, fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut sequence = self.0.lock();
        if sequence.next != offset {
            if offset != 0 {
                return Err(Errno::SPIPE);
            }
            let again = Some(reopen(fd, OFlags::RDONLY)?);
            *sequence = Sequence { next: 0, again };
        }
        let fd = sequence.again.as_ref().map_or(fd, |again| again.as_fd());
        let count = retry_on_intr(|| read(fd, &mut *buffer))?;
        sequence.next += count as u64;
        Ok(count)
    }
}
