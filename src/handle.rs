//! The handle tables: open files and open directories by their `fh`.

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
    /// The open file of the view.
    pub open: Arc<O>,
    /// Whether the kernel bypasses its cache.
    pub direct_io: bool,
    /// The durability that the flags of open(2) ask for. It applies to requests that carry no flags, for example fallocate(2).
    pub durability: Durability,
    /// Present if a client may store through a shared mapping of this open.
    pub storing: Option<Storing>,
}

/// One open of a directory.
#[derive(Debug)]
pub struct DirHandle<L> {
    /// Node id of the directory.
    pub node: u64,
    /// The open directory of the view.
    pub listing: L,
}

/// Handles of one kind by number. No number is used twice. Files and directories share no numbers.
#[derive(Debug)]
pub struct HandleTable<T> {
    open: RwLock<HashMap<u64, Arc<T>>>,
    next: AtomicU64,
    /// Number of open handles, readable without a lock.
    count: AtomicUsize,
}

impl<T> HandleTable<T> {
    /// A table of files, which have even numbers.
    pub fn of_files() -> Self {
        HandleTable::from(2)
    }

    /// A table of directories, which have odd numbers.
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

    /// Adds a handle and returns its number.
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

    /// All handles at this moment.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.open.read().values().cloned().collect()
    }

    /// Number of open handles. Takes no lock.
    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Whether no handle is open.
    pub fn is_empty(&self) -> bool {
        self.open.read().is_empty()
    }
}
