//! Has the kernel drop its cache of files that changed behind the mount. It may wait with that for a read that never
//! ends, so every file waits by itself.

use crate::mapping::Outdated;
use crate::pool::Pool;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Files at most for which the kernel is waited at a time.
const MOST: usize = 16;

/// Nodes whose cached bytes the kernel must drop.
pub struct Invalidation {
    /// Tells the kernel.
    drop_cache: Box<dyn Fn(u64) + Send + Sync>,
    /// By node, those who wait to hear that it is done; a node is worked on while it is here.
    waiting: Mutex<HashMap<u64, Vec<Outdated>>>,
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

    /// Has the kernel drop its cache of a file, from now on, and tells those who wait for it.
    pub fn add(self: &Arc<Self>, outdated: Outdated) {
        let node = outdated.node;
        match self.waiting.lock().entry(node) {
            Entry::Occupied(mut others) => return others.get_mut().push(outdated),
            Entry::Vacant(place) => {
                place.insert(vec![outdated]);
            }
        }
        let all = self.clone();
        self.pool.run(Box::new(move || all.work(node)));
    }

    fn work(&self, node: u64) {
        while let Some(due) = self.due(node) {
            (self.drop_cache)(node);
            for outdated in due {
                if let Some(mapping) = outdated.mapping.upgrade() {
                    mapping.cache_dropped();
                }
                drop(outdated.then);
            }
        }
    }

    /// Those who asked before the kernel is told once more.
    fn due(&self, node: u64) -> Option<Vec<Outdated>> {
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
    use std::sync::Weak;
    use std::sync::mpsc::channel;

    fn outdated(node: u64) -> Outdated {
        Outdated {
            node,
            mapping: Weak::new(),
            then: None,
        }
    }

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
        invalidation.add(outdated(1));
        while !working(1) {
            std::thread::yield_now();
        }
        for _ in 0..2 * MOST {
            invalidation.add(outdated(1));
        }
        invalidation.add(outdated(2));
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
