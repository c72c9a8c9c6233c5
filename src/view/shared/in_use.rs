//! Inodes that have a descriptor or a mapping of ours: those somebody has open, directories within the budget, what is about
//! to be used and might be replaced before, and what could not be found again. All others are found again by their place
//! when they are needed.

use super::descriptors::{DescriptorBudget, Verdict};
use super::node::Life;
use crate::descriptors::{Descriptors, Slot};
use crate::mapping::Mapping;
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::fstat;
use rustix::io::{Errno, Result};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Weak};

const SHARDS: usize = 32;

/// What is held of one inode.
#[derive(Debug, Default)]
struct Held {
    descriptor: Option<Arc<OwnedFd>>,
    /// Where the descriptor is the only way back to the inode.
    slot: Option<Slot>,
    /// The descriptor is the only way back to the inode.
    only_way: bool,
    /// Whether the descriptor is kept for a moment only.
    moment: Option<Moment>,
    /// Used since the budget last asked.
    used: bool,
    /// Alive while somebody has the inode open.
    mapping: Weak<Mapping>,
}

/// How far a moment has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// It began after moments were last looked at.
    New,
    /// It is over when moments are looked at next.
    Ending,
}

impl Held {
    fn keep_only_way(&mut self, fd: Arc<OwnedFd>, descriptors: &Arc<Descriptors>) {
        if self.slot.is_none() {
            self.slot = descriptors.for_file().ok();
        }
        if self.slot.is_none() {
            self.only_way = false;
            return;
        }
        self.descriptor.get_or_insert(fd);
        self.moment = None;
    }

    fn take_descriptor(&mut self) -> Option<Arc<OwnedFd>> {
        self.moment = None;
        self.slot = None;
        self.descriptor.take()
    }

    fn is_idle(&self) -> bool {
        self.descriptor.is_none() && self.mapping.strong_count() == 0
    }
}

/// All inodes that something is held of.
#[derive(Debug)]
pub struct InUse {
    /// Lock order: a shard is taken after the budget's lock or without it, and before the node table's; never two
    /// shards at once.
    shards: [Mutex<HashMap<Life, Held>>; SHARDS],
    hasher: RandomState,
    descriptors: Arc<Descriptors>,
    budget: DescriptorBudget<Life>,
    /// Inodes kept for a moment, each once: a second entry would end it early. Nothing else is taken with it held.
    moments: Mutex<HashSet<Life>>,
    /// Threads that are about to close the last that is held of an inode: the source may free it then.
    freeing: AtomicUsize,
}

/// A thread that is about to close something, until dropped.
struct Freeing<'a>(&'a AtomicUsize);

impl<'a> Freeing<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        Freeing(count)
    }
}

impl Drop for Freeing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl InUse {
    /// Nothing yet. What could be found again is kept as far as `descriptors` has room.
    pub fn new(descriptors: Arc<Descriptors>) -> Self {
        InUse {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            descriptors,
            budget: DescriptorBudget::new(),
            moments: Mutex::default(),
            freeing: AtomicUsize::new(0),
        }
    }

    /// A descriptor's place for a file that is about to be opened.
    ///
    /// # Errors
    /// ENFILE when open files have all they may have.
    pub fn slot_for_file(&self) -> Result<Slot> {
        let slot = self.descriptors.for_file()?;
        self.give_way();
        Ok(slot)
    }

    /// A descriptor's place for a directory that is about to be listed; `None` when there is none left.
    pub fn slot_for_listing(&self) -> Option<Slot> {
        let slot = self.descriptors.for_listing()?;
        self.give_way();
        Some(slot)
    }

    /// How many descriptors are kept to save work. Takes no lock.
    pub fn kept(&self) -> usize {
        self.budget.count()
    }

    fn give_way(&self) {
        if self.descriptors.is_tight() {
            let room = self.descriptors.room();
            self.budget.keep(room, |life| self.give_up(&life));
        }
    }

    /// What is at hand of an inode that is about to be worked on.
    pub fn take_up(&self, life: &Life) -> (Option<Arc<OwnedFd>>, Option<Arc<Mapping>>) {
        match self.shard(life).get_mut(life) {
            Some(held) => {
                held.used = true;
                (held.descriptor.clone(), held.mapping.upgrade())
            }
            None => (None, None),
        }
    }

    /// The descriptor kept open for an inode.
    pub fn descriptor(&self, life: &Life) -> Option<Arc<OwnedFd>> {
        self.shard(life).get(life)?.descriptor.clone()
    }

    /// The mapping of an inode that somebody has open.
    pub fn mapping(&self, life: &Life) -> Option<Arc<Mapping>> {
        self.shard(life).get(life)?.mapping.upgrade()
    }

