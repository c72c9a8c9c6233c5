//! The handle table: `fh` numbers to what is open.

use crate::cache::Storing;
use crate::request::Durability;
use parking_lot::RwLock;
use rustix::io::{Errno, Result};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// One open of a file.
#[derive(Debug)]
pub struct FileHandle<O> {
    /// What is read and written.
    pub open: Arc<O>,
    /// Whether the kernel bypasses its cache.
    pub direct_io: bool,
    /// What it was opened with asks for this before a change is answered of which the kernel does not say more.
    pub durability: Durability,
    /// Where it was opened so that a client may store through a mapping: says so as long as it is open.
    pub storing: Option<Storing>,
}

/// One open of a directory.
#[derive(Debug)]
pub struct DirHandle<L> {
    /// Its node id.
    pub node: u64,
    /// What is read from it.
    pub listing: L,
}

/// Handles of one kind by number. Numbers are never used twice, and no file has a directory's.
#[derive(Debug)]
pub struct HandleTable<T> {
    open: RwLock<HashMap<u64, Arc<T>>>,
    next: AtomicU64,
    /// How many are open, readable without a lock.
    count: AtomicUsize,
}

impl<T> HandleTable<T> {
    /// Handles of files, which have even numbers.
    pub fn of_files() -> Self {
        HandleTable::from(2)
    }

    /// Handles of directories, which have odd numbers.
    pub fn of_directories() -> Self {
        HandleTable::from(1)
    }

    fn from(first: u64) -> Self {
        HandleTable {
            open: RwLock::default(),
            next: AtomicU64::new(first),
            count: AtomicUsize::new(0),
        }
    }

    /// Adds a handle.
    pub fn insert(&self, handle: Arc<T>) -> u64 {
        let fh = self.next.fetch_add(2, Relaxed);
        self.open.write().insert(fh, handle);
        self.count.fetch_add(1, Relaxed);
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
        let removed = self.open.write().remove(&fh).ok_or(Errno::BADF)?;
        self.count.fetch_sub(1, Relaxed);
        Ok(removed)
    }

    /// All handles, as they are now.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.open.read().values().cloned().collect()
    }

    /// How many are open. Takes no lock.
    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.open.read().is_empty()
    }
}
