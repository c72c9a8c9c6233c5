//! Limits how many threads work on one inode. Further jobs of that inode wait in a queue. So a file whose source does
//! not answer delays its own clients only.

use super::listeners::{Listeners, Serving};
use super::spares::{Busy, Spares};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Work on one inode, including the reply.
type Job<T> = Box<dyn FnOnce(&Arc<T>) + Send>;

const SHARDS: usize = 16;

/// The lanes of all inodes with jobs.
pub struct Lanes<T> {
    serves: Arc<T>,
    spares: Arc<Spares>,
    listeners: Arc<Listeners>,
    /// Slots per lane.
    slots: usize,
    last_loop: LastLoop,
    /// By node. A lane exists while at least one of its slots is taken.
    lanes: [Mutex<HashMap<u64, Lane<T>>>; SHARDS],
}

/// Where the last free event loop puts a job, so that it can read the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLoop {
    /// If another thread works on the same inode, into the lane's queue. Otherwise a spare thread runs it. So a file that does
    /// not answer occupies one spare thread only.
    Queues,
    /// A spare thread runs it.
    UsesSpare,
}

/// The jobs of one inode. Each running job takes a slot, the others wait.
struct Lane<T> {
    taken: usize,
    waiting: VecDeque<Job<T>>,
}

/// A slot of a lane. Dropping it first runs the jobs that wait in the lane.
struct Slot<'a, T> {
    lanes: &'a Lanes<T>,
    node: u64,
}

impl<T> Drop for Slot<'_, T> {
    fn drop(&mut self) {
        self.lanes.leave(self.node);
    }
}

/// An event loop that may work on an inode, until dropped.
struct Turn<'a, T> {
    // Dropped in this order: an event loop runs the waiting jobs of its slot before it may stop listening.
    _slot: Slot<'a, T>,
    _busy: Busy<'a>,
    _serving: Serving<'a>,
}

impl<T> std::fmt::Debug for Lanes<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes")
            .field("slots", &self.slots)
            .field("last_loop", &self.last_loop)
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Lanes<T> {
    /// Lanes for `loops` event loops. Each job gets `serves`.
    pub fn new(
        serves: Arc<T>,
        loops: usize,
        spares: Arc<Spares>,
        listeners: Arc<Listeners>,
        last_loop: LastLoop,
    ) -> Arc<Self> {
        Arc::new(Lanes {
            serves,
            spares,
            listeners,
            slots: loops.saturating_sub(2).max(1),
            last_loop,
            lanes: std::array::from_fn(|_| Mutex::default()),
        })
    }

    /// Runs `job` on this thread or on another one.
    pub fn run(self: &Arc<Self>, node: u64, job: impl FnOnce(&Arc<T>) + Send + 'static) {
        let _serving = self.listeners.begin();
        let Some(job) = self.enter_or_queue(node, job) else {
            return self.spares.help();
        };
        match self.spares.begin_unless_last() {
            Some(_busy) => self.run_in_slot(node, job),
            None => match self.queue_instead(node, Box::new(job)) {
                Some(job) => self.run_on_spare(node, job),
                None => self.spares.help(),
            },
        }
    }

    /// As `run`, for a job that needs `bytes`. They are copied only if the job does not run here immediately.
    pub fn run_with(
        self: &Arc<Self>,
        node: u64,
        bytes: &[u8],
        job: impl FnOnce(&Arc<T>, &[u8]) + Send + 'static,
    ) {
        match self.enter(node) {
            Some(_turn) => job(&self.serves, bytes),
            None => {
                let bytes = bytes.to_vec();
                self.run(node, move |serves| job(serves, &bytes));
            }
        }
    }

    /// Takes a slot, unless all are taken or this is the last free event loop.
    fn enter(&self, node: u64) -> Option<Turn<'_, T>> {
        let busy = self.spares.begin_unless_last()?;
        let mut lanes = self.shard(node).lock();
        let lane = lanes.entry(node).or_default();
        if lane.taken == self.slots {
            busy.end_without_help(); // not before the job is queued
            return None;
        }
        lane.taken += 1;
        let _slot = Slot { lanes: self, node };
        let _serving = self.listeners.begin();
        Some(Turn {
            _slot,
            _busy: busy,
            _serving,
        })
    }

    /// Takes a slot and returns the job. If all slots are taken, queues the job.
    fn enter_or_queue<J: FnOnce(&Arc<T>) + Send + 'static>(&self, node: u64, job: J) -> Option<J> {
        let mut lanes = self.shard(node).lock();
        let lane = lanes.entry(node).or_default();
        if lane.taken < self.slots {
            lane.taken += 1;
            return Some(job);
        }
        lane.waiting.push_back(Box::new(job));
        self.spares.lane_has_queued();
        None
    }

    /// Gives up the slot that was taken for the job, and queues the job. Returns the job if no thread would run it, or if it must
    /// not wait in the queue.
    fn queue_instead(&self, node: u64, job: Job<T>) -> Option<Job<T>> {
        let mut lanes = self.shard(node).lock();
        match lanes.get_mut(&node) {
            Some(lane) if self.last_loop == LastLoop::Queues && lane.taken > 1 => {
                lane.taken -= 1;
                lane.waiting.push_back(job);
                self.spares.lane_has_queued();
                None
            }
            _ => Some(job),
        }
    }

    /// Runs the job on another thread.
    fn run_on_spare(self: &Arc<Self>, node: u64, job: Job<T>) {
        let lanes = self.clone();
        self.spares
            .hand_over(Box::new(move || lanes.run_in_slot(node, job)));
    }

    fn run_in_slot(&self, node: u64, job: impl FnOnce(&Arc<T>)) {
        let _slot = Slot { lanes: self, node };
        job(&self.serves);
    }
}

