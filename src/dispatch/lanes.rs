//! Keeps one file from taking all threads: only so many are inside it at a time, each one's other requests queue
//! aside. A file whose source never answers holds up its own clients only.

use super::listeners::{Duty, Listeners};
use super::spares::{AtWork, Spares};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Work on one inode, with the reply it owes.
type Job<T> = Box<dyn FnOnce(&T) + Send>;

const SHARDS: usize = 16;

/// The lanes of all inodes that are being worked on.
pub struct Lanes<T> {
    on: Arc<T>,
    spares: Arc<Spares>,
    listeners: Arc<Listeners>,
    width: usize,
    /// Whether a job waits for those inside rather than take a spare thread.
    patient: bool,
    busy: [Mutex<HashMap<u64, Lane<T>>>; SHARDS],
}

/// Leave for an event loop to work on an inode, until dropped.
struct Turn<'a, T> {
    // In this order: the event loop may rest once nobody waits for it.
    _place: Place<'a, T>,
    _at_work: AtWork<'a>,
    _duty: Duty<'a>,
}

/// A place in a lane, given back when dropped.
struct Place<'a, T> {
    lanes: &'a Lanes<T>,
    node: u64,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        self.lanes.leave(self.node);
    }
}

struct Lane<T> {
    inside: usize,
    waiting: VecDeque<Job<T>>,
}

impl<T> std::fmt::Debug for Lanes<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes")
            .field("width", &self.width)
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Lanes<T> {
    /// Lanes of work on `on` for so many event loops, which `listeners` are and whose `spares` there are.
    /// Where they are `patient`, a job waits for those inside rather than take a spare thread.
    pub fn new(
        on: Arc<T>,
        threads: usize,
        spares: Arc<Spares>,
        listeners: Arc<Listeners>,
        patient: bool,
    ) -> Arc<Self> {
        Arc::new(Lanes {
            on,
            spares,
            listeners,
            width: threads.saturating_sub(2).max(1),
            patient,
            busy: std::array::from_fn(|_| Mutex::default()),
        })
    }

    /// Runs `job` now, or lets whoever works on `node` run it when there is room.
    pub fn run(self: &Arc<Self>, node: u64, job: impl FnOnce(&T) + Send + 'static) {
        let _duty = self.listeners.begin();
        let Some(job) = self.enter_or_queue(node, job) else {
            return;
        };
        match self.spares.begin() {
            Some(_at_work) => self.inside(node, job),
            None => {
                if let Some(job) = self.queue_behind(node, Box::new(job)) {
                    self.aside(node, job);
                }
            }
        }
    }

    /// As `run`, for a job that needs `bytes`: they are copied only where the job has to wait.
    pub fn run_with(
        self: &Arc<Self>,
        node: u64,
        bytes: &[u8],
        job: impl FnOnce(&T, &[u8]) + Send + 'static,
    ) {
        match self.enter(node) {
            Some(_turn) => job(&self.on, bytes),
            None => {
                let bytes = bytes.to_vec();
                self.run(node, move |on| job(on, &bytes));
            }
        }
    }

    /// Enters if there is room.
    fn enter(&self, node: u64) -> Option<Turn<'_, T>> {
        let _at_work = self.spares.begin()?;
        let mut busy = self.shard(node).lock();
        let lane = busy.entry(node).or_default();
        if lane.inside == self.width {
            return None;
        }
        lane.inside += 1;
        let _place = Place { lanes: self, node };
        let _duty = self.listeners.begin();
        Some(Turn {
            _place,
            _at_work,
            _duty,
        })
    }

    fn inside(&self, node: u64, job: impl FnOnce(&T)) {
        let _place = Place { lanes: self, node };
        job(&self.on);
    }

    /// Has a spare thread do the job, or does it here when there is none.
    fn aside(self: &Arc<Self>, node: u64, job: Job<T>) {
        let lanes = self.clone();
        let job = Box::new(move || lanes.inside(node, job));
        if let Err(job) = self.spares.run(job) {
            let _at_work = self.spares.mark();
            job();
        }
    }

    /// Gives up a place taken for the job and lets the others inside do it; gives the job back where nobody is.
    /// So one file that never answers takes one spare thread and not several.
    fn queue_behind(&self, node: u64, job: Job<T>) -> Option<Job<T>> {
        let mut busy = self.shard(node).lock();
        match busy.get_mut(&node) {
            Some(lane) if self.patient && lane.inside > 1 => {
                lane.inside -= 1;
                lane.waiting.push_back(job);
                None
            }
            _ => Some(job),
        }
    }

    /// Gives the job back when there is room for it.
    fn enter_or_queue<J: FnOnce(&T) + Send + 'static>(&self, node: u64, job: J) -> Option<J> {
        let mut busy = self.shard(node).lock();
        let lane = busy.entry(node).or_default();
        if lane.inside < self.width {
            lane.inside += 1;
            return Some(job);
        }
        lane.waiting.push_back(Box::new(job));
        None
    }
}

impl<T> Lanes<T> {
    /// Runs what has queued up meanwhile, then gives the place back.
    fn leave(&self, node: u64) {
        loop {
            let next = {
                let mut busy = self.shard(node).lock();
                let Some(lane) = busy.get_mut(&node) else {
                    return;
                };
                match lane.waiting.pop_front() {
                    Some(job) => job,
                    None => {
                        lane.inside -= 1;
                        if lane.inside == 0 {
                            busy.remove(&node);
                        }
                        return;
                    }
                }
            };
            next(&self.on);
        }
    }

    fn shard(&self, node: u64) -> &Mutex<HashMap<u64, Lane<T>>> {
        &self.busy[(node % SHARDS as u64) as usize]
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Lane {
            inside: 0,
            waiting: VecDeque::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::{Arc, Barrier};

    #[test]
    fn all_threads_but_two_wait_and_the_rest_is_queued() {
        let lanes = Lanes::new(Arc::new(()), 5, Spares::new(5), Listeners::new(5, 2), true);
        let (gate, done) = (Arc::new(Barrier::new(4)), Arc::new(AtomicUsize::new(0)));
        let inside: Vec<_> = (0..3)
            .map(|_| {
                let (lanes, gate, done) = (lanes.clone(), gate.clone(), done.clone());
                std::thread::spawn(move || {
                    lanes.run(7, move |()| {
                        gate.wait();
                        done.fetch_add(1, SeqCst);
                    })
                })
            })
            .collect();
        while lanes.busy[7]
            .lock()
            .get(&7)
            .is_none_or(|lane| lane.inside < 3)
        {
            std::thread::yield_now();
        }
        for _ in 0..64 {
            let done = done.clone();
            lanes.run(7, move |()| {
                done.fetch_add(1, SeqCst);
            }); // returns at once
        }
        assert_eq!(done.load(SeqCst), 0);
        lanes.run(8, |()| ()); // another file is served
        gate.wait();
        inside.into_iter().for_each(|t| t.join().expect("a worker"));
        assert_eq!(done.load(SeqCst), 67);
        assert!(lanes.busy[7].lock().is_empty(), "nothing is left behind");
    }
}
