//! What the kernel currently remembers: node ids, the inodes of the source they stand for, and how to
//! find each again in bounded memory and with bounded descriptors.

mod descriptors;
mod lookup;
mod node;

use crate::attr::Attr;
use crate::mapping::Mapping;
use crate::source::{self, Found, SourceDir, Sources};
use crate::sys::memory;
use descriptors::DescriptorCache;
use node::{Key, Life, Locator, Node, Numbers};
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, Result};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The node id of the root, fixed by the FUSE protocol.
pub const ROOT: u64 = 1;

const SHARDS: usize = 32;

/// Forgetting this many, some megabytes, is worth a trim.
const MANY: usize = 16 << 10;

/// An inode as the kernel is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its attributes, `ino` being the node id.
    pub attr: Attr,
    /// Tells two lives of one node id apart.
    pub generation: u32,
    /// Whether somebody has it open.
    pub open: bool,
}

/// An inode that can be worked on.
#[derive(Debug, Clone)]
pub struct Located {
    /// A descriptor on it, O_PATH or better.
    pub fd: Arc<OwnedFd>,
    /// Its filesystem.
    pub source: Arc<SourceDir>,
    /// Its mapping, while somebody has it open.
    pub mapping: Option<Arc<Mapping>>,
    /// Its type.
    pub kind: FileType,
}

impl AsFd for Located {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// All inodes the kernel holds references to.
#[derive(Debug)]
pub struct InodeTable {
    /// Lock order: a shard is taken after `cache`'s lock or without it, never two shards at once.
    /// Boxed: a table is half empty after it has grown.
    shards: [Mutex<HashMap<u64, Box<Node>>>; SHARDS],
    numbers: Numbers,
    cache: DescriptorCache,
    sources: Sources,
    /// Inodes forgotten since the last trim.
    forgotten: AtomicUsize,
    made: Instant,
}

impl InodeTable {
    /// A table that knows the root, the directory at `root`, and keeps at most `descriptors` of others open.
    ///
    /// # Errors
    /// Those of opening the root.
    pub fn open(root: &Path, descriptors: usize) -> Result<Self> {
        let (sources, found) = Sources::open(root)?;
        let numbers = Numbers::new(found.attr.ino);
        let table = InodeTable {
            shards: std::array::from_fn(|_| Mutex::default()),
            numbers,
            cache: DescriptorCache::new(descriptors),
            sources,
            forgotten: AtomicUsize::new(0),
            made: Instant::now(),
        };
        let mut node = Node::new(&found, 0, OsStr::new(""));
        found.fd.into_iter().for_each(|fd| node.pin(fd));
        node.lookups = 1;
        table.shard(ROOT).insert(ROOT, Box::new(node));
        Ok(table)
    }

