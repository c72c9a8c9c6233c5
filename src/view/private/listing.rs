//! Listing directories of a private view: what the source has, at the source's positions, then what only the store has.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::layers::{Layers, errno, from_store};
use super::node::{Key, Node};
use super::own_names::Table;
use crate::inode::{Place, ROOT};
use crate::store::{Name, NodeId};
use crate::view::{DirEntry, Found, HasFlags, Listing, shared};

/// Positions of names that only the store has begin here. The source's shown positions are lower, and all fit into 31 bits.
pub(super) const OWN: u64 = 0x6000_0000;

/// Beyond them are the source's positions in directories of more than a million entries.
pub(super) const OWN_POSITIONS: std::ops::Range<u64> = OWN..1 << 31;

/// An open remembers so many names of the source that it has shown.
const MOST_PLACED: usize = 64 << 10;

/// One open of a directory.
pub struct OpenDir {
    pub(super) layers: Arc<Layers>,
    pub(super) node: Node,
    pub(super) below: Option<shared::OpenDir>,
    /// As of its opening.
    pub(super) stamp: Option<u64>,
    /// What the store has, as soon as it is listed.
    pub(super) own: OnceLock<Arc<Table>>,
    /// Hashes of the source's names that were shown since the listing began. None: it did not begin in this open, or there are too many.
    /// Then the source is asked what it has.
    pub(super) placed: Mutex<Option<HashSet<u64>>>,
    /// The name that was listed last, if the store has it, and what it leads to: who lists with attributes asks for it next.
    pub(super) last: Mutex<Option<(Vec<u8>, Found<Node>)>>,
}

impl OpenDir {
    /// What the name that was listed last leads to.
    pub fn take_listed(&self, name: &OsStr) -> Option<Found<Node>> {
        let mut last = self.last.lock();
        if last.as_ref()?.0 == name.as_bytes() {
            last.take().map(|(_, found)| found)
        } else {
            None
        }
    }

    /// The names that the store has.
    pub(super) fn own_names(&self) -> &Arc<Table> {
        let own_names = &self.layers.own_names;
        self.own.get_or_init(|| own_names.of(self.node.key()))
    }

    /// The listing begins, or begins again.
    pub(super) fn begin(&self) {
        self.set_placed(Some(HashSet::new()));
        self.own_names().begin();
    }

    fn set_placed(&self, to: Option<HashSet<u64>>) {
        let before = std::mem::replace(&mut *self.placed.lock(), to);
        let count = before.map_or(0, |names| names.len());
        self.layers.own_names.forget_placed(count);
    }

    /// A name of the source is shown, or what the store has under it.
    fn place(&self, name: &[u8]) {
        let hash = self.hash(name);
        let mut placed = self.placed.lock();
        let Some(names) = &mut *placed else {
            return;
        };
        let is_new = !names.contains(&hash);
        if is_new && (names.len() >= MOST_PLACED || !self.layers.own_names.may_place()) {
            drop(placed);
            self.set_placed(None);
        } else if is_new {
            names.insert(hash);
        }
    }

    /// Whether a name was shown in the source's place, whatever the source has done with it since. None: this open cannot know.
    fn was_placed(&self, name: &[u8]) -> Option<bool> {
        let hash = self.hash(name);
        self.placed
            .lock()
            .as_ref()
            .map(|placed| placed.contains(&hash))
    }

    fn hash(&self, name: &[u8]) -> u64 {
        self.layers.own_names.hash(name)
    }

    fn put_listed(&self, listed: Option<(Vec<u8>, Found<Node>)>) {
        let before = std::mem::replace(&mut *self.last.lock(), listed);
        if let Some((_, found)) = before {
            self.layers.let_go(&found.place);
        }
    }
}

impl Drop for OpenDir {
    fn drop(&mut self) {
        self.put_listed(None);
        self.set_placed(None);
        if let Some(table) = self.own.take() {
            drop(table);
            self.layers.own_names.ended(self.node.key());
        }
    }
}

