//! What the kernel currently remembers: node ids, the inodes of a view they stand for, how often each was looked up,
//! and as of when the kernel's cache of each is valid.
//!
//! The table knows nothing of descriptors. A view keeps those it needs, and finds an inode again by its [`Place`].

mod numbers;

use numbers::is_alias;
pub use numbers::{ALIAS_PREFIX, ENCODED, LOW_BITS, Numbers};

use crate::cache::Belief;
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

/// Forgetting this many, some megabytes, is worth a trim.
const TRIM_AFTER: usize = 16 << 10;

/// What finds an inode of a view again: plain data, no descriptors. Equal places are the same inode in the same life.
pub trait Place: Clone + Eq + Debug + Send + Sync + 'static {
    /// What an inode is numbered by.
    type Key: Copy + Eq + Hash + Debug + Send + Sync + 'static;

    /// What this inode is numbered by.
    fn key(&self) -> Self::Key;

    /// Tells two lives of one number apart.
    fn generation(&self) -> u32;

    /// The same inode was found once more, as `found`, which is equal to this.
    fn found_again(&mut self, found: Self) {
        *self = found;
    }
}

/// How an inode was seen that is to be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It is held open, so its number cannot have been given to another inode since.
    Held,
    /// It was looked at, and may have gone since.
    Glimpsed,
    /// It is remembered, and was recognised as the one that is remembered.
    Recognized,
}

#[derive(Debug)]
struct Known<P> {
    place: P,
    lookups: u64,
    belief: Belief,
}

impl<P: Place> Known<P> {
    /// Counts one more lookup.
    fn found_again(&mut self, place: P, seen: Seen, stamp: u64) {
        self.lookups += 1;
        self.belief.told(stamp);
        if seen != Seen::Recognized {
            self.place.found_again(place);
        }
    }
}

fn is_known<P: Place>(shard: &Shard<P>, id: u64, place: &P) -> bool {
    shard.get(&id).is_some_and(|known| known.place == *place)
}

/// An inode that the kernel has just forgotten.
#[derive(Debug)]
pub struct Forgotten<P> {
    /// The inode.
    pub place: P,
    /// Enough have been forgotten to call [`NodeTable::trim`].
    pub trim: bool,
}

/// All inodes the kernel holds references to.
#[derive(Debug)]
pub struct NodeTable<P: Place> {
    /// Never two shards at once. Boxed: a table is half empty after it has grown.
    shards: [Mutex<Shard<P>>; SHARDS],
    /// Lock order: after a shard or without one.
    numbers: Numbers<P::Key>,
    /// Inodes forgotten since the last trim.
    forgotten: AtomicUsize,
    /// Inodes that are remembered, readable without a lock.
    known: AtomicUsize,
}

type Shard<P> = HashMap<u64, Box<Known<P>>>;

