//! The open file descriptions at the source that one mapping uses.

use crate::descriptors::Slot;
use rustix::fs::OFlags;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Readers' windows are mapped from a description opened O_RDONLY. A window mapped from O_RDWR would keep the file ETXTBSY. One
/// mapped from O_RDONLY cannot be made writable. All descriptions are O_NOATIME where that is allowed (`source::open_noatime`).
#[derive(Debug, Default)]
pub struct Backing {
    reader: Option<Arc<OwnedFd>>,
    /// `None` if the file is not open for reading: the reader then serves a writer whose description is closed.
    reader_slot: Option<Slot>,
    /// Opened O_RDWR, only while there is a writer.
    writer: Option<Arc<OwnedFd>>,
    /// Opened O_WRONLY, if the source allows no more. It cannot be mapped.
    write_only: Option<Arc<OwnedFd>>,
    /// Opened O_PATH. Keeps the inode when all writers have closed their descriptions and there is no reader.
    anchor: Option<Arc<OwnedFd>>,
    /// Opens for writing whose description is open.
    writers: usize,
    /// All opens for writing.
    opens: usize,
    /// Opened O_RDWR, for writers that are not permitted to open the file again.
    spare: Option<Arc<OwnedFd>>,
}

impl Backing {
    /// The description for readers, if there is one.
    pub fn reader(&self) -> Option<Arc<OwnedFd>> {
        self.reader.clone()
    }

    /// Whether the file is open for reading.
    pub fn is_read(&self) -> bool {
        self.reader_slot.is_some()
    }

    /// Takes a description for readers, opened O_RDONLY, with the slot of the client's open, if any. Returns the slot if there
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

    /// Uncounts an open for writing.
    pub fn uncount_open(&mut self) {
        self.opens -= 1;
        if self.opens == 0 {
            self.spare = None;
        }
    }

    /// Whether the description of an open for writing is closed.
    pub fn has_closed_writer(&self) -> bool {
        self.opens > self.writers
    }

    /// Whether a writer's description is closed and none is in reserve.
    pub fn lacks_spare(&self) -> bool {
        self.has_closed_writer() && self.spare.is_none()
    }

    /// Keeps a description in reserve.
    pub fn keep_spare(&mut self, fd: OwnedFd) {
        self.spare = Some(Arc::new(fd));
    }

    /// The description in reserve.
    pub fn spare(&self) -> Option<Arc<OwnedFd>> {
        self.spare.clone()
    }

    /// Counts a writer with the description `fd`. True if windows can be made writable from now on.
    pub fn add_writer(&mut self, fd: &Arc<OwnedFd>, access: OFlags) -> bool {
        self.writers += 1;
        self.anchor = None;
        if self.reader_slot.is_none() && !self.has_closed_writer() {
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

    /// Uncounts a writer, unless it is the last one. Returns whether it did.
    pub fn uncount_writer_unless_last(&mut self) -> bool {
        let others = self.writers > 1;
        self.writers -= usize::from(others);
        others
    }

    /// Uncounts the last writer, and returns the descriptions for writing. `anchor`, opened O_PATH, keeps the inode instead.
    pub fn uncount_last_writer(
        &mut self,
        anchor: Option<Arc<OwnedFd>>,
    ) -> [Option<Arc<OwnedFd>>; 2] {
        self.writers = 0;
        self.anchor = anchor;
        [self.writer.take(), self.write_only.take()]
    }

    /// Any descriptor on the inode. It may be O_PATH. A writer's is the last choice, because it reports lost writes to that
    /// writer.
    pub fn any(&self) -> Option<Arc<OwnedFd>> {
        let any = self.reader.as_ref().or(self.writer.as_ref());
        let any = any.or(self.write_only.as_ref());
        any.or(self.anchor.as_ref()).cloned()
    }

    /// Any descriptor on the inode that is not open for writing.
    pub fn anchor(&self) -> Option<Arc<OwnedFd>> {
        self.reader.as_ref().or(self.anchor.as_ref()).cloned()
    }

    /// The descriptor that windows are mapped from.
    pub fn readable(&self) -> Option<Arc<OwnedFd>> {
        self.writer.as_ref().or(self.reader.as_ref()).cloned()
    }

    /// A description opened O_RDWR. While there is one, windows can be made writable.
    pub fn writer(&self) -> Option<Arc<OwnedFd>> {
        self.writer.clone()
    }
}