    /// The filesystems met so far.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Takes back `count` lookups; at none the inode is forgotten. True once enough are to call `trim`.
    #[must_use]
    pub fn forget(&self, id: u64, count: u64) -> bool {
        let mut shard = self.shard(id);
        let Some(node) = shard.get_mut(&id) else {
            return false;
        };
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups == 0 && id != ROOT {
            let gone = shard.remove(&id);
            if let Some(node) = &gone {
                self.numbers.release(id, node.key);
            }
            drop(shard);
            drop(gone); // its descriptors are closed outside the lock
            return (self.forgotten.fetch_add(1, Relaxed) + 1) % MANY == 0;
        }
        false
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

    /// Whether the last complete listing of a directory was made less than `timeout` ago and with the same
    /// stamp. Kept longer than its entries may be believed, a listing would have the kernel look each of them
    /// up again, one by one.
    pub fn is_listing_fresh(&self, id: u64, stamp: u64, timeout: Duration) -> bool {
        let now = self.now();
        let shard = self.shard(id);
        shard.get(&id).is_some_and(|node| {
            let age = Duration::from_millis(now.wrapping_sub(node.listed).into());
            node.stamp == stamp && age < timeout
        })
    }

    /// Notes that a directory was listed to its end, having had `stamp` when it was opened.
    pub fn listed(&self, id: u64, stamp: u64) {
        let now = self.now();
        if let Some(node) = self.shard(id).get_mut(&id) {
            (node.stamp, node.listed) = (stamp, now);
        }
    }

    fn now(&self) -> u32 {
        self.made.elapsed().as_millis() as u32
    }

    /// The number a directory entry of `source` with inode number `ino` is shown with.
    pub fn number(&self, source: &SourceDir, ino: u64) -> u64 {
        self.numbers.shown(Key {
            source: source.index,
            ino,
        })
    }

    /// An inode to work on.
    ///
    /// # Errors
    /// ESTALE when it cannot be found any more, EPERM for a veiled mount of mmfs.
    pub fn locate(&self, id: u64) -> Result<Located> {
        self.reach(id, Errno::PERM)
    }

    /// A directory to look names up in.
    ///
    /// # Errors
    /// ENOENT for a veiled mount of mmfs, which is empty; ESTALE when it is gone.
    pub fn directory(&self, id: u64) -> Result<Located> {
        self.reach(id, Errno::NOENT)
    }

    fn reach(&self, id: u64, veiled: Errno) -> Result<Located> {
        let ((fd, mapping), index, kind) = {
            let mut shard = self.shard(id);
            let node = shard.get_mut(&id).ok_or(Errno::STALE)?;
            if node.veiled {
                return Err(veiled);
            }
            node.used = true;
            (node.known(), node.key.source, node.kind())
        };
        let source = self.sources.at(index).ok_or(Errno::STALE)?;
        // The mapping may be waiting for its file with its own lock held: it is asked outside ours.
        let held = fd.or_else(|| mapping.as_ref().and_then(|m| m.descriptor()));
        let fd = match held {
            Some(fd) => fd,
            None => {
                let place = self.shard(id).get(&id).ok_or(Errno::STALE)?.place();
                self.find_again(id, &source, &place)?
            }
        };
        Ok(Located {
            fd,
            source,
            mapping,
            kind,
        })
    }

    /// The filesystem an inode lives on.
    ///
    /// # Errors
    /// As `locate`, but for what only opening it would tell.
    pub fn source(&self, id: u64) -> Result<Arc<SourceDir>> {
        let index = {
            let shard = self.shard(id);
            let node = shard.get(&id).ok_or(Errno::STALE)?;
            if node.veiled {
                return Err(Errno::PERM);
            }
            node.key.source
        };
        self.sources.at(index).ok_or(Errno::STALE)
    }

    /// Whether `id` is the root of a mount of mmfs's own below the source.
    pub fn is_veiled(&self, id: u64) -> bool {
        self.shard(id).get(&id).is_some_and(|n| n.veiled)
    }

    /// Opens the inode with an open file description of its own.
    ///
    /// # Errors
    /// ESTALE when it cannot be found any more; those of open(2).
    pub fn open_inode(&self, id: u64, flags: OFlags) -> Result<OwnedFd> {
        let place = self
            .shard(id)
            .get(&id)
            .ok_or(Errno::STALE)?
            .place_if_unheld();
        if let Some(node::Place {
            locator: Locator::Exported(handle),
            life,
            ..
        }) = &place
        {
            let source = self.sources.at(life.key.source).ok_or(Errno::STALE)?;
            return self
                .with_room(|| source.open_exported(handle, flags))
                .inspect_err(|&errno| self.disappoint(id, errno));
        }
        let located = self.locate(id)?;
        self.with_room(|| source::reopen(&located, flags))
    }

    /// Hears that an exported handle did not lead to its inode: should the inode ever have been taken for another, the
    /// kernel's next lookup sets that right.
    fn disappoint(&self, id: u64, errno: Errno) {
        if errno != Errno::STALE {
            return;
        }
        if let Some(node) = self.shard(id).get_mut(&id) {
            node.unsettle();
        }
    }

    fn find_again(&self, id: u64, source: &SourceDir, place: &node::Place) -> Result<Arc<OwnedFd>> {
        let fd = match &place.locator {
            // An exported handle opens the inode it was made of, in that life, or nothing.
            Locator::Exported(handle) => {
                let fd = self.with_room(|| source.open_exported(handle, OFlags::PATH));
                Arc::new(fd.inspect_err(|&errno| self.disappoint(id, errno))?)
            }
            Locator::Named { parent, name } => self.find_by_name(*parent, name, &place.life)?,
        };
        if place.kind == FileType::Directory && source.index == 0 {
            if let Some(node) = self.shard(id).get_mut(&id) {
                node.descriptor.get_or_insert_with(|| fd.clone());
            }
            self.cached(id);
        }
        Ok(fd)
    }

    /// Goes up to the nearest ancestor that has a descriptor or a handle, then down name by name: without
    /// recursion, for a tree may be deeper than a stack, and names remembered across renames behind the
    /// mount may run in a circle.
    fn find_by_name(&self, parent: u64, name: &OsStr, life: &Life) -> Result<Arc<OwnedFd>> {
        let mut way = vec![(Box::from(name), *life)];
        let (mut at, mut passed) = (parent, HashSet::new());
        let mut fd = loop {
            if !passed.insert(at) {
                return Err(Errno::STALE);
            }
            let ((fd, _), place) = {
                let shard = self.shard(at);
                let node = shard.get(&at).ok_or(Errno::STALE)?;
                (node.known(), node.place())
            };
            match (fd, place.locator) {
                (Some(fd), _) => break fd,
                (None, Locator::Exported(_)) => {
                    break self.locate(at).map_err(|_| Errno::STALE)?.fd;
                }
                (None, Locator::Named { parent, name }) => {
                    way.push((name, place.life));
                    at = parent;
                }
            }
        };
        while let Some((name, life)) = way.pop() {
            let found = self
                .with_room(|| self.sources.find(fd.as_fd(), &name))
                .map_err(stale_if_absent)?;
            if Life::of(&found) != life {
                return Err(Errno::STALE);
            }
            fd = found.fd.ok_or(Errno::STALE)?;
        }
        Ok(fd)
    }

    /// Runs `change`, which removes or replaces `name` in `dir`, and keeps the inode of that name afterwards for
    /// as long as the kernel knows it: somebody may stand on it, and its number must not come to mean another
    /// file while the kernel still means this one.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn keep_reachable(
        &self,
        dir: &Located,
        name: &OsStr,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let found = self.with_room(|| self.sources.find(dir.as_fd(), name));
        change()?;
        if let Ok(found) = found {
            self.keep(found);
        }
        Ok(())
    }

