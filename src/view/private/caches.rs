//! What the kernel has in its cache of open files of a private view, where it does not find out by itself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;

use super::passed::InUse;
use crate::cache::{CacheState, FileCache, KernelCache};

/// The kernel's caches of the files that are open.
pub(super) struct Caches {
    kernel: Arc<KernelCache>,
    /// With the number of opens of each.
    files: Mutex<HashMap<u64, (Arc<InUse>, usize)>>,
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
        if let Some((in_use, opens)) = files.get_mut(&node) {
            *opens += 1;
            return Arc::clone(in_use);
        }
        let cache = FileCache::new(node, CacheState::default(), self.kernel.clone());
        let before = self.stale.lock().remove(&node);
        if before.is_some_and(|before| before.is_stale()) {
            cache.mark_stale();
        }
        let in_use = Arc::new(InUse::new(cache));
        files.insert(node, (Arc::clone(&in_use), 1));
        in_use
    }

    /// Whether the file with this node id is open.
    pub fn is_open(&self, node: u64) -> bool {
        self.files.lock().contains_key(&node)
    }

    /// The node ids of open files.
    pub fn all_open(&self) -> Vec<u64> {
        self.files.lock().keys().copied().collect()
    }

    /// An open of the file goes.
    pub fn close(&self, node: u64) {
        let mut files = self.files.lock();
        let Entry::Occupied(mut file) = files.entry(node) else {
            return;
        };
        let (_, opens) = file.get_mut();
        *opens -= 1;
        if *opens > 0 {
            return;
        }
        let (last, _) = file.remove();
        let mut stale = self.stale.lock();
        stale.retain(|_, cache| cache.is_stale());
        if last.cache.is_stale() {
            stale.insert(node, Arc::clone(&last.cache));
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
        caches.close(7);
        assert!(!caches.is_open(7));
        let (second, third) = (caches.opened(7), caches.opened(7));
        assert_eq!(kept(&second), MayKeep::Nothing);
        caches.close(7);
        assert!(caches.is_open(7));
        assert_eq!(kept(&third), MayKeep::Attributes);
        caches.close(7);
        assert_eq!(kept(&caches.opened(8)), MayKeep::All);
        assert!(caches.stale.lock().is_empty() && caches.files.lock().len() == 1);
    }
}
