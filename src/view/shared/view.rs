//! The view, put together from its parts.

use super::content::OpenFile;
use super::in_use::InUse;
use super::node::{Node, plain_number};
use super::positions::PositionTables;
use super::removed::Removed;
use super::room::Room;
use super::stream::OpenDir;
use crate::cache::KernelCache;
use crate::config::Config;
use crate::descriptors::{Descriptors, raise_limit};
use crate::inode::{NodeTable, Numbers, ROOT};
use crate::mapping::budget::{AddressSpace, default_budget};
use crate::mapping::{Context, ErrorCounts, guard};
use crate::report::{Share, ViewReport, ViewUsage};
use crate::request::MAX_REQUEST;
use crate::source::{Kind, Lasting, Sources};
use crate::view::{Found, GivesUp, Reporter, Tree, View, Wanted};
use rustix::fs::FileType;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The source as a view.
#[derive(Debug)]
pub struct Shared {
    pub(super) sources: Sources,
    pub(super) nodes: Arc<NodeTable<Node>>,
    pub(super) in_use: InUse,
    pub(super) positions: Arc<PositionTables>,
    pub(super) room: Room,
    pub(super) cache: Arc<KernelCache>,
    pub(super) context: Arc<Context>,
    descriptors: Arc<Descriptors>,
    /// Whether inodes of the root's filesystem are found by exported handles.
    by_handle: bool,
    /// Device and inode number of the root.
    root: (u64, u64),
    removed: Removed,
}

impl Shared {
    /// Lets go of an inode that the table has forgotten, unless it `is_known` all the same.
    pub fn forget_unless(&self, node: &Node, is_known: impl FnOnce() -> bool) {
        let is_known = || self.nodes.remembered(node).is_some() || is_known();
        self.in_use.forget_unless(&node.life(), is_known);
        if node.kind() == Kind::Source(FileType::Directory) {
            self.positions.forget(&node.life());
        }
    }

    /// Opens the source. The view reports its changes to `reporter`. Also returns the node table, which has the root only.
    ///
    /// # Errors
    /// Those of opening the source, and of installing the SIGBUS handler.
    pub fn open(config: &Config, reporter: Reporter) -> io::Result<(Self, Arc<NodeTable<Node>>)> {
        let descriptors = Descriptors::new(raise_limit(), config.threads);
        let budget = config.map_budget.unwrap_or_else(default_budget);
        let context = Context {
            space: AddressSpace::new(budget, config.window_size, u64::from(MAX_REQUEST)),
            handler: guard::install()?,
            write_path: config.write_path,
            no_atime: config.flags.no_atime || config.flags.read_only,
            chores: reporter.chores,
            error_counts: ErrorCounts::default(),
        };
        let (sources, root) = Sources::open(&config.source, config.flags.read_only)?;
        let root_ino = root.attr.ino;
        let (by_handle, numbers_of_root) = (root.source.by_handle, (root.attr.dev, root_ino));
        let numbers = Numbers::new(move |key| plain_number(root_ino, key));
        let node = Node::new(&root, 0, OsStr::new(""));
        let in_use = InUse::new(descriptors.clone());
        let removed = Removed::new(root.fd.clone().filter(|_| !root.source.remote));
        if let Some(fd) = root.fd {
            in_use.keep_until_forgotten(node.life(), fd);
        }
        let nodes = Arc::new(NodeTable::new(node, numbers));
        let shared = Shared {
            sources,
            nodes: nodes.clone(),
            in_use,
            positions: Arc::default(),
            room: Room::new(),
            cache: reporter.cache,
            context: Arc::new(context),
            descriptors,
            by_handle,
            root: numbers_of_root,
            removed,
        };
        Ok((shared, nodes))
    }

    /// The inode number of the root.
    pub fn root_number(&self) -> u64 {
        self.root.1
    }

