//! Attributes that the kernel was made to forget, until what it was told since has surely taken their place.
//!
//! Taking a reply, the kernel declares the attributes valid first and sets the length and the times after that, and
//! whoever asks for attributes looks without its lock (`fuse_change_attributes_common` and `fuse_update_get_attr`, Linux
//! 6.18). So a client may be shown the old length while the reply to another client's request is taken. It is not where
//! the reply says that they are valid for no time at all: then each client asks for itself. By the time a reply makes them
//! valid, an earlier one has put the new ones in place. Without this, 8 of 240 runs of 3,000 opens each that followed a
//! growing log, while two others looked at it all the time, saw it one line too short (2 processors).

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Nobody knows when the kernel has taken a reply, but it is within this time.
pub const REPLY_TAKEN: Duration = Duration::from_secs(1);

/// From so many nodes on those are dropped, now and then, that were forgotten long ago: whoever has opened such a file has
/// asked.
const MANY: usize = 1024;
const LONG: Duration = Duration::from_secs(10);

/// The nodes of one mount whose attributes are not settled.
#[derive(Debug, Default)]
pub struct Unsettled {
    /// How often attributes were forgotten.
    count: AtomicU64,
    nodes: Mutex<Nodes>,
    /// How many nodes there are, for those who need no lock when there are none.
    len: AtomicUsize,
}

#[derive(Debug, Default)]
struct Nodes {
    by_id: HashMap<u64, Forgotten>,
    /// How many there were when old ones were last dropped.
    pruned: usize,
}

/// Attributes that the kernel was made to forget.
#[derive(Debug)]
struct Forgotten {
    /// How often attributes had been forgotten by then.
    number: u64,
    at: Instant,
    /// When the kernel was first told others.
    told: Option<Instant>,
}

/// A moment before a file is looked at to tell the kernel its attributes; by default before everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asking(u64);

impl Unsettled {
    /// The kernel is about to be made to forget the attributes of `node`.
    pub fn forgets(&self, node: u64) {
        let mut nodes = self.nodes.lock();
        let now = Instant::now();
        if nodes.by_id.len() >= MANY.max(2 * nodes.pruned) {
            nodes
                .by_id
                .retain(|_, one| now.duration_since(one.at) < LONG);
            nodes.by_id.shrink_to(MANY);
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

    /// The kernel knows `node` no longer.
    pub fn remove(&self, node: u64) {
        if self.len.load(SeqCst) != 0 {
            let mut nodes = self.nodes.lock();
            nodes.remove(node);
            self.len.store(nodes.by_id.len(), SeqCst);
        }
    }

    /// For those who are about to look at a file.
    pub fn asking(&self) -> Asking {
        Asking(self.count.load(SeqCst))
    }

    /// The kernel is about to be told what was found of `node`: whether it may take that for valid.
    pub fn is_settled(&self, node: u64, asking: Asking) -> bool {
        if self.len.load(SeqCst) == 0 {
            return true;
        }
        let mut nodes = self.nodes.lock();
        let Some(forgotten) = nodes.by_id.get_mut(&node) else {
            return true;
        };
        // Of an older answer the kernel may take nothing.
        if asking.0 < forgotten.number {
            return false;
        }
        let told = *forgotten.told.get_or_insert_with(Instant::now);
        let is_settled = told.elapsed() >= REPLY_TAKEN;
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
            self.by_id = HashMap::new(); // what it took goes, too
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
        let long_ago = Instant::now().checked_sub(REPLY_TAKEN);
        unsettled.nodes.lock().by_id.get_mut(&7).unwrap().told = long_ago;
        assert!(!unsettled.is_settled(7, before), "found before");
        assert!(unsettled.is_settled(7, found));
        assert_eq!(unsettled.len.load(SeqCst), 0);
    }

    #[test]
    fn what_nobody_asks_for_is_dropped_when_there_is_much_of_it() {
        let unsettled = Unsettled::default();
        (0..MANY as u64).for_each(|node| unsettled.forgets(node));
        let mut nodes = unsettled.nodes.lock();
        let old = Instant::now().checked_sub(LONG).unwrap();
        nodes
            .by_id
            .values_mut()
            .skip(10)
            .for_each(|node| node.at = old);
        drop(nodes);
        unsettled.forgets(MANY as u64);
        assert_eq!(unsettled.len.load(SeqCst), 11);
        unsettled.remove(MANY as u64);
        assert_eq!(unsettled.len.load(SeqCst), 10);
    }
}
