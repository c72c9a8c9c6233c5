//! Forgetting changes: the store says less, and the source shows where it says nothing.
//!
//! This works from what the store has, and asks nothing of the source. The changes are in groups. A group makes sense by itself: if a kill
//! leaves some of them, the store is sound, and to forget the same once more does the rest.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;

use super::acl::KNOWN;
use crate::difference::joined;
use crate::store::{Attributes, Change, Kind, Name, Node, NodeId, Place, Store, Xattr};

/// A name to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The directory.
    pub directory: NodeId,
    /// One component.
    pub name: Vec<u8>,
    /// The node that the name leads to. None: the name is hidden.
    pub node: Option<NodeId>,
    /// What is added to counts of links of nodes that stay: the source counts them now. A directory that was made takes one from its parent, one
    /// that was deleted gives it back, and so does a further name of a file to that file.
    pub links: Vec<(NodeId, i64)>,
}

/// Forgets names, with the nodes to which no other name leads, and makes it durable. What the nodes are to the source, all their names must
/// say: a file of the source is forgotten with all names that the store has for it. A directory with names that stay keeps its name, and
/// shows the attributes of its origin.
///
/// # Errors
/// Those of the store.
pub fn forget(store: &Store, items: &[Item]) -> io::Result<()> {
    let mut forgetting = Forgetting::new(store)?;
    let depth = |item: &Item| forgetting.depth(item.directory);
    let mut items: Vec<(usize, &Item)> = items.iter().map(|item| (depth(item), item)).collect();
    items.sort_by_key(|item| std::cmp::Reverse(item.0));
    for (_, item) in items {
        forgetting.item(item)?;
        forgetting.end_group();
    }
    forgetting.tidy()?;
    store.change_all(forgetting.done())?;
    store.barrier()
}

/// What the store will have, and the changes that lead there.
pub(super) struct Forgetting<'a> {
    store: &'a Store,
    groups: Vec<Vec<Change>>,
    group: Vec<Change>,
    /// By directory.
    names: HashMap<NodeId, BTreeMap<Vec<u8>, Name>>,
    /// The names that lead to a node.
    places: HashMap<NodeId, BTreeSet<Place>>,
    links: HashMap<NodeId, i64>,
    /// Directories whose attributes show those of the source.
    reset: HashSet<NodeId>,
    removed: HashSet<NodeId>,
    /// Directories that may have no change any more.
    touched: BTreeSet<NodeId>,
}

impl<'a> Forgetting<'a> {
    /// Nothing is forgotten yet.
    pub fn new(store: &'a Store) -> io::Result<Self> {
        let mut forgetting = Self {
            store,
            groups: Vec::new(),
            group: Vec::new(),
            names: HashMap::new(),
            places: HashMap::new(),
            links: HashMap::new(),
            reset: HashSet::new(),
            removed: HashSet::new(),
            touched: BTreeSet::new(),
        };
        for (place, leads) in store.all_names()? {
            forgetting.put(place, Some(leads));
        }
        Ok(forgetting)
    }

    /// What comes next need not be in one record with what came before.
    pub fn end_group(&mut self) {
        if !self.group.is_empty() {
            self.groups.push(std::mem::take(&mut self.group));
        }
    }

    /// The changes.
    pub fn done(mut self) -> Vec<Vec<Change>> {
        self.end_group();
        self.groups
    }

    fn put(&mut self, place: Place, to: Option<Name>) {
        let names = self.names.entry(place.0).or_default();
        let before = match to {
            Some(to) => names.insert(place.1.clone(), to),
            None => names.remove(&place.1),
        };
        if let Some(Name::Node(id)) = before {
            self.places.entry(id).or_default().remove(&place);
        }
        if let Some(Name::Node(id)) = to {
            self.places.entry(id).or_default().insert(place);
        }
    }

    /// What the store says of a name by now.
    pub fn leads(&self, (directory, name): &Place) -> Option<Name> {
        self.names.get(directory)?.get(name).copied()
    }

    /// The names that lead to a node by now.
    pub fn places(&self, id: NodeId) -> Vec<Place> {
        let places = self.places.get(&id);
        places.map_or(Vec::new(), |places| places.iter().cloned().collect())
    }

    /// The names in a directory by now.
    pub fn names_in(&self, directory: NodeId) -> Vec<(Vec<u8>, Name)> {
        let names = self.names.get(&directory);
        let names = names.into_iter().flatten();
        names.map(|(name, leads)| (name.clone(), *leads)).collect()
    }

