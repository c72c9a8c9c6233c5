//! Counts and durations of the mount's requests. Threads that serve requests write relaxed atomics of their own, without a
//! lock. Readers take no lock either.

mod histogram;
mod kind;
mod recent;
mod waiting;

pub use kind::{Kind, What};
pub use recent::{Answered, KEPT};
pub use waiting::Waiting;

use histogram::{BUCKETS, Histogram, quantile};
use recent::Recent;
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

/// Number of sets of counters. The first 32 threads have one each, further threads share them.
const SHARES: usize = 32;

thread_local! {
    static SHARE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The requests of one mount.
#[derive(Debug)]
pub struct Requests {
    began: Instant,
    shares: [Share; SHARES],
    threads: AtomicUsize,
    recent: Recent,
    waiting: waiting::Table,
}

/// The counters of one thread, by kind. A counter is allocated at the first request of its kind.
#[derive(Debug)]
struct Share([OnceLock<Box<Counter>>; Kind::ALL.len()]);

// Aligned to a cache line, so that threads do not write to the same line.
#[derive(Debug)]
#[repr(align(64))]
struct Counter {
    count: AtomicU64,
    errors: AtomicU64,
    nanoseconds: AtomicU64,
    longest: AtomicU64,
    durations: Histogram,
}

/// Figures of all requests of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Requests that came.
    pub count: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that were answered with an error.
    pub errors: u64,
    /// Sum of all durations, in microseconds.
    pub total_us: u64,
    /// Median of the durations, in microseconds.
    pub p50_us: u64,
    /// 99th percentile of the durations, in microseconds.
    pub p99_us: u64,
    /// Longest duration, in microseconds.
    pub max_us: u64,
}

/// A request that is being served. Dropping this value counts it as answered.
#[derive(Debug)]
pub struct Served {
    requests: &'static Requests,
    waiting: Waiting,
    place: Option<usize>,
    /// The errno of the answer. `None` until it is known, and if the reply is dropped without an answer.
    errno: Option<i32>,
}

impl Requests {
    /// New counters, all zero. A process serves one mount, so they are never freed.
    pub fn new() -> &'static Self {
        Box::leak(Box::new(Requests {
            began: Instant::now(),
            shares: std::array::from_fn(|_| Share(std::array::from_fn(|_| OnceLock::new()))),
            threads: AtomicUsize::new(0),
            recent: Recent::new(),
            waiting: waiting::Table::new(),
        }))
    }

    /// Counts a request that has arrived.
    pub fn begin(&'static self, what: What, node: u64) -> Served {
        let waiting = Waiting {
            what,
            node,
            began: self.now(),
        };
        self.counter(what.kind).count.fetch_add(1, Relaxed);
        Served {
            requests: self,
            place: self.waiting.put(&waiting),
            waiting,
            errno: None,
        }
    }

    /// Nanoseconds since the start of the mount.
    pub fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Figures of all requests of `kind`.
    pub fn summary(&self, kind: Kind) -> Summary {
        let (mut counts, mut sum) = ([0; BUCKETS], [0; 3]);
        let mut longest = 0;
        let counters = self
            .shares
            .iter()
            .filter_map(|one| one.0[kind as usize].get());
        for counter in counters {
            counter.durations.add_to(&mut counts);
            let fields = [&counter.count, &counter.errors, &counter.nanoseconds];
            for (sum, field) in sum.iter_mut().zip(fields) {
                *sum += field.load(Relaxed);
            }
            longest = counter.longest.load(Relaxed).max(longest);
        }
        let [count, errors, nanoseconds] = sum;
        let max_us = longest / 1000;
        Summary {
            count,
            answered: counts.iter().sum(),
            errors,
            total_us: nanoseconds / 1000,
            p50_us: quantile(&counts, 500).min(max_us),
            p99_us: quantile(&counts, 990).min(max_us),
            max_us,
        }
    }

    /// The last requests that were answered: see [`Recent::read`].
    pub fn recent(&self, from: u64, take: impl FnMut(u64, Answered) -> bool) -> u64 {
        self.recent.read(from, take)
    }

    /// The requests that are not answered yet, in no order.
    pub fn waiting(&self) -> impl Iterator<Item = Waiting> + '_ {
        self.waiting.all()
    }

    fn counter(&self, kind: Kind) -> &Counter {
        let number = SHARE.get().unwrap_or_else(|| {
            let number = self.threads.fetch_add(1, Relaxed);
            SHARE.set(Some(number));
            number
        });
        self.shares[number % SHARES].0[kind as usize].get_or_init(Box::default)
    }
}

