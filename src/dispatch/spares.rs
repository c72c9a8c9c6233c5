//! Keeps one event loop free to read requests. If all other event loops are busy, an event loop hands its job over to a spare
//! thread. If all spare threads are busy, too, the job goes into a queue. So files that do not answer occupy spare threads,
//! and the rest of the tree is served.
//!
//! Two kinds of threads take jobs from the queue: a spare thread that has ended a job, and an event loop that has ended a job
//! and is not the last free one.
//!
//! An event loop that waits during a trial of `listeners` counts as free. It listens again within 2 ms when one of the
//! few listening event loops is blocked.

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

/// Maximum number of spare threads. Further jobs are queued.
pub const MAX_SPARE_THREADS: usize = 64;

thread_local! {
    /// The number of this event loop. It is set at the first request.
    static LOOP: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Which event loops are busy, and the spare threads.
#[derive(Debug)]
pub struct Spares {
    /// For each event loop, whether it is busy.
    busy: Box<[AtomicBool]>,
    /// Number of event loops that have a number.
    numbered: AtomicUsize,
    pool: Arc<Pool>,
    /// Whether spare threads may run jobs that were handed over.
    uses_pool: bool,
    handed_over: Mutex<HandedOver>,
    /// Length of `handed_over`, readable without a lock.
    queued: AtomicUsize,
    /// Number of jobs in the queues of lanes.
    in_lanes: AtomicUsize,
}

/// Jobs that were handed over and that no thread has taken yet.
#[derive(Default)]
struct HandedOver(VecDeque<Job>);

impl std::fmt::Debug for HandedOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} jobs", self.0.len())
    }
}

/// Marks an event loop as busy until it is dropped. Dropping it runs queued jobs, as [`Spares::help`] does.
#[derive(Debug)]
pub struct Busy<'a> {
    spares: &'a Spares,
    mark: Option<Mark<'a>>,
}

impl Busy<'_> {
    /// Removes the mark without running queued jobs. The caller must call [`Spares::help`] soon.
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

/// The mark of a busy event loop. Dropping it removes the mark.
#[derive(Debug)]
struct Mark<'a>(&'a AtomicBool);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

impl Spares {
    /// For `loops` event loops, at least 2. Without `uses_pool`, jobs that were handed over wait for an event loop.
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

    /// Marks the calling event loop as busy, unless all others are busy. If this returns `None`, the caller must call
    /// [`Self::help`]: the mark was set for a moment, and another event loop may have queued a job because of it.
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

    /// Runs the job on a spare thread.
    ///
    /// # Errors
    /// Returns the job if all spare threads are busy and no more can be started.
    pub fn run(&self, job: Job) -> Result<(), Job> {
        self.pool.try_run(job)
    }

    /// Hands the job over to another thread, which runs it now or later. The calling event loop must not be marked as busy. It
    /// runs the job itself if meanwhile another event loop has become free.
    pub fn hand_over(self: &Arc<Self>, job: Job) {
        // Counted before the busy marks are read: a busy event loop reads this count when it ends its job.
        self.queued.fetch_add(1, SeqCst);
        self.handed_over.lock().0.push_back(job);
        if self.uses_pool {
            let spares = self.clone();
            let take = move || {
                while let Some(job) = spares.take() {
                    // This thread must go on after a panic: the next jobs in the queue may have no other thread.
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

    /// Number of jobs that were handed over and that no thread has taken yet.
    pub fn queued(&self) -> usize {
        self.queued.load(SeqCst)
    }

    /// Counts a job that was added to the queue of a lane.
    pub fn lane_has_queued(&self) {
        self.in_lanes.fetch_add(1, Relaxed);
    }

    /// Counts a job that was taken from the queue of a lane.
    pub fn lane_has_taken(&self) {
        self.in_lanes.fetch_sub(1, Relaxed);
    }

    /// Number of jobs in the queues of lanes.
    pub fn in_lanes(&self) -> usize {
        self.in_lanes.load(Relaxed)
    }

    /// Number of spare threads that run a job.
    pub fn busy_threads(&self) -> usize {
        self.pool.busy()
    }

    /// Takes a job from the queue, on a spare thread.
    fn take(&self) -> Option<Job> {
        let job = self.handed_over.lock().0.pop_front()?;
        self.queued.fetch_sub(1, SeqCst);
        Some(job)
    }

    /// Runs queued jobs on the calling event loop, as long as another event loop is free.
    pub fn help(&self) {
        while self.queued() > 0 {
            let Some((job, _mark)) = self.take_unless_last() else {
                return;
            };
            job();
        }
    }

    /// Takes a job if another event loop is free. The lock makes event loops decide one after another. Without it, two could set
    /// their marks at once, see each other as busy, and leave the job in the queue.
    fn take_unless_last(&self) -> Option<(Job, Mark<'_>)> {
        let mut jobs = self.handed_over.lock();
        // Declared after the lock, so it is dropped before the lock.
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
        // These occupy all spare threads. Later jobs wait in the queue.
        for _ in 0..MAX_SPARE_THREADS {
            let gate = gate.clone();
            let job = Box::new(move || {
                drop(gate.lock());
                std::panic::resume_unwind(Box::new("of the test")) // without a message
            });
            spares.hand_over(job);
        }
        let (done, heard) = channel();
        // The other event loop is busy, so this one takes no job.
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
    fn event_loops_that_see_each_other_as_busy_leave_no_job_behind() {
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