    /// Whether the store has names in a directory by now.
    pub fn has_names(&self, directory: NodeId) -> bool {
        let names = self.names.get(&directory);
        names.is_some_and(|names| !names.is_empty())
    }

    /// Lets a name lead elsewhere. None: what the source has shows.
    pub fn lead(&mut self, place: Place, to: Option<Name>) {
        self.touched.insert(place.0);
        if self.leads(&place) == to {
            return;
        }
        self.group.push(Change::Name {
            directory: place.0,
            name: place.1.clone(),
            to,
            replaces: false,
            since: None,
        });
        self.put(place, to);
    }

    /// Adds to the count of links.
    pub fn count(&mut self, id: NodeId, more: i64) {
        if more != 0 && !self.removed.contains(&id) {
            *self.links.entry(id).or_default() += more;
            self.group.push(Change::Links(id, more));
        }
    }

    /// Forgets a node, and all names that lead to it.
    pub fn remove(&mut self, id: NodeId) {
        if self.removed.insert(id) {
            for place in self.places(id) {
                self.lead(place, None);
            }
            for (name, _) in self.names_in(id) {
                self.put((id, name), None);
            }
            self.group.push(Change::Remove(id));
        }
    }

    /// A node of the view's own has lost a name.
    pub fn unlink(&mut self, id: NodeId) {
        match self.places(id).is_empty() {
            true => self.remove(id),
            false => self.count(id, -1),
        }
    }

    /// Lets a node of the source show the source's attributes.
    pub fn reset(&mut self, id: NodeId) -> io::Result<()> {
        self.touched.insert(id);
        if self.reset.insert(id) && !self.removed.contains(&id) {
            self.group.push(Change::Reset(id));
            for (name, _) in self.store.xattrs(id)? {
                if !is_known(&name) {
                    self.group.push(Change::Xattr(id, name, None));
                }
            }
        }
        Ok(())
    }

    /// Forgets what a file of the source has in the store, but for the links that the view took from it, and those that it added. Returns the node
    /// that it has afterwards, if it needs one.
    pub fn renew(&mut self, id: NodeId) -> io::Result<Option<NodeId>> {
        let node = self.node(id)?;
        let links = node.links + self.links.get(&id).copied().unwrap_or_default();
        let places = self.places(id);
        let known: Vec<(Vec<u8>, Xattr)> = self.store.xattrs(id)?;
        self.remove(id);
        if links == 0 && places.is_empty() {
            return Ok(None);
        }
        let new = self.store.new_number();
        let node = Node {
            attributes: Attributes::default(),
            links,
            ..node
        };
        self.group.push(Change::Make(new, Box::new(node)));
        for (name, value) in known.into_iter().filter(|(name, _)| is_known(name)) {
            self.group.push(Change::Xattr(new, name, Some(value)));
        }
        for place in places {
            self.lead(place, Some(Name::Node(new)));
        }
        Ok(Some(new))
    }

    fn node(&self, id: NodeId) -> io::Result<Node> {
        let none = || io::Error::from(rustix::io::Errno::NOENT);
        self.store.node(id)?.ok_or_else(none)
    }

    /// Whether a node has more than names: bytes, or attributes other than times.
    pub fn has_changes(&self, id: NodeId) -> io::Result<bool> {
        let own = self.node(id)?.attributes;
        let is_reset = self.reset.contains(&id);
        let overrides = own.mode.is_some() || own.uid.is_some() || own.gid.is_some();
        let mut xattrs = self.store.xattrs(id)?.into_iter();
        let is_changed = overrides || xattrs.any(|(name, _)| !is_known(&name));
        Ok(self.store.content(id)?.is_some() || is_changed && !is_reset)
    }

    /// How many directories a directory lies in.
    pub fn depth(&self, directory: NodeId) -> usize {
        let (mut at, mut passed) = (directory, HashSet::new());
        while passed.insert(at) {
            match self.place(at) {
                Some((parent, _)) => at = parent,
                None => break,
            }
        }
        passed.len()
    }

    /// A directory's name by now.
    fn place(&self, directory: NodeId) -> Option<Place> {
        self.places.get(&directory)?.first().cloned()
    }

