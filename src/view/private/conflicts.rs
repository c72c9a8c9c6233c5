//! Changed files whose file in the source was changed, replaced or removed since: as far as requests have come across them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::store::NodeId;

/// So many are known by name, so that memory stays bounded.
const MAX_KNOWN: usize = 10_000;

/// The conflicts found so far.
#[derive(Default)]
pub(super) struct Conflicts {
    /// Where each was in the source when it was first changed.
    known: Mutex<BTreeMap<NodeId, Vec<u8>>>,
    /// How many are known. Readable without the lock.
    count: AtomicU64,
}

impl Conflicts {
    /// The node is a conflict. `way`: its path below the source's root when it was first changed.
    pub fn add(&self, id: NodeId, way: &[u8]) {
        let mut known = self.known.lock();
        if known.len() < MAX_KNOWN && !known.contains_key(&id) {
            known.insert(id, way.to_vec());
            self.count.store(known.len() as u64, Relaxed);
        }
    }

    /// The node is no conflict.
    pub fn remove(&self, id: NodeId) {
        if self.count.load(Relaxed) > 0 {
            let mut known = self.known.lock();
            known.remove(&id);
            self.count.store(known.len() as u64, Relaxed);
        }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// The paths of up to `most` of them. One whose name was another file's already when it was changed has none.
    pub fn ways(&self, most: usize) -> Vec<Vec<u8>> {
        let known = self.known.lock();
        let ways = known.values().filter(|way| !way.is_empty());
        ways.take(most).cloned().collect()
    }
}
