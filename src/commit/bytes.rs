//! The bytes of a file that a commit makes: shared with the source's file and the store's where the filesystem can, else copied.
//! Holes stay holes.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    FallocateFlags, SeekFrom, copy_file_range, fallocate, ftruncate, ioctl_ficlone, seek,
};
use rustix::io::{Errno, Result, pread, pwrite};

use super::progress::Progress;
use crate::store::{Content, From, SourceState};
use crate::view::private::{Changed, Unmounted};

/// So much is copied in one call, in bytes: a signal is noticed in between.
const STEP: u64 = 64 << 20;
/// The same through memory.
const BUFFER: usize = 1 << 20;

/// No filesystem has larger blocks that share bytes, in bytes.
const BLOCK: u64 = 64 << 10;

/// A file that gets its bytes.
pub struct Filled<'a> {
    pub view: &'a Unmounted,
    pub changed: &'a Changed,
    /// The source's file that it began as.
    pub base: Option<&'a OwnedFd>,
    pub to: &'a OwnedFd,
    pub progress: &'a Progress,
}

impl Filled<'_> {
    /// Fills it.
    ///
    /// # Errors
    /// EINTR after a signal, or that of the call that failed.
    pub fn fill(&self) -> io::Result<()> {
        let size = self.changed.attr.size;
        let Some(content) = self.view.content(self.changed)? else {
            if self.changed.is_of_source() {
                self.copy_source(0..size, true)?;
            } else if size > 0 {
                // The source has lost it, and the store never had its bytes.
                return Err(Errno::IO.into());
            }
            return Ok(ftruncate(self.to, size)?);
        };
        if content.source_limit > 0 && content.source != self.state_now()? {
            for piece in self.view.pieces(self.changed, &content) {
                if piece?.from == From::Source {
                    // The two do not fit together.
                    return Err(Errno::STALE.into());
                }
            }
        }
        let is_shared = content.source_limit > 0 && self.is_cloned();
        if is_shared {
            // What was cut off once is a hole now, if the file became longer again.
            ftruncate(self.to, content.source_limit.min(size))?;
        }
        ftruncate(self.to, size)?;
        let data = self.view.data_file(self.changed, &content)?;
        let data = data.as_ref().and_then(|file| file.descriptor());
        if let Some(data) = data.filter(|_| content.source_limit == 0) {
            if has_all(self.view, self.changed, &content, data)? && self.is_whole_cloned(data) {
                return Ok(ftruncate(self.to, size)?);
            }
        }
        self.pieces(&content, data, is_shared)
    }

    /// What the source's file is now. None: there is none.
    fn state_now(&self) -> Result<Option<SourceState>> {
        match self.changed.is_of_source() {
            true => self.view.source_state(self.changed).map(Some),
            false => Ok(None),
        }
    }

    fn pieces(
        &self,
        content: &Content,
        data: Option<BorrowedFd<'_>>,
        is_shared: bool,
    ) -> io::Result<()> {
        for piece in self.view.pieces(self.changed, content) {
            let piece = piece?;
            let begin = piece.range.start;
            match (piece.from, data) {
                (From::Source, _) if is_shared => {}
                (From::Source, _) => self.copy_source(piece.range.clone(), false)?,
                (From::Data, Some(data)) => {
                    // What the data file does not have is zero, whatever was shared.
                    if is_shared {
                        self.zero(piece.range.clone())?;
                    }
                    self.copy(data, piece.range.clone())?;
                }
                (From::Zero, _) | (From::Data, None) if is_shared => {
                    self.zero(piece.range.clone())?;
                }
                (From::Zero, _) | (From::Data, None) => {}
            }
            self.progress.bytes(piece.range.end - begin)?;
        }
        Ok(())
    }

    /// Lets the file share all bytes of its base.
    fn is_cloned(&self) -> bool {
        let clone = |base| ioctl_ficlone(self.to, base).is_ok();
        self.base.is_some_and(clone)
    }

    fn is_whole_cloned(&self, data: BorrowedFd<'_>) -> bool {
        ioctl_ficlone(self.to, data).is_ok()
    }

    fn zero(&self, range: Range<u64>) -> Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // A block goes as a whole or not at all, the last one, too.
        let end = match range.end == self.changed.attr.size {
            true => range.end.next_multiple_of(BLOCK),
            false => range.end,
        };
        match fallocate(self.to, flags, range.start, end - range.start) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let zeros = vec![0; BUFFER];
                let mut at = range.start;
                while at < range.end {
                    let len = (range.end - at).min(BUFFER as u64) as usize;
                    at += pwrite(self.to, &zeros[..len], at)? as u64;
                }
                Ok(())
            }
            done => done,
        }
    }

    /// Copies bytes of the source's file. `counts`: they are all there is.
    fn copy_source(&self, range: Range<u64>, counts: bool) -> io::Result<()> {
        let len = range.end - range.start;
        match self.base {
            Some(base) => self.copy(base.as_fd(), range)?,
            None => {
                let read = |at, to: &mut [u8]| self.view.read_source(self.changed, at, to);
                self.through_memory(range, read)?;
            }
        }
        match counts {
            true => self.progress.bytes(len),
            false => Ok(()),
        }
    }

    /// Copies what is no hole in a range, to the same place.
    fn copy(&self, from: BorrowedFd<'_>, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            let data = match seek(from, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => return Ok(()),
                // Everything counts as data then.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                found => found?,
            };
            if data >= range.end {
                return Ok(());
            }
            let hole = seek(from, SeekFrom::Hole(data)).unwrap_or(range.end);
            at = hole.clamp(data + 1, range.end);
            self.copy_data(from, data..at)?;
        }
        Ok(())
    }

    fn copy_data(&self, from: BorrowedFd<'_>, range: Range<u64>) -> io::Result<()> {
        let (mut at, mut to_at) = (range.start, range.start);
        while at < range.end {
            self.progress.goes_on()?;
            let len = (range.end - at).min(STEP) as usize;
            match copy_file_range(from, Some(&mut at), self.to, Some(&mut to_at), len) {
                // The file has become shorter. Who has changed it is found out later.
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                // Between these two filesystems, or not at all. A full disk is found again.
                Err(_) => return self.through_memory(at..range.end, |at, to| pread(from, to, at)),
            }
        }
        Ok(())
    }

    fn through_memory(
        &self,
        range: Range<u64>,
        read: impl Fn(u64, &mut [u8]) -> Result<usize>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER.min((range.end - range.start) as usize)];
        let mut at = range.start;
        while at < range.end {
            self.progress.goes_on()?;
            let len = (range.end - at).min(buffer.len() as u64) as usize;
            let read = match read(at, &mut buffer[..len]) {
                Err(Errno::INTR) => continue,
                Ok(0) => return Ok(()),
                read => read?,
            };
            let mut done = 0;
            while done < read {
                match pwrite(self.to, &buffer[done..read], at + done as u64) {
                    Ok(0) => return Err(Errno::NOSPC.into()),
                    Err(Errno::INTR) => {}
                    written => done += written?,
                }
            }
            at += read as u64;
        }
        Ok(())
    }
}

/// Whether all that a data file has counts: what is none of it has to be a hole.
///
/// # Errors
/// Those of the store, and of lseek(2).
pub fn has_all(
    view: &Unmounted,
    changed: &Changed,
    content: &Content,
    data: BorrowedFd<'_>,
) -> io::Result<bool> {
    for piece in view.pieces(changed, content) {
        let piece = piece?;
        let is_hole = || match seek(data, SeekFrom::Data(piece.range.start)) {
            Err(Errno::NXIO) => Ok(true),
            found => found.map(|at| at >= piece.range.end),
        };
        if piece.from != From::Data && !is_hole()? {
            return Ok(false);
        }
    }
    Ok(true)
}