    fn item(&mut self, item: &Item) -> io::Result<()> {
        let place = (item.directory, item.name.clone());
        // It may have been forgotten, or lead elsewhere by now.
        if self.leads(&place) != Some(item.node.map_or(Name::Hidden, Name::Node)) {
            return Ok(());
        }
        for (id, more) in &item.links {
            self.count(*id, *more);
        }
        let Some(id) = item.node else {
            self.lead(place, None);
            return Ok(());
        };
        let node = self.node(id)?;
        let is_dir = node.kind == Kind::Directory;
        match (is_dir, node.origin.is_some()) {
            (true, true) if self.has_names(id) => self.reset(id)?,
            (true, _) => self.remove(id),
            (false, false) => {
                self.lead(place, None);
                self.unlink(id);
            }
            (false, true) => {
                self.lead(place, None);
                if self.places(id).is_empty() {
                    self.remove(id);
                }
            }
        }
        Ok(())
    }

    /// Removes directories that have no change any more, and whose names the source has.
    pub fn tidy(&mut self) -> io::Result<()> {
        while !self.touched.is_empty() {
            let touched = std::mem::take(&mut self.touched);
            let mut by_depth: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
            for id in touched {
                by_depth.entry(self.depth(id)).or_default().push(id);
            }
            for id in by_depth.into_values().rev().flatten() {
                if self.is_as_the_source_has_it(id)? {
                    self.remove(id);
                    self.end_group();
                }
            }
        }
        Ok(())
    }

    fn is_as_the_source_has_it(&self, id: NodeId) -> io::Result<bool> {
        if self.removed.contains(&id) || self.has_names(id) {
            return Ok(false);
        }
        let node = self.node(id)?;
        let links = node.links + self.links.get(&id).copied().unwrap_or_default();
        if node.origin.is_none() || links != 0 || self.has_changes(id)? {
            return Ok(false);
        }
        let Some((parent, name)) = self.place(id) else {
            return Ok(node.reached.is_empty());
        };
        Ok(joined(&self.node(parent)?.reached, &name) == node.reached)
    }
}

fn is_known(name: &[u8]) -> bool {
    KNOWN.iter().any(|(_, known)| known.as_bytes() == name)
}

