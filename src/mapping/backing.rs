//! The open file descriptions of the source that one mapping stands on.

use super::Mapping;
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
const NOTHING_LOST: Duration = Duration::from_millis(500);

impl Writer {
    fn own(&self) -> Option<&Arc<OwnedFd>> {
        let open = || source::reopen(&self.fd, OFlags::RDWR).ok().map(Arc::new);
        self.own.get_or_init(open).as_ref()
    }
}

impl Backing {
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
        let asked = writer.filter(|w| w.own.get().is_some() || w.since.elapsed() > NOTHING_LOST);
        asked.and_then(|w| w.own().cloned())
    }

    /// Whether msync(2) takes a report of lost writes from the handle whose description the windows share.
    pub fn shared(&self) -> bool {
        let writer = self.writer.as_ref();
        writer.is_some_and(|w| matches!(w.own.get(), Some(None)))
    }
}

impl Mapping {
    /// The description for readers, if there is one.
    pub fn reader(&self) -> Option<Arc<OwnedFd>> {
        self.backing.lock().reader.clone()
    }

    /// Gives the mapping a description for readers, opened O_RDONLY.
    pub fn open_reader(&self, fd: Arc<OwnedFd>) {
        self.backing.lock().reader.get_or_insert(fd);
    }

    /// Counts a writable handle that works on `fd`. With the first one the windows give way to such as can
    /// be made writable (and, on overlayfs, to such as show the copy that the open has just made).
    pub fn open_writer(&self, fd: &Arc<OwnedFd>, access: OFlags) {
        let _closed = self.gate.write();
        let mut backing = self.backing.lock();
        backing.writers += 1;
        if access == OFlags::WRONLY {
            backing.write_only.get_or_insert_with(|| fd.clone());
        } else if backing.writer.is_none() {
            backing.writer = Some(Writer {
                fd: fd.clone(),
                own: OnceCell::new(),
                since: Instant::now(),
            });
            self.windows.clear();
        }
    }

    /// Takes back a writable handle. With the last one the region is read-only again, its pages are on their
    /// way to the device, and nothing of ours keeps the file from being executed.
    pub fn close_writer(&self) {
        self.settle();
        let _closed = self.gate.write();
        let mut backing = self.backing.lock();
        backing.writers = backing.writers.saturating_sub(1);
        if backing.writers == 0 {
            self.windows.start_writeback();
            self.windows.protect();
            self.windows.clear();
            (backing.writer, backing.write_only) = (None, None);
        }
    }
}