impl<T> Lanes<T> {
    /// Runs the jobs that wait, then gives up the slot.
    fn leave(&self, node: u64) {
        while let Some(job) = self.next_or_leave(node) {
            job(&self.serves);
        }
    }

    fn next_or_leave(&self, node: u64) -> Option<Job<T>> {
        let mut lanes = self.shard(node).lock();
        let lane = lanes.get_mut(&node)?;
        let next = lane.waiting.pop_front();
        if next.is_some() {
            self.spares.lane_has_taken();
        } else {
            lane.taken -= 1;
            if lane.taken == 0 {
                lanes.remove(&node);
            }
        }
        next
    }

    fn shard(&self, node: u64) -> &Mutex<HashMap<u64, Lane<T>>> {
        &self.lanes[(node % SHARDS as u64) as usize]
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Lane {
            taken: 0,
            waiting: VecDeque::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    const LOOPS: usize = 5;
    const SLOTS: usize = 3;

    fn lanes() -> Arc<Lanes<()>> {
        let (spares, listeners) = (Spares::new(LOOPS, true), Listeners::new(LOOPS, 2));
        Lanes::new(Arc::new(()), LOOPS, spares, listeners, LastLoop::Queues)
    }

    #[test]
    fn all_loops_but_two_work_on_an_inode_and_further_jobs_are_queued() {
        let lanes = lanes();
        let (gate, done) = (
            Arc::new(Barrier::new(SLOTS + 1)),
            Arc::new(AtomicUsize::new(0)),
        );
        let working: Vec<_> = (0..SLOTS)
            .map(|_| {
                let (lanes, gate, done) = (lanes.clone(), gate.clone(), done.clone());
                std::thread::spawn(move || {
                    lanes.run(7, move |_| {
                        gate.wait();
                        done.fetch_add(1, SeqCst);
                    })
                })
            })
            .collect();
        let taken = || lanes.lanes[7].lock().get(&7).map_or(0, |lane| lane.taken);
        while taken() < SLOTS {
            std::thread::yield_now();
        }
        for _ in 0..64 {
            let done = done.clone();
            lanes.run(7, move |_| {
                done.fetch_add(1, SeqCst);
            }); // returns at once
        }
        assert_eq!(done.load(SeqCst), 0);
        assert_eq!(lanes.spares.in_lanes(), 64);
        lanes.run(8, |_| ()); // another file is served
        gate.wait();
        working
            .into_iter()
            .for_each(|thread| thread.join().expect("a worker"));
        assert_eq!(done.load(SeqCst), 64 + SLOTS);
        assert!(lanes.lanes[7].lock().is_empty(), "nothing is left behind");
        assert_eq!(lanes.spares.in_lanes(), 0);
    }

    #[test]
    fn bytes_are_borrowed_if_the_job_runs_at_once_and_copied_if_it_waits() {
        let lanes = lanes();
        let bytes = b"bytes".to_vec();
        let given = bytes.as_ptr() as usize;
        lanes.run_with(7, &bytes, move |_, got| {
            assert_eq!(got.as_ptr() as usize, given)
        });
        let seen = Arc::new(Mutex::new(Vec::new()));
        let turns: Vec<_> = (0..SLOTS).filter_map(|_| lanes.enter(7)).collect();
        assert_eq!(turns.len(), SLOTS);
        let see = seen.clone();
        lanes.run_with(7, &bytes, move |_, got| see.lock().extend_from_slice(got));
        drop(bytes);
        assert!(seen.lock().is_empty(), "every slot is taken");
        drop(turns);
        assert_eq!(&**seen.lock(), b"bytes");
    }
}
