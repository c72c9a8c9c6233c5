//! Attributes that mmfs had the kernel drop, until the kernel has certainly got new ones.
//!
//! When the kernel gets a reply, it first marks the attributes as valid, and then sets length and times. Other threads read
//! attributes without its lock (`fuse_change_attributes_common` and `fuse_update_get_attr`, Linux 6.18). So a client may see
//! the old length while the reply to another client's request is processed. That does not happen if the reply has a timeout of
//! zero, because each client then sends a GETATTR of its own. When a reply with a timeout comes, an earlier reply has already
//! set the new attributes. Without this, 8 of 240 runs of 3,000 opens each that followed a growing log saw it one line too
//! short. Two other processes called stat(2) on it all the time (2 CPUs).

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// The longest time for the kernel to process a reply. It does not say when it has.
pub const MAX_REPLY_TIME: Duration = Duration::from_secs(1);

/// From this number of nodes on, entries older than `PRUNE_AGE` are dropped: the clients have long got new attributes.
const PRUNE_FROM: usize = 1024;
const PRUNE_AGE: Duration = Duration::from_secs(10);

/// The nodes of one mount whose attributes are not settled.
#[derive(Debug, Default)]
pub struct Unsettled {
    /// How often attributes were dropped.
    count: AtomicU64,
    nodes: Mutex<Nodes>,
    /// The number of nodes, readable without the lock.
    len: AtomicUsize,
}

#[derive(Debug, Default)]
struct Nodes {
    by_id: HashMap<u64, Forgotten>,
    /// The number of nodes after the last pruning.
    pruned: usize,
}

/// Attributes that the kernel was made to drop.
#[derive(Debug)]
struct Forgotten {
    /// The count when they were dropped.
    number: u64,
    at: Instant,
    /// When new attributes were first sent.
    told: Option<Instant>,
}

/// The count of dropped attributes, taken before attributes are read for a reply. The default is the count before all drops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asking(u64);

impl Unsettled {
    /// The kernel is about to drop the attributes of `node`.
    pub fn forgets(&self, node: u64) {
        let mut nodes = self.nodes.lock();
        let now = Instant::now();
        if nodes.by_id.len() >= PRUNE_FROM.max(2 * nodes.pruned) {
            nodes
                .by_id
                .retain(|_, one| now.duration_since(one.at) < PRUNE_AGE);
            nodes.by_id.shrink_to(PRUNE_FROM);
            nodes.pruned = nodes.by_id.len();
        }
        let forgotten = Forgotten {
            number: self.count.fetch_add(1, SeqCst) + 1,
            at: now,
            told: None,
        };
        nodes.by_id.insert(node, forgotten);
        self.len.store(nodes.by_id.len(), SeqCst);
    }

    /// The kernel has forgotten `node`.
    pub fn remove(&self, node: u64) {
        if self.len.load(SeqCst) != 0 {
            let mut nodes = self.nodes.lock();
            nodes.remove(node);
            self.len.store(nodes.by_id.len(), SeqCst);
        }
    }

    /// To be called before reading attributes.
    pub fn asking(&self) -> Asking {
        Asking(self.count.load(SeqCst))
    }

    /// Whether the kernel may cache the attributes of `node` that are about to be sent.
    pub fn is_settled(&self, node: u64, asking: Asking) -> bool {
        if self.len.load(SeqCst) == 0 {
            return true;
        }
        let mut nodes = self.nodes.lock();
        let Some(forgotten) = nodes.by_id.get_mut(&node) else {
            return true;
        };
        // The kernel may ignore attributes that were read before the drop.
        if asking.0 < forgotten.number {
            return false;
        }
        let told = *forgotten.told.get_or_insert_with(Instant::now);
        let is_settled = told.elapsed() >= MAX_REPLY_TIME;
        if is_settled {
            nodes.remove(node);
            self.len.store(nodes.by_id.len(), SeqCst);
        }
        is_settled
    }
}

impl Nodes {
    fn remove(&mut self, node: u64) {
        self.by_id.remove(&node);
        if self.by_id.is_empty() {
            // A new map, to free the memory of the old one.
            self.by_id = HashMap::new();
            self.pruned = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_valid_again_when_the_kernel_has_surely_taken_others() {
        let unsettled = Unsettled::default();
        let before = unsettled.asking();
        assert!(unsettled.is_settled(7, before));
        unsettled.forgets(7);
        assert!(!unsettled.is_settled(7, before), "found before");
        let found = unsettled.asking();
        assert!(unsettled.is_settled(8, found), "another one");
        assert!(!unsettled.is_settled(7, found), "the first answer");
        assert!(!unsettled.is_settled(7, found), "too early");
        let long_ago = Instant::now().checked_sub(MAX_REPLY_TIME);
        unsettled.nodes.lock().by_id.get_mut(&7).unwrap().told = long_ago;
        assert!(!unsettled.is_settled(7, before), "found before");
        assert!(unsettled.is_settled(7, found));
        assert_eq!(unsettled.len.load(SeqCst), 0);
    }

    #[test]
    fn old_entries_are_dropped_from_a_large_table() {
        let unsettled = Unsettled::default();
        (0..PRUNE_FROM as u64).for_each(|node| unsettled.forgets(node));
        let mut nodes = unsettled.nodes.lock();
        let old = Instant::now().checked_sub(PRUNE_AGE).unwrap();
        nodes
            .by_id
            .values_mut()
            .skip(10)
            .for_each(|node| node.at = old);
        drop(nodes);
        unsettled.forgets(PRUNE_FROM as u64);
        assert_eq!(unsettled.len.load(SeqCst), 11);
        unsettled.remove(PRUNE_FROM as u64);
        assert_eq!(unsettled.len.load(SeqCst), 10);
    }
}
