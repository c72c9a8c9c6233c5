//! The open file descriptions of the source that one mapping stands on.

use super::Mapping;
use rustix::fs::OFlags;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Readers' windows are mapped from a description opened O_RDONLY: one from O_RDWR would keep the file
/// ETXTBSY, one from O_RDONLY cannot be made writable.
#[derive(Debug, Default)]
pub struct Backing {
    reader: Option<Arc<OwnedFd>>,
    /// Opened O_RDWR; there only while a writable handle is. A description of its own where one could be
    /// had: whoever asks it for lost writes takes the answer from nobody else.
    writer: Option<Writer>,
    /// Opened O_WRONLY, where the source allows no more: it cannot be mapped.
    write_only: Option<Arc<OwnedFd>>,
    writers: usize,
}

#[derive(Debug)]
struct Writer {
    fd: Arc<OwnedFd>,
    shared: bool,
}

impl Backing {
    /// Any descriptor on the inode.
    pub fn any(&self) -> Option<Arc<OwnedFd>> {
        self.readable().or_else(|| self.write_only.clone())
    }

    /// The descriptor that windows are mapped from.
    pub fn readable(&self) -> Option<Arc<OwnedFd>> {
        self.writer
            .as_ref()
            .map(|w| w.fd.clone())
            .or_else(|| self.reader.clone())
    }

    /// Whether windows can be made writable.
    pub fn writable(&self) -> bool {
        self.writer.is_some()
    }

    /// A description that may be asked for lost writes.
    pub fn probe(&self) -> Option<Arc<OwnedFd>> {
        self.writer
            .as_ref()
            .filter(|w| !w.shared)
            .map(|w| w.fd.clone())
    }

    /// Whether msync(2) takes a report of lost writes from the handle whose description the windows share.
    pub fn shared(&self) -> bool {
        self.writer.as_ref().is_some_and(|w| w.shared)
    }
}

impl Mapping {
    /// Whether there is a description for readers.
    pub fn has_reader(&self) -> bool {
        self.backing.lock().reader.is_some()
    }

    /// Gives the mapping a description for readers, opened O_RDONLY.
    pub fn open_reader(&self, fd: Arc<OwnedFd>) {
        self.backing.lock().reader.get_or_insert(fd);
    }

    /// Whether there is a description that windows can be made writable with.
    pub fn has_writer(&self) -> bool {
        self.backing.lock().writable()
    }

    /// Counts a writable handle that works on `fd`. With the first one the windows give way to such as can
    /// be made writable (and, on overlayfs, to such as show the copy that the open has just made); `own` is a
    /// second description of the file for them.
    pub fn open_writer(&self, fd: &Arc<OwnedFd>, own: Option<OwnedFd>, access: OFlags) {
        let _closed = self.gate.write();
        let mut backing = self.backing.lock();
        backing.writers += 1;
        if access == OFlags::WRONLY {
            backing.write_only.get_or_insert_with(|| fd.clone());
        } else if backing.writer.is_none() {
            let shared = own.is_none();
            backing.writer = Some(Writer {
                fd: own.map_or_else(|| fd.clone(), Arc::new),
                shared,
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
