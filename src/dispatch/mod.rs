//! Chooses the thread for each request. A file whose source does not answer delays no client of another file.
//!
//! An event loop is a thread that reads requests from the kernel. It runs the job of a request itself unless
//! one of these modules decides otherwise:
//! - `lanes` limits how many threads work on one inode. Further jobs of that inode wait in a queue.
//! - `spares` keeps one event loop free to read requests. Another thread runs a job that would occupy the last one.
//! - `listeners` chooses how many event loops read requests: all or few. It measures which answers more requests per second.
//!
//! A job is a closure here, and an inode is a number.

mod lanes;
mod listeners;
mod spares;

use lanes::{Lanes, LastLoop};
use listeners::Listeners;
use parking_lot::Mutex;
use spares::Spares;
use std::sync::Arc;

/// The number of event loops for `threads` worker threads. With one worker thread there are two event loops, which take turns:
/// one works, the other reads requests. Spare threads then run no requests of clients.
pub fn event_loops(threads: usize) -> usize {
    threads.max(2)
}

/// How busy the threads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Spare threads that run a job.
    pub busy_spares: usize,
    /// Maximum number of spare threads.
    pub max_spares: usize,
    /// Jobs that no thread has taken yet: those in the queue of `spares` and in the queues of `lanes`.
    pub queued: usize,
}

/// Distributes the jobs of requests over event loops and spare threads. Each job gets the `T`.
#[derive(Debug)]
pub struct Dispatch<T> {
    serves: Arc<T>,
    content: Arc<Lanes<T>>,
    tree: Arc<Lanes<T>>,
    spares: Arc<Spares>,
    listeners: Arc<Listeners>,
}

/// Measures the load of a [`Dispatch`].
#[derive(Debug)]
pub struct Gauge(Arc<Spares>);

impl Gauge {
    /// The load at this moment. Takes no lock.
    pub fn load(&self) -> Load {
        Load {
            busy_spares: self.0.busy_threads(),
            max_spares: spares::MAX_SPARE_THREADS,
            queued: self.0.queued() + self.0.in_lanes(),
        }
    }
}

