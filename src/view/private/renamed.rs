//! Inodes that the source has renamed away from their changes. The kernel may have pages of them as they were shown before.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::node::Key;
use crate::cache::MAX_REPLY_TIME;

/// By key, until the kernel forgets them.
#[derive(Default)]
pub(super) struct Renamed {
    /// Shown as the source has them, although the store has changes that began with them.
    plain: HashSet<Key>,
    /// The kernel's pages are of the other kind. With the time when it was first told to drop them.
    stale: HashMap<Key, Option<Instant>>,
}

impl Renamed {
    /// The inode is shown without its changes from now on, or with them.
    pub fn shown(&mut self, key: Key, is_plain: bool) {
        let is_new = match is_plain {
            true => self.plain.insert(key),
            false => self.plain.remove(&key),
        };
        if is_new {
            self.stale.insert(key, None);
        }
    }

    /// The changes of the inode were given up.
    pub fn given_up(&mut self, key: Key) {
        self.plain.remove(&key);
        self.stale.insert(key, None);
    }

    /// The inode has changes of its own from now on.
    pub fn adopted(&mut self, key: Key) {
        self.plain.remove(&key);
    }

    /// Whether the inode is shown without the changes that began with it.
    pub fn is_plain(&self, key: Key) -> bool {
        self.plain.contains(&key)
    }

    /// Whether an open has the kernel drop its pages: the first does, and each that comes before the kernel can have the answer.
    pub fn is_stale(&mut self, key: Key) -> bool {
        let Some(told) = self.stale.get_mut(&key) else {
            return false;
        };
        if told.get_or_insert_with(Instant::now).elapsed() >= MAX_REPLY_TIME {
            self.stale.remove(&key);
            return false;
        }
        true
    }

    /// The kernel has forgotten the inode.
    pub fn forget(&mut self, key: Key) {
        self.plain.remove(&key);
        self.stale.remove(&key);
    }
}
