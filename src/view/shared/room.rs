//! Space that is about to be freed: that of inodes without a name which are held until the kernel says that it has forgotten
//! them, or closed their files. It says so some moments after the client has gone on.

use super::in_use::InUse;
use super::node::Life;
use crate::view::Wanted;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How long the kernel is waited for: 100 ms were too short where a machine is very busy.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long is waited while an inode is being freed, which takes the source long where it is large.
const PATIENCE_WITH_SOURCE: Duration = Duration::from_secs(10);

/// How often is looked whether something has gone.
const LOOK_INTERVAL: Duration = Duration::from_micros(500);

/// After this time it is looked for inodes that others than the mount have removed.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is known of space that may be freed.
#[derive(Debug)]
pub struct Room {
    made: Instant,
    /// How many inodes were removed through the mount, or may be about to be closed.
    changes: AtomicU64,
    /// By what was wanted.
    settled: [Settled; 2],
    /// How often somebody has waited.
    waits: AtomicU64,
    /// Held while somebody waits.
    kept: Mutex<Kept>,
    any_kept: AtomicBool,
}

/// When there was nothing to wait for.
#[derive(Debug, Default)]
struct Settled {
    /// How many `Room::changes` there were then.
    changes: AtomicU64,
    /// In milliseconds.
    at: AtomicU64,
}

/// Inodes without a name that are not waited for.
#[derive(Debug, Default)]
struct Kept {
    /// They were, in vain: clients keep them open.
    in_vain: HashSet<Life>,
    /// They had no blocks, which were wanted. Clients may make and remove empty files all the time.
    empty: HashSet<Life>,
}

impl Room {
    /// Nothing was removed yet.
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

    /// An inode was removed through the mount, and is held until the kernel forgets it.
    pub fn removed(&self) {
        self.changes.fetch_add(1, SeqCst);
    }

    /// A client may be about to close the inode.
    pub fn closing(&self, life: &Life) {
        // Nobody waits for long: this would be waited for in vain, too.
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
    pub fn may_come(&self, in_use: &InUse, wanted: Wanted) -> bool {
        let settled = self.settled(wanted);
        let again = settled.at.load(SeqCst) + LOOK_AGAIN_AFTER.as_millis() as u64;
        self.changes.load(SeqCst) != settled.changes.load(SeqCst)
            || in_use.freeing() > 0
            || self.now() >= again
    }

    /// Closes what can be opened again, and waits until an inode that was removed is free. False when there is none to wait
    /// for any more.
    pub fn make(&self, in_use: &InUse, wanted: Wanted) -> bool {
        let waits = self.waits.load(SeqCst);
        let mut kept = self.kept.lock();
        if self.waits.load(SeqCst) != waits {
            return true; // somebody has just waited
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
            // One was waited for, and none came.
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

/// Waits until one of the inodes is held no longer, or one is freed that is being freed already.
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
        let patience = match freeing {
            true => PATIENCE_WITH_SOURCE,
            false => PATIENCE,
        };
        if since.elapsed() > patience {
            return false;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}
