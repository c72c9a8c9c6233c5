//! Has the kernel drop its cache of files that changed behind the mount. It may wait with that for a read that never
//! ends, so every file waits by itself.

use crate::mapping::Mapping;
use crate::pool::Pool;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};

/// Files at most for which the kernel is waited at a time.
const MOST: usize = 16;

/// Nodes whose cached bytes the kernel must drop.
pub struct Invalidation {
    /// Tells the kernel.
    drop_cache: Box<dyn Fn(u64) + Send + Sync>,
    /// By node, the mappings that wait to hear that it is done; a node is worked on while it is here.
    waiting: Mutex<HashMap<u64, Vec<Weak<Mapping>>>>,
    pool: Arc<Pool>,
}

impl Invalidation {
    /// `drop_cache` has the kernel drop its cache of a node.
    pub fn new(drop_cache: impl Fn(u64) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Invalidation {
            drop_cache: Box::new(drop_cache),
            waiting: Mutex::default(),
            pool: Pool::new("invalidation", MOST),
        })
    }

    /// Has the cache of `node` dropped, from now on, and tells the mapping.
    pub fn add(self: &Arc<Self>, node: u64, mapping: Weak<Mapping>) {
        match self.waiting.lock().entry(node) {
            Entry::Occupied(mut others) => return others.get_mut().push(mapping),
            Entry::Vacant(place) => drop(place.insert(vec![mapping])),
        }
        let all = self.clone();
        self.pool.run(Box::new(move || all.work(node)));
    }

    fn work(&self, node: u64) {
        while let Some(due) = self.due(node) {
            (self.drop_cache)(node);
            let told = due.iter().filter_map(Weak::upgrade);
            told.for_each(|mapping| mapping.cache_dropped());
        }
    }

    /// Those who asked before the kernel is told once more.
    fn due(&self, node: u64) -> Option<Vec<Weak<Mapping>>> {
        let mut waiting = self.waiting.lock();
        let due = waiting.get_mut(&node).map(std::mem::take);
        if due.as_ref().is_none_or(Vec::is_empty) {
            waiting.remove(&node);
            return None;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_node_that_hangs_holds_up_no_other() {
        let (gate, closed) = channel::<()>();
        let (dropped, heard) = channel();
        let closed = Mutex::new(closed);
        let invalidation = Invalidation::new(move |node| {
            if node == 1 {
                let _ = closed.lock().recv();
            }
            dropped.send(node).expect("somebody listens");
        });
        let working = |node| {
            invalidation
                .waiting
                .lock()
                .get(&node)
                .is_some_and(Vec::is_empty)
        };
        invalidation.add(1, Weak::new());
        while !working(1) {
            std::thread::yield_now();
        }
        for _ in 0..2 * MOST {
            invalidation.add(1, Weak::new());
        }
        invalidation.add(2, Weak::new());
        let next = || heard.recv_timeout(std::time::Duration::from_secs(10));
        assert_eq!(next(), Ok(2));
        drop(gate);
        assert_eq!(next(), Ok(1));
        // Those who asked meanwhile are served by one more time.
        assert_eq!(next(), Ok(1));
        while !invalidation.waiting.lock().is_empty() {
            std::thread::yield_now();
        }
        assert!(heard.try_recv().is_err());
    }
}
