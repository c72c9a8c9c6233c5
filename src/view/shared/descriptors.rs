//! Which inodes have a descriptor kept open for them within the budget: a bounded queue with a second chance for those
//! used since they came to its front (the CLOCK algorithm).

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What became of a descriptor that was asked to go.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is closed, was already, or no longer belongs in the queue.
    Gone,
    /// It was used lately and stays for another round.
    Used,
}

#[derive(Debug)]
pub struct DescriptorBudget<K> {
    /// Lock order: before any shard of the table of what is in use.
    queue: Mutex<VecDeque<K>>,
    /// Its length, readable without a lock.
    length: AtomicUsize,
}

impl<K: Copy> DescriptorBudget<K> {
    pub fn new() -> Self {
        DescriptorBudget {
            queue: Mutex::default(),
            length: AtomicUsize::new(0),
        }
    }

    /// Adds a node that has just been given a descriptor; others go, so that no more than `budget` stay.
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

    /// Closes half of what is open; false when there was nothing.
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
    // Two rounds at most: the first takes the second chances away.
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
