//! Inodes that mmfs holds a descriptor or a mapping of. These are open files, directories within the budget, inodes that a
//! request is about to use and that might be removed before, and inodes that could not be found again. All others are found by
//! their node when needed.

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

/// The descriptor and mapping held of one inode.
#[derive(Debug, Default)]
struct Held {
    descriptor: Option<Arc<OwnedFd>>,
    /// The slot, if the descriptor is the only way back to the inode.
    slot: Option<Slot>,
    /// Whether the descriptor is the only way back to the inode.
    only_way: bool,
    /// Set if the descriptor is kept for a moment only.
    moment: Option<Moment>,
    /// Whether it was used since the budget last asked.
    used: bool,
    /// Alive while the inode is open.
    mapping: Weak<Mapping>,
}

/// The age of a descriptor that is kept for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Kept since the last call of `end_moments`.
    New,
    /// Closed at the next call.
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

/// All inodes that mmfs holds something of.
#[derive(Debug)]
pub struct InUse {
    /// Lock order: with or without the budget's lock held, before the node table's shards. Never two shards at once.
    shards: [Mutex<HashMap<Life, Held>>; SHARDS],
    hasher: RandomState,
    descriptors: Arc<Descriptors>,
    budget: DescriptorBudget<Life>,
    /// Inodes kept for a moment, each once: a second entry would end its moment early. Nothing else is taken with it held.
    moments: Mutex<HashSet<Life>>,
    /// How many threads are about to close the last descriptor of an inode. The source may free the inode then.
    freeing: AtomicUsize,
}

