//! The open file descriptions of the source that one mapping stands on.

use crate::source;
use rustix::fs::OFlags;
use std::cell::OnceCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Readers' windows are mapped from a description opened O_RDONLY: one from O_RDWR would keep the file
/// ETXTBSY, one from O_RDONLY cannot be made writable.
#[derive(Debug, Default)]
pub struct Backing {
    reader: Option<Arc<OwnedFd>>,
    /// There only while a writable handle is.
    writer: Option<Writer>,
    /// Opened O_WRONLY, where the source allows no more: it cannot be mapped.
    write_only: Option<Arc<OwnedFd>>,
    writers: usize,
}

#[derive(Debug)]
struct Writer {
    /// A handle's, opened O_RDWR.
    fd: Arc<OwnedFd>,
    /// A description of our own where one can be had: whoever asks it for lost writes takes the answer from
    /// nobody else. It is opened when it is needed: most new files are written, closed and never mapped.
    own: OnceCell<Option<Arc<OwnedFd>>>,
    since: Instant,
}

/// A file open for writing for less than this has lost nothing yet: the kernel starts writing back by itself
/// after seconds (vm.dirty_expire_centisecs), and a description opened later is told of what was lost before.
const FIRST_WRITEBACK: Duration = Duration::from_millis(500);

impl Writer {
    fn own(&self) -> Option<&Arc<OwnedFd>> {
        let open = || source::reopen(&self.fd, OFlags::RDWR).ok().map(Arc::new);
        self.own.get_or_init(open).as_ref()
    }
}

impl Backing {
    /// The description for readers, if there is one.
    pub fn reader(&self) -> Option<Arc<OwnedFd>> {
        self.reader.clone()
    }

    /// Takes a description for readers, opened O_RDONLY, if there is none yet.
    pub fn open_reader(&mut self, fd: Arc<OwnedFd>) {
        self.reader.get_or_insert(fd);
    }

    /// Counts an open for writing that works on `fd`; true when windows can be made writable from now on.
    pub fn open_writer(&mut self, fd: &Arc<OwnedFd>, access: OFlags) -> bool {
        self.writers += 1;
        if access == OFlags::WRONLY {
            self.write_only.get_or_insert_with(|| fd.clone());
            return false;
        }
        let is_first = self.writer.is_none();
        if is_first {
            self.writer = Some(Writer {
                fd: fd.clone(),
                own: OnceCell::new(),
                since: Instant::now(),
            });
        }
        is_first
    }

    /// Takes back an open for writing; true when it was the last one.
    pub fn leave_writer(&mut self) -> bool {
        self.writers = self.writers.saturating_sub(1);
        self.writers == 0
    }

    /// Lets go of the descriptions for writing, once the last open for writing has gone.
    pub fn drop_writers(&mut self) {
        (self.writer, self.write_only) = (None, None);
    }

    /// Any descriptor on the inode; not a writable handle's, whose reports of lost writes are its own, where
    /// there is another.
    pub fn any(&self) -> Option<Arc<OwnedFd>> {
        let writer = self.writer.as_ref().map(|w| &w.fd);
        let any = self.reader.as_ref().or(writer);
        any.or(self.write_only.as_ref()).cloned()
    }

    /// The descriptor that windows are mapped from.
    pub fn readable(&self) -> Option<Arc<OwnedFd>> {
        let writer = self.writer.as_ref().map(|w| w.own().unwrap_or(&w.fd));
        writer.or(self.reader.as_ref()).cloned()
    }

    /// Whether windows can be made writable.
    pub fn writable(&self) -> bool {
        self.writer.is_some()
    }

    /// A description that may be asked for lost writes.
    pub fn probe(&self) -> Option<Arc<OwnedFd>> {
        let writer = self.writer.as_ref();
        let asked = writer.filter(|w| w.own.get().is_some() || w.since.elapsed() > FIRST_WRITEBACK);
        asked.and_then(|w| w.own().cloned())
    }

    /// Whether there is no description to ask for lost writes but the handles' own, and never will be.
    pub fn cannot_probe(&self) -> bool {
        let writer = self.writer.as_ref();
        writer.is_some_and(|w| matches!(w.own.get(), Some(None)))
    }
}
