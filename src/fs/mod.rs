//! The operations of the filesystem in plain types, for any kind of view; they can be tested without a mount.
//!
//! Who asks and whether the view may be changed are decided here, once. Names, attributes and bytes are the view's.

mod attributes;
mod directories;
mod files;
mod housekeeping;
mod names;
mod retries;
mod room;
mod xattrs;

pub use attributes::Shown;
pub use directories::Listed;
pub use files::{Opened, Writing};
use retries::Retries;

use crate::actor::Actor;
use crate::attr::Attr;
use crate::cache::{Asking, Kernel, KernelCache, Timeouts};
use crate::chores::{Chore, Chores};
use crate::config::{Config, MountFlags};
use crate::handle::{DirHandle, FileHandle, HandleTable};
use crate::inode::{NodeTable, Place};
use crate::pool::Pool;
use crate::report::{Usage, ViewUsage};
use crate::view::{Content, Found, Reporter, Tree, after_change};
use parking_lot::Mutex;
use rustix::io::{Errno, Result};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Requests at most that wait for room at a time, and for descriptors.
const MAX_WAITING_FOR_ROOM: usize = 16;

/// An inode as the kernel is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its attributes, `ino` being the node id.
    pub attr: Attr,
    /// Tells two lives of one node id apart.
    pub generation: u32,
    /// The kernel is to ask for name and attributes again before it uses them.
    pub ask_again: bool,
    /// Otherwise the kernel is to ask for the attributes again before it uses them.
    pub is_settled: bool,
}

impl Entry {
    /// How long the kernel may believe it, which believes what it is told for as long as `timeouts` say.
    pub fn timeouts(&self, timeouts: Timeouts) -> Timeouts {
        let unless = |asked: bool, timeout| if asked { Duration::ZERO } else { timeout };
        Timeouts {
            attr: unless(self.ask_again || !self.is_settled, timeouts.attr),
            entry: unless(self.ask_again, timeouts.entry),
        }
    }
}

/// One served view.
pub struct Fs<T: Tree> {
    tree: T,
    nodes: Arc<NodeTable<T::Node>>,
    files: HandleTable<FileHandle<T::Open>>,
    dirs: HandleTable<DirHandle<T::Listing>>,
    cache: Arc<KernelCache>,
    settings: Settings,
    chores: Chores,
    /// Taken by the thread that does them.
    undone: Mutex<Option<Receiver<Chore>>>,
    /// Whether open files are being watched, so that an open need not wake anybody up.
    watched: AtomicBool,
    /// Whether some handles of a file may bypass the kernel's cache.
    mixes_direct: AtomicBool,
    retries: Retries<T::Node>,
    /// Threads for requests that wait for room.
    waiting: Arc<Pool>,
    /// Waits for descriptors.
    opening: Arc<Pool>,
    /// How often clients have closed files, and how often they had when an open waited for a descriptor in vain.
    closes: AtomicU64,
    closes_in_vain: AtomicU64,
}

/// What the operations are told at the start.
#[derive(Debug, Clone, Copy)]
struct Settings {
    flags: MountFlags,
    direct_io: bool,
    sync_on_close: bool,
}

