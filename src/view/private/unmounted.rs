//! A private view that is not mounted: what it has changed, and what its files have.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, Result};

use super::changed::{Changed, Left};
use super::compare::reader;
use super::diff::Failed;
use super::layers::{Layers, errno, from_store, to_store};
use crate::attr::{Attr, Time};
use crate::cache::{KernelCache, Timeouts};
use crate::chores::Chores;
use crate::config::{Config, StoreConfig};
use crate::difference::{Detail, Difference};
use crate::inode::Seen;
use crate::store::{Content, DiskFile, Piece, SourceState, Store};
use crate::view::{Attributes as _, Files as _, Found, Names as _, Reporter};

/// So often it begins anew if the source changes meanwhile.
const MOST_TRIES: usize = 5;

/// The layers of a view that no kernel knows.
pub(super) fn layers(
    config: &Config,
    wanted: &StoreConfig,
    store: Arc<Store>,
) -> io::Result<Layers> {
    let never = Timeouts {
        attr: Duration::ZERO,
        entry: Duration::ZERO,
    };
    let (sender, _receiver) = channel();
    let reporter = Reporter {
        cache: KernelCache::new(never),
        chores: Chores::new(sender),
    };
    Layers::open(config, wanted, reporter, store)
}

/// A view that no kernel knows.
pub struct Unmounted {
    pub(super) layers: Layers,
}

/// All that a commit has to know.
#[derive(Debug, Default)]
pub struct Changes {
    /// Names of which the store says something, sorted by path.
    pub changed: Vec<Changed>,
    /// Names of the source that lead to something else in the view, or to nothing, sorted by path.
    pub left: Vec<Left>,
    /// The lines of `mmfs diff`.
    pub differences: Vec<Difference>,
}

/// Attributes that the view does not take from the source. None: it does, or there is none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// Permission bits.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// When it was read.
    pub atime: Option<Time>,
    /// When its bytes or names were changed.
    pub mtime: Option<Time>,
}

impl Unmounted {
    /// Lays `store` over the source of `config`.
    ///
    /// # Errors
    /// Those of opening the source.
    pub fn open(config: &Config, wanted: &StoreConfig, store: Store) -> io::Result<Self> {
        let layers = layers(config, wanted, store.into())?;
        Ok(Self { layers })
    }

    /// How it differs from the source, sorted by path.
    ///
    /// # Errors
    /// The first one that was found on a path.
    pub fn differences(&self, detail: Detail) -> std::result::Result<Vec<Difference>, Failed> {
        self.until_settled(|| self.layers.walked(detail).map(|walk| walk.found))
    }

    /// All that a commit has to know.
    ///
    /// # Errors
    /// The first one that was found on a path.
    pub fn changes(&self) -> std::result::Result<Changes, Failed> {
        let mut changes = self.until_settled(|| {
            let walk = self.layers.walked(Detail::Commit)?;
            Ok(Changes {
                changed: walk.changed,
                left: walk.left,
                differences: walk.found,
            })
        })?;
        let changed = &mut changes.changed;
        changed.sort_by(|one, other| one.spot.path.cmp(&other.spot.path));
        changes.left.sort_by(|one, other| one.way.cmp(&other.way));
        Ok(changes)
    }

    fn until_settled<T>(
        &self,
        look: impl Fn() -> std::result::Result<T, Failed>,
    ) -> std::result::Result<T, Failed> {
        let mut tries = 0;
        loop {
            tries += 1;
            match look() {
                // It was there a moment ago.
                Err((_, Errno::STALE | Errno::NOENT)) if tries < MOST_TRIES => {}
                found => return found,
            }
        }
    }

    /// Whether the bytes of a file of the source are others in the view.
    ///
    /// # Errors
    /// Those of reading both.
    pub fn has_other_bytes(&self, changed: &Changed) -> Result<bool> {
        let (Some(source), true) = (changed.node.source(), changed.attr.is_file()) else {
            return Ok(false);
        };
        let attr = self.layers.below.attr(source)?;
        let old = Found::seen(source.clone(), attr, Seen::Held);
        let now = Found::seen(changed.node.clone(), changed.attr, Seen::Held);
        match self.layers.has_other_bytes((&now, Some(changed.id)), &old) {
            Err(Errno::ACCESS) => Ok(true),
            other => other,
        }
    }

