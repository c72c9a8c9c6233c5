//! The open file descriptions of the source that one mapping stands on.

use crate::descriptors::Slot;
use rustix::fs::OFlags;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Readers' windows are mapped from a description opened O_RDONLY: one from O_RDWR would keep the file
/// ETXTBSY, one from O_RDONLY cannot be made writable. All of them are O_NOATIME where that is allowed (`source::quietly`).
#[derive(Debug, Default)]
pub struct Backing {
    reader: Option<Arc<OwnedFd>>,
    /// Where somebody has opened the file to read. Without, the reader takes the place of one who has given up writing.
    reader_slot: Option<Slot>,
    /// Opened O_RDWR. There only while somebody writes.
    writer: Option<Arc<OwnedFd>>,
    /// Opened O_WRONLY, where the source allows no more: it cannot be mapped.
    write_only: Option<Arc<OwnedFd>>,
    /// Opened O_PATH: keeps the inode where there is nothing else, because all who write have given up theirs.
    anchor: Option<Arc<OwnedFd>>,
    /// Those who write now.
    writers: usize,
    /// Opens for writing, those included that have given up their descriptions.
    opens: usize,
    /// Opened O_RDWR for those, since they cannot open the file again.
    spare: Option<Arc<OwnedFd>>,
}

impl Backing {
    /// The description for readers, if there is one.
    pub fn reader(&self) -> Option<Arc<OwnedFd>> {
        self.reader.clone()
    }

    /// Whether somebody has opened the file to read.
    pub fn is_read(&self) -> bool {
        self.reader_slot.is_some()
    }

    /// Takes a description for readers, opened O_RDONLY; `slot` where somebody opens the file. Returns the slot where there
    /// is one already.
    pub fn open_reader(&mut self, fd: Arc<OwnedFd>, slot: Option<Slot>) -> Option<Slot> {
        self.reader = Some(fd);
        self.anchor = None;
        match self.reader_slot {
            Some(_) => slot,
            None => {
                self.reader_slot = slot;
                None
            }
        }
    }

    /// Counts an open for writing.
    pub fn count_open(&mut self) {
        self.opens += 1;
    }

    /// Takes back an open for writing.
    pub fn uncount_open(&mut self) {
        self.opens -= 1;
        if self.opens == 0 {
            self.spare = None;
        }
    }

    /// Whether an open for writing has given up its description.
    pub fn is_given_up(&self) -> bool {
        self.opens > self.writers
    }

    /// Whether such a one has none in reserve.
    pub fn lacks_spare(&self) -> bool {
        self.is_given_up() && self.spare.is_none()
    }

    /// Keeps a description in reserve.
    pub fn keep_spare(&mut self, fd: OwnedFd) {
        self.spare = Some(Arc::new(fd));
    }

    /// The description in reserve.
    pub fn spare(&self) -> Option<Arc<OwnedFd>> {
        self.spare.clone()
    }

    /// Counts somebody who writes through `fd`; true when windows can be made writable from now on.
    pub fn add_writer(&mut self, fd: &Arc<OwnedFd>, access: OFlags) -> bool {
        self.writers += 1;
        self.anchor = None;
        if self.reader_slot.is_none() && !self.is_given_up() {
            self.reader = None;
        }
        if access != OFlags::RDWR {
            self.write_only.get_or_insert_with(|| fd.clone());
            return false;
        }
        let is_first = self.writer.is_none();
        self.writer.get_or_insert_with(|| fd.clone());
        is_first
    }

    /// Takes back one who writes, unless that is the last one.
    pub fn leave_others(&mut self) -> bool {
        let others = self.writers > 1;
        self.writers -= usize::from(others);
        others
    }

    /// Takes back the last one who writes, and returns the descriptions for writing. `anchor`, opened O_PATH, keeps the
    /// inode in their stead.
    pub fn leave_alone(&mut self, anchor: Option<Arc<OwnedFd>>) -> [Option<Arc<OwnedFd>>; 2] {
        self.writers = 0;
        self.anchor = anchor;
        [self.writer.take(), self.write_only.take()]
    }

    /// Any descriptor on the inode, which may be O_PATH; not a writable handle's, whose reports of lost writes are its
    /// own, where there is another.
    pub fn any(&self) -> Option<Arc<OwnedFd>> {
        let any = self.reader.as_ref().or(self.writer.as_ref());
        let any = any.or(self.write_only.as_ref());
        any.or(self.anchor.as_ref()).cloned()
    }

    /// Any descriptor on the inode that nobody writes through.
    pub fn anchor(&self) -> Option<Arc<OwnedFd>> {
        self.reader.as_ref().or(self.anchor.as_ref()).cloned()
    }

    /// The descriptor that windows are mapped from.
    pub fn readable(&self) -> Option<Arc<OwnedFd>> {
        self.writer.as_ref().or(self.reader.as_ref()).cloned()
    }

    /// A description that writes anywhere; windows can be made writable while there is one.
    pub fn writer(&self) -> Option<Arc<OwnedFd>> {
        self.writer.clone()
    }
}