    /// Whether nothing is at hand of an inode.
    pub fn is_idle(&self, life: &Life) -> bool {
        self.shard(life).get(life).is_none_or(Held::is_idle)
    }

    /// Keeps `fd` open within the budget, unless the inode has a descriptor.
    pub fn keep(&self, life: Life, fd: Arc<OwnedFd>) {
        let mut shard = self.shard(&life);
        let held = shard.entry(life).or_default();
        if held.descriptor.is_none() {
            held.descriptor = Some(fd);
            drop(shard);
            let room = self.descriptors.room();
            self.budget.insert(life, room, |life| self.give_up(&life));
        }
    }

    /// Keeps `fd` open within the budget and for a moment, unless the inode has a descriptor that is kept for longer.
    /// Says whether it is the only one: then somebody has to end its moment (`end_moments`).
    pub fn keep_for_a_moment(&self, life: Life, fd: Arc<OwnedFd>) -> bool {
        let mut shard = self.shard(&life);
        let held = shard.entry(life).or_default();
        if held.descriptor.is_some() {
            held.moment = held.moment.map(|_| Moment::New);
            return false;
        }
        held.descriptor = Some(fd);
        held.moment = Some(Moment::New);
        drop(shard);
        let room = self.descriptors.room();
        self.budget.insert(life, room, |life| self.give_up(&life));
        let mut moments = self.moments.lock();
        moments.insert(life) && moments.len() == 1
    }

    /// Ends moments that have lasted since this was last called. Says whether there are others.
    pub fn end_moments(&self) -> bool {
        let before = std::mem::take(&mut *self.moments.lock());
        let lasting: Vec<_> = before.into_iter().filter(|life| self.lasts(life)).collect();
        let mut moments = self.moments.lock();
        moments.extend(lasting);
        !moments.is_empty()
    }

    /// Whether the moment of an inode has only begun. If not, its descriptor goes.
    fn lasts(&self, life: &Life) -> bool {
        let mut shard = self.shard(life);
        let Some(held) = shard.get_mut(life) else {
            return false;
        };
        let moment = held.moment;
        if moment == Some(Moment::New) {
            held.moment = Some(Moment::Ending);
            return true;
        }
        let over = moment.and_then(|_| held.take_descriptor());
        if held.is_idle() {
            shard.remove(life);
        }
        drop(shard);
        drop(over); // closed outside the lock
        false
    }

    /// Keeps `fd`, or what the inode is open by, until the inode is forgotten. Where there are too many such, whoever
    /// stands on it without having it open finds it stale.
    pub fn keep_for_good(&self, life: Life, fd: Arc<OwnedFd>) {
        let mut shard = self.shard(&life);
        let held = shard.entry(life).or_default();
        held.only_way = true;
        if held.mapping.strong_count() == 0 {
            held.keep_only_way(fd, &self.descriptors);
        }
    }

    /// The mapping of an inode, made by `make` when nobody has the inode open.
    pub fn open(&self, life: &Life, make: impl FnOnce() -> Arc<Mapping>) -> Arc<Mapping> {
        let mut shard = self.shard(life);
        let held = shard.entry(*life).or_default();
        if let Some(mapping) = held.mapping.upgrade() {
            return mapping;
        }
        let mapping = make();
        held.mapping = Arc::downgrade(&mapping);
        mapping
    }

    /// Gives back a mapping. `closing` is called unless another one has taken its place.
    pub fn close(&self, life: &Life, mapping: Arc<Mapping>, closing: impl FnOnce(&Mapping)) {
        let _freeing = Freeing::begin(&self.freeing);
        let mut shard = self.shard(life);
        let own = |held: &&mut Held| std::ptr::eq(held.mapping.as_ptr(), Arc::as_ptr(&mapping));
        if let Some(held) = shard.get_mut(life).filter(own) {
            closing(&mapping);
            if let Some(fd) = mapping.anchor().filter(|_| held.only_way) {
                held.keep_only_way(fd, &self.descriptors);
            }
            if Arc::strong_count(&mapping) == 1 {
                held.mapping = Weak::new();
                if held.descriptor.is_none() {
                    shard.remove(life);
                }
            }
        }
        drop(shard);
        drop(mapping); // the windows go here, outside the lock
    }

    /// The kernel has forgotten the inode, unless it is `known_again` by now: what was held since then stays.
    pub fn forget_unless(&self, life: &Life, known_again: impl FnOnce() -> bool) {
        let mut shard = self.shard(life);
        let Some(held) = shard.get_mut(life) else {
            return;
        };
        let _freeing = Freeing::begin(&self.freeing);
        if known_again() {
            return;
        }
        held.only_way = false;
        let descriptor = held.take_descriptor();
        if held.is_idle() {
            shard.remove(life);
        }
        drop(shard);
        drop(descriptor); // closed outside the lock
    }