    /// What the source's inode is that a name of the view shows.
    ///
    /// # Errors
    /// ESTALE if the source has lost it.
    pub fn source_attr(&self, changed: &Changed) -> Result<Attr> {
        let source = changed.node.source().ok_or(Errno::STALE)?;
        self.layers.below.attr(source)
    }

    /// What the source's file is that a name of the view shows.
    ///
    /// # Errors
    /// ESTALE if the source has lost it.
    pub fn source_state(&self, changed: &Changed) -> Result<SourceState> {
        let attr = self.source_attr(changed)?;
        let (size, mtime) = (attr.size, to_store(attr.mtime));
        Ok(SourceState { size, mtime })
    }

    /// The path in the source by which its inode was first changed. Empty: nobody knows.
    ///
    /// # Errors
    /// Those of the store.
    pub fn reached(&self, changed: &Changed) -> Result<Vec<u8>> {
        Ok(self.layers.stored(changed.id)?.reached)
    }

    /// Attributes that are the view's own.
    ///
    /// # Errors
    /// Those of the store.
    pub fn overrides(&self, changed: &Changed) -> Result<Overrides> {
        let stored = self.layers.stored(changed.id)?;
        let content = self.layers.store.content(changed.id).map_err(errno)?;
        let mtime = content.and_then(|content| content.mtime);
        Ok(Overrides {
            mode: stored.attributes.mode,
            uid: stored.attributes.uid,
            gid: stored.attributes.gid,
            atime: stored.attributes.atime.map(from_store),
            mtime: mtime.or(stored.attributes.mtime).map(from_store),
        })
    }

    /// Whether the store says something of its extended attributes.
    ///
    /// # Errors
    /// Those of the store.
    pub fn has_xattrs(&self, changed: &Changed) -> Result<bool> {
        let all = self.layers.store.xattrs(changed.id).map_err(errno)?;
        Ok(!all.is_empty())
    }

    /// All extended attributes that the view shows.
    ///
    /// # Errors
    /// Those of the store and of the source.
    pub fn xattrs(&self, changed: &Changed) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut all = Vec::new();
        for name in self.layers.xattr_names(&changed.node)? {
            match self
                .layers
                .xattr_of(&changed.node, OsStr::from_bytes(&name))
            {
                // What a filesystem lists and does not tell is its own.
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                value => all.push((name, value?)),
            }
        }
        Ok(all)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// Those of the store and of the source.
    pub fn target(&self, changed: &Changed) -> Result<Vec<u8>> {
        debug_assert_eq!(changed.attr.kind(), FileType::Symlink);
        match changed.node.source() {
            Some(source) => self.layers.below.read_link(source),
            None => Ok(self.layers.stored(changed.id)?.target),
        }
    }

    /// What the store has of a file's bytes.
    ///
    /// # Errors
    /// Those of the store.
    pub fn content(&self, changed: &Changed) -> Result<Option<Content>> {
        self.layers.store.content(changed.id).map_err(errno)
    }

    /// From which side each byte of a file comes.
    pub fn pieces<'a>(
        &'a self,
        changed: &Changed,
        content: &Content,
    ) -> impl Iterator<Item = io::Result<Piece>> + 'a {
        let size = content.size;
        self.layers.store.pieces(changed.id, content, 0..size)
    }

    /// The file with the bytes that the store has.
    ///
    /// # Errors
    /// Those of the store.
    pub fn data_file(
        &self,
        changed: &Changed,
        content: &Content,
    ) -> Result<Option<Arc<dyn DiskFile>>> {
        let file = self.layers.store.data_file(changed.id, content);
        file.map_err(errno)
    }

    /// Reads bytes of the source's file, whatever the store has. Less than asked for is the end.
    ///
    /// # Errors
    /// Those of opening and reading it.
    pub fn read_source(&self, changed: &Changed, at: u64, to: &mut [u8]) -> Result<usize> {
        let source = changed.node.source().ok_or(Errno::IO)?;
        let open = self.layers.below.open(&reader(), source, OFlags::RDONLY)?;
        open.read_into(to, at)
    }

    /// Its store.
    pub fn store(&self) -> &Store {
        &self.layers.store
    }

    /// Closes the store, if it is not only looked at.
    ///
    /// # Errors
    /// Those of the store.
    pub fn close(self) -> io::Result<()> {
        match self.layers.store.is_closed() {
            true => Ok(()),
            false => self.layers.store.close(),
        }
    }
}
