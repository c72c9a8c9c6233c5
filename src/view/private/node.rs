//! Nodes of a private view: an inode of the source, changed or not, or one that was made in the view.

use std::ffi::OsStr;
use std::sync::Arc;

use rustix::fs::FileType;

use crate::inode::Place;
use crate::store::NodeId;
use crate::view::shared;

/// By what an inode is numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    /// As the source numbers it.
    Source(<shared::Node as Place>::Key),
    /// By the store.
    Own(NodeId),
}

/// Where an inode comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Side {
    /// The source. The store may have changes to it.
    Source(shared::Node),
    /// The store alone.
    Own(NodeId),
}

/// An inode of a private view, as plain data to find it again.
#[derive(Debug, Clone)]
pub struct Node {
    pub(super) side: Side,
    pub(super) kind: FileType,
    /// Of an inode of the source: the node id of the directory and the name in it by which the source showed it. None: the root.
    pub(super) at: Option<(u64, Arc<OsStr>)>,
    /// Whether the store is known to have the name `at`.
    pub(super) is_recorded: bool,
}

impl Node {
    /// An inode that was made in the view.
    pub(super) fn own(id: NodeId, kind: FileType) -> Self {
        Self {
            side: Side::Own(id),
            kind,
            at: None,
            is_recorded: true,
        }
    }

    /// Its inode in the source.
    pub(super) fn source(&self) -> Option<&shared::Node> {
        match &self.side {
            Side::Source(node) => Some(node),
            Side::Own(_) => None,
        }
    }
}

/// Equal: the same inode in the same life.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.side == other.side
    }
}

impl Eq for Node {}

impl Place for Node {
    type Key = Key;

    fn key(&self) -> Key {
        match &self.side {
            Side::Source(node) => Key::Source(node.key()),
            Side::Own(id) => Key::Own(*id),
        }
    }

    fn generation(&self) -> u32 {
        self.source().map_or(0, Place::generation)
    }
}
