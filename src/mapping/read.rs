//! Reading: bytes are lent from a window where one is worth it, and copied by pread(2) elsewhere.
//!
//! All readers of a file share its descriptions, which are O_NOATIME where that is allowed. So neither reading nor mapping
//! moves the access time by itself: a read that is to move it does so on purpose, by the source's rule.

use super::file::Mapping;
use super::readahead::{self, ReadPattern};
use super::window::Window;
use crate::attr::Attr;
use crate::source::reopen;
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use std::cell::RefCell;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Reads above this many bytes always map their window.
const SMALL_READ: usize = 512 << 10;

/// Of the reads that are not worth a window one in so many maps it all the same, so that windows move to where the
/// reading is.
const MAP_ONE_IN: u64 = 64;

impl Mapping {
    /// Lends `lend` up to `len` bytes from `offset` on, fewer at the end of the file. `pattern` is that of the open:
    /// its first read `moves_atime`, unless nothing it reads is to do so, and the later ones tell what to read ahead.
    pub fn read_at<R>(
        &self,
        (offset, len): (u64, usize),
        pattern: &ReadPattern,
        moves_atime: bool,
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R {
        let _open = self.gate.read();
        let fd = match self.readable() {
            Ok(fd) => fd,
            Err(errno) => return lend(Err(errno)),
        };
        let attr = match self.look(fd.as_fd()) {
            Ok(attr) => attr,
            Err(errno) => return lend(Err(errno)),
        };
        let len = len.min(usize::try_from(attr.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        if len == 0 {
            return lend(Ok(&[]));
        }
        let may_map = !self.fills_holes(&attr) && self.is_worth_a_window(offset, len, pattern);
        let loan = match may_map {
            true => self.borrow(fd.as_fd(), offset, len, attr.size),
            false => None,
        };
        // Of a window only the first read of an open moves the time, of a copy each one.
        if moves_atime && (pattern.is_first() || loan.is_none()) {
            self.move_access_time(fd.as_fd(), &attr);
        }
        match loan {
            Some(loan) => {
                let uncached = |range: &Range<u64>| {
                    !readahead::is_cached(fd.as_fd(), range.start..range.end.min(attr.size))
                };
                if let Some(range) = pattern.fetch(offset, len).filter(uncached) {
                    // Advice that is not taken costs speed only.
                    let _ = loan.will_need(range);
                }
                loan.with_bytes(|bytes| lend(Ok(bytes)))
            }
            None => read_copied(fd.as_fd(), offset, len, pread_all, lend),
        }
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

    /// Whether reading through a window would allocate: pread(2) takes a hole for zeros everywhere, a page fault fills it
    /// where files live in memory.
    fn fills_holes(&self, attr: &Attr) -> bool {
        self.source.faults_allocate && attr.is_sparse()
    }

    /// Whether a read is to map its window: not when another one would have to go for a few bytes of a reader
    /// that jumps about.
    fn is_worth_a_window(&self, offset: u64, len: usize, pattern: &ReadPattern) -> bool {
        let space = &self.context.space;
        len > SMALL_READ
            || !pattern.jumps_to(offset, len)
            || self.windows.holds(offset)
            || space.has_room(space.geometry().full())
            || self.declined.fetch_add(1, Relaxed) % MAP_ONE_IN == 0
    }

    /// Moves the access time as a read(2) of the source would: mapping a page is what the source's kernel
    /// takes for one. Where it cannot be moved it stays.
    fn move_access_time(&self, fd: BorrowedFd<'_>, attr: &Attr) {
        if !self.is_access_time_due(attr) {
            return;
        }
        // `fd` is O_NOATIME, for all readers.
        if let Ok(plain) = reopen(fd, OFlags::RDONLY) {
            let page = rustix::param::page_size() as u64;
            let lease = self.context.space.reserve(page);
            let _ =
                lease.and_then(|lease| Window::map(plain.as_fd(), 0, lease, self.context.handler));
        }
    }

    pub(super) fn is_access_time_due(&self, attr: &Attr) -> bool {
        !self.context.no_atime && self.source.atime.is_due(attr)
    }
}

fn read_copied<R>(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: usize,
    pread: impl FnOnce(BorrowedFd<'_>, &mut [u8], u64) -> Result<usize>,
    lend: impl FnOnce(Result<&[u8]>) -> R,
) -> R {
    thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(len, 0);
        match pread(fd, buffer, offset) {
            Ok(n) => lend(Ok(&buffer[..n])),
            Err(errno) => lend(Err(errno)),
        }
    })
}

/// Reads until `buffer` is full or the file ends.
fn pread_all(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(done)
}
