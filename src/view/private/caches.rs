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
    /// Of files that are open no more: the kernel has not dropped their pages yet.
    stale: Mutex<HashMap<u64, Arc<FileCache>>>,
}

impl Caches {
    pub fn new(kernel: Arc<KernelCache>) -> Self {
        Self {
            kernel,
            files: Mutex::default(),
            stale: Mutex::default(),
        }
    }

    /// What all opens of the file with this node id share.
    pub fn opened(&self, node: u64) -> Arc<InUse> {
        let mut files = self.files.lock();
        if let Some(in_use) = files.get(&node).and_then(Weak::upgrade) {
            return in_use;
        }
        let cache = FileCache::new(node, CacheState::default(), self.kernel.clone());
        let before = self.stale.lock().remove(&node);
        if before.is_some_and(|before| before.is_stale()) {
            cache.mark_stale();
        }
        let in_use = Arc::new(InUse::new(cache));
        files.insert(node, Arc::downgrade(&in_use));
        in_use
    }

    /// Whether the file with this node id is open.
    pub fn is_open(&self, node: u64) -> bool {
        let files = self.files.lock();
        files.get(&node).is_some_and(|file| file.strong_count() > 0)
    }

    /// An open of a file goes.
    pub fn close(&self, in_use: Arc<InUse>) {
        let mut files = self.files.lock();
        let Some(last) = Arc::into_inner(in_use) else {
            return;
        };
        files.remove(&last.cache.node());
        let mut stale = self.stale.lock();
        stale.retain(|_, cache| cache.is_stale());
        if last.cache.is_stale() {
            stale.insert(last.cache.node(), Arc::clone(&last.cache));
        }
        // A data file that the kernel had goes back to the store, which may take a while.
        drop((files, stale));
        drop(last);
    }

    /// A request has changed attributes in a way that the kernel does not expect.
    pub fn attributes_changed(&self, node: u64) {
        self.kernel.attributes_changed(node);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cache::{MayKeep, Timeouts};

    /// Nothing is connected that would drop pages.
    fn caches() -> Caches {
        let (attr, entry) = (Duration::ZERO, Duration::ZERO);
        Caches::new(KernelCache::new(Timeouts { attr, entry }))
    }

    fn kept(in_use: &InUse) -> MayKeep {
        in_use.cache.before_open((0, 0), false, || None)
    }

    /// The last close comes before the kernel has dropped the pages that a write went past.
    #[test]
    fn stale_pages_are_known_beyond_the_last_close() {
        let caches = caches();
        let first = caches.opened(7);
        assert_eq!(kept(&first), MayKeep::All);
        first.cache.reading(4096, false);
        first.cache.bypassed();
        caches.close(first);
        assert!(!caches.is_open(7));
        let (second, third) = (caches.opened(7), caches.opened(7));
        assert_eq!(kept(&second), MayKeep::Nothing);
        caches.close(second);
        assert_eq!(kept(&third), MayKeep::Attributes);
        caches.close(third);
        assert_eq!(kept(&caches.opened(8)), MayKeep::All);
        assert!(caches.stale.lock().is_empty() && caches.files.lock().len() == 1);
    }
}
