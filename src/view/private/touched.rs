//! What giving changes up touches: nodes and names of the store, and what the kernel knows of them.

use std::collections::{HashMap, HashSet};
use std::io;

use super::layers::Layers;
use super::node::{Node, Side};
use crate::cache::Withdrawn;
use crate::difference::joined;
use crate::store::{self, Change, Kind, Name, NodeId, Place, Store};

/// What the store has before changes are given up, and what these touch.
pub(super) struct Touched {
    nodes: HashMap<NodeId, store::Node>,
    names: HashMap<Place, Name>,
    places: HashMap<NodeId, Vec<Place>>,
    /// Nodes that are removed. A file of the source may have another one afterwards.
    pub removed: HashSet<NodeId>,
    /// Directories that get another name, the one that they have in the source.
    moved: HashSet<NodeId>,
    /// These, and all others of which anything changes.
    touched: HashSet<NodeId>,
    /// Names that lead elsewhere, or to another node of the same inode.
    renamed: HashSet<Place>,
    /// Names that lead to nothing from now on.
    hidden: HashSet<Place>,
}

/// What the kernel knows, by the store's nodes: node ids, and what is found by them.
pub(super) type Known = HashMap<NodeId, Vec<(u64, Node)>>;

impl Touched {
    /// What these changes touch.
    pub fn by(store: &Store, changes: &[Vec<Change>]) -> io::Result<Self> {
        let mut this = Self {
            nodes: store.all_nodes()?.into_iter().collect(),
            names: store.all_names()?.into_iter().collect(),
            places: HashMap::new(),
            removed: HashSet::new(),
            moved: HashSet::new(),
            touched: HashSet::new(),
            renamed: HashSet::new(),
            hidden: HashSet::new(),
        };
        for (place, leads) in &this.names {
            if let Name::Node(id) = leads {
                this.places.entry(*id).or_default().push(place.clone());
            }
        }
        changes.iter().flatten().for_each(|change| this.add(change));
        for (place, leads) in &this.names {
            let leads_away = matches!(leads, Name::Node(id) if this.removed.contains(id));
            if leads_away || this.removed.contains(&place.0) {
                this.renamed.insert(place.clone());
            }
        }
        let directories = this.renamed.iter().map(|place| place.0);
        this.touched.extend(directories);
        Ok(this)
    }

    fn add(&mut self, change: &Change) {
        match change {
            Change::Name {
                directory,
                name,
                to,
                ..
            } => {
                let place = (*directory, name.clone());
                match to {
                    Some(Name::Hidden) => _ = self.hidden.insert(place.clone()),
                    Some(Name::Node(id)) if self.is_directory(*id) => _ = self.moved.insert(*id),
                    _ => {}
                }
                self.renamed.insert(place);
            }
            Change::Remove(id) => {
                self.removed.insert(*id);
                self.touched.insert(*id);
            }
            Change::Attributes(id, _)
            | Change::Links(id, _)
            | Change::Opaque(id, _)
            | Change::Origin(id, _)
            | Change::Orphan(id, _)
            | Change::Reset(id)
            | Change::Truncate { node: id, .. }
            | Change::Xattr(id, ..) => _ = self.touched.insert(*id),
            Change::Make(..) | Change::Filesystem(..) => {}
        }
    }

    pub fn is_directory(&self, id: NodeId) -> bool {
        let node = self.nodes.get(&id);
        node.is_some_and(|node| node.kind == Kind::Directory)
    }

    /// Whether a name leads to the inode that the source has there.
    fn is_at_home(&self, id: NodeId, place: &Place) -> bool {
        let (Some(node), Some(parent)) = (self.nodes.get(&id), self.nodes.get(&place.0)) else {
            return false;
        };
        let have_origins = node.origin.is_some() && parent.origin.is_some();
        have_origins && joined(&parent.reached, &place.1) == node.reached
    }

