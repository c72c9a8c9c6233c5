//! What the kernel knows of inodes of the source that a view has deleted, and shows again when its changes are given up.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::layers::{Layers, errno};
use super::node::{Key, Node};
use super::touched::Touched;
use crate::inode::Place as _;
use crate::store::{Name, NodeId, Place};
use crate::view::Used;

impl Layers {
    /// The name that hides an inode of the source: its own, or that of a directory above it. None: it is shown.
    fn hidden_by(&self, node: &Node) -> Result<Option<Place>> {
        let (mut current, mut passed) = (node.clone(), HashSet::new());
        while let Some(at) = current.at.clone() {
            if !passed.insert(current.key()) {
                return Err(Errno::STALE);
            }
            // A directory that the store has under a name is shown there.
            let own = self.id(&current)?;
            if let Some(id) = own.filter(|_| current.kind == FileType::Directory) {
                if self.has_name(id)? {
                    return Ok(None);
                }
            }
            let directory = self.directory_of(&at);
            if let Some(id) = self.id(&directory)? {
                let name = at.name.as_bytes();
                let leads = self.store.name(id, name).map_err(errno)?;
                let is_shown = match leads {
                    None => true,
                    Some(Name::Hidden) => false,
                    Some(Name::Node(other)) => own == Some(other),
                };
                if !is_shown {
                    return Ok(Some((id, name.to_vec())));
                }
            }
            current = directory;
        }
        Ok(None)
    }

    /// Whether a name leads to a directory of the store. One that was deleted remembers the last.
    fn has_name(&self, id: NodeId) -> Result<bool> {
        let Some((directory, name)) = self.stored(id)?.place else {
            return Ok(false);
        };
        let leads = self.store.name(directory, &name).map_err(errno)?;
        Ok(leads == Some(Name::Node(id)))
    }

    /// Paths of deleted directories that would be shown again, and that the kernel still has. It lets nobody use such an inode any more.
    pub(super) fn dead_directories(&self, touched: &Touched) -> Vec<Vec<u8>> {
        if !touched.has_hidden() {
            return Vec::new();
        }
        let mut found = Vec::new();
        self.nodes.for_each(|_, node| {
            if node.kind == FileType::Directory && node.source().is_some() {
                let hidden = self.hidden_by(node).ok().flatten();
                found.extend(hidden.filter(|place| touched.renames(place)));
            }
        });
        found
            .iter()
            .map(|place| touched.path_of_name(place))
            .collect()
    }

    /// Paths of directories that get another path, and below which programs work or have a directory open.
    pub(super) fn used_below(&self, touched: &Touched, used: &Used) -> Vec<Vec<u8>> {
        let moving: HashSet<NodeId> = touched.directories().collect();
        let mut found = Vec::new();
        if moving.is_empty() {
            return found;
        }
        self.nodes.for_each(|number, node| {
            let shown = self.nodes.shown_number(number);
            if used.open.contains(&number) || used.working.contains(&shown) {
                let above = touched.with_above(self.nearest(node));
                let above = above.into_iter().find(|id| moving.contains(id));
                found.extend(above.map(|id| touched.path(id)));
            }
        });
        found
    }

    /// The store's node of an inode, or of the nearest directory above it that has one.
    fn nearest(&self, node: &Node) -> Option<NodeId> {
        let (mut current, mut passed) = (node.clone(), HashSet::new());
        loop {
            if let Some(id) = self.id(&current).ok().flatten() {
                return Some(id);
            }
            let at = current.at.clone()?;
            if !passed.insert(current.key()) {
                return None;
            }
            current = self.directory_of(&at);
        }
    }

    /// Deleted inodes of the source are no longer taken for deleted, if they are shown.
    pub(super) fn are_shown_again(&self) {
        let gone: HashSet<Key> = self.gone.lock().clone();
        if gone.is_empty() {
            return;
        }
        let mut shown = Vec::new();
        self.nodes.for_each(|_, node| {
            if gone.contains(&node.key()) && matches!(self.hidden_by(node), Ok(None)) {
                shown.push(node.key());
            }
        });
        let mut gone = self.gone.lock();
        shown.iter().for_each(|key| _ = gone.remove(key));
    }
}