    fn keep(&self, found: Found) {
        let life = Life::of(&found);
        let id = self.numbers.id(life.key);
        let mut shard = self.shard(id);
        let Some(node) = shard.get_mut(&id).filter(|node| node.is(&life, &found)) else {
            return;
        };
        let Some(fd) = found.fd else { return };
        if found.attr.nlink <= 1 || found.attr.is_dir() {
            node.pin(fd);
        } else if matches!(node.locator, Locator::Named { .. }) {
            // Looking up another of its names finds it again, so this one counts among those that may go.
            node.descriptor.get_or_insert(fd);
            drop(shard);
            self.cached(id);
        }
    }

    /// Learns the new name of an inode that was found by its old one.
    pub fn renamed(&self, parent: u64, dir: &Located, name: &OsStr) {
        if dir.source.by_handle {
            return;
        }
        let Ok(found) = self.with_room(|| self.sources.find(dir.as_fd(), name)) else {
            return;
        };
        let life = Life::of(&found);
        let id = self.numbers.id(life.key);
        if let Some(node) = self
            .shard(id)
            .get_mut(&id)
            .filter(|node| node.is(&life, &found))
        {
            node.found_again(parent, name);
        }
    }

    /// The mapping of an inode, made by `make` when nobody has the inode open.
    ///
    /// # Errors
    /// ESTALE when the inode is not remembered; those of `make`.
    pub fn mapping(
        &self,
        id: u64,
        make: impl FnOnce(u64) -> Result<Arc<Mapping>>,
    ) -> Result<Arc<Mapping>> {
        let mut shard = self.shard(id);
        let node = shard.get_mut(&id).ok_or(Errno::STALE)?;
        if let Some(mapping) = node.mapping.upgrade() {
            return Ok(mapping);
        }
        let mapping = make(node.stamp)?;
        node.mapping = Arc::downgrade(&mapping);
        Ok(mapping)
    }

    /// The mapping of an inode that somebody has open.
    pub fn open_mapping(&self, id: u64) -> Option<Arc<Mapping>> {
        self.shard(id).get(&id)?.mapping.upgrade()
    }

    /// Gives back a mapping; with the last one the inode remembers as of when the kernel's cache is valid.
    pub fn close_mapping(&self, id: u64, mapping: Arc<Mapping>) {
        let mut shard = self.shard(id);
        if let Some(node) = shard
            .get_mut(&id)
            .filter(|node| std::ptr::eq(node.mapping.as_ptr(), Arc::as_ptr(&mapping)))
        {
            node.stamp = mapping.stamp();
            if Arc::strong_count(&mapping) == 1 {
                node.mapping = Weak::new();
            }
        }
        drop(shard);
        drop(mapping); // the windows go here, outside the lock
    }

    /// Notes that an own operation on an inode nobody has open moved its stamp from `before` to `after`.
    pub fn restamp(&self, id: u64, before: u64, after: u64) {
        match self.shard(id).get_mut(&id) {
            Some(node) if node.stamp == before => node.stamp = after,
            _ => {}
        }
    }

    /// Runs `call`; when descriptors have run out, closes cached ones and runs it again.
    pub fn with_room<T>(&self, call: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match call() {
                Err(Errno::MFILE | Errno::NFILE)
                    if self.cache.shrink(|id| self.drop_descriptor(id)) => {}
                outcome => return outcome,
            }
        }
    }

    fn cached(&self, id: u64) {
        self.cache.insert(id, |id| self.drop_descriptor(id));
    }

    /// Closes the cached descriptor of `id`, unless it was used since it was last asked for.
    fn drop_descriptor(&self, id: u64) -> descriptors::Verdict {
        match self.shard(id).get_mut(&id) {
            Some(node) => node.give_up_descriptor(),
            None => descriptors::Verdict::Gone,
        }
    }

    /// The number of `key`, and its shard locked: a number taken back before the lock was had is not used.
    fn number_and_shard(&self, key: Key) -> (u64, MutexGuard<'_, HashMap<u64, Box<Node>>>) {
        loop {
            let id = self.numbers.id(key);
            let shard = self.shard(id);
            if self.numbers.id(key) == id {
                return (id, shard);
            }
        }
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, HashMap<u64, Box<Node>>> {
        // Neighbouring numbers are created together and used together: spread them.
        let hash = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        self.shards[hash as usize % SHARDS].lock()
    }
}

/// A name that vanished makes the inode known by it stale, not absent.
fn stale_if_absent(errno: Errno) -> Errno {
    if errno == Errno::NOENT {
        Errno::STALE
    } else {
        errno
    }
}