    /// How many threads are about to close the last that is held of an inode.
    pub fn freeing(&self) -> usize {
        self.freeing.load(SeqCst)
    }

    /// Whether anything is held of an inode.
    pub fn holds(&self, life: &Life) -> bool {
        !self.is_idle(life)
    }

    /// Closes all descriptors that can be had again.
    pub fn close_idle(&self) {
        self.budget.clear(|life| self.give_up(&life));
    }

    /// The inodes that are held although they have no name any more, and whether they have blocks.
    pub fn removed(&self) -> HashMap<Life, bool> {
        type Of = (Life, Option<Arc<OwnedFd>>, Option<Arc<Mapping>>);
        let of_shard = |shard: &Mutex<HashMap<Life, Held>>| -> Vec<Of> {
            let shard = shard.lock();
            let all = shard.iter();
            all.map(|(life, held)| (*life, held.descriptor.clone(), held.mapping.upgrade()))
                .collect()
        };
        let look = |(life, descriptor, mapping): Of| {
            // A mapping may wait for its file with its own lock held: it is asked outside ours.
            let stat = fstat(descriptor.or_else(|| mapping?.descriptor())?).ok()?;
            (stat.st_nlink == 0).then_some((life, stat.st_blocks > 0))
        };
        let all = self.shards.iter().flat_map(of_shard);
        all.filter_map(look).collect()
    }

    /// The mappings of all files that are open.
    pub fn mappings(&self) -> Vec<Arc<Mapping>> {
        let of_shard = |shard: &Mutex<HashMap<Life, Held>>| -> Vec<_> {
            let mut shard = shard.lock();
            // A mapping that somebody else looked at when it was closed has left its entry behind.
            shard.retain(|_, held| !held.is_idle());
            let open = shard.values().filter_map(|held| held.mapping.upgrade());
            open.collect()
        };
        self.shards.iter().flat_map(of_shard).collect()
    }

    /// Gives the memory of entries that are gone back.
    pub fn trim(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.retain(|_, held| !held.is_idle());
            let room = 2 * shard.len();
            shard.shrink_to(room);
        }
    }

    /// Runs `call`; when descriptors have run out, closes some that can be had again and runs it again.
    ///
    /// # Errors
    /// Those of `call`.
    pub fn with_room<T>(&self, call: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match call() {
                Err(Errno::MFILE | Errno::NFILE)
                    if self.budget.shrink(|life| self.give_up(&life)) => {}
                outcome => return outcome,
            }
        }
    }

    /// Closes the descriptor of an inode, unless it was used since it was last asked for.
    fn give_up(&self, life: &Life) -> Verdict {
        let mut shard = self.shard(life);
        let Some(held) = shard.get_mut(life) else {
            return Verdict::Gone;
        };
        let used = std::mem::take(&mut held.used);
        if held.only_way || held.descriptor.is_none() {
            return Verdict::Gone;
        }
        if used {
            return Verdict::Used;
        }
        held.take_descriptor();
        if held.is_idle() {
            shard.remove(life);
        }
        Verdict::Gone
    }

    fn shard(&self, life: &Life) -> MutexGuard<'_, HashMap<Life, Held>> {
        self.shards[self.hasher.hash_one(life) as usize % SHARDS].lock()
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::Key;
    use super::*;
    use crate::source::Kind;
    use rustix::fs::FileType;
    use std::fs::File;

    #[test]
    fn a_moment_that_began_anew_lasts_as_long_as_any() {
        let in_use = InUse::new(Descriptors::new(1024, 1));
        let key = Key { source: 0, ino: 7 };
        let (life, kind) = (1, Kind::Source(FileType::RegularFile));
        let life = Life { key, life, kind };
        let fd = || Arc::new(OwnedFd::from(File::open("/").expect("open")));
        assert!(in_use.keep_for_a_moment(life, fd()));
        in_use.forget_unless(&life, || false);
        assert!(!in_use.holds(&life));
        in_use.keep_for_a_moment(life, fd());
        assert!(in_use.end_moments() && in_use.holds(&life));
        assert!(!in_use.end_moments() && !in_use.holds(&life));
    }

    #[test]
    fn what_is_kept_for_good_has_no_moment() {
        let in_use = InUse::new(Descriptors::new(1024, 1));
        let key = Key { source: 0, ino: 7 };
        let (life, kind) = (1, Kind::Source(FileType::RegularFile));
        let life = Life { key, life, kind };
        let fd = Arc::new(OwnedFd::from(File::open("/").expect("open")));
        in_use.keep_for_a_moment(life, fd.clone());
        in_use.keep_for_good(life, fd);
        in_use.end_moments();
        assert!(!in_use.end_moments() && in_use.holds(&life));
        in_use.close_idle();
        assert!(in_use.holds(&life));
    }
}
