//! Reading: from a window where one is worth it, by pread(2) elsewhere.
//!
//! A file that is truncated and written again while it is read shows zeros that were in no version of it: in the last
//! page of a mapping there are zeros behind the end, where read(2) looks at the end and returns less. So the bytes are
//! copied, and then the file is asked whether it has changed since its length was looked at. If it has, the pages that
//! have zeros are read again by pread(2), each by itself and up to three times: it knows the end, but it too looks at it
//! before it copies. What was copied in an unchanged file was in it, and what is no zero was not invented.
//!
//! A long read of a file that nobody has changed behind the mount is lent to the kernel instead, which copies once.
//! What read(2) risks with every long read is risked there until the first change is noticed.
//!
//! All readers of a file share its descriptions, which are O_NOATIME where that is allowed. So neither reading nor mapping
//! moves the access time by itself: a read that is to move it does so on purpose, by the source's rule.

use super::file::Mapping;
use super::readahead::{self, ReadPattern};
use super::window::Window;
use super::windows::Loan;
use crate::attr::Attr;
use crate::source::reopen;
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use std::cell::RefCell;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Reads above this many bytes are lent from the window, where that may be. Up to here the second copy costs nothing that
/// could be measured: the kernel copies faster from a buffer in the processor's cache that begins elsewhere in a page than
/// from page to page (O_DIRECT, 128 KiB: 49 to 59 us of the daemon's time each way).
const MAX_COPIED: usize = 128 << 10;

