//! Listing directories of a private view: what the source has, at the source's positions, then what only the store has.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::FileType;
use rustix::io::Result;

use super::layers::{Layers, errno, from_store};
use super::node::Node;
use crate::inode::{Place, ROOT};
use crate::store::{Name, NodeId};
use crate::view::{DirEntry, Found, HasFlags, Listing, shared};

/// Positions of names that only the store has begin here. The source's shown positions are lower, and all fit into 31 bits.
pub(super) const OWN: u64 = 0x6000_0000;

/// Beyond them are the source's positions in directories of more than a million entries.
pub(super) const OWN_POSITIONS: std::ops::Range<u64> = OWN..1 << 31;

/// One open of a directory.
pub struct OpenDir {
    pub(super) layers: Arc<Layers>,
    pub(super) node: Node,
    pub(super) below: Option<shared::OpenDir>,
    /// As of its opening.
    pub(super) stamp: Option<u64>,
    /// Names that the store had when the listing first came to them, sorted.
    pub(super) own: OnceLock<Vec<Vec<u8>>>,
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
    /// The stamp of a directory: the source's, and the time of its last change in the store.
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
        (below, changed).hash(&mut hasher);
        Ok(Some(hasher.finish() | 1))
    }

    /// What to show of an entry of the source. None: nothing.
    pub fn over_entry(
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
            Some(Name::Node(_)) => self.entry_of(listing, entry.name).map(Some),
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

    /// `.` and `..` of a directory that the source does not have. True: there is room for more.
    pub fn list_dots(
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

    pub fn list_own(
        &self,
        listing: &OpenDir,
        directory: Option<NodeId>,
        skip: u64,
        take: &mut impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<bool> {
        let Some(directory) = directory else {
            return Ok(true);
        };
        let names = match listing.own.get() {
            Some(names) => names,
            None => {
                let names = self.own_names(listing, directory)?;
                listing.own.get_or_init(|| names)
            }
        };
        for (index, name) in names.iter().enumerate().skip(skip as usize) {
            let name = OsStr::from_bytes(name);
            // What was removed or renamed since is not shown. What was replaced is.
            match self.store.name(directory, name.as_bytes()).map_err(errno)? {
                Some(Name::Node(_)) => {}
                _ => continue,
            }
            let Ok((ino, kind)) = self.entry_of(listing, name) else {
                continue;
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

    /// The names that the store has in a directory, and the source has not.
    fn own_names(&self, listing: &OpenDir, directory: NodeId) -> Result<Vec<Vec<u8>>> {
        let (mut own, mut last) = (Vec::new(), Vec::new());
        loop {
            let names = self.store.names(directory, &last, 1024).map_err(errno)?;
            let Some((name, _)) = names.last() else {
                return Ok(own);
            };
            last = name.clone();
            for (name, leads) in names {
                let is_shown = matches!(leads, Name::Node(_));
                if is_shown && !self.is_below(&listing.node, OsStr::from_bytes(&name))? {
                    own.push(name);
                }
            }
        }
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
