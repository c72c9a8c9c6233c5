//! The inodes that the kernel knows: their node ids, lookup counts, and the state of the kernel's cache of each.
//!
//! The table holds no descriptors. A view keeps those it needs, and finds an inode again by its [`Place`].

mod numbers;

use numbers::is_alias;
pub use numbers::{ALIAS_PREFIX, ENCODED, LOW_BITS, Numbers};

use crate::cache::CacheState;
use crate::sys::memory;
use parking_lot::{Mutex, MutexGuard};
use rustix::io::{Errno, Result};
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The node id of the root, fixed by the FUSE protocol.
pub const ROOT: u64 = 1;

const SHARDS: usize = 32;

/// How many inodes are forgotten before a trim, which then returns some megabytes to the system.
const TRIM_AFTER: usize = 16 << 10;

/// Plain data by which a view finds an inode again, without descriptors. Equal places are the same inode in the same life.
pub trait Place: Clone + Eq + Debug + Send + Sync + 'static {
    /// The type of the key by which inodes are numbered.
    type Key: Copy + Eq + Hash + Debug + Send + Sync + 'static;

    /// The key by which this inode is numbered.
    fn key(&self) -> Self::Key;

    /// Distinguishes two inodes that had the same number one after the other.
    fn generation(&self) -> u32;

    /// The same inode was found again, as `found`, which is equal to this.
    fn found_again(&mut self, found: Self) {
        *self = found;
    }
}

/// How an inode was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It is held open, so its number means no other inode.
    Held,
    /// By statx(2) alone, so it may have gone since.
    NotHeld,
    /// It was recognised as an inode in the table.
    Recognized,
}

#[derive(Debug)]
struct Known<P> {
    place: P,
    lookups: u64,
    cache_state: CacheState,
}

impl<P: Place> Known<P> {
    /// Counts a lookup.
    fn found_again(&mut self, place: P, seen: Seen, stamp: u64) {
        self.lookups += 1;
        self.cache_state.told(stamp);
        if seen != Seen::Recognized {
            self.place.found_again(place);
        }
    }
}

fn is_known<P: Place>(shard: &Shard<P>, id: u64, place: &P) -> bool {
    shard.get(&id).is_some_and(|known| known.place == *place)
}

/// An inode that the kernel has forgotten.
#[derive(Debug)]
pub struct Forgotten<P> {
    /// The inode.
    pub place: P,
    /// Whether to call [`NodeTable::trim`].
    pub trim: bool,
}

/// All inodes that the kernel holds references to.
#[derive(Debug)]
pub struct NodeTable<P: Place> {
    /// One shard is locked at a time; of a private view first one of the source's nodes, then one of its own. Boxed, because a table that has grown is half empty.
    shards: [Mutex<Shard<P>>; SHARDS],
    /// Lock order: with or without a shard held.
    numbers: Numbers<P::Key>,
    /// Inodes forgotten since the last trim.
    forgotten: AtomicUsize,
    /// Inodes in the table, readable without a lock.
    known: AtomicUsize,
}

type Shard<P> = HashMap<u64, Box<Known<P>>>;

impl<P: Place> NodeTable<P> {
    /// A table with `root`. `numbers` makes the node ids.
    pub fn new(root: P, numbers: Numbers<P::Key>) -> Self {
        let table = NodeTable {
            shards: std::array::from_fn(|_| Mutex::default()),
            numbers,
            forgotten: AtomicUsize::new(0),
            known: AtomicUsize::new(1),
        };
        let root = Known {
            place: root,
            lookups: 1,
            cache_state: CacheState::default(),
        };
        table.shard(ROOT).insert(ROOT, Box::new(root));
        table
    }

    /// How many inodes are in the table. Takes no lock.
    pub fn population(&self) -> usize {
        self.known.load(Relaxed)
    }

    /// The inode of a node id.
    ///
    /// # Errors
    /// ESTALE if it is not in the table.
    pub fn get(&self, id: u64) -> Result<P> {
        self.with(id, |place| place.clone())
    }

    /// The result of `look` for the inode of a node id.
    ///
    /// # Errors
    /// ESTALE if it is not in the table.
    pub fn with<R>(&self, id: u64, look: impl FnOnce(&P) -> R) -> Result<R> {
        let shard = self.shard(id);
        let known = shard.get(&id).ok_or(Errno::STALE)?;
        Ok(look(&known.place))
    }

