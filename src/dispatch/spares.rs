//! Keeps one event loop free to hear the kernel. The loop that finds all others at work gives its request to a spare
//! thread: however many files never answer, the rest of the tree does. Loops that rest while few listen count as free:
//! they are back within two milliseconds when one of the few is stuck.

use crate::pool::{Job, Pool};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// Spare threads at most: so many requests can wait for sources that never answer before the loops do, too.
const MOST: usize = 64;

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
    pool: Arc<Pool>,
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
            pool: Pool::new("spare", MOST),
        })
    }

    /// Notes that the calling event loop works on a request of its own, or not: `None` when it is the only one
    /// that could hear the kernel meanwhile. A single loop works: it has nobody to take turns with.
    pub fn begin(&self) -> Option<AtWork<'_>> {
        let at_work = self.mark();
        let others = || {
            self.at_work
                .iter()
                .filter(|one| !std::ptr::eq(*one, at_work.0))
        };
        let alone = self.at_work.len() > 1 && others().all(|other| other.load(SeqCst));
        (!alone).then_some(at_work)
    }

    /// Notes that the calling event loop works, come what may.
    pub fn mark(&self) -> AtWork<'_> {
        let number = LOOP.get().unwrap_or_else(|| {
            let number = self.met.fetch_add(1, SeqCst);
            LOOP.set(Some(number));
            number
        });
        let own = &self.at_work[number % self.at_work.len()];
        own.store(true, SeqCst);
        AtWork(own)
    }

    /// Has a spare thread do the job.
    ///
    /// # Errors
    /// The job, when there are too many already or no more can be had.
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
                    let at_work = spares.begin();
                    began.send(at_work.is_some()).expect("somebody listens");
                    // Until the gate is dropped.
                    let _ = closed.recv();
                };
                (gate, thread::spawn(work))
            })
            .collect();
        assert_eq!((begun.recv(), begun.recv()), (Ok(true), Ok(true)));
        assert!(spares.begin().is_none(), "two of three are at work");
        for (gate, one) in loops {
            drop(gate);
            one.join().expect("a loop");
        }
        assert!(spares.begin().is_some(), "nobody is at work any more");
    }

    #[test]
    fn a_single_loop_does_its_own_work() {
        let spares = Spares::new(1);
        assert!(spares.begin().is_some());
    }
}
