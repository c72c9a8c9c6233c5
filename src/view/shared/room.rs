//! Space that is about to be freed. mmfs holds removed inodes until the kernel forgets them or closes their files. The kernel's
//! request for that comes moments after the client has gone on.

use super::in_use::InUse;
use super::node::Life;
use crate::view::Wanted;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How long to wait for the kernel. 100 ms were too short on a very busy machine.
const MAX_WAIT_FOR_KERNEL: Duration = Duration::from_millis(500);

/// How long to wait while the source frees an inode, which takes long for large files.
const MAX_WAIT_FOR_SOURCE: Duration = Duration::from_secs(10);

/// How often to check whether an inode has gone.
const POLL_INTERVAL: Duration = Duration::from_micros(500);

/// How often to check for inodes removed behind the mount.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// State to decide whether to wait for space.
#[derive(Debug)]
pub struct Room {
    made: Instant,
    /// How many inodes were removed through the mount, or may be about to be closed.
    changes: AtomicU64,
    /// By `Wanted`.
    settled: [Settled; 2],
    /// How many waits have ended.
    waits: AtomicU64,
    /// Held during a wait.
    kept: Mutex<Kept>,
    any_kept: AtomicBool,
}

/// The last time that there was nothing to wait for.
#[derive(Debug, Default)]
struct Settled {
    /// The value of `Room::changes` then.
    changes: AtomicU64,
    /// In milliseconds since `Room::made`.
    at: AtomicU64,
}

/// Removed inodes that are not waited for.
#[derive(Debug, Default)]
struct Kept {
    /// An earlier wait for them was in vain: clients keep them open.
    in_vain: HashSet<Life>,
    /// They have no blocks, and blocks are wanted. Clients may create and remove empty files all the time.
    empty: HashSet<Life>,
}

impl Room {
    /// The state before any inode was removed.
    pub fn new() -> Self {
        Room {
            made: Instant::now(),
            changes: AtomicU64::new(1),
            settled: Default::default(),
            waits: AtomicU64::new(0),
            kept: Mutex::default(),
            any_kept: AtomicBool::new(false),
        }
    }

    /// An inode was removed through the mount. mmfs holds it until the kernel forgets it.
    pub fn removed(&self) {
        self.changes.fetch_add(1, SeqCst);
    }

    /// A client may be about to close the inode.
    pub fn closing(&self, life: &Life) {
        // If the lock is held, a wait is going on. The inode then counts as changed.
        if self.any_kept.load(SeqCst)
            && self
                .kept
                .try_lock()
                .is_none_or(|mut kept| kept.in_vain.remove(life) | kept.empty.remove(life))
        {
            self.changes.fetch_add(1, SeqCst);
        }
    }

    /// Whether there may be anything to wait for.
    pub fn may_help(&self, in_use: &InUse, wanted: Wanted) -> bool {
        let settled = self.settled(wanted);
        let again = settled.at.load(SeqCst) + RECHECK_INTERVAL.as_millis() as u64;
        self.changes.load(SeqCst) != settled.changes.load(SeqCst)
            || in_use.freeing() > 0
            || self.now() >= again
    }

    /// Closes descriptors that can be opened again, and waits until a removed inode is freed. False if there is none left to
    /// wait for.
    pub fn make(&self, in_use: &InUse, wanted: Wanted) -> bool {
        let waits = self.waits.load(SeqCst);
        let mut kept = self.kept.lock();
        if self.waits.load(SeqCst) != waits {
            // Another thread has waited meanwhile.
            return true;
        }
        let changes = self.changes.load(SeqCst);
        in_use.close_idle();
        let all = in_use.removed();
        kept.in_vain.retain(|life| all.contains_key(life));
        kept.empty.clear();
        let mut removed = HashSet::new();
        for (life, has_blocks) in all {
            match wanted == Wanted::Anything || has_blocks {
                true if kept.in_vain.contains(&life) => {}
                true => drop(removed.insert(life)),
                false => drop(kept.empty.insert(life)),
            }
        }
        let freed = match removed.is_empty() && in_use.freeing() == 0 {
            true => false,
            false => wait_for_one(in_use, &removed),
        };
        removed.retain(|life| in_use.holds(life));
        if !freed {
            // The wait was in vain.
            kept.in_vain.extend(&removed);
            let settled = self.settled(wanted);
            settled.at.store(self.now(), SeqCst);
            settled.changes.store(changes, SeqCst);
        }
        let any_kept = !(kept.in_vain.is_empty() && kept.empty.is_empty());
        self.any_kept.store(any_kept, SeqCst);
        self.waits.fetch_add(1, SeqCst);
        freed
    }

    fn settled(&self, wanted: Wanted) -> &Settled {
        &self.settled[usize::from(wanted == Wanted::Anything)]
    }

    fn now(&self) -> u64 {
        self.made.elapsed().as_millis() as u64
    }
}

/// Waits until mmfs no longer holds one of the inodes, or until one that is being freed is freed.
fn wait_for_one(in_use: &InUse, removed: &HashSet<Life>) -> bool {
    let since = Instant::now();
    let mut frees = in_use.freeing() > 0;
    loop {
        let freeing = in_use.freeing() > 0;
        let gone = removed.iter().any(|life| !in_use.holds(life));
        if !freeing && (gone || frees) {
            return true;
        }
        frees |= freeing;
        let max_wait = match freeing {
            true => MAX_WAIT_FOR_SOURCE,
            false => MAX_WAIT_FOR_KERNEL,
        };
        if since.elapsed() > max_wait {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