    /// Changes the entry of an inode, if there is one for this life.
    pub fn update(&self, place: &P, change: impl FnOnce(&mut P)) {
        let Some((id, mut shard)) = self.known(place) else {
            return;
        };
        if let Some(known) = shard.get_mut(&id) {
            change(&mut known.place);
        }
    }

    /// The node id that `key` now stands for. A new one if there is none.
    pub fn number(&self, key: P::Key) -> u64 {
        self.numbers.id(key)
    }

    /// The node id of an inode: that of its entry, or else the one its key stands for.
    pub fn number_of(&self, place: &P) -> u64 {
        // The order matters. If the number is given to another inode after the first line, it becomes a former number, which
        // the second line finds.
        let number = self.number(place.key());
        let before = self.known_before(place).map(|(id, _)| id);
        before.unwrap_or(number)
    }

    /// The inode number shown for a node id. Usually it is the node id.
    pub fn shown_number(&self, id: u64) -> u64 {
        if !is_alias(id) {
            return id;
        }
        let key = self.with(id, |place| place.key());
        key.map_or(id, |key| self.numbers.shown_for(id, key))
    }

    /// The inode number of a directory entry.
    pub fn listed_number(&self, key: P::Key) -> u64 {
        self.numbers.shown(key)
    }

    /// Counts a lookup of an inode that was just found. Returns its node id. `None`, with nothing counted, if the number may
    /// mean another inode by now: the caller has to look up again. `stamp` is the one sent to the kernel for a file, or 0 for
    /// other inodes.
    ///
    /// If the kernel still knows an earlier inode of the same number, this one gets a node id of its own. With the same node id
    /// and another generation, the kernel would answer EIO to users of the old inode, and apply replies for the old one to the
    /// new one.
    pub fn remember(&self, place: P, seen: Seen, stamp: u64) -> Option<u64> {
        let mut is_other = false;
        loop {
            let (id, mut shard) = self.number_and_shard(place.key());
            if id == ROOT {
                return Some(ROOT);
            }
            match shard.get_mut(&id) {
                Some(known) if known.place == place => {
                    known.found_again(place, seen, stamp);
                    return Some(id);
                }
                // The inode may have been found before its number was given to another one.
                _ if !is_other && !self.numbers.before(place.key()).is_empty() => {
                    drop(shard);
                    if let Some(id) = self.remember_before(&place, seen, stamp) {
                        return Some(id);
                    }
                    is_other = true;
                }
                // The inode is held, so no other inode can take the number from here on.
                Some(_) if seen == Seen::Held => self.numbers.renumber(place.key()),
                None if seen != Seen::Recognized => {
                    let known = Known {
                        place,
                        lookups: 1,
                        cache_state: CacheState::of_new(stamp),
                    };
                    shard.insert(id, Box::new(known));
                    self.known.fetch_add(1, Relaxed);
                    return Some(id);
                }
                _ => return None,
            }
        }
    }

    /// As `remember`, for an inode with an entry under a former number.
    fn remember_before(&self, place: &P, seen: Seen, stamp: u64) -> Option<u64> {
        let (id, mut shard) = self.known_before(place)?;
        let known = shard.get_mut(&id)?;
        known.found_again(place.clone(), seen, stamp);
        Some(id)
    }

    /// The entry of an inode in this life.
    pub fn remembered(&self, place: &P) -> Option<P> {
        let (id, shard) = self.known(place)?;
        shard.get(&id).map(|known| known.place.clone())
    }

    /// The node id of an inode in this life, and its shard locked.
    fn known(&self, place: &P) -> Option<(u64, MutexGuard<'_, Shard<P>>)> {
        let (id, shard) = self.number_and_shard(place.key());
        if is_known(&shard, id, place) {
            return Some((id, shard));
        }
        drop(shard);
        self.known_before(place)
    }

    /// As `known`, for an entry under a former number.
    fn known_before(&self, place: &P) -> Option<(u64, MutexGuard<'_, Shard<P>>)> {
        let before = self.numbers.before(place.key());
        let mut shards = before.into_iter().map(|id| (id, self.shard(id)));
        // One shard at a time: each is unlocked before the next is locked.
        shards.find(|(id, shard)| is_known(shard, *id, place))
    }

