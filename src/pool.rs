//! Threads for work that may never end. They are started when there is work.

use crate::sys::threads;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::ffi::CString;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Work for a thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// A thread without work ends after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// A thread's stack, in bytes.
const STACK_SIZE: usize = 256 << 10;

/// A limited number of threads. There are none while there are no jobs.
#[derive(Debug)]
pub struct Pool {
    name: &'static str,
    max_threads: usize,
    state: Mutex<State>,
    job_added: Condvar,
    /// Threads that are doing a job, readable without a lock.
    busy: AtomicUsize,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("threads", &self.threads)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Up to `max_threads` threads named `name`.
    pub fn new(name: &'static str, max_threads: usize) -> Arc<Self> {
        Arc::new(Pool {
            name,
            max_threads,
            state: Mutex::default(),
            job_added: Condvar::new(),
            busy: AtomicUsize::new(0),
        })
    }

    /// Runs the job on a thread at once.
    ///
    /// # Errors
    /// The job, if all threads are busy and no more can be started.
    pub fn try_run(self: &Arc<Self>, job: Job) -> Result<(), Job> {
        let mut state = self.state.lock();
        if state.idle <= state.jobs.len() && !self.add_thread(&mut state) {
            return Err(job);
        }
        state.jobs.push_back(job);
        self.job_added.notify_one();
        Ok(())
    }

    /// Runs the job on a thread as soon as one is free. If no thread can be started, it runs on the caller's.
    pub fn run(self: &Arc<Self>, job: Job) {
        if let Err(job) = self.try_run(job) {
            let mut state = self.state.lock();
            if state.threads == 0 {
                drop(state);
                return job();
            }
            state.jobs.push_back(job);
            self.job_added.notify_one();
        }
    }

    /// How many threads are doing a job. Takes no lock.
    pub fn busy(&self) -> usize {
        self.busy.load(Relaxed)
    }

    fn add_thread(self: &Arc<Self>, state: &mut State) -> bool {
        if state.threads == self.max_threads {
            return false;
        }
        let pool = self.clone();
        let serve = move || {
            // After an error the thread has no name.
            let name = CString::new(pool.name).unwrap_or_default();
            let _ = rustix::thread::set_name(&name);
            pool.serve();
        };
        let started = threads::start(STACK_SIZE, serve).is_ok();
        state.threads += usize::from(started);
        started
    }

    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                self.busy.fetch_add(1, Relaxed);
                // A panic drops the reply, and the client gets an error. The thread goes on.
                if std::panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
                    log::error!("a {} thread has panicked", self.name);
                }
                self.busy.fetch_sub(1, Relaxed);
                state = self.state.lock();
                continue;
            }
            state.idle += 1;
            let timed_out = self
                .job_added
                .wait_for(&mut state, IDLE_TIMEOUT)
                .timed_out();
            state.idle -= 1;
            if timed_out && state.jobs.is_empty() {
                state.threads -= 1;
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
    fn the_number_of_threads_is_bounded() {
        const MAX_THREADS: usize = 8;
        let pool = Pool::new("test", MAX_THREADS);
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock();
        let (done, heard) = channel();
        let job = || -> Job {
            let (done, gate) = (done.clone(), gate.clone());
            Box::new(move || {
                drop(gate.lock());
                done.send(()).expect("the test receives");
            })
        };
        for n in 0..MAX_THREADS {
            assert!(pool.try_run(job()).is_ok(), "thread {n}");
        }
        assert!(pool.try_run(job()).is_err(), "all are busy");
        pool.run(job());
        assert!(pool.busy() <= MAX_THREADS);
        drop(closed);
        assert_eq!(heard.iter().take(MAX_THREADS + 1).count(), MAX_THREADS + 1);
    }
}
