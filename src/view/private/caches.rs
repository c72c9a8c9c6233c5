//! What the kernel has in its cache of open files of a private view, where it does not find out by itself.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::cache::{CacheState, FileCache, KernelCache};

/// The kernel's caches of the files that are open.
pub(super) struct Caches {
    kernel: Arc<KernelCache>,
    files: Mutex<HashMap<u64, Weak<FileCache>>>,
}

impl Caches {
    pub fn new(kernel: Arc<KernelCache>) -> Self {
        let files = Mutex::default();
        Self { kernel, files }
    }

    /// The cache of the file with this node id, which all its opens share.
    pub fn opened(&self, node: u64) -> Arc<FileCache> {
        let mut files = self.files.lock();
        if let Some(cache) = files.get(&node).and_then(Weak::upgrade) {
            return cache;
        }
        let cache = FileCache::new(node, CacheState::default(), self.kernel.clone());
        files.insert(node, Arc::downgrade(&cache));
        cache
    }

    /// An open of the file has gone.
    pub fn closed(&self, node: u64) {
        let mut files = self.files.lock();
        if files
            .get(&node)
            .is_some_and(|file| file.strong_count() == 0)
        {
            files.remove(&node);
        }
    }

    /// A request has changed attributes in a way that the kernel does not expect.
    pub fn attributes_changed(&self, node: u64) {
        self.kernel.attributes_changed(node);
    }
}
