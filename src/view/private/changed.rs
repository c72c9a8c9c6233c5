//! What a commit has to know of a name of the view, or of the source, beyond the line that `mmfs diff` prints.

use super::node::{Key, Node};
use crate::attr::Attr;
use crate::difference::Difference;
use crate::inode::Place as _;
use crate::store::NodeId;
use crate::view::{Found, shared};

/// Where a name stands.
#[derive(Debug, Clone)]
pub struct Spot {
    /// The path in the view. That of the root is empty.
    pub path: Vec<u8>,
    /// The path of this name in the source, if the source has its directory.
    pub way: Option<Vec<u8>>,
    /// The directory in the store and the name, if the store has it.
    pub name: Option<(NodeId, Vec<u8>)>,
}

/// A name of the view of which the store says something.
#[derive(Debug, Clone)]
pub struct Changed {
    /// Where it stands.
    pub spot: Spot,
    /// How it differs. None: not, but for times.
    pub difference: Option<Difference>,
    /// The node in the store.
    pub id: NodeId,
    /// What the view shows.
    pub attr: Attr,
    /// What the source has there, or had under the name from which it was renamed.
    pub old: Option<Attr>,
    /// Whether that is the same inode.
    pub is_same: bool,
    pub(super) node: Node,
}

impl Changed {
    pub(super) fn new(
        spot: Spot,
        (now, id): (&Found<Node>, NodeId),
        old: Option<&Found<shared::Node>>,
        difference: Option<Difference>,
    ) -> Self {
        let source = now.place.source();
        Self {
            spot,
            difference,
            id,
            attr: now.attr,
            old: old.map(|old| old.attr),
            is_same: source.is_some() && old.map(|old| &old.place) == source,
            node: now.place.clone(),
        }
    }

    /// The same for all names of an inode of the view.
    pub fn key(&self) -> Key {
        self.node.key()
    }

    /// Whether the view shows an inode of the source, changed or not.
    pub fn is_of_source(&self) -> bool {
        self.node.source().is_some()
    }
}

/// What becomes of a name of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The view has the inode elsewhere.
    Moved,
    /// The view has nothing there.
    Deleted,
    /// The view has something else there.
    Replaced,
    /// A directory in whose place the view has one of its own: what both have in it counts.
    Merged,
}

/// A name of the source that leads to something else in the view, or to nothing.
#[derive(Debug, Clone)]
pub struct Left {
    /// The path in the source.
    pub way: Vec<u8>,
    /// What the source has there.
    pub attr: Attr,
    /// What becomes of it.
    pub fate: Fate,
    /// The directory in the store and the name, if it is not gone with its directory.
    pub name: Option<(NodeId, Vec<u8>)>,
    /// The node that counts the links of a file with several.
    pub node: Option<NodeId>,
}
