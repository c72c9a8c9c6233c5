//! Looking up names in directories of the source.

use super::node::{Key, Node};
use super::view::Shared;
use crate::attr::Attr;
use crate::chores::PendingTimes;
use crate::inode::{ROOT, Seen};
use crate::mapping::Mapping;
use crate::source::{Inode, Kind, SourceDir};
use crate::view::Found;
use rustix::io::Result;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

impl Shared {
    /// Finds `name` through a descriptor on the directory `parent`, which lies on `source`.
    ///
    /// # Errors
    /// ENOENT if there is none; the others of openat(2).
    pub fn lookup_in(
        &self,
        dir: BorrowedFd<'_>,
        source: &Arc<SourceDir>,
        parent: u64,
        name: &OsStr,
    ) -> Result<Found<Node>> {
        if let Some(attr) = source.stat_name(dir, name)? {
            if let Some(place) = self.recognize(source, &attr) {
                return Ok(self.with_times(Found::seen(place, attr, Seen::Recognized)));
            }
            // The inode is not held. If the table has another inode with its number, it is looked up again and held.
            let seen = source.add_handle(dir, name, attr);
            if let Some(inode) = seen {
                let place = Node::new(&inode, parent, name);
                if !self.is_other_inode(&place) {
                    return Ok(self.with_times(Found::seen(place, attr, Seen::NotHeld)));
                }
            }
        }
        self.lookup_held(dir, parent, name)
    }

    /// As `lookup_in`, and the inode found is held open.
    ///
    /// # Errors
    /// Those of `lookup_in`.
    pub fn lookup_held(
        &self,
        dir: BorrowedFd<'_>,
        parent: u64,
        name: &OsStr,
    ) -> Result<Found<Node>> {
        let inode = self.in_use.with_room(|| self.sources.find(dir, name))?;
        Ok(self.with_times(self.met(inode, parent, name)))
    }

    /// The node whose recorded state equals `attr`. No other inode with its number can have been created in that state (see
    /// `Node::confirmed`).
    fn recognize(&self, source: &SourceDir, attr: &Attr) -> Option<Node> {
        let key = Key {
            source: source.index,
            ino: attr.ino,
        };
        let id = self.nodes.listed_number(key);
        if id == ROOT {
            return None;
        }
        let confirmed =
            |node: &Node| -> Option<Node> { node.is_confirmed_by(key, attr).then(|| node.clone()) };
        self.nodes.with(id, confirmed).ok().flatten()
    }

    /// Whether the table has another inode with this number.
    fn is_other_inode(&self, place: &Node) -> bool {
        let id = self.nodes.number(place.life().key);
        self.nodes.with(id, |known| known != place).unwrap_or(false)
    }

    /// The inode just found as `name` in `parent`. A directory's descriptor is kept within the budget.
    pub fn met(&self, inode: Inode, parent: u64, name: &OsStr) -> Found<Node> {
        let place = Node::new(&inode, parent, name);
        let attr = inode.attr;
        let Some(fd) = inode.fd else {
            return Found::seen(place, attr, Seen::NotHeld);
        };
        // A descriptor on another filesystem would keep that one from being unmounted.
        if place.is_dir() && inode.source.index == 0 {
            self.in_use.keep(place.life(), fd.clone());
        }
        Found::held(place, attr, fd)
    }

    /// Applies times that wait, because attributes are about to be shown. If clients may have stored into the file, the mapping
    /// also gets its attributes.
    fn with_times(&self, mut found: Found<Node>) -> Found<Node> {
        if found.place.kind() == Kind::OwnMount {
            return found;
        }
        let mapping = self.in_use.mapping(&found.place.life());
        let changes = |mapping: &Arc<Mapping>| {
            mapping.apply_times() || self.cache.may_hold_stores(mapping.cache().node())
        };
        if let Some(mapping) = mapping.filter(changes) {
            let fd = mapping.descriptor();
            let attr = fd.and_then(|fd| mapping.attr(fd.as_fd()).ok());
            found.attr = attr.unwrap_or(found.attr);
        }
        found
    }
}
