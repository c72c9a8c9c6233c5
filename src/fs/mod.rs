//! The operations of the filesystem in plain types, for any kind of view. They can be tested without a mount.
//!
//! This module decides as whom a thread acts, and whether the view may be changed. The view has the names, attributes and bytes.

mod attributes;
mod directories;
mod files;
mod giving_up;
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
use parking_lot::{Mutex, RwLock};
use rustix::io::{Errno, Result};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Maximum number of requests that wait for room at once. As many may wait for descriptors.
const MAX_WAITING_FOR_ROOM: usize = 16;

/// An inode, for a reply that gives the kernel its node id.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its attributes. `ino` is the node id.
    pub attr: Attr,
    /// Tells two inodes apart that had the same node id one after the other.
    pub generation: u32,
    /// Whether the kernel must look up the name again before it uses name or attributes.
    pub ask_again: bool,
    /// Whether the kernel may cache the attributes.
    pub is_settled: bool,
}

impl Entry {
    /// How long the kernel may cache name and attributes. `timeouts` are those of the mount.
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
    /// The housekeeping thread takes it when it starts.
    chore_receiver: Mutex<Option<Receiver<Chore>>>,
    /// Whether the housekeeping thread checks open files. If so, an open adds no chore.
    watched: AtomicBool,
    /// Whether some handles of a file may bypass the kernel's cache while others use it.
    mixes_direct: AtomicBool,
    retries: Retries<T::Node>,
    /// Threads for requests that wait for room.
    waiting: Arc<Pool>,
    /// Threads for opens that wait for a descriptor.
    opening: Arc<Pool>,
    /// How often clients have closed files.
    closes: AtomicU64,
    /// Shared while a request is served. Lock order: before all others. Nobody waits for a request with it.
    serving: RwLock<()>,
    /// The mount's, as soon as it is known.
    own_device: OnceLock<u64>,
    /// The value of `closes` when an open last got no descriptor in time.
    closes_at_timeout: AtomicU64,
}

/// The settings that the operations need.
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
    /// Serves the view that `open` returns, with the table of its nodes. The view reports changes to the `Reporter`.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn new(
        config: &Config,
        open: impl FnOnce(Reporter) -> io::Result<(T, Arc<NodeTable<T::Node>>)>,
    ) -> io::Result<Arc<Self>> {
        let (sender, receiver) = channel();
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
            chore_receiver: Mutex::new(Some(receiver)),
            watched: AtomicBool::new(false),
            mixes_direct: AtomicBool::new(false),
            retries: Retries::new(),
            waiting: Pool::new("room", MAX_WAITING_FOR_ROOM),
            opening: Pool::new("opening", MAX_WAITING_FOR_ROOM),
            closes: AtomicU64::new(1),
            serving: RwLock::new(()),
            own_device: OnceLock::new(),
            closes_at_timeout: AtomicU64::new(0),
        }))
    }

    /// Sets the device number of our own mount. The view never enters it.
    pub fn set_own_device(&self, device: u64) {
        self.tree.set_own_device(device);
        // A mount has one.
        let _ = self.own_device.set(device);
    }

    /// Allows some handles of a file to bypass the kernel's cache while others use it. Linux 6.6 and later can do that: a write
    /// that bypasses the cache drops the pages that it replaces, and such files can be mapped.
    pub fn set_mixes_direct(&self) {
        self.mixes_direct.store(true, SeqCst);
    }

    /// Starts the work that needs a session: notifications about invalid cache contents go to `kernel`, and the housekeeping
    /// thread starts.
    ///
    /// # Errors
    /// Those of pthread_create(3).
    pub fn begin(self: &Arc<Self>, kernel: impl Kernel) -> io::Result<()> {
        self.cache.connect(kernel)?;
        self.start_housekeeping()
    }

    /// How long the kernel may cache names and attributes.
    pub fn timeouts(&self) -> Timeouts {
        self.cache.timeouts()
    }

    /// Usage of the mount. `view` is the view's part of it. Takes no lock.
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

    /// The view, for its report.
    pub fn tree(&self) -> &T {
        &self.tree
    }

    /// Whether the source may lie on a stacked filesystem.
    pub fn is_stacked(&self) -> bool {
        self.tree.is_stacked()
    }

    /// Applies recorded times before the daemon ends.
    pub fn settle(&self) {
        self.files.all().iter().for_each(|file| file.open.settle());
    }

    /// Whether the view must not be changed.
    pub fn is_read_only(&self) -> bool {
        self.settings.flags.read_only
    }

    /// Fails with EROFS if the view must not be changed.
    fn changing(&self) -> Result<()> {
        match self.is_read_only() {
            true => Err(Errno::ROFS),
            false => Ok(()),
        }
    }

    /// Counts one lookup of the inode that `find` returns. Calls `find` again if the inode number has been reused meanwhile.
    fn found(&self, find: impl Fn() -> Result<Found<T::Node>>) -> Result<Entry> {
        const TRIES: usize = 3;
        for _ in 0..TRIES {
            let asking = self.cache.asking();
            if let Some(entry) = self.remember(find()?, asking) {
                return Ok(entry);
            }
        }
        Err(Errno::STALE)
    }

    /// Counts one lookup of `found`, which was looked up after `asking`. `None` if its inode number may have been reused since.
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
        // Only the reply to GETATTR can show an inode number that differs from the node id.
        let ask_again = self.nodes.shown_number(attr.ino) != attr.ino;
        Some(Entry {
            attr,
            generation,
            ask_again,
            is_settled: self.cache.is_settled(attr.ino, asking),
        })
    }

    /// Notes that a request of `by` is answered ESTALE, so that the inodes of its next lookups are held (`retries`).
    pub fn begin_retry(&self, by: &Actor) {
        self.retries.begin(by.pid);
    }

    /// Subtracts `count` from the lookup count of an inode.
    pub fn forget(&self, node: u64, count: u64) {
        if let Some(forgotten) = self.nodes.forget(node, count) {
            self.cache.forgotten(node);
            self.tree.forget(&forgotten.place);
            if forgotten.trim {
                self.chores.add(Chore::Trim);
            }
        }
    }

    /// With `dirsync` or `sync`, makes a change of names in a directory durable.
    fn names_changed(&self, dir: &T::Node) -> Result<()> {
        let flags = &self.settings.flags;
        if !flags.dir_sync && !flags.sync {
            return Ok(());
        }
        after_change(|| self.tree.sync_names(dir))
    }
}
