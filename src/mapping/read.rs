//! Reading: from a window if one pays, otherwise by pread(2).
//!
//! A file may be truncated and written again while it is read. A mapping then shows zeros that were in no version of the file:
//! behind the end, the last page of a mapping holds zeros. read(2) compares with the end and returns fewer bytes. So mmfs
//! copies the bytes, and then calls statx(2) to see whether the file has changed since its length was read. Bytes copied from
//! an unchanged file were in it. Bytes other than zero were, too. If the file has changed, pread(2) reads each page that has
//! zeros again, up to three times. pread(2) returns no bytes behind the end, but it also reads the length before it copies.
//!
//! A long read of a file that nobody has changed behind the mount is lent to the kernel, which copies the bytes once. Until the
//! first change is noticed, such a read has the same race as a long read(2).
//!
//! All readers of a file share its descriptions, which are O_NOATIME where that is allowed. So neither a read nor a mapping
//! moves the access time. A read that has to move it does so by itself, by the rule of the source's mount.

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

/// Longer reads are lent from the window, if they may be. In bytes. A second copy up to this length costs nothing measurable.
/// The kernel copies faster from a buffer in the CPU's cache that begins elsewhere in a page than from page to page (O_DIRECT,
/// 128 KiB: 49 to 59 us of the daemon's time each way).
const MAX_COPIED: usize = 128 << 10;

/// How often pread(2) reads one page of a file that keeps changing.
const MAX_PREADS: usize = 3;

/// Longer reads map a window also if their reader jumps and another one must be unmapped for it. In bytes.
const SMALL_READ: usize = 512 << 10;

/// One in 64 reads for which a window does not pay maps it all the same. So the windows follow the reader.
const MAP_ONE_IN: u64 = 64;

impl Mapping {
    /// Calls `lend` with up to `len` bytes from `offset` on, fewer at the end of the file. `pattern` belongs to the open: it
    /// decides about read-ahead, and whether a short read maps a window. With `moves_atime` the first read of the open moves the
    /// access time, and so does each read by pread(2) or at the end of the file.
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
        // After the answer: a short answer gives the kernel the new length, unless mmfs has sent it a notification in between.
        let (stamp, is_shorter) = self.compare_length(fd.as_fd(), &attr);
        self.cache.seen_before(stamp, changes, is_shorter);
        answer
    }

    /// Answers a read within a file whose attributes were equal before and after an earlier read. One statx(2), after the copy,
    /// then suffices. Returns `lend` if it does not.
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
        // The window may cover a hole punched since, and a page fault would fill it.
        let may_fill = self.source.faults_allocate;
        if len == 0 || len > MAX_COPIED || may_fill || (moves_atime && !pattern.has_begun()) {
            return Err(lend);
        }
        // Nothing is mapped here: the length may be an old one.
        let Some(loan) = self.windows.borrow_present(offset, len) else {
            return Err(lend);
        };
        self.fetch(fd, (offset, len), &settled, pattern, &loan);
        with_buffer(len, |buffer| {
            let copied = self.copy(&loan, buffer);
            let now = copied.then(|| self.source.stat(fd).ok()).flatten();
            if let Some(now) = now.filter(|now| now.is_as(&settled)) {
                return Ok((now, lend(Ok(buffer))));
            }
            *self.settled.lock() = None;
            Err(lend)
        })
    }

    /// The file's change stamp, and whether the file has become shorter since the last read. Reads may overtake each other. So
    /// where the length differs, statx(2) is called once more.
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

    /// Answers a read of a file that has the attributes `attr`.
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
            // read(2) at the end of a file moves the access time, too.
            if moves_atime {
                self.move_access_time(fd, attr);
            }
            return lend(Ok(&[]));
        }
        let loan = self.loan(fd, (offset, len), attr, pattern);
        // Through a window only the first read of an open moves the access time, by pread(2) each read does.
        if moves_atime && (pattern.is_first() || loan.is_none()) {
            self.move_access_time(fd, attr);
        }
        // After moving the access time: open(2) of a file whose pages are being read may wait for them, and no signal ends that
        // wait.
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

    /// Calls `lend` with the bytes that one read of a file without a length returns. `own` is the description of the open. The
    /// bytes may depend on the time of the open and on earlier reads, so opens share no description.
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

    /// Borrows a range of the file for a read, if a window pays.
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

    /// Starts read-ahead for this read and the next ones.
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
            // An error costs speed only.
            let _ = loan.will_need(range);
        }
    }

    /// Copies bytes out of a window. False after a fault.
    fn copy(&self, loan: &Loan, buffer: &mut [u8]) -> bool {
        let copied = loan.read(buffer).is_ok();
        if !copied {
            self.context.error_counts.faults.fetch_add(1, Relaxed);
        }
        copied
    }

    /// Copies bytes, and calls `lend` with them once it is certain that they were in the file. With the attributes `before` the
    /// range lay within the file.
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
                self.context.error_counts.faults_eio.fetch_add(1, Relaxed);
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

    /// Whether a page fault in a hole of this file allocates its block, as on tmpfs. pread(2) does not allocate.
    fn fills_holes(&self, attr: &Attr) -> bool {
        self.source.faults_allocate && attr.is_sparse()
    }

    /// Whether a read is to map its window. A short read by a reader that jumps is not, if another window would have to be
    /// unmapped.
    fn is_worth_a_window(&self, offset: u64, len: usize, pattern: &ReadPattern) -> bool {
        let space = &self.context.space;
        len > SMALL_READ
            || !pattern.jumps_to(offset, len)
            || self.windows.holds(offset)
            || space.has_room(space.geometry().full())
            || self.declined.fetch_add(1, Relaxed) % MAP_ONE_IN == 0
    }

    /// Moves the access time by mapping a page, which counts as an access at the source. An error leaves the time as it is.
    fn move_access_time(&self, fd: BorrowedFd<'_>, attr: &Attr) {
        if !self.is_access_time_due(attr) {
            return;
        }
        // `fd` is O_NOATIME, because all readers share it.
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

/// Calls `fill` with `len` bytes of this thread's buffer.
fn with_buffer<R>(len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        fill(&mut buffer[..len])
    })
}

/// Reads each page of `bytes` that has zeros again. `bytes` were read from `offset` on while the file changed. Returns how many
/// bytes there are. One page is copied so fast that the file is hardly ever truncated meanwhile.
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

/// Reads until `buffer` is full or the file ends. An error after some bytes is returned as the error: the kernel would take a
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