/// Counts a thread in `InUse::freeing` until it is dropped.
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
    /// An empty table. Descriptors that can be opened again are kept as far as `descriptors` has room.
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

    /// A slot for a file that is about to be opened.
    ///
    /// # Errors
    /// ENFILE if open files have taken their share.
    pub fn slot_for_file(&self) -> Result<Slot> {
        let slot = self.descriptors.for_file()?;
        self.close_surplus();
        Ok(slot)
    }

    /// A slot for a directory that is about to be listed. `None` if there is none left.
    pub fn slot_for_listing(&self) -> Option<Slot> {
        let slot = self.descriptors.for_listing()?;
        self.close_surplus();
        Some(slot)
    }

    /// How many descriptors are kept to save work. Takes no lock.
    pub fn kept(&self) -> usize {
        self.budget.count()
    }

    fn close_surplus(&self) {
        if self.descriptors.is_scarce() {
            let room = self.descriptors.room();
            self.budget.keep(room, |life| self.close_unless_used(&life));
        }
    }

    /// The descriptor and the mapping of an inode that is about to be used.
    pub fn touch(&self, life: &Life) -> (Option<Arc<OwnedFd>>, Option<Arc<Mapping>>) {
        match self.shard(life).get_mut(life) {
            Some(held) => {
                held.used = true;
                (held.descriptor.clone(), held.mapping.upgrade())
            }
            None => (None, None),
        }
    }

    /// The descriptor kept for an inode.
    pub fn descriptor(&self, life: &Life) -> Option<Arc<OwnedFd>> {
        self.shard(life).get(life)?.descriptor.clone()
    }

    /// The mapping of an inode, if it is open.
    pub fn mapping(&self, life: &Life) -> Option<Arc<Mapping>> {
        self.shard(life).get(life)?.mapping.upgrade()
    }

    /// Whether mmfs holds nothing of an inode.
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
            self.budget
                .insert(life, room, |life| self.close_unless_used(&life));
        }
    }

    /// Keeps `fd` open within the budget and for a moment, unless the inode has a descriptor that is kept for longer. Returns
    /// whether it is the only one: the caller then has to see that `end_moments` is called.
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
        self.budget
            .insert(life, room, |life| self.close_unless_used(&life));
        let mut moments = self.moments.lock();
        moments.insert(life) && moments.len() == 1
    }

    /// Closes the descriptors whose moment began before the previous call. Returns whether others are left.
    pub fn end_moments(&self) -> bool {
        let before = std::mem::take(&mut *self.moments.lock());
        let lasting: Vec<_> = before
            .into_iter()
            .filter(|life| self.is_recent(life))
            .collect();
        let mut moments = self.moments.lock();
        moments.extend(lasting);
        !moments.is_empty()
    }

    /// Whether the moment of an inode began after the previous call of `end_moments`. If not, closes its descriptor.
    fn is_recent(&self, life: &Life) -> bool {
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
        drop(over); // Closed without the lock.
        false
    }

    /// Keeps `fd`, or the descriptor that the inode is open by, until the inode is forgotten. If there are too many of these,
    /// requests for an inode that is not open fail with ESTALE.
    pub fn keep_until_forgotten(&self, life: Life, fd: Arc<OwnedFd>) {
        let mut shard = self.shard(&life);
        let held = shard.entry(life).or_default();
        held.only_way = true;
        if held.mapping.strong_count() == 0 {
            held.keep_only_way(fd, &self.descriptors);
        }
    }

    /// The mapping of an inode. `make` makes it if the inode is not open.
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

    /// Drops a mapping. Calls `closing` unless another mapping has replaced it.
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
        drop(mapping); // The windows are unmapped here, without the lock.
    }

    /// The kernel has forgotten the inode, so its descriptor is closed. It stays if the inode is `known_again`.
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
        drop(descriptor); // Closed without the lock.
    }

    /// How many threads are about to close the last descriptor of an inode.
    pub fn freeing(&self) -> usize {
        self.freeing.load(SeqCst)
    }

    /// Whether mmfs holds anything of an inode.
    pub fn holds(&self, life: &Life) -> bool {
        !self.is_idle(life)
    }

    /// Closes all descriptors that can be opened again.
    pub fn close_idle(&self) {
        self.budget.clear(|life| self.close_unless_used(&life));
    }

    /// Inodes that are held although they have no name, and whether each has blocks.
    pub fn removed(&self) -> HashMap<Life, bool> {
        type Of = (Life, Option<Arc<OwnedFd>>, Option<Arc<Mapping>>);
        let of_shard = |shard: &Mutex<HashMap<Life, Held>>| -> Vec<Of> {
            let shard = shard.lock();
            let all = shard.iter();
            all.map(|(life, held)| (*life, held.descriptor.clone(), held.mapping.upgrade()))
                .collect()
        };
        let look = |(life, descriptor, mapping): Of| {
            // A mapping may wait for its file with its own lock held. So it is asked without the lock of the shard.
            let stat = fstat(descriptor.or_else(|| mapping?.descriptor())?).ok()?;
            (stat.st_nlink == 0).then_some((life, stat.st_blocks > 0))
        };
        let all = self.shards.iter().flat_map(of_shard);
        all.filter_map(look).collect()
    }

    /// The mappings of all open files.
    pub fn mappings(&self) -> Vec<Arc<Mapping>> {
        let of_shard = |shard: &Mutex<HashMap<Life, Held>>| -> Vec<_> {
            let mut shard = shard.lock();
            // An entry stays if another thread held its mapping when it was closed.
            shard.retain(|_, held| !held.is_idle());
            let open = shard.values().filter_map(|held| held.mapping.upgrade());
            open.collect()
        };
        self.shards.iter().flat_map(of_shard).collect()
    }

    /// Returns memory of removed entries to the system.
    pub fn trim(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.retain(|_, held| !held.is_idle());
            let room = 2 * shard.len();
            shard.shrink_to(room);
        }
    }

    /// Runs `call`. If descriptors have run out, closes some that can be opened again, and runs it again.
    ///
    /// # Errors
    /// Those of `call`.
    pub fn with_room<T>(&self, call: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match call() {
                Err(Errno::MFILE | Errno::NFILE)
                    if self.budget.shrink(|life| self.close_unless_used(&life)) => {}
                outcome => return outcome,
            }
        }
    }

    /// Closes the descriptor of an inode, unless it was used since the last call.
    fn close_unless_used(&self, life: &Life) -> Verdict {
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
    fn a_moment_that_begins_again_lasts_its_full_time() {
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
    fn a_descriptor_kept_until_forgotten_has_no_moment() {
        let in_use = InUse::new(Descriptors::new(1024, 1));
        let key = Key { source: 0, ino: 7 };
        let (life, kind) = (1, Kind::Source(FileType::RegularFile));
        let life = Life { key, life, kind };
        let fd = Arc::new(OwnedFd::from(File::open("/").expect("open")));
        in_use.keep_for_a_moment(life, fd.clone());
        in_use.keep_until_forgotten(life, fd);
        in_use.end_moments();
        assert!(!in_use.end_moments() && in_use.holds(&life));
        in_use.close_idle();
        assert!(in_use.holds(&life));
    }
}
