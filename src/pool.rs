//! Threads that are there when they are needed, for work that may wait for ever.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Work for a thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// How long a thread waits for more.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of stack for one.
const STACK: usize = 256 << 10;

/// So many threads at most, none while there is nothing to do.
#[derive(Debug)]
pub struct Pool {
    name: &'static str,
    most: usize,
    state: Mutex<State>,
    bell: Condvar,
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
    /// Up to `most` threads called `name`.
    pub fn new(name: &'static str, most: usize) -> Arc<Self> {
        Arc::new(Pool {
            name,
            most,
            state: Mutex::default(),
            bell: Condvar::new(),
        })
    }

    /// Has a thread do the job at once.
    ///
    /// # Errors
    /// The job, when all threads are busy and no more can be had.
    pub fn try_run(self: &Arc<Self>, job: Job) -> Result<(), Job> {
        let mut state = self.state.lock();
        if state.idle <= state.jobs.len() && !self.hire(&mut state) {
            return Err(job);
        }
        state.jobs.push_back(job);
        self.bell.notify_one();
        Ok(())
    }

    /// Has a thread do the job, as soon as there is one for it. Where no thread can be had at all, it is done here.
    pub fn run(self: &Arc<Self>, job: Job) {
        if let Err(job) = self.try_run(job) {
            let mut state = self.state.lock();
            if state.threads == 0 {
                drop(state);
                return job();
            }
            state.jobs.push_back(job);
            self.bell.notify_one();
        }
    }

    fn hire(self: &Arc<Self>, state: &mut State) -> bool {
        if state.threads == self.most {
            return false;
        }
        let pool = self.clone();
        let hired = thread::Builder::new()
            .name(self.name.into())
            .stack_size(STACK)
            .spawn(move || pool.serve())
            .is_ok();
        state.threads += usize::from(hired);
        hired
    }

    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A reply that is dropped by a panic is an error to its client; the thread is needed further.
                if std::panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
                    log::error!("a {} thread has failed in its work", self.name);
                }
                state = self.state.lock();
                continue;
            }
            state.idle += 1;
            let timed_out = self.bell.wait_for(&mut state, PATIENCE).timed_out();
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
    fn there_is_an_end_to_its_threads() {
        const MOST: usize = 8;
        let pool = Pool::new("test", MOST);
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock();
        let (done, heard) = channel();
        let job = || -> Job {
            let (done, gate) = (done.clone(), gate.clone());
            Box::new(move || {
                drop(gate.lock());
                done.send(()).expect("somebody listens");
            })
        };
        for n in 0..MOST {
            assert!(pool.try_run(job()).is_ok(), "thread {n}");
        }
        assert!(pool.try_run(job()).is_err(), "all are busy");
        pool.run(job());
        drop(closed);
        assert_eq!(heard.iter().take(MOST + 1).count(), MOST + 1);
    }
}
