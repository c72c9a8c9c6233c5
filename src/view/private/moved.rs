//! A source that was restored or cloned: its files have other inode numbers, and are the same by name, size and time.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Result;

use super::layers::{Layers, errno, kind_of, to_store};
use super::origins::Hold;
use crate::attr::Attr;
use crate::inode::ROOT;
use crate::store::{Name, Node, NodeId};

/// So many names of a directory are read at once.
const NAMES: usize = 1024;

impl Layers {
    /// Whether an inode of a source that was restored or cloned is the one that the node began as.
    pub fn is_restored(&self, stored: &Node, now: &Attr) -> bool {
        let is_kind = kind_of(now.kind()).is_ok_and(|kind| kind == stored.kind);
        let is_same =
            stored.known_size == now.size && stored.known.mtime == Some(to_store(now.mtime));
        self.base_moved && is_kind && (now.is_dir() || is_same)
    }

    /// Finds each changed inode in a source that was restored or cloned, so that the store knows it from then on.
    ///
    /// # Errors
    /// Those of the store and of the source.
    pub fn move_to_new_base(&self) -> Result<()> {
        let mut directories = vec![self.nodes.get(ROOT)?];
        let mut passed = HashSet::new();
        while let Some(dir) = directories.pop() {
            // In a store that mmfs has not written, directories may lie in each other.
            let Some(directory) = self.id(&dir)?.filter(|id| passed.insert(*id)) else {
                continue;
            };
            for (name, id) in self.all_names(directory)? {
                let name = OsStr::from_bytes(&name);
                let found = self.found_at(&dir, directory, name, (id, Hold::IfNeeded))?;
                if found.attr.is_dir() && found.place != dir {
                    directories.push(found.place);
                }
            }
        }
        Ok(())
    }

    fn all_names(&self, directory: NodeId) -> Result<Vec<(Vec<u8>, NodeId)>> {
        let (mut all, mut last) = (Vec::new(), Vec::new());
        loop {
            let names = self.store.names(directory, &last, NAMES).map_err(errno)?;
            let Some((name, _)) = names.last() else {
                return Ok(all);
            };
            last.clone_from(name);
            let shown = names.into_iter().filter_map(|(name, to)| match to {
                Name::Node(id) => Some((name, id)),
                Name::Hidden => None,
            });
            all.extend(shown);
        }
    }
}