impl<T: Send + Sync + 'static> Dispatch<T> {
    /// A dispatch for `threads` worker threads, that is, for [`event_loops`] of them. Each job gets `serves`.
    pub fn new(serves: Arc<T>, threads: usize) -> Self {
        let loops = event_loops(threads);
        let spares = Spares::new(loops, threads > 1);
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let listeners = Listeners::new(loops, processors);
        let lanes = |last_loop| {
            let (spares, listeners) = (spares.clone(), listeners.clone());
            Lanes::new(serves.clone(), loops, spares, listeners, last_loop)
        };
        Dispatch {
            content: lanes(LastLoop::Queues),
            tree: lanes(LastLoop::UsesSpare),
            spares,
            serves,
            listeners,
        }
    }

    /// Runs a job that reads or changes the bytes of `node`, or that waits for such jobs.
    ///
    /// `job` runs before this returns, or later on another thread.
    pub fn content(&self, node: u64, job: impl FnOnce(&Arc<T>) + Send + 'static) {
        self.content.run(node, job);
    }

    /// As [`Self::content`], for a job that needs `bytes`. They are copied only if the job has to wait.
    pub fn content_with(
        &self,
        node: u64,
        bytes: &[u8],
        job: impl FnOnce(&Arc<T>, &[u8]) + Send + 'static,
    ) {
        self.content.run_with(node, bytes, job);
    }

    /// Runs a job that concerns the attributes of `node` or the names in it, but not its bytes.
    ///
    /// `job` runs before this returns, or later on another thread. It never waits in a queue behind a job of
    /// [`Self::content`].
    pub fn tree(&self, node: u64, job: impl FnOnce(&Arc<T>) + Send + 'static) {
        self.tree.run(node, job);
    }

    /// As [`Self::tree`], for a job that must run after `wait`. `wait` blocks until writes that the kernel sends for `node` are
    /// served. Those writes may need every event loop, so both closures run on a spare thread. If no spare thread is free, `job`
    /// runs without `wait`.
    pub fn tree_after(
        &self,
        node: u64,
        wait: impl FnOnce(&Arc<T>) + Send + 'static,
        job: impl FnOnce(&Arc<T>) + Send + 'static,
    ) {
        let job = Arc::new(Mutex::new(Some(job)));
        let (serves, later) = (self.serves.clone(), job.clone());
        let waiting = move || {
            wait(&serves);
            let job = later.lock().take();
            job.into_iter().for_each(|job| job(&serves));
        };
        if self.spares.run(Box::new(waiting)).is_err() {
            let job = job.lock().take();
            job.into_iter().for_each(|job| self.tree(node, job));
        }
    }

    /// Measures how busy the threads are.
    pub fn gauge(&self) -> Gauge {
        Gauge(self.spares.clone())
    }

    /// Runs a job that waits in no queue of an inode, such as FORGET. It rarely takes long. It can, if it closes the last
    /// descriptor of a removed file and the source frees its blocks.
    ///
    /// `job` runs before this returns, or later on another thread.
    pub fn any(&self, job: impl FnOnce(&Arc<T>) + Send + 'static) {
        let _serving = self.listeners.begin();
        match self.spares.begin_unless_last() {
            Some(_busy) => job(&self.serves),
            None => {
                let serves = self.serves.clone();
                self.spares.hand_over(Box::new(move || job(&serves)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn closing_what_is_slow_to_close_takes_no_more_than_all_event_loops_but_one() {
        let dispatch = Arc::new(Dispatch::new(Arc::new(()), 1));
        let (began, begun) = channel();
        let (gate, closed) = channel::<()>();
        let worker = std::thread::spawn({
            let (dispatch, began) = (dispatch.clone(), began.clone());
            move || {
                dispatch.any(move |_| {
                    began.send(1).expect("the test receives");
                    let _ = closed.recv(); // until the gate is dropped
                });
            }
        });
        assert_eq!(begun.recv(), Ok(1));
        dispatch.any(move |_| began.send(2).expect("the test receives")); // returns at once
        assert!(begun.try_recv().is_err());
        drop(gate);
        worker.join().expect("a worker");
        assert_eq!(begun.try_recv(), Ok(2));
    }

    #[test]
    fn requests_are_read_while_the_only_worker_waits() {
        let dispatch = Arc::new(Dispatch::new(Arc::new(()), 1));
        let (began, begun) = channel();
        let (gate, closed) = channel::<()>();
        let worker = std::thread::spawn({
            let (dispatch, began) = (dispatch.clone(), began.clone());
            move || {
                dispatch.content(7, move |_| {
                    began.send(7).expect("the test receives");
                    let _ = closed.recv(); // until the gate is dropped
                });
            }
        });
        assert_eq!(begun.recv(), Ok(7));
        for node in [7, 8, 9] {
            let began = began.clone();
            dispatch.tree(node, move |_| began.send(10 + node).expect("it receives")); // returns at once
        }
        assert_eq!(dispatch.gauge().load().queued, 3);
        assert!(begun.try_recv().is_err(), "one at a time");
        drop(gate);
        worker.join().expect("a worker");
        let mut ended: Vec<_> = begun.try_iter().collect();
        ended.sort_unstable();
        assert_eq!(ended, [17, 18, 19]);
        assert_eq!(dispatch.gauge().load().queued, 0);
    }

    #[test]
    fn a_reader_and_a_writer_of_one_file_leave_no_job_behind() {
        const ROUNDS: usize = 50_000;
        let dispatch = Dispatch::new(Arc::new(()), 1);
        let (served, arrived) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let meet = |count: usize| {
            arrived.fetch_add(1, SeqCst);
            for spins in 0.. {
                match arrived.load(SeqCst) < count {
                    true if spins < 10_000 => std::hint::spin_loop(),
                    true => std::thread::yield_now(),
                    false => break,
                }
            }
        };
        let event_loop = |writes: bool| {
            for round in 1..=ROUNDS {
                let (served, count) = (served.clone(), &served);
                let job = move || _ = served.fetch_add(1, SeqCst);
                match writes {
                    true => dispatch.content_with(7, b"bytes", move |_, _| job()),
                    false => dispatch.content(7, move |_| job()),
                }
                meet(4 * round - 2);
                // Neither event loop has anything to do: what is not served now waits for the next request.
                let found = (round, 2 * round, dispatch.gauge().load().queued);
                assert_eq!((round, count.load(SeqCst), 0), found);
                meet(4 * round);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| event_loop(true));
            scope.spawn(|| event_loop(false));
        });
    }

    #[test]
    fn one_event_loop_serves_what_a_job_waits_for() {
        const LIMIT: Duration = Duration::from_secs(10);
        let dispatch = Dispatch::new(Arc::new(()), 1);
        let (written, heard) = channel();
        let (done, ended) = channel();
        let wait = move |_: &Arc<()>| heard.recv_timeout(LIMIT).expect("the write is served");
        let job = move |_: &Arc<()>| done.send(()).expect("the test receives");
        dispatch.tree_after(7, wait, job); // returns at once
        assert!(ended.try_recv().is_err());
        dispatch.content(7, move |_| written.send(()).expect("the job waits"));
        assert_eq!(ended.recv_timeout(LIMIT), Ok(()));
    }
}
