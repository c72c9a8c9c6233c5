//! What the kernel has in its cache of open files of a private view, where it does not find out by itself.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::passed::InUse;
use crate::cache::{CacheState, FileCache, KernelCache};

/// The kernel's caches of the files that are open.
pub(super) struct Caches {
    kernel: Arc<KernelCache>,
    files: Mutex<HashMap<u64, Weak<InUse>>>,
}

impl Caches {
    pub fn new(kernel: Arc<KernelCache>) -> Self {
        let files = Mutex::default();
        Self { kernel, files }
    }

    /// What all opens of the file with this node id share.
    pub fn opened(&self, node: u64) -> Arc<InUse> {
        let mut files = self.files.lock();
        if let Some(in_use) = files.get(&node).and_then(Weak::upgrade) {
            return in_use;
        }
        let cache = FileCache::new(node, CacheState::default(), self.kernel.clone());
        let in_use = Arc::new(InUse::new(cache));
        files.insert(node, Arc::downgrade(&in_use));
        in_use
    }

    /// Whether the file with this node id is open.
    pub fn is_open(&self, node: u64) -> bool {
        let files = self.files.lock();
        files.get(&node).is_some_and(|file| file.strong_count() > 0)
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
