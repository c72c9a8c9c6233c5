//! The private view, put together from its parts.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use rustix::fs::FileType;

use super::caches::Caches;
use super::conflicts::Conflicts;
use super::content::OpenFile;
use super::file_locks::FileLocks;
use super::filesystems::Filesystems;
use super::freeing::Freeing;
use super::layers::{Layers, errno};
use super::listing::OpenDir;
use super::node::{Key, Node, Side};
use super::own_names::OwnNames;
use crate::config::{Config, OnSourceChange, StoreConfig};
use crate::inode::{NodeTable, Numbers, Place, ROOT};
use crate::report::{MAX_CONFLICTS, StoreReport, ViewReport};
use crate::store::keeper::Keeper;
use crate::store::{Change, NodeId, Store};
use crate::view::shared::{self, Shared, plain_number};
use crate::view::{Found, Reporter, Tree, View, Wanted};

/// The source with a store over it.
pub struct Private {
    pub(super) layers: Arc<Layers>,
    /// Makes barriers until the view goes.
    keeper: Mutex<Option<Keeper>>,
    /// The store's, for status.
    pub(super) directory: PathBuf,
    limit: Option<u64>,
}

impl std::fmt::Debug for Private {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Private").finish_non_exhaustive()
    }
}

/// The source, its inodes that the kernel knows, and the store's numbers of its filesystems.
type Below = (Arc<Shared>, Arc<NodeTable<shared::Node>>, Arc<Filesystems>);

impl Layers {
    /// Lays `store` over the source, which is opened to be read only.
    ///
    /// # Errors
    /// Those of opening the source.
    pub fn open(
        config: &Config,
        wanted: &StoreConfig,
        reporter: Reporter,
        store: impl Into<Arc<Store>>,
    ) -> io::Result<Self> {
        let mut read_only = config.clone();
        read_only.flags.read_only = true;
        let caches = Caches::new(reporter.cache.clone());
        let (below, below_nodes) = Shared::open(&read_only, reporter)?;
        let filesystems = Arc::new(Filesystems::default());
        let below = (Arc::new(below), below_nodes, filesystems);
        let how = (wanted.on_source_change, wanted.base_moved);
        Self::laid_over(below, Arc::new(caches), store.into(), how)
    }

    /// The same source with another store over it, or with the same one, to look at while the kernel knows the view. It has a table of
    /// nodes of its own, and leaves the view's alone. [`Layers::looked`] comes afterwards.
    ///
    /// # Errors
    /// ESTALE without a root.
    pub fn to_look_at(&self, store: Arc<Store>) -> io::Result<Self> {
        let filesystems = self.filesystems.clone();
        let below = (self.below.clone(), self.below_nodes.clone(), filesystems);
        let how = (self.on_source_change, self.base_moved);
        let layers = Self::laid_over(below, self.caches.clone(), store, how)?;
        Ok(Self {
            looked_at: Some(Mutex::default()),
            ..layers
        })
    }

    /// Forgets what the source's table knows because of a look.
    pub fn looked(&self, layers: Self) {
        let nodes = layers.looked_at.map(Mutex::into_inner).unwrap_or_default();
        for node in nodes {
            self.let_go(&Node::of_source(node, FileType::Unknown, None, false));
        }
    }

    fn laid_over(
        (below, below_nodes, filesystems): Below,
        caches: Arc<Caches>,
        store: Arc<Store>,
        (on_source_change, base_moved): (OnSourceChange, bool),
    ) -> io::Result<Self> {
        let root = below_nodes.get(ROOT)?;
        let root_ino = below.root_number();
        let known = filesystems.clone();
        let numbers = Numbers::new(move |key| match key {
            // The same after each mount, in whatever order the filesystems are found.
            // An overlay's numbers may be as large as those of the view's own inodes.
            Key::Source(key) => plain_number(root_ino, key.renumbered(|index| known.shown(index))?)
                .filter(|number| NodeId::checked(*number).is_err()),
            Key::Own(id) => Some(id.0),
        });
        let root = Node::of_source(root, FileType::Directory, None, false);
        let nodes = Arc::new(NodeTable::new(root, numbers));
        Ok(Layers {
            below,
            below_nodes,
            on_source_change,
            base_moved,
            caches,
            store,
            nodes,
            recording: Mutex::new(()),
            made: AtomicU64::new(0),
            bytes: FileLocks::default(),
            gone: Mutex::new(HashSet::new()),
            renamed: Mutex::default(),
            conflicts: Conflicts::default(),
            own_names: OwnNames::default(),
            passed: Mutex::default(),
            filesystems,
            freeing: Freeing::default(),
            given_up: AtomicU64::new(0),
            looked_at: None,
        })
    }
}

