//! Inodes whose descriptors are kept open within the budget: a queue with a second chance for those used since they last came
//! to its front (the CLOCK algorithm).

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The result of asking for a descriptor to be closed.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is closed, or no longer belongs in the queue.
    Gone,
    /// It was used lately, and stays for another round.
    Used,
}

#[derive(Debug)]
pub struct DescriptorBudget<K> {
    /// Lock order: before the shards of `InUse`.
    queue: Mutex<VecDeque<K>>,
    /// The length of the queue, readable without a lock.
    length: AtomicUsize,
}

impl<K: Copy> DescriptorBudget<K> {
    pub fn new() -> Self {
        DescriptorBudget {
            queue: Mutex::default(),
            length: AtomicUsize::new(0),
        }
    }

    /// Adds an inode that was just given a descriptor. Closes others, so that at most `budget` stay.
    pub fn insert(&self, id: K, budget: usize, close: impl Fn(K) -> Verdict) {
        self.change(|queue| {
            queue.push_back(id);
            evict(queue, budget.max(1), close);
        });
    }

    /// Closes all but `budget`.
    pub fn keep(&self, budget: usize, close: impl Fn(K) -> Verdict) {
        self.change(|queue| evict(queue, budget, close));
    }

    /// Closes all.
    pub fn clear(&self, close: impl Fn(K) -> Verdict) {
        self.change(|queue| evict(queue, 0, close));
    }

    /// Closes half of the descriptors. False if there were none.
    pub fn shrink(&self, close: impl Fn(K) -> Verdict) -> bool {
        self.change(|queue| {
            let before = queue.len();
            evict(queue, before / 2, close);
            before > 0
        })
    }

    /// How many are open. Takes no lock.
    pub fn count(&self) -> usize {
        self.length.load(Relaxed)
    }

    fn change<R>(&self, change: impl FnOnce(&mut VecDeque<K>) -> R) -> R {
        let mut queue = self.queue.lock();
        let result = change(&mut queue);
        self.length.store(queue.len(), Relaxed);
        result
    }
}

fn evict<K>(queue: &mut VecDeque<K>, keep: usize, close: impl Fn(K) -> Verdict)
where
    K: Copy,
{
    // Two rounds at most: the first one ends the second chances.
    let mut tries = 2 * queue.len();
    while queue.len() > keep && tries > 0 {
        tries -= 1;
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
        let cache = DescriptorBudget::new();
        for id in 1..=4 {
            cache.insert(id, 2, close);
        }
        assert_eq!(*closed.borrow(), [2, 3]);
        assert_eq!(cache.count(), 2);
        assert!(cache.shrink(close));
        assert_eq!(closed.borrow().len(), 3);
        cache.keep(0, close);
        assert_eq!(closed.borrow().len(), 4);
    }

    #[test]
    fn shrinking_an_empty_cache_says_so() {
        assert!(!DescriptorBudget::<u64>::new().shrink(|_| Verdict::Gone));
    }
}
