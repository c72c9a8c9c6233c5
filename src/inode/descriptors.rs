//! Which inodes have a descriptor kept open for them: a bounded queue with a second chance for those used
//! since they came to its front (the CLOCK algorithm).

use parking_lot::Mutex;
use std::collections::VecDeque;

/// What became of a descriptor that was asked to go.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is closed, was already, or no longer belongs in the queue.
    Gone,
    /// It was used lately and stays for another round.
    Used,
}

#[derive(Debug)]
pub struct DescriptorCache {
    /// Lock order: before any shard of the inode table.
    queue: Mutex<VecDeque<u64>>,
    budget: usize,
}

impl DescriptorCache {
    pub fn new(budget: usize) -> Self {
        DescriptorCache {
            queue: Mutex::default(),
            budget: budget.max(1),
        }
    }

    /// Adds a node that has just been given a descriptor; others go to make room.
    pub fn insert(&self, id: u64, close: impl Fn(u64) -> Verdict) {
        let mut queue = self.queue.lock();
        queue.push_back(id);
        evict(&mut queue, self.budget, close);
    }

    /// Closes half of what is open; false when there was nothing.
    pub fn shrink(&self, close: impl Fn(u64) -> Verdict) -> bool {
        let mut queue = self.queue.lock();
        let before = queue.len();
        evict(&mut queue, before / 2, close);
        before > 0
    }
}

fn evict(queue: &mut VecDeque<u64>, keep: usize, close: impl Fn(u64) -> Verdict) {
    // Two rounds at most: the first takes the second chances away.
    let mut patience = 2 * queue.len();
    while queue.len() > keep && patience > 0 {
        patience -= 1;
        let Some(id) = queue.pop_front() else { return };
        if close(id) == Verdict::Used {
            queue.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::HashSet;

    #[test]
    fn the_budget_holds_and_used_ones_stay() {
        let used = RefCell::new(HashSet::from([1]));
        let closed = RefCell::new(Vec::new());
        let close = |id| {
            if used.borrow_mut().remove(&id) {
                return Verdict::Used;
            }
            closed.borrow_mut().push(id);
            Verdict::Gone
        };
        let cache = DescriptorCache::new(2);
        for id in 1..=4 {
            cache.insert(id, close);
        }
        assert_eq!(*closed.borrow(), [2, 3]);
        assert!(cache.shrink(close));
        assert_eq!(closed.borrow().len(), 3);
    }

    #[test]
    fn shrinking_an_empty_cache_says_so() {
        assert!(!DescriptorCache::new(8).shrink(|_| Verdict::Gone));
    }
}
