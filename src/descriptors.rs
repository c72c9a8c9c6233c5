//! How many descriptors this process may have, and for what. All shares are computed here, from RLIMIT_NOFILE:
//!
//! ```text
//!  ├── reserve ──┼── listings ──┼─────────── open files ────────────────────┤
//!                               ├─ more listings ─┤
//!                ├── directories kept open, as far as there is room ────────┤
//! ```
//!
//! - The reserve is for the daemon itself and for what requests need while they are served. So names are looked up and
//!   directories listed whatever clients have open.
//! - Open files and open directories hold a [`Slot`] for each descriptor. Listings have a share that files cannot take.
//! - What is kept open to save work gives way to both.

use parking_lot::Mutex;
use rustix::io::{Errno, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Standard streams, log, pipes, the source's root.
const ITSELF: usize = 32;

/// A thread's descriptor on /dev/fuse, and those of the request that it serves.
const PER_THREAD: usize = 4;

/// Threads that wait for a source that does not answer.
const SPARES: usize = 64;

/// The reserve is at most one of so many parts of the limit, but no less than what the threads cannot do without.
const MAX_RESERVE: usize = 3;

/// What the daemon cannot do without, and a thread: its /dev/fuse, and a directory to look a name up in.
const LEAST_ITSELF: usize = 16;
const LEAST_PER_THREAD: usize = 2;

/// What clients may open at least.
const LEAST_FILES: usize = 8;

/// One of so many parts of what is left is for listings alone, `OWN_LISTINGS` at most.
const LISTINGS: usize = 16;
const OWN_LISTINGS: usize = 256;

/// One of so many parts of it is the most that listings may have.
const MAX_LISTINGS: usize = 4;

/// Directories are kept open in one of so many parts of the limit at most, and never more than `MAX_KEPT`.
const KEPT: usize = 4;
const MAX_KEPT: usize = 1 << 14;

/// The descriptors of this process.
#[derive(Debug)]
pub struct Descriptors {
    /// What open files and listings may take together.
    total: usize,
    /// What open files may take.
    files: usize,
    /// What listings may take.
    listings: usize,
    kept: usize,
    /// Nothing else is taken with it held.
    taken: Mutex<Taken>,
    /// The same for files and listings, readable without a lock.
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

/// One descriptor that an open file or a listing may have, until this is dropped.
#[derive(Debug)]
pub struct Slot {
    of: Arc<Descriptors>,
    use_: Use,
}

impl Descriptors {
    /// Those that are left when `threads` serve requests, under a limit of `limit`.
    pub fn new(limit: usize, threads: usize) -> Arc<Self> {
        let most = (limit / MAX_RESERVE).max(least_reserve(threads));
        let reserve = (ITSELF + PER_THREAD * event_loops(threads) + SPARES).min(most);
        let total = limit.saturating_sub(reserve);
        Arc::new(Descriptors {
            total,
            files: total - (total / LISTINGS).min(OWN_LISTINGS),
            listings: total / MAX_LISTINGS,
            kept: (limit / KEPT).min(MAX_KEPT),
            taken: Mutex::default(),
            shown: Default::default(),
        })
    }

    /// One for an open file.
    ///
    /// # Errors
    /// ENFILE when open files have all they may have.
    pub fn for_file(self: &Arc<Self>) -> Result<Slot> {
        self.take(Use::File).ok_or(Errno::NFILE)
    }

    /// One for a directory that is listed; `None` when there is none left. It can be listed without.
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

    /// What open files and listings have taken, and the most each may take. Takes no lock.
    pub fn taken(&self) -> [(usize, usize); 2] {
        let of = |use_: Use| self.shown[use_ as usize].load(Relaxed);
        [
            (of(Use::File), self.files),
            (of(Use::Listing), self.listings),
        ]
    }

    /// What may be kept to save work.
    pub fn kept_at_most(&self) -> usize {
        self.kept
    }

    /// How many there may be beside those that are taken, for what saves work.
    pub fn room(&self) -> usize {
        let taken = self.taken.lock();
        (self.total - taken.files - taken.listings).min(self.kept)
    }

    /// Whether what saves work may have less than ever.
    pub fn is_tight(&self) -> bool {
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

/// A single worker has two event loops: one reads while the other works.
fn event_loops(threads: usize) -> usize {
    threads.max(2)
}

fn least_reserve(threads: usize) -> usize {
    LEAST_ITSELF + LEAST_PER_THREAD * event_loops(threads)
}

/// The least limit under which so many threads can serve requests, and clients open some files.
pub fn least_limit(threads: usize) -> usize {
    least_reserve(threads) + LEAST_FILES
}

/// How many threads leave clients a third of so many descriptors; 1 at least.
pub fn most_threads(limit: usize) -> usize {
    let for_threads = limit / MAX_RESERVE * 2;
    (for_threads.saturating_sub(LEAST_ITSELF) / LEAST_PER_THREAD).max(1)
}

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    // What cannot be raised stays as it is.
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
    fn threads_have_what_they_cannot_do_without() {
        for threads in [1, 5, 16, 256] {
            let limit = least_limit(threads);
            let files = take_all(&Descriptors::new(limit, threads)).len();
            assert!(limit - files >= 16 + 2 * threads, "{threads}");
            assert!(files > 0, "{threads}");
        }
    }

    #[test]
    fn what_saves_work_gives_way() {
        let descriptors = Descriptors::new(1024, 5);
        assert_eq!((descriptors.room(), descriptors.is_tight()), (256, false));
        let files = take_all(&descriptors);
        assert!(descriptors.is_tight());
        assert_eq!(descriptors.room() + files.len(), 1024 - 116);
    }
}
