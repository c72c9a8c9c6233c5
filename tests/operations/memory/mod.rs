//! The model's inodes as a view: the second implementation of the seam, and what the operations are tested on.
//!
//! A test can look at the calls that have reached the view, have the next call of a method fail, set limits, and
//! change the inodes behind the operations.

mod attributes;
mod calls;
mod file;
mod listing;
mod names;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use mmfs::attr::{Attr, Time};
use mmfs::cache::{FileCache, KernelCache};
use mmfs::inode::{NodeTable, Numbers, Place, Seen};
use mmfs::request::ExtendedFlags;
use mmfs::view::{Found, GivesUp, Reporter, Tree, View};
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{IFlags, RawMode};
use rustix::io::{Errno, Result};

use crate::inodes::{Ino, Inodes, ROOT};
pub use attributes::{BLOCK, LONGEST_VALUE};
use calls::Calls;
use file::MemoryFile;
use listing::MemoryListing;

/// Inodes in memory, shared by the operations and the test.
#[derive(Clone)]
pub struct Memory(Arc<State>);

struct State {
    contents: Mutex<Contents>,
    calls: Mutex<Calls>,
    nodes: Arc<NodeTable<Ino>>,
    kernel: Arc<KernelCache>,
}

struct Contents {
    inodes: Inodes,
    knobs: Knobs,
    flags: BTreeMap<Ino, Flags>,
    /// The files that are open.
    open: BTreeMap<Ino, Arc<OpenInode>>,
}

/// What a test can change in the ways of the view.
pub struct Knobs {
    /// The longest file, in bytes.
    pub longest: u64,
    /// How many bytes all files may have together; holes count.
    pub room: u64,
    /// The names one inode can have.
    pub names: u32,
    /// What `Content::is_cacheable` says.
    pub is_cacheable: bool,
    /// `Content::may_keep` says yes whatever has changed.
    pub keeps_always: bool,
    /// What `Tree::is_stacked` says.
    pub is_stacked: bool,
}

#[derive(Clone, Copy)]
struct Flags {
    flags: IFlags,
    extended: ExtendedFlags,
}

/// What all opens of one file share.
struct OpenInode {
    cache: Arc<FileCache>,
    passed_through: OnceLock<Option<Box<dyn Any + Send + Sync>>>,
}

impl Place for Ino {
    type Key = u64;

    fn key(&self) -> u64 {
        self.number
    }

    fn generation(&self) -> u32 {
        self.life
    }
}

/// As the calls are recorded: number and life.
impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.number, self.life)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl View for Memory {
    type Node = Ino;
    type Open = MemoryFile;
    type Listing = MemoryListing;
}

impl GivesUp for Memory {}

impl Tree for Memory {
    fn forget(&self, node: &Ino) {
        self.note(format!("forget {node}"));
    }

    fn check_open_files(&self) {
        self.note("check_open_files".into());
        let contents = self.contents();
        for (ino, open) in &contents.open {
            open.cache.seen(contents.stamp(*ino), open.cache.changes());
            open.cache.drop_if_stale();
        }
    }

    fn set_own_device(&self, device: u64) {
        self.note(format!("set_own_device {device}"));
    }

    fn is_stacked(&self) -> bool {
        self.contents().knobs.is_stacked
    }
}

impl Memory {
    /// An empty root, which reports its changes to `reporter`.
    pub fn new(reporter: Reporter) -> (Self, Arc<NodeTable<Ino>>) {
        let nodes = Arc::new(NodeTable::new(ROOT, Numbers::new(Some)));
        let contents = Contents {
            inodes: Inodes::new(),
            knobs: Knobs {
                longest: 1 << 20,
                room: 4 << 20,
                names: 100,
                is_cacheable: true,
                keeps_always: false,
                is_stacked: false,
            },
            flags: BTreeMap::new(),
            open: BTreeMap::new(),
        };
        let state = State {
            contents: Mutex::new(contents),
            calls: Mutex::default(),
            nodes: nodes.clone(),
            kernel: reporter.cache,
        };
        (Memory(Arc::new(state)), nodes)
    }