/// How often pread(2) is asked for a page of a file that changes all the time.
const MAX_PREADS: usize = 3;

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
        let (range, how) = ((offset, len), (pattern, moves_atime));
        let changes = self.cache.changes();
        let (attr, answer) = match self.read_settled(fd.as_fd(), range, how, lend) {
            Ok(answered) => answered,
            Err(lend) => match self.source.stat(fd.as_fd()) {
                Ok(attr) => {
                    let answer = self.answer(fd.as_fd(), range, &attr, how, lend);
                    (attr, answer)
                }
                Err(errno) => return lend(Err(errno)),
            },
        };
        // Not before: of a short answer the kernel learns the new length, unless it was told in between that what it
        // knows is old.
        let (stamp, is_shorter) = self.compare_length(fd.as_fd(), &attr);
        self.cache.seen_before(stamp, changes, is_shorter);
        answer
    }

    /// Answers a read that lies within the file if it still is what it was found to be: so the source is asked once, when
    /// the bytes have been copied, and not before. Gives `lend` back where it is not.
    fn read_settled<R, L: FnOnce(Result<&[u8]>) -> R>(
        &self,
        fd: BorrowedFd<'_>,
        (offset, len): (u64, usize),
        (pattern, moves_atime): (&ReadPattern, bool),
        lend: L,
    ) -> std::result::Result<(Attr, R), L> {
        let settled = *self.settled.lock();
        let lies_within = |attr: &Attr| offset.saturating_add(len as u64) <= attr.size;
        let Some(settled) = settled.filter(lies_within) else {
            return Err(lend);
        };
        // A hole that was punched since must not be filled.
        let may_fill = self.source.faults_allocate;
        if len == 0 || len > MAX_COPIED || may_fill || (moves_atime && !pattern.has_begun()) {
            return Err(lend);
        }
        // A window is mapped for the length that the file has, not for the one that it had.
        let Some(loan) = self.windows.borrow_present(offset, len) else {
            return Err(lend);
        };
        self.fetch(fd, (offset, len), &settled, pattern, &loan);
        with_buffer(len, |buffer| {
            if self.copy(&loan, buffer) {
                match self.source.stat(fd) {
                    Ok(now) if now.is_as(&settled) => return Ok((now, lend(Ok(buffer)))),
                    _ => *self.settled.lock() = None,
                }
            }
            Err(lend)
        })
    }

    /// The file's stamp, and whether the file has become shorter since it was last read. Reads may overtake each other, so
    /// where the length differs the source is asked once more.
    fn compare_length(&self, fd: BorrowedFd<'_>, attr: &Attr) -> (u64, bool) {
        let known = self.length.load(Relaxed);
        if known == 0 {
            self.length.store(attr.size, Relaxed);
        }
        if known == 0 || known == attr.size {
            return (attr.stamp(), false);
        }
        match self.source.stat(fd) {
            Ok(now) => {
                let before = self.length.swap(now.size, Relaxed);
                (now.stamp(), now.size < before)
            }
            Err(_) => (attr.stamp(), false),
        }
    }

    /// Answers a read of a file that has just had these attributes.
    fn answer<R>(
        &self,
        fd: BorrowedFd<'_>,
        (offset, len): (u64, usize),
        attr: &Attr,
        (pattern, moves_atime): (&ReadPattern, bool),
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R {
        let len = len.min(usize::try_from(attr.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        if len == 0 {
            // Natively, a read that meets the end counts, too.
            if moves_atime {
                self.move_access_time(fd, attr);
            }
            return lend(Ok(&[]));
        }
        let loan = self.loan(fd, (offset, len), attr, pattern);
        // Of a window only the first read of an open moves the time, of a copy each one.
        if moves_atime && (pattern.is_first() || loan.is_none()) {
            self.move_access_time(fd, attr);
        }
        // Not before: opening a file whose pages are being read may wait for them, and then no signal ends the thread.
        if let Some(loan) = &loan {
            self.fetch(fd, (offset, len), attr, pattern, loan);
        }
        match loan {
            Some(loan) if len > MAX_COPIED && !self.cache.is_contended() => {
                loan.with_bytes(|bytes| lend(Ok(bytes)))
            }
            loan => self.read_checked(fd, (offset, len), loan, attr, lend),
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
        with_buffer(len, |buffer| {
            let count = read(fd.as_fd(), buffer, offset);
            lend(count.map(|count| &buffer[..count]))
        })
    }

    /// Borrows a range of the file for a read, if it is worth a window.
    fn loan(
        &self,
        fd: BorrowedFd<'_>,
        (offset, len): (u64, usize),
        attr: &Attr,
        pattern: &ReadPattern,
    ) -> Option<Loan> {
        if self.fills_holes(attr) || !self.is_worth_a_window(offset, len, pattern) {
            return None;
        }
        self.borrow(fd, offset, len, attr.size)
    }

    /// Has fetched what a read that borrowed `loan` and the next ones want.
    fn fetch(
        &self,
        fd: BorrowedFd<'_>,
        (offset, len): (u64, usize),
        attr: &Attr,
        pattern: &ReadPattern,
        loan: &Loan,
    ) {
        let uncached =
            |range: &Range<u64>| !readahead::is_cached(fd, range.start..range.end.min(attr.size));
        if let Some(range) = pattern.fetch(offset, len).filter(uncached) {
            // Advice that is not taken costs speed only.
            let _ = loan.will_need(range);
        }
    }

    /// Copies bytes out of a window. False where that has faulted.
    fn copy(&self, loan: &Loan, buffer: &mut [u8]) -> bool {
        let copied = loan.read(buffer).is_ok();
        if !copied {
            self.context.mishaps.faults.fetch_add(1, Relaxed);
        }
        copied
    }

    /// Copies bytes and lends the copy, once it is sure that they were in the file. It had the attributes `before` when
    /// the range was found to lie within it.
    fn read_checked<R>(
        &self,
        fd: BorrowedFd<'_>,
        (offset, len): (u64, usize),
        loan: Option<Loan>,
        before: &Attr,
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R {
        with_buffer(len, |buffer| {
            let copied = loan.as_ref().is_some_and(|loan| self.copy(loan, buffer));
            let read = match copied {
                true => Ok(len),
                false => pread_all(fd, buffer, offset),
            };
            if loan.is_some() && !copied && read == Err(Errno::IO) {
                self.context.mishaps.faults_eio.fetch_add(1, Relaxed);
            }
            let sure = read.and_then(|count| {
                let now = self.source.stat(fd)?;
                if !now.is_as(before) {
                    return read_zeros_again(fd, &mut buffer[..count], offset);
                }
                self.settled.lock().get_or_insert(now);
                Ok(count)
            });
            lend(sure.map(|count| &buffer[..count]))
        })
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

/// Lets `fill` use `len` bytes of this thread's own.
fn with_buffer<R>(len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        fill(&mut buffer[..len])
    })
}

/// Reads those pages of `bytes`, which were read from `offset` on while the file changed, once more that have zeros. Returns how
/// many bytes there are. A page takes so little time to copy that hardly ever the file is cut meanwhile.
fn read_zeros_again(fd: BorrowedFd<'_>, bytes: &mut [u8], offset: u64) -> Result<usize> {
    let page = rustix::param::page_size();
    let mut at = 0;
    while at < bytes.len() {
        let in_page = (offset % page as u64) as usize + at;
        let end = bytes.len().min(at + page - in_page % page);
        for _ in 0..MAX_PREADS {
            if !bytes[at..end].contains(&0) {
                break;
            }
            let count = pread_all(fd, &mut bytes[at..end], offset + at as u64)?;
            if count < end - at {
                return Ok(at + count);
            }
        }
        at = end;
    }
    Ok(bytes.len())
}

/// Reads until `buffer` is full or the file ends. Of bytes that come before an error nothing is told: the kernel takes a
/// short answer for the end of the file.
fn pread_all(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}
