//! Names found in directories, and what the kernel is told of them: every lookup counts.

use super::node::{Key, Life, Node};
use super::{Entry, InodeTable, ROOT};
use crate::attr::Attr;
use crate::source::{Found, SourceDir};
use rustix::io::Result;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

impl InodeTable {
    /// Finds `name` in the directory `parent` and counts one lookup of it.
    ///
    /// # Errors
    /// ENOENT when there is none; ESTALE when the parent is gone.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Entry> {
        let dir = self.directory(parent)?;
        self.lookup_in(dir.as_fd(), &dir.source, parent, name)
    }

    /// As `lookup`, through a descriptor on the directory `parent`, which lies on `source`.
    ///
    /// # Errors
    /// ENOENT when there is none; the others of openat(2).
    pub fn lookup_in(
        &self,
        dir: BorrowedFd<'_>,
        source: &Arc<SourceDir>,
        parent: u64,
        name: &OsStr,
    ) -> Result<Entry> {
        if let Some(attr) = source.glimpse(dir, name)? {
            if let Some(entry) = self.recognize(source, attr) {
                return Ok(entry);
            }
            // Nothing holds what was only looked at: where its number means another inode by now, look again.
            let seen = source.confirm(dir, name, attr);
            if let Some(found) = seen.filter(|found| !self.contradicts(found)) {
                return Ok(self.remember(found, parent, name));
            }
        }
        let found = self.with_room(|| self.sources.find(dir, name))?;
        Ok(self.remember(found, parent, name))
    }

    /// Counts one lookup of an inode that is remembered in the very state just seen, which no other life of its
    /// number can have been born in (see `Node::settled`).
    fn recognize(&self, source: &SourceDir, mut attr: Attr) -> Option<Entry> {
        let key = Key {
            source: source.index,
            ino: attr.ino,
        };
        let id = self.numbers.shown(key);
        let mut shard = self.shard(id);
        let node = shard.get_mut(&id)?;
        if id == ROOT || !node.is_settled(key, &attr) {
            return None;
        }
        node.lookups += 1;
        attr.ino = id;
        Some(node.entry(attr))
    }

    /// Whether another life of the inode's number is remembered.
    fn contradicts(&self, found: &Found) -> bool {
        let life = Life::of(found);
        let id = self.numbers.id(life.key);
        let shard = self.shard(id);
        shard.get(&id).is_some_and(|node| !node.is(&life, found))
    }

    /// Counts one lookup of an inode just found under `name` in `parent`.
    pub fn remember(&self, found: Found, parent: u64, name: &OsStr) -> Entry {
        let life = Life::of(&found);
        let (id, mut shard) = self.number_and_shard(life.key);
        let mut attr = found.attr;
        attr.ino = id;
        if id == ROOT {
            return Entry {
                attr,
                generation: life.generation,
                open: false,
            };
        }
        // A descriptor kept on another filesystem would keep it from being unmounted.
        let keep = attr.is_dir() && !found.veiled && found.source.index == 0;
        let node = match shard.get_mut(&id) {
            Some(node) if node.is(&life, &found) => {
                node.found_again(parent, name);
                node
            }
            Some(node) => {
                // Another life of a reused number: the kernel forgets the old one after this lookup.
                let lookups = node.lookups;
                **node = Node::new(&found, parent, name);
                node.lookups = lookups;
                node
            }
            None => shard
                .entry(id)
                .or_insert(Box::new(Node::new(&found, parent, name))),
        };
        node.lookups += 1;
        node.settle(&found);
        let entry = node.entry(attr);
        if keep && node.descriptor.is_none() {
            node.descriptor = found.fd;
            drop(shard);
            self.cached(id);
        }
        entry
    }

    /// Counts a lookup that was shown to the kernel without the inode having been looked at. An inode that
    /// is not remembered needs no count: forgetting it later is no news.
    pub fn count(&self, id: u64) {
        if let Some(node) = self.shard(id).get_mut(&id) {
            node.lookups += 1;
        }
    }
}
