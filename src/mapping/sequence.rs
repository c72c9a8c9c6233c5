//! Reading files that have no positions, as on fusectl.

use crate::source::reopen;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::{Errno, Result, pread, read, retry_on_intr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The state of one open's reads, which have to be in order.
#[derive(Debug, Default)]
pub struct InSequence(Mutex<Sequence>);

#[derive(Debug, Default)]
struct Sequence {
    /// The offset of the next byte.
    next: u64,
    /// The description for a second read from the beginning.
    again: Option<OwnedFd>,
}

impl InSequence {
    /// Does one read(2) on the description `fd`. Without a length, a second one may block until more bytes come.
    pub fn read_once(&self, fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize> {
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