impl<P: Place> NodeTable<P> {
    /// A table that knows `root`, and numbers inodes as `numbers` says.
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
            belief: Belief::default(),
        };
        table.shard(ROOT).insert(ROOT, Box::new(root));
        table
    }

    /// How many inodes are remembered. Takes no lock.
    pub fn population(&self) -> usize {
        self.known.load(Relaxed)
    }

    /// The inode of a node id.
    ///
    /// # Errors
    /// ESTALE when it is not remembered.
    pub fn get(&self, id: u64) -> Result<P> {
        self.with(id, |place| place.clone())
    }

    /// What `look` makes of the inode of a node id.
    ///
    /// # Errors
    /// ESTALE when it is not remembered.
    pub fn with<R>(&self, id: u64, look: impl FnOnce(&P) -> R) -> Result<R> {
        let shard = self.shard(id);
        let known = shard.get(&id).ok_or(Errno::STALE)?;
        Ok(look(&known.place))
    }

    /// Changes what is known of the inode, if it is remembered in this life.
    pub fn update(&self, place: &P, change: impl FnOnce(&mut P)) {
        let Some((id, mut shard)) = self.known(place) else {
            return;
        };
        if let Some(known) = shard.get_mut(&id) {
            change(&mut known.place);
        }
    }

    /// The node id that `key` stands for now; one is given to it where it has none.
    pub fn number(&self, key: P::Key) -> u64 {
        self.numbers.id(key)
    }

    /// The node id of an inode: the one that it is remembered by, or else the one that its key stands for.
    pub fn number_of(&self, place: &P) -> u64 {
        // In this order: a number that is given to another inode from here on is superseded, and still this one's.
        let number = self.number(place.key());
        let before = self.known_before(place).map(|(id, _)| id);
        before.unwrap_or(number)
    }

    /// The number that the inode of a node id is shown with. Most are shown with their node ids.
    pub fn shown_number(&self, id: u64) -> u64 {
        if !is_alias(id) {
            return id;
        }
        let key = self.with(id, |place| place.key());
        key.map_or(id, |key| self.numbers.shown_for(id, key))
    }

    /// The number a directory entry of an inode is listed with.
    pub fn listed_number(&self, key: P::Key) -> u64 {
        self.numbers.shown(key)
    }

    /// Counts one lookup of an inode that was just found, and returns its node id. `None`, and nothing counted, where
    /// the number may mean another inode by now: it has to be found once more. The kernel
    /// is told of it as having `stamp` if it is a file; of other inodes that is 0.
    ///
    /// Where the kernel still knows another life of its number, the inode gets a node id of its own. In another life
    /// of a node id the kernel would answer EIO to whoever is about to use the old one, and take what it has asked of
    /// that one for the new one's.
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
                // It may have been found before its number was given to another.
                _ if !is_other && !self.numbers.before(place.key()).is_empty() => {
                    drop(shard);
                    if let Some(id) = self.remember_before(&place, seen, stamp) {
                        return Some(id);
                    }
                    is_other = true;
                }
                // Its shard is held: nobody takes the number that it had for its own any more.
                Some(_) if seen == Seen::Held => self.numbers.renumber(place.key()),
                None if seen != Seen::Recognized => {
                    let known = Known {
                        place,
                        lookups: 1,
                        belief: Belief::of_new(stamp),
                    };
                    shard.insert(id, Box::new(known));
                    self.known.fetch_add(1, Relaxed);
                    return Some(id);
                }
                _ => return None,
            }
        }
    }

    /// As `remember`, of an inode that is known by a number which means another one by now.
    fn remember_before(&self, place: &P, seen: Seen, stamp: u64) -> Option<u64> {
        let (id, mut shard) = self.known_before(place)?;
        let known = shard.get_mut(&id)?;
        known.found_again(place.clone(), seen, stamp);
        Some(id)
    }

    /// An inode as it is remembered in this life.
    pub fn remembered(&self, place: &P) -> Option<P> {
        let (id, shard) = self.known(place)?;
        shard.get(&id).map(|known| known.place.clone())
    }

    /// Where an inode is remembered in this life.
    fn known(&self, place: &P) -> Option<(u64, MutexGuard<'_, Shard<P>>)> {
        let (id, shard) = self.number_and_shard(place.key());
        if is_known(&shard, id, place) {
            return Some((id, shard));
        }
        drop(shard);
        self.known_before(place)
    }

    /// As `known`, by a number that means another inode by now.
    fn known_before(&self, place: &P) -> Option<(u64, MutexGuard<'_, Shard<P>>)> {
        let before = self.numbers.before(place.key());
        let mut shards = before.into_iter().map(|id| (id, self.shard(id)));
        // One shard at a time: each is let go before the next is taken.
        shards.find(|(id, shard)| is_known(shard, *id, place))
    }

    /// Counts a lookup that was shown to the kernel without the inode having been looked at. An inode that
    /// is not remembered needs no count: forgetting it later is no news.
    pub fn count(&self, id: u64) {
        if let Some(known) = self.shard(id).get_mut(&id) {
            known.lookups += 1;
        }
    }

    /// Takes back `count` lookups; at none the inode is forgotten.
    pub fn forget(&self, id: u64, count: u64) -> Option<Forgotten<P>> {
        let mut shard = self.shard(id);
        let known = shard.get_mut(&id)?;
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups > 0 || id == ROOT {
            return None;
        }
        let known = shard.remove(&id)?;
        self.known.fetch_sub(1, Relaxed);
        self.numbers.release(id, known.place.key());
        let forgotten = self.forgotten.fetch_add(1, Relaxed) + 1;
        Some(Forgotten {
            place: known.place,
            trim: forgotten % TRIM_AFTER == 0,
        })
    }

    /// Gives the memory of forgotten inodes back to the system.
    pub fn trim(&self) {
        self.forgotten.store(0, Relaxed);
        for shard in &self.shards {
            let mut shard = shard.lock();
            let room = 2 * shard.len();
            shard.shrink_to(room);
        }
        memory::malloc_trim();
    }

    /// What is remembered of the kernel's cache of a node; nothing of one that is not remembered.
    pub fn belief(&self, id: u64) -> Option<Belief> {
        self.shard(id).get(&id).map(|known| known.belief)
    }

    /// What is remembered of the kernel's cache of an inode in this life.
    pub fn belief_of(&self, place: &P) -> Belief {
        let known = self.known(place);
        let belief = known.and_then(|(id, shard)| shard.get(&id).map(|known| known.belief));
        belief.unwrap_or_default()
    }

    /// Changes what is remembered of the kernel's cache of a node.
    pub fn believe(&self, id: u64, change: impl FnOnce(&mut Belief)) {
        if let Some(known) = self.shard(id).get_mut(&id) {
            change(&mut known.belief);
        }
    }

    /// As `believe`, of an inode in this life.
    pub fn believe_of(&self, place: &P, change: impl FnOnce(&mut Belief)) {
        let Some((id, mut shard)) = self.known(place) else {
            return;
        };
        if let Some(known) = shard.get_mut(&id) {
            change(&mut known.belief);
        }
    }

    /// The number of `key`, and its shard locked: a number taken back before the lock was had is not used.
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
        // Neighbouring numbers are created together and used together: spread them.
        let hash = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.shards[hash as usize % SHARDS].lock()
    }
}

#[cfg(test)]
mod tests;
