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

/// How a directory of the source was found. What was found in it has the same one, so it outlasts the kernel's knowledge of the
/// directory.
pub(super) struct Way {
    pub source: shared::Node,
    /// None: it is the root, or only the store knows.
    pub at: Option<At>,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Way").field(&self.source).finish()
    }
}

/// Without recursion: a tree may be deeper than a stack.
impl Drop for Way {
    fn drop(&mut self) {
        let mut at = self.at.take();
        while let Some(mut way) = at.and_then(|at| Arc::into_inner(at.way)) {
            at = way.at.take();
        }
    }
}

/// A name in a directory of the source.
#[derive(Debug, Clone)]
pub(super) struct At {
    pub way: Arc<Way>,
    pub name: Arc<OsStr>,
}

/// An inode of a private view, as plain data to find it again.
#[derive(Debug, Clone)]
pub struct Node {
    pub(super) side: Side,
    pub(super) kind: FileType,
    /// Of an inode of the source: the name by which the source showed it. None: it is the root, or only the store knows.
    pub(super) at: Option<At>,
    /// Of a directory of the source.
    pub(super) way: Option<Arc<Way>>,
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
            way: None,
            is_recorded: true,
        }
    }

    /// An inode that the source shows under a name.
    pub(super) fn of_source(
        source: shared::Node,
        kind: FileType,
        at: Option<At>,
        is_recorded: bool,
    ) -> Self {
        let way = (kind == FileType::Directory).then(|| {
            let (source, at) = (source.clone(), at.clone());
            Arc::new(Way { source, at })
        });
        Self {
            side: Side::Source(source),
            kind,
            at,
            way,
            is_recorded,
        }
    }

    /// A name in this directory, if it is one of the source.
    pub(super) fn name(&self, name: &OsStr) -> Option<At> {
        let (way, name) = (self.way.clone()?, Arc::from(name));
        Some(At { way, name })
    }

    /// The same inode was found under another name.
    pub(super) fn found_as(&mut self, found: &Self) {
        let same = match (&self.at, &found.at) {
            (Some(one), Some(other)) => {
                one.name == other.name && one.way.source == other.way.source
            }
            (_, None) => true,
            (None, _) => false,
        };
        if !same {
            (self.at, self.way) = (found.at.clone(), found.way.clone());
            self.is_recorded = found.is_recorded;
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