    /// By what a filesystem of the source is found again. Its path is the one below the source.
    ///
    /// # Errors
    /// ESTALE if there is none with this index.
    pub fn filesystem(&self, index: u32) -> rustix::io::Result<Lasting> {
        let at = |index| self.sources.at(index).ok_or(rustix::io::Errno::STALE);
        let (root, found) = (at(0)?, at(index)?);
        let mut lasting = found.lasting.clone();
        if let Some(below) = lasting.path.strip_prefix(&root.lasting.path[..]) {
            lasting.path = below.strip_prefix(b"/").unwrap_or(below).to_vec();
        }
        Ok(lasting)
    }

    /// The index of the filesystem that begins at a path below the source's root. None: none does now. Symbolic links are not followed.
    ///
    /// # Errors
    /// Those of finding a name, but ENOENT and ENOTDIR.
    pub fn filesystem_at(&self, path: &[u8]) -> rustix::io::Result<Option<u32>> {
        let mut fd = self.directory(&self.nodes.get(ROOT)?)?.fd;
        let (mut above, mut index) = (None, 0);
        for name in path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
        {
            let find = || self.sources.find(fd.as_fd(), OsStr::from_bytes(name));
            let found = match self.in_use.with_room(find) {
                Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
                found => found?,
            };
            let (Kind::Source(_), Some(next)) = (found.kind, found.fd) else {
                return Ok(None);
            };
            (above, index) = (Some(index), found.source.index);
            fd = next;
        }
        Ok((above != Some(index)).then_some(index))
    }

    /// Records that mmfs moved the change stamp of an inode that is not open.
    pub(super) fn stamp_moved(&self, node: &Node, before: u64, after: u64) {
        self.nodes
            .update_cache_state_of(node, |cache_state| cache_state.stamp_moved(before, after));
    }
}

impl View for Shared {
    type Node = Node;
    type Open = OpenFile;
    type Listing = OpenDir;
}

impl GivesUp for Shared {}

impl Tree for Shared {
    fn forget(&self, node: &Node) {
        self.forget_unless(node, || false);
    }

    fn trim(&self) {
        self.in_use.trim();
        self.positions.trim();
    }

    fn hold(&self, found: &Found<Node>) -> bool {
        let fd = found.hold.clone().and_then(|hold| hold.downcast().ok());
        let fd = fd.filter(|_| found.place.kind() != Kind::OwnMount);
        fd.is_some_and(|fd| self.in_use.keep_for_a_moment(found.place.life(), fd))
    }

    fn release_held(&self) -> bool {
        self.in_use.end_moments()
    }

    fn may_make_room(&self, wanted: Wanted) -> bool {
        self.room.may_help(&self.in_use, wanted)
    }

    fn make_room(&self, wanted: Wanted) -> bool {
        self.room.make(&self.in_use, wanted)
    }

    fn closing(&self, open: &OpenFile) {
        self.room.closing(&open.node().life());
    }

    fn check_open_files(&self) {
        for mapping in self.in_use.mappings() {
            mapping.check();
        }
    }

    fn set_own_device(&self, device: u64) {
        self.sources.set_own_device(device);
    }

    fn report(&self) -> ViewReport {
        let [(bytes, budget), (windows, max_windows)] = self.context.space.figures();
        let [files, listings] = self.descriptors.taken();
        let error_counts = &self.context.error_counts;
        let usage = ViewUsage {
            windows: Share {
                used: windows,
                limit: max_windows,
            },
            mapped: Share {
                used: bytes,
                limit: budget,
            },
            file_descriptors: Share::new(files.0, files.1),
            listing_descriptors: Share::new(listings.0, listings.1),
            kept_descriptors: Share::new(self.in_use.kept(), self.descriptors.max_kept()),
            faults: error_counts.faults.load(Relaxed),
            faults_eio: error_counts.faults_eio.load(Relaxed),
            lost_writes: error_counts.lost_writes.load(Relaxed),
        };
        ViewReport {
            usage,
            root: self.root,
            by_handle: self.by_handle,
            removed: self.removed.get(),
            store: None,
        }
    }

    fn is_stacked(&self) -> bool {
        let root = self.nodes.get(ROOT).and_then(|root| self.source_of(&root));
        root.is_ok_and(|source| source.stacked)
    }
}
