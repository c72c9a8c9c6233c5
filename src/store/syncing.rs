//! Which data files are being synced now.
//!
//! The kernel tells an error of a file to one of those who sync it at the same time. The others are told by us: whoever is to answer
//! that a file is durable first waits for the syncs that ran beside its own.

use std::collections::BTreeMap;

use parking_lot::{Condvar, Mutex};

use super::node::NodeId;

/// The syncs of data files that are under way, in the order in which they began.
#[derive(Debug, Default)]
pub struct Syncing {
    under_way: Mutex<(u64, BTreeMap<u64, NodeId>)>,
    ended: Condvar,
}

impl Syncing {
    /// A sync of this node's data file begins.
    pub fn begin(&self, id: NodeId) -> u64 {
        let mut under_way = self.under_way.lock();
        let (next, all) = &mut *under_way;
        *next += 1;
        all.insert(*next, id);
        *next
    }

    /// It has ended, and its error is noted where the others look.
    pub fn end(&self, sync: u64) {
        self.under_way.lock().1.remove(&sync);
        self.ended.notify_all();
    }

    /// Whether one of this file is under way.
    pub fn has(&self, id: NodeId) -> bool {
        self.under_way.lock().1.values().any(|of| *of == id)
    }

    /// Waits until all syncs of this file that have begun before now have ended.
    pub fn wait_for_others(&self, id: NodeId) {
        let mut under_way = self.under_way.lock();
        let last = under_way.0;
        let is_one = |(_, of): (&u64, &NodeId)| *of == id;
        while under_way.1.range(..=last).any(is_one) {
            self.ended.wait(&mut under_way);
        }
    }
}