impl Private {
    /// Lays `store`, which is in `directory`, over the source. `sweeps`: the store was not closed, and has data files that nothing needs.
    ///
    /// # Errors
    /// Those of opening the source, and of starting a thread.
    pub fn open(
        config: &Config,
        wanted: &StoreConfig,
        reporter: Reporter,
        store: Store,
        (directory, sweeps): (PathBuf, bool),
    ) -> io::Result<(Self, Arc<NodeTable<Node>>)> {
        let layers = Layers::open(config, wanted, reporter, store)?;
        let keeper = Keeper::start(&layers.store, sweeps)?;
        let nodes = layers.nodes.clone();
        if wanted.base_moved {
            layers.move_to_new_base()?;
        }
        let view = Self {
            layers: Arc::new(layers),
            keeper: Mutex::new(Some(keeper)),
            directory,
            limit: wanted.limit,
        };
        Ok((view, nodes))
    }

    /// Makes everything durable and closes the store.
    ///
    /// # Errors
    /// Those of the store.
    pub fn end(&self) -> io::Result<()> {
        drop(self.keeper.lock().take());
        // The kernel need not have told of each last close.
        let removed = self.layers.store.remove_deleted();
        self.layers.store.close()?;
        removed.map(drop)
    }
}

impl View for Private {
    type Node = Node;
    type Open = OpenFile;
    type Listing = OpenDir;
}

impl Tree for Private {
    const TRUNCATES_AT_OPEN: bool = true;

    fn forget(&self, node: &Node) {
        let layers = &self.layers;
        if layers.nodes.remembered(node).is_some() {
            return;
        }
        layers.gone.lock().remove(&node.key());
        layers.renamed.lock().forget(node.key());
        if let Ok(Some(id)) = layers.id(node) {
            let _recording = layers.recording.lock();
            // The kernel may know the file by its other key, too. It goes when the view ends then.
            let is_known = match &node.side {
                Side::Source(_) => {
                    let own = Node::own(id, node.kind);
                    layers.nodes.remembered(&own).is_some()
                }
                Side::Own(_) => layers
                    .stored(id)
                    .is_ok_and(|stored| stored.origin.is_some()),
            };
            if !is_known && layers.store.is_orphan(id).unwrap_or(false) {
                layers.conflicts.remove(id);
                if let Err(error) = layers.store.change(vec![Change::Remove(id)]) {
                    log::warn!(
                        "a file that was deleted stays in the store until the next mount: {error}"
                    );
                }
            }
        }
        layers.let_go(node);
    }

    fn trim(&self) {
        self.layers.below.trim();
    }

    fn hold(&self, found: &Found<Node>) -> bool {
        match &found.place.side {
            Side::Own(_) => false,
            Side::Source(source) => {
                self.layers.remember_again(source);
                self.layers.below.hold(&Found {
                    place: source.clone(),
                    attr: found.attr,
                    seen: found.seen,
                    hold: found.hold.clone(),
                })
            }
        }
    }

    fn release_held(&self) -> bool {
        self.layers.below.release_held()
    }

    fn may_make_room(&self, _wanted: Wanted) -> bool {
        self.layers.freeing.may_help()
    }

    fn make_room(&self, _wanted: Wanted) -> bool {
        self.layers.freeing.wait()
    }

    fn closing(&self, open: &OpenFile) {
        let layers = &self.layers;
        let is_deleted = || -> rustix::io::Result<bool> {
            let id = layers.id(&open.node)?;
            id.map_or(Ok(false), |id| layers.store.is_orphan(id).map_err(errno))
        };
        if layers.freeing.is_used() && is_deleted().unwrap_or(false) {
            layers.freeing.soon();
        }
    }

    fn check_open_files(&self) {
        self.layers.below.check_open_files();
    }

    fn set_own_device(&self, device: u64) {
        self.layers.below.set_own_device(device);
    }

    fn report(&self) -> ViewReport {
        let layers = &self.layers;
        let store = StoreReport {
            directory: self.directory.clone(),
            used: layers.store.used(),
            limit: self.limit,
            conflicts: layers.conflicts.count(),
            conflicting: layers.conflicts.ways(MAX_CONFLICTS),
        };
        ViewReport {
            store: Some(store),
            ..layers.below.report()
        }
    }

    fn is_stacked(&self) -> bool {
        crate::source::is_stacked(&self.directory)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::super::testing::view_of;
    use super::*;
    use crate::view::{Attributes as _, Names as _};

    /// Another request finds the directory while FORGET of it is served. procfs has no exported handles, so that its files are found
    /// by their directories.
    #[test]
    fn what_is_found_while_it_is_forgotten_leads_to_its_files() {
        let place = tempfile::tempdir().unwrap();
        let (view, nodes) = view_of("/proc/sys".into(), place.path().join("store"));
        let root = nodes.get(ROOT).unwrap();
        let find = || view.lookup(&root, OsStr::new("kernel")).unwrap();
        let count = |found: Found<Node>| nodes.remember(found.place, found.seen, 0).unwrap();
        let number = count(find());
        let forgotten = nodes.forget(number, 1).unwrap();
        let found = find();
        view.forget(&forgotten.place);
        let directory = found.place.clone();
        assert_eq!(count(found), number);
        let file = view.lookup(&directory, OsStr::new("ostype")).unwrap();
        assert!(!file.place.source().unwrap().is_found_by_handle());
        view.attr(&file.place).unwrap();
        view.end().unwrap();
    }
}
