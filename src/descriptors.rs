//! The shares of RLIMIT_NOFILE, all computed here:
//!
//! ```text
//!  ├── reserve ──┼── listings ──┼─────────── open files ────────────────────┤
//!                               ├─ more listings ─┤
//!                ├── directories kept open, as far as there is room ────────┤
//! ```
//!
//! - The reserve is for the daemon itself, and for descriptors that are open only while a request is served. So looking up
//!   names and listing directories works however many files clients have open.
//! - Each descriptor of an open file or directory holds a [`Slot`]. Listings have a share that files cannot take.
//! - Descriptors kept open to save work are closed when either needs the room.

use parking_lot::Mutex;
use rustix::io::{Errno, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// For standard streams, log, pipes, the source's root.
const DAEMON_RESERVE: usize = 32;

/// For a thread: its /dev/fuse, and the descriptors of the request it serves.
const THREAD_RESERVE: usize = 4;

/// Threads that may wait for a source that does not answer.
const WAITING_THREADS: usize = 64;

/// The reserve is at most 1/3 of the limit, but no less than the minimum that threads need.
const MAX_RESERVE_DIVISOR: usize = 3;

/// The minimum for the daemon; and for a thread: its /dev/fuse, and a directory to look up a name in.
const MIN_DAEMON_RESERVE: usize = 16;
const MIN_THREAD_RESERVE: usize = 2;

/// The minimum of files that clients can open.
const MIN_OPEN_FILES: usize = 8;

/// 1/16 of the rest is for listings alone, `MAX_OWN_LISTINGS` at most.
const OWN_LISTINGS_DIVISOR: usize = 16;
const MAX_OWN_LISTINGS: usize = 256;

/// Listings may take at most 1/4 of the rest.
const MAX_LISTINGS_DIVISOR: usize = 4;

/// Directories are kept open in at most 1/4 of the limit, and in no more than `MAX_KEPT` descriptors.
const KEPT_DIVISOR: usize = 4;
const MAX_KEPT: usize = 1 << 14;

/// The descriptors of this process.
#[derive(Debug)]
pub struct Descriptors {
    /// The maximum for open files and listings together.
    total: usize,
    /// The maximum for open files.
    files: usize,
    /// The maximum for listings.
    listings: usize,
    kept: usize,
    /// Nothing else is taken with it held.
    taken: Mutex<Taken>,
    /// `taken`, by files and listings, readable without a lock.
    shown: [AtomicUsize; 2],
}

#[derive(Debug, Default)]
struct Taken {
    files: usize,
    listings: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    File,
    Listing,
}

/// The right to one descriptor of an open file or a listing, until it is dropped.
#[derive(Debug)]
pub struct Slot {
    of: Arc<Descriptors>,
    use_: Use,
}

impl Descriptors {
    /// The shares for `threads` threads under a limit of `limit`.
    pub fn new(limit: usize, threads: usize) -> Arc<Self> {
        let most = (limit / MAX_RESERVE_DIVISOR).max(least_reserve(threads));
        let reserve =
            (DAEMON_RESERVE + THREAD_RESERVE * event_loops(threads) + WAITING_THREADS).min(most);
        let total = limit.saturating_sub(reserve);
        Arc::new(Descriptors {
            total,
            files: total - (total / OWN_LISTINGS_DIVISOR).min(MAX_OWN_LISTINGS),
            listings: total / MAX_LISTINGS_DIVISOR,
            kept: (limit / KEPT_DIVISOR).min(MAX_KEPT),
            taken: Mutex::default(),
            shown: Default::default(),
        })
    }

    /// A slot for an open file.
    ///
    /// # Errors
    /// ENFILE if open files have taken their share.
    pub fn for_file(self: &Arc<Self>) -> Result<Slot> {
        self.take(Use::File).ok_or(Errno::NFILE)
    }

    /// A slot for a directory that is listed. `None` if there is none left: the directory can be listed without.
    pub fn for_listing(self: &Arc<Self>) -> Option<Slot> {
        self.take(Use::Listing)
    }

    fn take(self: &Arc<Self>, use_: Use) -> Option<Slot> {
        let mut taken = self.taken.lock();
        let most = match use_ {
            Use::File => self.files,
            Use::Listing => self.listings,
        };
        let there_is = taken.files + taken.listings < self.total && *taken.of(use_) < most;
        *taken.of(use_) += usize::from(there_is);
        drop(taken);
        self.shown[use_ as usize].fetch_add(usize::from(there_is), Relaxed);
        there_is.then(|| Slot {
            of: self.clone(),
            use_,
        })
    }

    /// For open files, then listings: the number taken, and the maximum. Takes no lock.
    pub fn taken(&self) -> [(usize, usize); 2] {
        let of = |use_: Use| self.shown[use_ as usize].load(Relaxed);
        [
            (of(Use::File), self.files),
            (of(Use::Listing), self.listings),
        ]
    }

    /// The maximum number of descriptors kept to save work.
    pub fn max_kept(&self) -> usize {
        self.kept
    }

    /// How many descriptors may be kept to save work now.
    pub fn room(&self) -> usize {
        let taken = self.taken.lock();
        (self.total - taken.files - taken.listings).min(self.kept)
    }

    /// Whether fewer than the maximum may be kept.
    pub fn is_scarce(&self) -> bool {
        self.room() < self.kept
    }
}

impl Taken {
    fn of(&mut self, use_: Use) -> &mut usize {
        match use_ {
            Use::File => &mut self.files,
            Use::Listing => &mut self.listings,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *self.of.taken.lock().of(self.use_) -= 1;
        self.of.shown[self.use_ as usize].fetch_sub(1, Relaxed);
    }
}

/// A single worker has two event loops: one reads while the other one works.
fn event_loops(threads: usize) -> usize {
    threads.max(2)
}

fn least_reserve(threads: usize) -> usize {
    MIN_DAEMON_RESERVE + MIN_THREAD_RESERVE * event_loops(threads)
}

/// The least limit under which `threads` threads can serve requests, and clients can open some files.
pub fn least_limit(threads: usize) -> usize {
    least_reserve(threads) + MIN_OPEN_FILES
}

/// The greatest number of threads that leaves clients a third of `limit` descriptors. At least 1.
pub fn most_threads(limit: usize) -> usize {
    let for_threads = limit / MAX_RESERVE_DIVISOR * 2;
    (for_threads.saturating_sub(MIN_DAEMON_RESERVE) / MIN_THREAD_RESERVE).max(1)
}

/// One thread per CPU, but at least 5, so that slow requests do not delay fast ones, and at most 16. Fewer if `limit` open files
/// are not enough.
pub fn default_threads(limit: usize) -> usize {
    let wanted = std::thread::available_parallelism()
        .map_or(4, usize::from)
        .clamp(5, 16);
    wanted.min(most_threads(limit))
}

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // If it cannot be raised, it stays.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    let now = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(now).unwrap_or(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(descriptors: &Arc<Descriptors>) -> Vec<Slot> {
        std::iter::from_fn(|| descriptors.for_file().ok()).collect()
    }

    #[test]
    fn files_leave_room_for_listings_and_for_requests() {
        for limit in [48, 64, 256, 1024, 20_000, 1 << 20] {
            let descriptors = Descriptors::new(limit, 5);
            let files = take_all(&descriptors);
            let reserved = limit - files.len();
            assert!(reserved >= (limit / 3).min(5 * 4 + 64 + 32), "{limit}");
            assert!(reserved >= 16 + 2 * 5, "{limit}");
            assert!(files.len() >= limit / 4, "{limit}: {}", files.len());
            assert_eq!(descriptors.for_file().err(), Some(Errno::NFILE));
            assert_eq!(descriptors.taken()[0], (files.len(), files.len()));
            assert!(descriptors.for_listing().is_some(), "{limit}");
            drop(files);
            let listings: Vec<_> = std::iter::from_fn(|| descriptors.for_listing()).collect();
            assert_eq!(descriptors.taken()[0].0, 0);
            assert_eq!(descriptors.taken()[1].0, listings.len());
            assert!(take_all(&descriptors).len() >= limit / 4, "{limit}");
            drop(listings);
        }
    }

    #[test]
    fn threads_have_their_minimum() {
        for threads in [1, 5, 16, 256] {
            let limit = least_limit(threads);
            let files = take_all(&Descriptors::new(limit, threads)).len();
            assert!(limit - files >= 16 + 2 * threads, "{threads}");
            assert!(files > 0, "{threads}");
        }
    }

    #[test]
    fn descriptors_kept_to_save_work_are_closed_first() {
        let descriptors = Descriptors::new(1024, 5);
        assert_eq!((descriptors.room(), descriptors.is_scarce()), (256, false));
        let files = take_all(&descriptors);
        assert!(descriptors.is_scarce());
        assert_eq!(descriptors.room() + files.len(), 1024 - 116);
    }
}
