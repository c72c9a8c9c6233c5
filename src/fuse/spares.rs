//! Keeps one event loop free to hear the kernel. The loop that finds all others at work gives its request to a spare
//! thread: however many files never answer, the rest of the tree does.

use parking_lot::{Condvar, Mutex};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

/// A request's work, with the reply it owes.
pub type Job = Box<dyn FnOnce() + Send>;

/// Spare threads at most: so many requests can wait for sources that never answer before the loops do, too.
const MOST: usize = 64;

/// How long a spare thread waits for more.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of stack for one.
const STACK: usize = 256 << 10;

thread_local! {
    /// The number of this event loop, once it has met its first request.
    static LOOP: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The event loops at work, and the threads that stand in for the last of them.
#[derive(Debug)]
pub struct Spares {
    /// One for each event loop: whether it is at work.
    at_work: Box<[AtomicBool]>,
    met: AtomicUsize,
    pool: Mutex<Pool>,
    bell: Condvar,
}

#[derive(Default)]
struct Pool {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

/// An event loop at work, until dropped.
#[derive(Debug)]
pub struct AtWork<'a>(&'a AtomicBool);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

impl Spares {
    /// Spares for so many event loops.
    pub fn new(loops: usize) -> Arc<Self> {
        Arc::new(Spares {
            at_work: (0..loops).map(|_| AtomicBool::new(false)).collect(),
            met: AtomicUsize::new(0),
            pool: Mutex::default(),
            bell: Condvar::new(),
        })
    }

    /// Notes that the calling event loop works on a request of its own, or not: `None` when it is the only one
    /// that could hear the kernel meanwhile. A single loop works: it has nobody to take turns with.
    pub fn begin(&self) -> Option<AtWork<'_>> {
        let number = LOOP.get().unwrap_or_else(|| {
            let number = self.met.fetch_add(1, SeqCst) % self.at_work.len();
            LOOP.set(Some(number));
            number
        });
        let own = &self.at_work[number];
        own.store(true, SeqCst);
        let others = self
            .at_work
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != number);
        let mut others = others.map(|(_, other)| other.load(SeqCst));
        if self.at_work.len() > 1 && others.all(|busy| busy) {
            own.store(false, SeqCst);
            return None;
        }
        Some(AtWork(own))
    }

    /// Has a spare thread do the job.
    ///
    /// # Errors
    /// The job, when there are too many already or no more can be had.
    pub fn run(self: &Arc<Self>, job: Job) -> Result<(), Job> {
        let mut pool = self.pool.lock();
        if pool.idle <= pool.jobs.len() {
            if pool.threads >= MOST || !self.hire() {
                return Err(job);
            }
            pool.threads += 1;
        }
        pool.jobs.push_back(job);
        self.bell.notify_one();
        Ok(())
    }

    fn hire(self: &Arc<Self>) -> bool {
        let spares = self.clone();
        thread::Builder::new()
            .name("spare".into())
            .stack_size(STACK)
            .spawn(move || spares.serve())
            .is_ok()
    }

    fn serve(&self) {
        let mut pool = self.pool.lock();
        loop {
            if let Some(job) = pool.jobs.pop_front() {
                drop(pool);
                job();
                pool = self.pool.lock();
                continue;
            }
            pool.idle += 1;
            let timed_out = self.bell.wait_for(&mut pool, PATIENCE).timed_out();
            pool.idle -= 1;
            if timed_out && pool.jobs.is_empty() {
                pool.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn the_last_free_loop_is_kept_free() {
        let spares = Spares::new(3);
        let (gate, closed) = channel::<()>();
        let closed = Arc::new(Mutex::new(closed));
        let (began, begun) = channel();
        let loops: Vec<_> = (0..2)
            .map(|_| {
                let (spares, closed, began) = (spares.clone(), closed.clone(), began.clone());
                thread::spawn(move || {
                    let at_work = spares.begin();
                    began.send(at_work.is_some()).unwrap();
                    let _ = closed.lock().recv(); // holds the lock: both wait
                })
            })
            .collect();
        assert!(begun.recv().unwrap() && begun.recv().unwrap());
        assert!(spares.begin().is_none(), "two of three are at work");
        let (done, heard) = channel();
        for n in 0..MOST {
            let (done, closed) = (done.clone(), closed.clone());
            let job = Box::new(move || {
                drop(closed.lock());
                done.send(n).unwrap();
            });
            assert!(spares.run(job).is_ok(), "spare {n}");
        }
        assert!(
            spares.run(Box::new(|| ())).is_err(),
            "there is an end to it"
        );
        drop(gate);
        loops.into_iter().for_each(|one| one.join().unwrap());
        assert_eq!(heard.iter().take(MOST).count(), MOST);
        assert!(spares.begin().is_some(), "nobody is at work any more");
    }

    #[test]
    fn a_single_loop_does_its_own_work() {
        let spares = Spares::new(1);
        assert!(spares.begin().is_some());
    }
}