    /// Counts a lookup that the kernel gets without the inode having been found. An inode without an entry needs no count: its
    /// FORGET is ignored.
    pub fn count(&self, id: u64) {
        if let Some(known) = self.shard(id).get_mut(&id) {
            known.lookups += 1;
        }
    }

    /// Takes off `count` lookups. With none left, the entry is removed.
    pub fn forget(&self, id: u64, count: u64) -> Option<Forgotten<P>> {
        let mut shard = self.shard(id);
        let known = shard.get_mut(&id)?;
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups > 0 || id == ROOT {
            return None;
        }
        let place = self.remove(id, &mut shard)?;
        let forgotten = self.forgotten.fetch_add(1, Relaxed) + 1;
        Some(Forgotten {
            place,
            trim: forgotten % TRIM_AFTER == 0,
        })
    }

    /// Removes the entry of an inode in this life with all its lookups, unless it `is_needed`. Returns whether it is removed.
    pub fn forget_unless(&self, place: &P, is_needed: impl FnOnce() -> bool) -> bool {
        let Some((id, mut shard)) = self.known(place) else {
            return false;
        };
        if id == ROOT || is_needed() {
            return false;
        }
        self.remove(id, &mut shard).is_some()
    }

    fn remove(&self, id: u64, shard: &mut Shard<P>) -> Option<P> {
        let known = shard.remove(&id)?;
        self.known.fetch_sub(1, Relaxed);
        self.numbers.release(id, known.place.key());
        Some(known.place)
    }

    /// Returns the memory of forgotten inodes to the system.
    pub fn trim(&self) {
        self.forgotten.store(0, Relaxed);
        for shard in &self.shards {
            let mut shard = shard.lock();
            let room = 2 * shard.len();
            shard.shrink_to(room);
        }
        memory::malloc_trim();
    }

    /// Calls `look` with each inode and its node id. No lock is held meanwhile.
    pub fn for_each(&self, mut look: impl FnMut(u64, &P)) {
        for shard in &self.shards {
            let some: Vec<(u64, P)> = {
                let shard = shard.lock();
                let known = shard.iter();
                known
                    .map(|(id, known)| (*id, known.place.clone()))
                    .collect()
            };
            some.iter().for_each(|(id, place)| look(*id, place));
        }
    }

    /// The state of the kernel's cache of a node. `None` if there is no entry.
    pub fn cache_state(&self, id: u64) -> Option<CacheState> {
        self.shard(id).get(&id).map(|known| known.cache_state)
    }

    /// The state of the kernel's cache of an inode in this life.
    pub fn cache_state_of(&self, place: &P) -> CacheState {
        let known = self.known(place);
        let cache_state =
            known.and_then(|(id, shard)| shard.get(&id).map(|known| known.cache_state));
        cache_state.unwrap_or_default()
    }

    /// Changes the state of the kernel's cache of a node.
    pub fn update_cache_state(&self, id: u64, change: impl FnOnce(&mut CacheState)) {
        if let Some(known) = self.shard(id).get_mut(&id) {
            change(&mut known.cache_state);
        }
    }

    /// As `update_cache_state`, for an inode in this life.
    pub fn update_cache_state_of(&self, place: &P, change: impl FnOnce(&mut CacheState)) {
        let Some((id, mut shard)) = self.known(place) else {
            return;
        };
        if let Some(known) = shard.get_mut(&id) {
            change(&mut known.cache_state);
        }
    }

    /// The number of `key`, and its shard locked. The number is checked again with the lock held, because it may be released
    /// before.
    fn number_and_shard(&self, key: P::Key) -> (u64, MutexGuard<'_, Shard<P>>) {
        loop {
            let id = self.numbers.id(key);
            let shard = self.shard(id);
            if self.numbers.id(key) == id {
                return (id, shard);
            }
        }
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Shard<P>> {
        // Neighbouring numbers are created and used together, so they are spread.
        let hash = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.shards[hash as usize % SHARDS].lock()
    }
}

#[cfg(test)]
mod tests;