impl<T: Tree> std::fmt::Debug for Fs<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fs")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<T: Tree> Fs<T> {
    /// Serves the view that `open` opens: given where to report changes, it returns the view and the table of its
    /// nodes.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn new(
        config: &Config,
        open: impl FnOnce(Reporter) -> io::Result<(T, Arc<NodeTable<T::Node>>)>,
    ) -> io::Result<Arc<Self>> {
        let (sender, undone) = channel();
        let chores = Chores::new(sender);
        let cache = KernelCache::new(Timeouts {
            attr: config.attr_timeout,
            entry: config.entry_timeout,
        });
        let (tree, nodes) = open(Reporter {
            cache: cache.clone(),
            chores: chores.clone(),
        })?;
        Ok(Arc::new(Fs {
            tree,
            nodes,
            files: HandleTable::of_files(),
            dirs: HandleTable::of_directories(),
            cache,
            settings: Settings {
                flags: config.flags,
                direct_io: config.direct_io,
                sync_on_close: config.sync_on_close,
            },
            chores,
            undone: Mutex::new(Some(undone)),
            watched: AtomicBool::new(false),
            mixes_direct: AtomicBool::new(false),
            retries: Retries::new(),
            waiting: Pool::new("room", MAX_WAITING_FOR_ROOM),
            opening: Pool::new("opening", MAX_WAITING_FOR_ROOM),
            closes: AtomicU64::new(1),
            closes_in_vain: AtomicU64::new(0),
        }))
    }

    /// Tells the device number of our own mount, which is never entered.
    pub fn set_own_device(&self, device: u64) {
        self.tree.set_own_device(device);
    }

    /// Some handles of a file may bypass the kernel's cache while others use it: since Linux 6.6 it drops what a write past its cache
    /// replaces, and maps such files.
    pub fn set_mixes_direct(&self) {
        self.mixes_direct.store(true, SeqCst);
    }

    /// The session has begun: `kernel` can be told what it must no longer believe, and chores are done.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn begin(self: &Arc<Self>, kernel: impl Kernel) -> io::Result<()> {
        self.cache.connect(kernel)?;
        self.keep_house()
    }

    /// How long the kernel may believe what it is told.
    pub fn timeouts(&self) -> Timeouts {
        self.cache.timeouts()
    }

    /// What is in use, of which the view uses `view`. Takes no lock.
    pub fn usage(&self, view: ViewUsage) -> Usage {
        Usage {
            open_files: self.files.count() as u64,
            open_directories: self.dirs.count() as u64,
            known_nodes: self.nodes.population() as u64,
            invalidations: self.cache.invalidations(),
            view,
            ..Usage::default()
        }
    }

    /// The view, for what it says of itself without asking the source.
    pub fn tree(&self) -> &T {
        &self.tree
    }

    /// Whether the view itself stands on stacked filesystems, or may do so.
    pub fn is_stacked(&self) -> bool {
        self.tree.is_stacked()
    }

    /// Applies what waits, before the daemon ends.
    pub fn settle(&self) {
        self.files.all().iter().for_each(|file| file.open.settle());
    }

    /// The one place that decides whether the view may be changed.
    fn changing(&self) -> Result<()> {
        match self.settings.flags.read_only {
            true => Err(Errno::ROFS),
            false => Ok(()),
        }
    }

    /// Counts one lookup of what `find` finds, of which the kernel is to be told.
    fn found(&self, find: impl Fn() -> Result<Found<T::Node>>) -> Result<Entry> {
        /// The second look at a number that means another inode by now is a closer one.
        const TRIES: usize = 3;
        for _ in 0..TRIES {
            let asking = self.cache.asking();
            if let Some(entry) = self.remember(find()?, asking) {
                return Ok(entry);
            }
        }
        Err(Errno::STALE)
    }

    /// Counts one lookup of what was found since `asking`. `None` where its number may mean another inode by now.
    fn remember(&self, found: Found<T::Node>, asking: Asking) -> Option<Entry> {
        let Found {
            ref place,
            mut attr,
            seen,
            ..
        } = found;
        let generation = place.generation();
        let stamp = if attr.is_file() { attr.stamp() } else { 0 };
        attr.ino = self.nodes.remember(place.clone(), seen, stamp)?;
        // The number to show is part of GETATTR's answer only.
        let ask_again = self.nodes.shown_number(attr.ino) != attr.ino;
        Some(Entry {
            attr,
            generation,
            ask_again,
            is_settled: self.cache.is_settled(attr.ino, asking),
        })
    }

    /// `by` is about to be told that what it asked for is stale.
    pub fn told_stale(&self, by: &Actor) {
        self.retries.begin(by.pid);
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, node: u64, count: u64) {
        if let Some(forgotten) = self.nodes.forget(node, count) {
            self.cache.forgotten(node);
            self.tree.forget(&forgotten.place);
            if forgotten.trim {
                self.chores.add(Chore::Trim);
            }
        }
    }

    /// With `dirsync`, makes a change of the names in a directory durable before it is answered.
    fn names_changed(&self, dir: &T::Node) -> Result<()> {
        let flags = &self.settings.flags;
        if !flags.dir_sync && !flags.sync {
            return Ok(());
        }
        after_change(|| self.tree.sync_names(dir))
    }
}