    /// Looks at the inodes, or changes them behind the operations.
    pub fn behind<R>(&self, act: impl FnOnce(&mut Inodes) -> R) -> R {
        act(&mut self.contents().inodes)
    }

    /// Changes the ways of the view.
    pub fn adjust(&self, change: impl FnOnce(&mut Knobs)) {
        change(&mut self.contents().knobs);
    }

    /// The nodes that the operations remember.
    pub fn nodes(&self) -> &NodeTable<Ino> {
        &self.0.nodes
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.contents.lock()
    }

    /// Runs a change of ours of an inode, and says so to the cache. Without an open of it, only a change that
    /// `keeps_bytes` leaves the kernel's pages valid.
    fn change<R>(
        &self,
        ino: Ino,
        keeps_bytes: bool,
        change: impl FnOnce(&mut Contents) -> Result<R>,
    ) -> Result<R> {
        let mut contents = self.contents();
        let before = contents.attr(ino)?;
        let Some(open) = contents.open.get(&ino).cloned() else {
            let outcome = change(&mut contents);
            if keeps_bytes {
                let (before, after) = (before.stamp(), contents.stamp(ino));
                let moved = |cache_state: &mut mmfs::cache::CacheState| {
                    cache_state.stamp_moved(before, after)
                };
                self.0.nodes.update_cache_state_of(&ino, moved);
            }
            return outcome;
        };
        let changing = open.cache.change();
        changing.began_at(before.stamp());
        let outcome = change(&mut contents);
        changing.led_to(contents.stamp(ino));
        if contents.attr(ino)?.mode != before.mode {
            open.cache.attributes_changed();
        }
        outcome
    }
}

impl Contents {
    fn found(&self, ino: Ino) -> Result<Found<Ino>> {
        let attr = self.attr(ino)?;
        Ok(Found::seen(ino, attr, Seen::Held))
    }

    fn attr(&self, ino: Ino) -> Result<Attr> {
        let inode = self.inodes.get(ino)?;
        let size = inode.body.size();
        Ok(Attr {
            dev: 0,
            // The operations put the node id here; they must not show this.
            ino: u64::MAX,
            size,
            blocks: size.div_ceil(512),
            atime: time(inode.atime),
            mtime: time(inode.mtime()),
            ctime: time(inode.ctime()),
            btime: None,
            mode: inode.body.kind().as_raw_mode() | inode.mode as RawMode,
            nlink: inode.links,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.body.device(),
            blksize: 4096,
            mount_root: false,
            mount: Default::default(),
        })
    }

    /// The change stamp; that of an inode whose life is over is 0.
    fn stamp(&self, ino: Ino) -> u64 {
        self.attr(ino).map_or(0, |attr| attr.stamp())
    }

    /// How far a file can be given bytes from `start` to `end`: not at all is EFBIG or ENOSPC.
    fn reach(&self, ino: Ino, start: u64, end: u64) -> Result<u64> {
        let size = self.inodes.size(ino);
        let room = self.knobs.room.saturating_sub(self.inodes.used());
        let full = (size + room).max(size);
        match end {
            _ if end <= size => Ok(end),
            _ if start >= self.knobs.longest => Err(Errno::FBIG),
            _ if start >= full => Err(Errno::NOSPC),
            _ => Ok(end.min(self.knobs.longest).min(full)),
        }
    }

    /// As `reach`, all or nothing.
    fn check_length(&self, ino: Ino, len: u64) -> Result<()> {
        let last = len.saturating_sub(1);
        self.reach(ino, last, len).map(drop)
    }

    /// Takes suid, and sgid where the group may execute, as every change of the bytes and owners of a file does.
    fn drop_setid(&mut self, ino: Ino) -> Result<()> {
        let inode = self.inodes.get(ino)?;
        let taken = match inode.mode & 0o010 {
            0 => 0o4000,
            _ => 0o6000,
        };
        if self.inodes.is_dir(ino) || inode.mode & taken == 0 {
            return Ok(());
        }
        self.inodes.change(ino, |inode| inode.mode &= !taken)
    }
}

fn time((sec, nanoseconds): (i64, i64)) -> Time {
    let nsec = nanoseconds as u32;
    Time { sec, nsec }
}