impl Default for Counter {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Counter {
            count: zero(),
            errors: zero(),
            nanoseconds: zero(),
            longest: zero(),
            durations: Histogram::new(),
        }
    }
}

impl Served {
    /// Notes the errno of the answer, 0 for success. Called before the reply is sent, so that a client that has its reply finds
    /// the error counted.
    pub fn answers(&mut self, errno: i32) {
        self.errno = Some(errno);
        if errno != 0 {
            let counter = self.requests.counter(self.waiting.what.kind);
            counter.errors.fetch_add(1, Relaxed);
        }
    }
}

impl std::fmt::Display for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Waiting { what, node, began } = self.waiting;
        let took = self.requests.now().saturating_sub(began) / 1000;
        let errno = self.errno.unwrap_or(libc::EIO);
        let kind = what.kind.name();
        write!(f, "{kind} of node {node:#x} answered after {took} us: ")?;
        match errno {
            0 => f.write_str("success"),
            errno => write!(f, "{}", std::io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if self.errno.is_none() {
            // The FUSE library answers EIO for a reply that is dropped.
            self.answers(libc::EIO);
        }
        let Waiting { what, node, began } = self.waiting;
        let took = self.requests.now().saturating_sub(began);
        let counter = self.requests.counter(what.kind);
        counter.nanoseconds.fetch_add(took, Relaxed);
        if took > counter.longest.load(Relaxed) {
            counter.longest.fetch_max(took, Relaxed);
        }
        counter.durations.count(took);
        if let Some(place) = self.place {
            self.requests.waiting.take(place);
        }
        // `mmfs trace --follow` would mostly show its own questions. The kernel forgets thousands of inodes at once when it reclaims
        // memory, and no client waits for that.
        if !matches!(what.kind, Kind::Control | Kind::Forget) {
            self.requests.recent.add(&Answered {
                what,
                node,
                began,
                took,
                errno: self.errno.unwrap_or(libc::EIO),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_and_remembered() {
        let requests = Requests::new();
        let waiting = requests.begin(Kind::Read.at(4096, 512), 7);
        assert_eq!(requests.summary(Kind::Read).count, 1);
        let found: Vec<_> = requests.waiting().collect();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].node, found[0].what),
            (7, Kind::Read.at(4096, 512))
        );
        drop(waiting);
        assert_eq!(requests.summary(Kind::Read).errors, 1, "never answered");
        let mut failed = requests.begin(Kind::Lookup.into(), 1);
        failed.answers(libc::ENOENT);
        assert_eq!(requests.summary(Kind::Lookup).errors, 1);
        drop(failed);
        drop(requests.begin(Kind::Control.into(), 1));
        (0..KEPT).for_each(|node| requests.begin(Kind::Forget.into(), node).answers(0));
        assert_eq!(requests.waiting().count(), 0);
        let mut last = Vec::new();
        requests.recent(0, |_, one| {
            last.push((one.what.kind, one.errno));
            true
        });
        assert_eq!(
            last,
            [(Kind::Read, libc::EIO), (Kind::Lookup, libc::ENOENT)]
        );
        let none = requests.summary(Kind::Write);
        assert_eq!((none.count, none.p99_us, none.max_us), (0, 0, 0));
    }

    #[test]
    fn threads_count_together() {
        let requests = Requests::new();
        let threads: Vec<_> = (0..SHARES + 8)
            .map(|_| {
                std::thread::spawn(|| {
                    (0..100).for_each(|_| requests.begin(Kind::Write.into(), 1).answers(0));
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().expect("a thread"));
        let summary = requests.summary(Kind::Write);
        assert_eq!(
            (summary.count, summary.errors),
            (100 * (SHARES as u64 + 8), 0)
        );
        assert!(summary.p50_us <= summary.p99_us && summary.p99_us <= summary.max_us);
    }
}
