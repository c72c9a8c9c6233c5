//! Keeps one event loop free to read requests. An event loop that finds all others busy hands its job over: to a spare
//! thread, or to a queue where all of those are busy. So files that do not answer occupy spare threads, the rest of the tree
//! is served, and requests are read whatever the others wait for.
//!
//! A job in the queue is taken by a spare thread that has ended one, or by an event loop that has ended one and is not the
//! last that is free.
//!
//! An event loop that waits while few listen (see `listeners`) counts as free: it listens again within two milliseconds
//! when one of the few is held up.

use crate::pool::{Job, Pool};
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

/// Requests that may wait on spare threads for sources that do not answer. Further ones are queued.
pub const MAX_SPARE_THREADS: usize = 64;

thread_local! {
    /// The number of this event loop, from its first request on.
    static LOOP: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Which event loops are busy, and the spare threads.
#[derive(Debug)]
pub struct Spares {
    /// By event loop: whether it is busy.
    busy: Box<[AtomicBool]>,
    /// Event loops that have a number.
    numbered: AtomicUsize,
    pool: Arc<Pool>,
    /// Whether jobs that were handed over may run on spare threads.
    uses_pool: bool,
    handed_over: Mutex<HandedOver>,
    /// Jobs in that queue. An event loop that ends a job looks here without a lock.
    queued: AtomicUsize,
    /// Jobs in the queues of lanes.
    in_lanes: AtomicUsize,
}

/// Jobs that no thread has taken yet.
#[derive(Default)]
struct HandedOver(VecDeque<Job>);

impl std::fmt::Debug for HandedOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} jobs", self.0.len())
    }
}

/// A busy event loop, until dropped. Then it runs jobs that were handed over, unless it is the last that is free.
#[derive(Debug)]
pub struct Busy<'a> {
    spares: &'a Spares,
    mark: Option<Mark<'a>>,
}

impl Busy<'_> {
    /// Ends it. The caller is to call [`Spares::help`] soon.
    pub fn end_without_help(mut self) {
        self.mark = None;
        std::mem::forget(self);
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.mark = None;
        if !std::thread::panicking() {
            self.spares.help();
        }
    }
}

/// The mark of a busy event loop, until dropped.
#[derive(Debug)]
struct Mark<'a>(&'a AtomicBool);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

impl Spares {
    /// For `loops` event loops, two at least. Without `uses_pool`, jobs that were handed over wait for an event loop.
    pub fn new(loops: usize, uses_pool: bool) -> Arc<Self> {
        Arc::new(Spares {
            busy: (0..loops).map(|_| AtomicBool::new(false)).collect(),
            numbered: AtomicUsize::new(0),
            pool: Pool::new("spare", MAX_SPARE_THREADS),
            uses_pool,
            handed_over: Mutex::default(),
            queued: AtomicUsize::new(0),
            in_lanes: AtomicUsize::new(0),
        })
    }

