//! Keeps one event loop free to read requests. An event loop that finds all others busy hands its job to a spare
//! thread. So files that do not answer occupy spare threads, and the rest of the tree is served.
//!
//! An event loop that waits while few listen (see `listeners`) counts as free: it listens again within two milliseconds
//! when one of the few is held up.

use crate::pool::{Job, Pool};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// Requests that may wait on spare threads for sources that do not answer. Further ones occupy event loops.
const MAX_SPARE_THREADS: usize = 64;

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
}

/// A busy event loop, until dropped.
#[derive(Debug)]
pub struct Busy<'a>(&'a AtomicBool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

impl Spares {
    /// For `loops` event loops.
    pub fn new(loops: usize) -> Arc<Self> {
        Arc::new(Spares {
            busy: (0..loops).map(|_| AtomicBool::new(false)).collect(),
            numbered: AtomicUsize::new(0),
            pool: Pool::new("spare", MAX_SPARE_THREADS),
        })
    }

    /// Marks the calling event loop as busy, unless all others are. A single event loop has no others and is always
    /// marked.
    pub fn begin_unless_last(&self) -> Option<Busy<'_>> {
        let own = self.begin();
        let others = || self.busy.iter().filter(|one| !std::ptr::eq(*one, own.0));
        let is_last = self.busy.len() > 1 && others().all(|other| other.load(SeqCst));
        (!is_last).then_some(own)
    }

    /// Marks the calling event loop as busy.
    pub fn begin(&self) -> Busy<'_> {
        let number = LOOP.get().unwrap_or_else(|| {
            let number = self.numbered.fetch_add(1, SeqCst);
            LOOP.set(Some(number));
            number
        });
        let own = &self.busy[number % self.busy.len()];
        own.store(true, SeqCst);
        Busy(own)
    }

    /// Has a spare thread do the job.
    ///
    /// # Errors
    /// The job, when all spare threads are busy and no more can be started.
    pub fn run(&self, job: Job) -> Result<(), Job> {
        self.pool.try_run(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn the_last_free_loop_is_kept_free() {
        let spares = Spares::new(3);
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
    fn a_single_loop_does_its_own_work() {
        let spares = Spares::new(1);
        assert!(spares.begin_unless_last().is_some());
    }
}