/// Forgets everything. `is_mounted`: not what was made in the view and deleted, which a program may have open.
///
/// # Errors
/// Those of the store.
pub(super) fn everything(store: &Store, is_mounted: bool) -> io::Result<Vec<Vec<Change>>> {
    let mut forgetting = Forgetting::new(store)?;
    let mut nodes: Vec<(bool, usize, NodeId)> = Vec::new();
    for (id, node) in store.all_nodes()? {
        if !(is_mounted && node.origin.is_none() && store.is_orphan(id)?) {
            nodes.push((node.kind == Kind::Directory, forgetting.depth(id), id));
        }
    }
    // What lies in a directory comes before the directory.
    nodes.sort_by(|one, other| (one.0, other.1).cmp(&(other.0, one.1)));
    for (_, _, id) in nodes {
        forgetting.remove(id);
        forgetting.end_group();
    }
    Ok(forgetting.done())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Base, Origin, SourceState, Time, make};
    use crate::store::{Directory, check::check};
    use std::path::Path;

    const ROOT: NodeId = NodeId(NodeId::FIRST);

    fn node(kind: Kind, reached: Option<&str>) -> Node {
        let origin = reached.map(|reached| Origin {
            filesystem: 1,
            number: 1,
            identity: reached.as_bytes().to_vec(),
        });
        Node {
            kind,
            attributes: Attributes {
                mtime: Some(Time::default()),
                ..Attributes::default()
            },
            links: i64::from(origin.is_none()),
            origin,
            opaque: false,
            device: 0,
            target: Vec::new(),
            reached: reached.unwrap_or_default().into(),
            known: Attributes::default(),
            known_size: 0,
            place: None,
        }
    }

    /// A store with a root.
    fn new_store(place: &Path) -> Store {
        let base = Base {
            path: "/source".into(),
            filesystem: String::new(),
            root: 2,
            born: None,
        };
        make(&Directory::open(place).expect("a directory"), &base).expect("a store");
        let (opened, _) = Store::open_directory(place, false).expect("a store");
        while opened.store.new_number() < ROOT {}
        let root = Change::Make(ROOT, Box::new(node(Kind::Directory, Some(""))));
        opened.store.change(vec![root]).expect("room");
        opened.store
    }

    fn add(store: &Store, (directory, name): (NodeId, &str), node: Node) -> NodeId {
        let id = store.new_number();
        let made = Change::Make(id, Box::new(node));
        store.change(vec![made]).expect("room");
        lead(store, (directory, name), Name::Node(id));
        id
    }

    fn lead(store: &Store, (directory, name): (NodeId, &str), to: Name) {
        let mut forgetting = Forgetting::new(store).expect("names");
        forgetting.lead((directory, name.into()), Some(to));
        store.change_all(forgetting.done()).expect("room");
    }

    fn item(directory: NodeId, name: &str, node: Option<NodeId>) -> Item {
        Item {
            directory,
            name: name.into(),
            node,
            links: Vec::new(),
        }
    }

    fn is_there(store: &Store, id: NodeId) -> bool {
        store.node(id).expect("a node").is_some()
    }

    /// The store is sound when it is closed.
    fn ends(store: Store, place: &Path) {
        store.close().expect("closed");
        drop(store);
        let report = check(place, false).expect("a report");
        assert!(report.problems.is_empty(), "{report:?}");
    }

    #[test]
    fn names_go_with_their_nodes_and_empty_directories() {
        let place = tempfile::tempdir().expect("a directory");
        let store = new_store(place.path());
        let d = add(&store, (ROOT, "d"), node(Kind::Directory, Some("d")));
        let f = add(&store, (d, "f"), node(Kind::File, Some("d/f")));
        let own = add(&store, (d, "own"), node(Kind::File, None));
        lead(&store, (ROOT, "second"), Name::Node(own));
        store.change(vec![Change::Links(own, 1)]).expect("room");
        lead(&store, (d, "gone"), Name::Hidden);
        let source = SourceState {
            size: 5,
            mtime: Time::default(),
        };
        store
            .truncate(f, 3, Some(source), Time::default())
            .expect("room");
        let items = [item(d, "f", Some(f)), item(d, "own", Some(own))];
        forget(&store, &items).expect("forgotten");
        assert!(!is_there(&store, f) && store.content(f).expect("none").is_none());
        assert!(is_there(&store, d), "it hides a name");
        assert_eq!(store.node(own).expect("a node").expect("one").links, 1);
        // Once more changes nothing.
        forget(&store, &[item(d, "f", None)]).expect("forgotten");
        let items = [item(d, "gone", None), item(ROOT, "second", Some(own))];
        forget(&store, &items).expect("forgotten");
        assert!(store.all_nodes().expect("nodes").is_empty());
        assert!(store.all_names().expect("names").is_empty());
        ends(store, place.path());
    }

    #[test]
    fn a_directory_with_names_stays_without_its_attributes() {
        let place = tempfile::tempdir().expect("a directory");
        let store = new_store(place.path());
        let mut changed = node(Kind::Directory, Some("d"));
        changed.attributes.mode = Some(0o700);
        let d = add(&store, (ROOT, "d"), changed);
        let set = |name: &str| Change::Xattr(d, name.into(), Some(Xattr::Hidden));
        let xattrs = vec![set("user.a"), set(KNOWN[0].1)];
        store.change(xattrs).expect("room");
        lead(&store, (d, "gone"), Name::Hidden);
        forget(&store, &[item(ROOT, "d", Some(d))]).expect("forgotten");
        let stored = store.node(d).expect("a node").expect("one");
        assert_eq!(stored.attributes, Attributes::default());
        let left = store.xattrs(d).expect("attributes");
        assert_eq!(left, [(KNOWN[0].1.into(), Xattr::Hidden)]);
        assert_eq!(store.name(ROOT, b"d").expect("a name"), Some(Name::Node(d)));
        ends(store, place.path());
    }

    #[test]
    fn a_tree_of_its_own_goes_with_the_counts_of_links() {
        let place = tempfile::tempdir().expect("a directory");
        let store = new_store(place.path());
        let own = add(&store, (ROOT, "own"), node(Kind::Directory, None));
        let deep = add(&store, (own, "deep"), node(Kind::Directory, None));
        let f = add(&store, (deep, "f"), node(Kind::File, None));
        store.change(vec![Change::Links(ROOT, 1)]).expect("room");
        let items = [
            Item {
                links: vec![(ROOT, -1)],
                ..item(ROOT, "own", Some(own))
            },
            item(own, "deep", Some(deep)),
            item(deep, "f", Some(f)),
        ];
        forget(&store, &items).expect("forgotten");
        assert!(store.all_nodes().expect("nodes").is_empty());
        ends(store, place.path());
    }
}