    /// Marks the calling event loop as busy, unless all others are. Where they are, another one may have taken this one for
    /// busy meanwhile, and left a job to it: [`Self::help`] must follow.
    pub fn begin_unless_last(&self) -> Option<Busy<'_>> {
        let own = self.mark();
        (!self.is_last(&own)).then(|| Busy {
            spares: self,
            mark: Some(own),
        })
    }

    fn is_last(&self, own: &Mark<'_>) -> bool {
        let others = || self.busy.iter().filter(|one| !std::ptr::eq(*one, own.0));
        others().all(|other| other.load(SeqCst))
    }

    /// Marks the calling event loop as busy.
    fn mark(&self) -> Mark<'_> {
        let number = LOOP.get().unwrap_or_else(|| {
            let number = self.numbered.fetch_add(1, SeqCst);
            LOOP.set(Some(number));
            number
        });
        let own = &self.busy[number % self.busy.len()];
        own.store(true, SeqCst);
        Mark(own)
    }

    /// Has a spare thread do the job.
    ///
    /// # Errors
    /// The job, when all spare threads are busy and no more can be started.
    pub fn run(&self, job: Job) -> Result<(), Job> {
        self.pool.try_run(job)
    }

    /// Has another thread do the job, now or later. The calling event loop is not marked as busy. It runs the job itself
    /// where it is not the last free one any more.
    pub fn hand_over(self: &Arc<Self>, job: Job) {
        // Counted before it is looked who is busy: an event loop that is, looks here when it has ended.
        self.queued.fetch_add(1, SeqCst);
        self.handed_over.lock().0.push_back(job);
        if self.uses_pool {
            let spares = self.clone();
            let take = move || {
                while let Some(job) = spares.take() {
                    // Nobody else might take the jobs behind one that panics.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        log::error!("a job has panicked");
                    }
                }
            };
            if self.pool.try_run(Box::new(take)).is_ok() {
                return;
            }
        }
        self.help();
    }

    /// Jobs that were handed over and that no thread has taken yet.
    pub fn queued(&self) -> usize {
        self.queued.load(SeqCst)
    }

    /// A job waits in the queue of a lane.
    pub fn lane_has_queued(&self) {
        self.in_lanes.fetch_add(1, Relaxed);
    }

    /// It does not any more.
    pub fn lane_has_taken(&self) {
        self.in_lanes.fetch_sub(1, Relaxed);
    }

    /// Jobs that wait in the queues of lanes.
    pub fn in_lanes(&self) -> usize {
        self.in_lanes.load(Relaxed)
    }

    /// Spare threads that work.
    pub fn busy_threads(&self) -> usize {
        self.pool.busy()
    }

    /// Takes a job, on a spare thread.
    fn take(&self) -> Option<Job> {
        let job = self.handed_over.lock().0.pop_front()?;
        self.queued.fetch_sub(1, SeqCst);
        Some(job)
    }

    /// Runs jobs that were handed over, on an event loop, as long as it is not the last that is free.
    pub fn help(&self) {
        while self.queued() > 0 {
            let Some((job, _mark)) = self.take_unless_last() else {
                return;
            };
            job();
        }
    }

    /// One event loop at a time decides: if two did, each would take the other for busy, and the job would stay.
    fn take_unless_last(&self) -> Option<(Job, Mark<'_>)> {
        let mut jobs = self.handed_over.lock();
        // Declared after the lock, so dropped before it.
        let own = self.mark();
        if self.is_last(&own) {
            return None;
        }
        let job = jobs.0.pop_front()?;
        self.queued.fetch_sub(1, SeqCst);
        Some((job, own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn the_last_free_loop_is_kept_free() {
        let spares = Spares::new(3, true);
        let (began, begun) = channel();
        let loops: Vec<_> = (0..2)
            .map(|_| {
                let (spares, began) = (spares.clone(), began.clone());
                let (gate, closed) = channel::<()>();
                let work = move || {
                    let busy = spares.begin_unless_last();
                    began.send(busy.is_some()).expect("the test receives");
                    // Until the gate is dropped.
                    let _ = closed.recv();
                };
                (gate, thread::spawn(work))
            })
            .collect();
        assert_eq!((begun.recv(), begun.recv()), (Ok(true), Ok(true)));
        assert!(
            spares.begin_unless_last().is_none(),
            "two of three are busy"
        );
        for (gate, one) in loops {
            drop(gate);
            one.join().expect("a loop");
        }
        assert!(
            spares.begin_unless_last().is_some(),
            "none is busy any more"
        );
    }

    #[test]
    fn jobs_beyond_the_spare_threads_wait_and_none_stays_behind() {
        const JOBS: usize = MAX_SPARE_THREADS + 8;
        let spares = Spares::new(2, true);
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock();
        let (done, heard) = channel();
        let worker = thread::spawn({
            let (spares, gate, done) = (spares.clone(), gate.clone(), done.clone());
            move || {
                let busy = spares.begin_unless_last();
                done.send(usize::from(busy.is_none()))
                    .expect("the test receives");
                drop(gate.lock());
            }
        });
        assert_eq!(heard.recv(), Ok(0), "the other is free");
        for number in 1..=JOBS {
            assert!(spares.begin_unless_last().is_none());
            let (gate, done) = (gate.clone(), done.clone());
            spares.hand_over(Box::new(move || {
                drop(gate.lock());
                done.send(number).expect("the test receives");
            })); // returns at once
        }
        assert!(spares.queued() >= JOBS - MAX_SPARE_THREADS);
        drop(closed);
        let mut ended: Vec<_> = heard.iter().take(JOBS).collect();
        ended.sort_unstable();
        assert!(ended.into_iter().eq(1..=JOBS));
        worker.join().expect("a loop");
        assert_eq!(spares.queued(), 0);
    }

    #[test]
    fn a_job_that_panics_leaves_no_job_behind() {
        let spares = Spares::new(2, true);
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock();
        // All spare threads are busy with this, and what comes then waits behind it.
        for _ in 0..MAX_SPARE_THREADS {
            let gate = gate.clone();
            let job = Box::new(move || {
                drop(gate.lock());
                std::panic::resume_unwind(Box::new("of the test")) // without a message
            });
            spares.hand_over(job);
        }
        let (done, heard) = channel();
        // The other loop is not free, so this one takes none of the jobs itself.
        spares.busy[1].store(true, SeqCst);
        for _ in 0..8 {
            let done = done.clone();
            spares.hand_over(Box::new(move || done.send(()).expect("it receives")));
        }
        drop(closed);
        for _ in 0..8 {
            assert_eq!(heard.recv_timeout(Duration::from_secs(10)), Ok(()));
        }
        assert_eq!(spares.queued(), 0);
    }

    #[test]
    fn loops_that_take_each_other_for_busy_leave_no_job_behind() {
        let spares = Spares::new(2, false);
        let (done, heard) = channel();
        let loops: Vec<_> = (0..2)
            .map(|_| {
                let (spares, done) = (spares.clone(), done.clone());
                thread::spawn(move || {
                    for _ in 0..20_000 {
                        match spares.begin_unless_last() {
                            Some(_busy) => done.send(()).expect("the test receives"),
                            None => {
                                let done = done.clone();
                                let job = move || done.send(()).expect("the test receives");
                                spares.hand_over(Box::new(job));
                            }
                        }
                    }
                })
            })
            .collect();
        loops
            .into_iter()
            .for_each(|one| one.join().expect("a loop"));
        assert_eq!(heard.try_iter().count(), 40_000);
    }
}