    fn places(&self, id: NodeId) -> &[Place] {
        self.places.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Directories that go, or that get another name.
    pub fn directories(&self) -> impl Iterator<Item = NodeId> {
        let removed = self.removed.iter().copied();
        let removed = removed.filter(|id| self.is_directory(*id) && !self.stays(*id));
        removed.chain(self.moved.iter().copied())
    }

    /// Whether the view shows a directory where the source has it, or not at all.
    fn stays(&self, id: NodeId) -> bool {
        let is_own = self.nodes.get(&id).is_none_or(|node| node.origin.is_none());
        let mut places = self.places(id).iter();
        !is_own && places.all(|place| self.is_at_home(id, place))
    }

    /// A path by which the view shows a node. One that was deleted: its path in the source.
    pub fn path(&self, id: NodeId) -> Vec<u8> {
        let (mut parts, mut at, mut passed) = (Vec::new(), id, HashSet::new());
        while let Some((directory, name)) = self.places(at).iter().min() {
            if !passed.insert(at) {
                break;
            }
            parts.push(name.as_slice());
            at = *directory;
        }
        parts.reverse();
        match (parts.is_empty(), self.nodes.get(&id)) {
            (true, Some(node)) => node.reached.clone(),
            _ => parts.join(&b'/'),
        }
    }

    /// Whether a name that hides one of the source leads elsewhere from now on.
    pub fn has_hidden(&self) -> bool {
        let names = self.renamed.iter();
        let mut names = names.filter_map(|place| Some((place, self.names.get(place)?)));
        names.any(|(place, leads)| match leads {
            Name::Hidden => !self.hidden.contains(place),
            Name::Node(id) => !self.is_at_home(*id, place),
        })
    }

    /// Whether a name leads elsewhere from now on.
    pub fn renames(&self, place: &Place) -> bool {
        self.renamed.contains(place) && !self.hidden.contains(place)
    }

    /// A node, and the directories above it.
    pub fn with_above(&self, node: Option<NodeId>) -> Vec<NodeId> {
        let (mut all, mut at) = (Vec::new(), node);
        while let Some(id) = at.filter(|id| !all.contains(id)) {
            all.push(id);
            at = self.places(id).iter().min().map(|place| place.0);
        }
        all
    }

    /// The path of a name in a directory.
    pub fn path_of_name(&self, (directory, name): &Place) -> Vec<u8> {
        joined(&self.path(*directory), name)
    }

    /// Where the source has what the view shows as the source has it from now on.
    pub fn homes(&self) -> impl Iterator<Item = (NodeId, &[u8])> {
        let with_home = |id: &NodeId| {
            let node = self.nodes.get(id)?;
            let is_source = node.origin.is_some() && !node.reached.is_empty();
            is_source.then_some((*id, node.reached.as_slice()))
        };
        let all = self.removed.iter().chain(&self.moved);
        all.filter_map(with_home)
    }

    /// What the kernel knows of all this. The changes still count.
    pub fn known(&self, layers: &Layers) -> Known {
        let origins: HashMap<_, _> = self
            .touched
            .iter()
            .filter_map(|id| Some((self.nodes.get(id)?.origin.as_ref()?, *id)))
            .collect();
        let mut known = Known::new();
        layers.nodes.for_each(|number, node| {
            let id = match &node.side {
                Side::Own(id) => self.touched.contains(id).then_some(*id),
                Side::Source(source) => {
                    let origin = layers.origin(source).ok().flatten();
                    origin.and_then(|origin| origins.get(&origin).copied())
                }
            };
            if let Some(id) = id {
                known.entry(id).or_default().push((number, node.clone()));
            }
        });
        known
    }

    /// What the kernel is to drop.
    pub fn withdrawn(&self, known: &Known) -> Withdrawn {
        let numbers = |id: NodeId| known.get(&id).into_iter().flatten();
        let mut withdrawn = Withdrawn::default();
        for place in self
            .renamed
            .iter()
            .filter(|place| self.leads_away(place, known))
        {
            let directories = numbers(place.0).map(|(number, _)| (*number, place.1.clone()));
            withdrawn.names.extend(directories);
        }
        let all = known.values().flatten();
        withdrawn.nodes.extend(all.map(|(number, _)| *number));
        withdrawn
    }

    /// Whether a name shows another inode from now on. If the kernel drops a name that does not, it unmounts what is mounted there, and a
    /// process that works there has no path any more.
    fn leads_away(&self, place: &Place, known: &Known) -> bool {
        let Some(Name::Node(id)) = self.names.get(place) else {
            return true;
        };
        let is_own = |(_, node): &(u64, Node)| node.source().is_none();
        let is_lost = known.get(id).is_some_and(|known| known.iter().any(is_own));
        is_lost || self.hidden.contains(place) || !self.is_at_home(*id, place)
    }
}
