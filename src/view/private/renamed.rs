//! Inodes that the source has renamed away from their changes. The kernel may have pages of them as they were shown before.

use std::collections::HashSet;

use super::node::Key;

/// By key, until the kernel forgets them.
#[derive(Default)]
pub(super) struct Renamed {
    /// Shown as the source has them, although the store has changes that began with them.
    plain: HashSet<Key>,
    /// The kernel's pages are of the other kind.
    stale: HashSet<Key>,
}

impl Renamed {
    /// The inode is shown without its changes from now on, or with them.
    pub fn shown(&mut self, key: Key, is_plain: bool) {
        let is_new = match is_plain {
            true => self.plain.insert(key),
            false => self.plain.remove(&key),
        };
        if is_new {
            self.stale.insert(key);
        }
    }

    /// The inode has changes of its own from now on.
    pub fn adopted(&mut self, key: Key) {
        self.plain.remove(&key);
    }

    /// Whether the inode is shown without the changes that began with it.
    pub fn is_plain(&self, key: Key) -> bool {
        self.plain.contains(&key)
    }

    /// Whether the kernel has to drop its pages. Only the first open is told so.
    pub fn take_stale(&mut self, key: Key) -> bool {
        self.stale.remove(&key)
    }

    /// The kernel has forgotten the inode.
    pub fn forget(&mut self, key: Key) {
        self.plain.remove(&key);
        self.stale.remove(&key);
    }
}