impl std::fmt::Debug for OpenDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenDir")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Layers {
    /// The stamp of a directory: the source's, and the time of its last change in the store. What is given up moves no time.
    pub fn stamp(&self, node: &Node, below: Option<&shared::OpenDir>) -> Result<Option<u64>> {
        let below = match below.map(Listing::stamp) {
            Some(None) => return Ok(None),
            stamp => stamp.flatten(),
        };
        let changed = match self.id(node)? {
            Some(id) => self.stored(id)?.attributes.ctime.map(from_store),
            None => None,
        };
        let mut hasher = DefaultHasher::new();
        (below, changed, self.given_up.load(Relaxed)).hash(&mut hasher);
        Ok(Some(hasher.finish() | 1))
    }

    /// What to show of an entry of the source. None: nothing.
    fn over_entry(
        &self,
        listing: &OpenDir,
        directory: Option<NodeId>,
        entry: &DirEntry<'_>,
    ) -> Result<Option<(u64, FileType)>> {
        let name = entry.name.as_bytes();
        if name == b".." {
            return Ok(Some((
                self.parent_of(&listing.node)?.unwrap_or(entry.ino),
                entry.kind,
            )));
        }
        let over = match directory {
            Some(id) if name != b"." => self.store.name(id, name).map_err(errno)?,
            _ => None,
        };
        match over {
            None => Ok(Some((entry.ino, entry.kind))),
            Some(Name::Hidden) => Ok(None),
            Some(Name::Node(_)) => match self.entry_of(listing, entry.name) {
                Err(Errno::NOENT) => Ok(None),
                // Whoever looks it up is told.
                Err(_) => Ok(Some((entry.ino, FileType::Unknown))),
                shown => shown.map(Some),
            },
        }
    }

    /// Whether a name that the store has is shown in the source's place.
    fn is_placed(&self, listing: &OpenDir, name: &OsStr) -> Result<bool> {
        match listing.was_placed(name.as_bytes()) {
            Some(placed) => Ok(placed),
            None => self.is_below(&listing.node, name),
        }
    }

    /// What to show of a name that the store has.
    fn entry_of(&self, listing: &OpenDir, name: &OsStr) -> Result<(u64, FileType)> {
        let found = self.lookup(&listing.node, name)?;
        let ino = self.nodes.listed_number(found.place.key());
        let kind = found.place.kind;
        listing.put_listed(Some((name.as_bytes().to_vec(), found)));
        Ok((ino, kind))
    }

    /// The number of the directory that has this one, if the store knows it.
    fn parent_of(&self, node: &Node) -> Result<Option<u64>> {
        let Some(id) = self.id(node)? else {
            return Ok(None);
        };
        let stored = self.store.node(id).map_err(errno)?;
        let Some((parent, _)) = stored.and_then(|node| node.place) else {
            return Ok(None);
        };
        let parent = self.found(parent)?;
        self.let_go(&parent.place);
        Ok(Some(self.nodes.listed_number(parent.place.key())))
    }

    /// What the source has, then what only the store has.
    pub fn list_all(
        &self,
        listing: &OpenDir,
        directory: Option<NodeId>,
        offset: u64,
        take: &mut impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<bool> {
        let below = listing.below.as_ref();
        let ended = match below.filter(|_| !OWN_POSITIONS.contains(&offset)) {
            Some(below) => self.list_below(listing, directory, (below, offset), take)?,
            None if OWN_POSITIONS.contains(&offset) => true,
            None => self.list_dots(listing, offset, take)?,
        };
        match ended {
            true => self.list_own(listing, directory, offset.saturating_sub(OWN), take),
            false => Ok(false),
        }
    }

    /// What the source has, as the store lets it show. True: that was all.
    fn list_below(
        &self,
        listing: &OpenDir,
        directory: Option<NodeId>,
        (below, offset): (&shared::OpenDir, u64),
        take: &mut impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<bool> {
        let (mut is_full, mut failed) = (false, None);
        let number = |key| self.nodes.listed_number(Key::Source(key));
        let take = |entry: &DirEntry<'_>| match self.over_entry(listing, directory, entry) {
            Ok(None) => true,
            Ok(Some((ino, kind))) => {
                is_full = !take(&DirEntry {
                    ino,
                    kind,
                    ..*entry
                });
                if !is_full {
                    listing.place(entry.name.as_bytes());
                }
                !is_full
            }
            Err(errno) => {
                failed = Some(errno);
                false
            }
        };
        let ended = self.below.list_numbered(below, offset, number, take)?;
        match failed {
            Some(errno) => Err(errno),
            None => Ok(ended && !is_full),
        }
    }

    /// `.` and `..` of a directory that the source does not have. True: there is room for more.
    fn list_dots(
        &self,
        listing: &OpenDir,
        offset: u64,
        take: &mut impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<bool> {
        let own = self.nodes.listed_number(listing.node.key());
        let parent = self.parent_of(&listing.node)?.unwrap_or(ROOT);
        for (position, (name, ino)) in [(".", own), ("..", parent)]
            .into_iter()
            .enumerate()
            .skip(offset as usize)
        {
            let offset = position as u64 + 1;
            let entry = DirEntry {
                ino,
                offset,
                kind: FileType::Directory,
                name: name.as_ref(),
            };
            if !take(&entry) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn list_own(
        &self,
        listing: &OpenDir,
        directory: Option<NodeId>,
        skip: u64,
        take: &mut impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<bool> {
        let Some(directory) = directory else {
            return Ok(true);
        };
        let table = listing.own_names();
        for index in skip as usize.. {
            let name = table.at(index, &self.store, directory).map_err(errno)?;
            let Some(name) = name else {
                break;
            };
            let name = OsStr::from_bytes(&name);
            // What was removed or renamed since is not shown. What was replaced is. What the source has, too, was shown in its place.
            let id = match self.store.name(directory, name.as_bytes()).map_err(errno)? {
                Some(Name::Node(id)) if !self.is_placed(listing, name)? => id,
                _ => continue,
            };
            let (ino, kind) = match self.entry_of(listing, name) {
                Err(Errno::NOENT) => continue,
                Err(_) => (id.0, FileType::Unknown),
                Ok(shown) => shown,
            };
            let entry = DirEntry {
                ino,
                offset: OWN + index as u64 + 1,
                kind,
                name,
            };
            if !take(&entry) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Listing for OpenDir {
    fn stamp(&self) -> Option<u64> {
        self.stamp
    }

    fn may_be_cached(&self) -> bool {
        self.below.as_ref().is_none_or(Listing::may_be_cached)
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        self.layers.store.sync_names().map_err(errno)
    }
}

impl HasFlags for OpenDir {}
