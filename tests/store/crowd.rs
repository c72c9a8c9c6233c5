//! Many threads on one store, and a watch over them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use mmfs::store::Store;
use mmfs::store::keeper::Keeper;

use super::place::number;

/// Seconds without progress after which the threads count as stuck.
const STUCK: u64 = 60;

/// What the threads have done together.
pub struct Progress {
    steps: AtomicU64,
    working: AtomicUsize,
}

impl Progress {
    /// A thread has done something.
    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether any of the threads that end by themselves still works.
    pub fn goes_on(&self) -> bool {
        self.working.load(Ordering::Relaxed) > 0
    }
}

/// How often a thread does what it does.
pub fn rounds(default: u64) -> u64 {
    number("MMFS_STORE_ROUNDS").unwrap_or(default)
}

type Work<'a> = Box<dyn Fn(&Progress) + Send + Sync + 'a>;

/// Runs `workers` to their end, and `others` as long as these work, while barriers are made.
pub fn run(store: &Arc<Store>, workers: Vec<Work<'_>>, others: Vec<Work<'_>>) {
    let keeper = Keeper::start(store, true).unwrap();
    let progress = Progress {
        steps: AtomicU64::new(0),
        working: AtomicUsize::new(workers.len()),
    };
    let progress = &progress;
    std::thread::scope(|scope| {
        for worker in workers {
            scope.spawn(move || {
                let done = catch_unwind(AssertUnwindSafe(|| worker(progress)));
                progress.working.fetch_sub(1, Ordering::Relaxed);
                done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            });
        }
        for other in others {
            scope.spawn(move || {
                while progress.goes_on() {
                    other(progress);
                }
            });
        }
        scope.spawn(|| {
            while progress.goes_on() {
                store.barrier().unwrap();
                std::thread::yield_now();
            }
        });
        scope.spawn(|| watch(progress));
    });
    drop(keeper);
}

fn watch(progress: &Progress) {
    let (mut last, mut still) = (0, 0);
    while progress.goes_on() {
        std::thread::sleep(Duration::from_millis(100));
        let steps = progress.steps.load(Ordering::Relaxed);
        still = if steps == last { still + 1 } else { 0 };
        last = steps;
        if still == STUCK * 10 {
            // A thread that waits for ever cannot be joined.
            eprintln!("the threads are stuck after {steps} steps");
            std::process::abort();
        }
    }
}
