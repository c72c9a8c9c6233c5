//! The handle table: `fh` numbers to the state of one open.

use crate::mapping::{Mapping, ReadPattern, WritePattern};
use crate::sys::identity::Caller;
use parking_lot::RwLock;
use rustix::io::{Errno, Result};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One open of a regular file.
#[derive(Debug)]
pub struct FileHandle {
    /// Its node id.
    pub node: u64,
    /// The file's bytes, shared by all its handles.
    pub mapping: Arc<Mapping>,
    /// A writable handle's own open file description: lost writes are reported to each, once.
    pub fd: Option<Arc<OwnedFd>>,
    /// Who opened it.
    pub opener: Caller,
    /// How it was read so far.
    pub pattern: ReadPattern,
    /// How it was written so far.
    pub written: WritePattern,
    /// How many of the mapping's losses its fsync has reported, or came before it.
    pub known_losses: AtomicU64,
}

impl FileHandle {
    /// The description to write, sync or allocate through.
    ///
    /// # Errors
    /// EBADF on a read-only handle.
    pub fn writable(&self) -> Result<&Arc<OwnedFd>> {
        self.fd.as_ref().ok_or(Errno::BADF)
    }

    /// Any descriptor on the file.
    ///
    /// # Errors
    /// EBADF when the mapping has none, which an open handle rules out.
    pub fn any(&self) -> Result<Arc<OwnedFd>> {
        self.fd
            .clone()
            .or_else(|| self.mapping.descriptor())
            .ok_or(Errno::BADF)
    }
}

/// Handles of one kind by number. Numbers are never used twice.
#[derive(Debug)]
pub struct HandleTable<T> {
    open: RwLock<HashMap<u64, Arc<T>>>,
    last: AtomicU64,
}

impl<T> Default for HandleTable<T> {
    fn default() -> Self {
        HandleTable {
            open: RwLock::default(),
            last: AtomicU64::new(0),
        }
    }
}

impl<T> HandleTable<T> {
    /// Adds a handle.
    pub fn insert(&self, handle: T) -> u64 {
        let fh = self.last.fetch_add(1, Relaxed) + 1;
        self.open.write().insert(fh, Arc::new(handle));
        fh
    }

    /// The handle numbered `fh`.
    ///
    /// # Errors
    /// EBADF when there is none.
    pub fn get(&self, fh: u64) -> Result<Arc<T>> {
        self.open.read().get(&fh).cloned().ok_or(Errno::BADF)
    }

    /// Takes the handle out of the table.
    ///
    /// # Errors
    /// EBADF when there is none.
    pub fn remove(&self, fh: u64) -> Result<Arc<T>> {
        self.open.write().remove(&fh).ok_or(Errno::BADF)
    }

    /// All handles, as they are now.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.open.read().values().cloned().collect()
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.open.read().is_empty()
    }
}
