//! How a view differs from its source: a walk through the names that the store has. What the store says nothing of is the same.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::{Errno, Result};

use super::changed::{Changed, Left, Spot};
use super::gone::{Gone, Instead};
use super::kinds::shape;
use super::layers::{Layers, errno};
use super::node::{Key, Node};
use super::origins::Hold;
use super::other_links::{Links, Other};
use super::since::{is_later, merge_conflicts};
use crate::difference::{Detail, Difference, Kind, joined};
use crate::inode::{Place as _, ROOT, Seen};
use crate::store::{self, NodeId};
use crate::view::{Attributes as _, Found, shared};

/// So many names of a directory are read at once.
const NAMES: usize = 1024;
/// So often it begins anew, as it knows of more directories that were renamed.
const MOST_WALKS: usize = 4;

/// An error, and the path that it is about.
pub type Failed = (Vec<u8>, Errno);

/// A directory whose names the store has.
struct Dir {
    id: NodeId,
    node: Node,
    path: Vec<u8>,
    /// The source's directory under it, or the one that it hides.
    below: Option<shared::Node>,
    /// The path of `below`.
    way: Vec<u8>,
    /// Since when `below` is hidden, with all that lies in it.
    since: Option<store::Time>,
}

/// What the view has under a name that the source has for nothing, or for another inode.
struct Placed {
    spot: Spot,
    now: Found<Node>,
    id: NodeId,
    old: Option<Found<shared::Node>>,
    /// The source has changed `old` since.
    is_late: bool,
    /// An inode of the source: the name that it had, if it has it no more.
    from: Option<Vec<u8>>,
}

pub(super) struct Walk<'a> {
    layers: &'a Layers,
    detail: Detail,
    pub found: Vec<Difference>,
    /// For a commit: all names that the store has, with what they lead to.
    pub changed: Vec<Changed>,
    /// For a commit: names of the source that lead to something else, or to nothing.
    pub left: Vec<Left>,
    directories: Vec<Dir>,
    /// Those that were looked through, with their paths in the view and in the source.
    passed: Vec<(Node, Vec<u8>, Vec<u8>)>,
    gone: Vec<Gone>,
    placed: Vec<Placed>,
    /// Directories of the source that the view shows elsewhere, as far as they are known before.
    moved: HashSet<Key>,
    /// Directories of the source in whose place the view has one of its own.
    covered: Vec<Key>,
    /// Paths in the source of what the view has renamed.
    renamed: HashSet<Vec<u8>>,
    links: Links,
}

impl Layers {
    /// How the view differs from the source, sorted by path.
    pub fn differences(&self, detail: Detail) -> std::result::Result<Vec<Difference>, Failed> {
        self.walked(detail).map(|walk| walk.found)
    }

    /// A walk that has ended.
    pub fn walked(&self, detail: Detail) -> std::result::Result<Walk<'_>, Failed> {
        let mut walk = Walk::new(self, detail);
        walk.directories()?;
        // What lies in a directory that was made where another was depends on where that one is now.
        for _ in 0..MOST_WALKS {
            let moved: HashSet<Key> = walk.moved_directories().collect();
            if !walk.covered.iter().any(|key| moved.contains(key)) {
                break;
            }
            walk = Walk::new(self, detail);
            walk.moved = moved;
            walk.directories()?;
        }
        walk.find_gone()?;
        for placed in std::mem::take(&mut walk.placed) {
            let done = walk.placed(&placed);
            done.map_err(|errno| (placed.spot.path, errno))?;
        }
        walk.find_other_names()?;
        walk.found.sort_by(|one, other| one.path.cmp(&other.path));
        merge_conflicts(&mut walk.found);
        Ok(walk)
    }
}

impl<'a> Walk<'a> {
    fn new(layers: &'a Layers, detail: Detail) -> Self {
        Walk {
            layers,
            detail,
            found: Vec::new(),
            changed: Vec::new(),
            left: Vec::new(),
            directories: Vec::new(),
            passed: Vec::new(),
            gone: Vec::new(),
            placed: Vec::new(),
            moved: HashSet::new(),
            covered: Vec::new(),
            renamed: HashSet::new(),
            links: Links::default(),
        }
    }

    /// Looks through all directories whose names the store has.
    fn directories(&mut self) -> std::result::Result<(), Failed> {
        self.root().map_err(|errno| (b".".to_vec(), errno))?;
        // In a store that mmfs has not written, directories may lie in each other.
        let mut passed = HashSet::new();
        while let Some(dir) = self.directories.pop() {
            if passed.insert(dir.id) {
                self.directory(&dir)?;
                self.passed.push((dir.node, dir.path, dir.way));
            }
        }
        Ok(())
    }

    fn moved_directories(&self) -> impl Iterator<Item = Key> {
        let directories = self
            .placed
            .iter()
            .filter(|placed| placed.now.attr.is_dir() && placed.now.place.source().is_some());
        directories.map(|placed| placed.now.place.key())
    }

    fn root(&mut self) -> Result<()> {
        let layers = self.layers;
        let root = layers.nodes.get(ROOT)?;
        let (Some(id), Some(source)) = (layers.id(&root)?, root.source().cloned()) else {
            return Ok(());
        };
        let old = Found::seen(source.clone(), layers.below.attr(&source)?, Seen::Held);
        let now = Found::seen(root.clone(), layers.attr(&root)?, Seen::Held);
        let spot = Spot {
            path: Vec::new(),
            way: Some(Vec::new()),
            name: None,
        };
        self.compared(spot, (&now, id), Some(&old))?;
        self.directories.push(Dir {
            id,
            node: root,
            path: Vec::new(),
            below: Some(source),
            way: Vec::new(),
            since: None,
        });
        Ok(())
    }

    fn directory(&mut self, dir: &Dir) -> std::result::Result<(), Failed> {
        let mut last = Vec::new();
        loop {
            let names = self.layers.store.names(dir.id, &last, NAMES);
            let names = names.map_err(|error| (dir.path.clone(), errno(error)))?;
            let Some((name, _)) = names.last() else {
                return Ok(());
            };
            last.clone_from(name);
            for (name, leads) in names {
                let done = self.name(dir, &name, leads);
                done.map_err(|errno| (joined(&dir.path, &name), errno))?;
            }
        }
    }

    fn name(&mut self, dir: &Dir, name: &[u8], leads: store::Name) -> Result<()> {
        let layers = self.layers;
        let (path, way) = (joined(&dir.path, name), joined(&dir.way, name));
        let old = match &dir.below {
            Some(below) => layers.in_source(below, OsStr::from_bytes(name))?,
            None => None,
        };
        let recorded = Some((dir.id, name.to_vec()));
        let since = layers.hidden_since(dir.since, dir.id, name)?;
        let store::Name::Node(id) = leads else {
            self.gone.extend(old.map(|found| Gone {
                way,
                found,
                instead: Instead::Nothing,
                name: recorded,
                since,
                over: None,
            }));
            return Ok(());
        };
        let now = layers.found_at(
            &dir.node,
            dir.id,
            OsStr::from_bytes(name),
            (id, Hold::IfNeeded),
        )?;
        let source = now.place.source().cloned();
        let is_same = source.is_some() && old.as_ref().map(|old| &old.place) == source.as_ref();
        if let Some(old) = old.as_ref().filter(|old| is_same && !old.attr.is_dir()) {
            self.links.seen(now.place.key(), old.attr.nlink);
        }
        if now.attr.is_dir() {
            let since = since.filter(|_| source.is_none());
            self.descend((&path, &way), (&now.place, id), old.as_ref(), since)?;
        }
        if let Some(old) = old.clone().filter(|_| !is_same) {
            let instead = match now.attr.is_dir() {
                true => Instead::Directory(now.place.clone()),
                false => Instead::File,
            };
            self.gone.push(Gone {
                way: way.clone(),
                found: old,
                instead,
                name: recorded.clone(),
                since,
                over: None,
            });
        }
        let spot = Spot {
            path,
            way: dir.below.is_some().then_some(way),
            name: recorded,
        };
        if !is_same && (source.is_some() || old.is_some()) {
            self.placed.push(Placed {
                spot,
                now,
                id,
                is_late: old.as_ref().is_some_and(|old| is_later(&old.attr, since)),
                old,
                from: None,
            });
            return Ok(());
        }
        self.compared(spot, (&now, id), old.as_ref())?;
        if !now.attr.is_dir() {
            layers.let_go(&now.place);
        }
        Ok(())
    }

    /// Looks through a directory later. `old`: what the source has under its name.
    fn descend(
        &mut self,
        (path, way): (&[u8], &[u8]),
        (node, id): (&Node, NodeId),
        old: Option<&Found<shared::Node>>,
        since: Option<store::Time>,
    ) -> Result<()> {
        let source = node.source();
        let is_same = source.is_some() && old.map(|old| &old.place) == source;
        let key = |old: &Found<shared::Node>| Key::Source(old.place.key());
        let is_hidden = |old: &&Found<shared::Node>| {
            old.attr.is_dir() && !is_same && !self.moved.contains(&key(old))
        };
        let hidden = old.filter(is_hidden);
        if source.is_none() {
            self.covered.extend(hidden.map(key));
        }
        let way = match (source, is_same) {
            (Some(_), false) => self.layers.stored(id)?.reached,
            _ => way.to_vec(),
        };
        let hidden = hidden.map(|old| &old.place);
        self.directories.push(Dir {
            id,
            node: node.clone(),
            path: path.to_vec(),
            way,
            below: source.or(hidden).cloned(),
            since,
        });
        Ok(())
    }

    /// Looks through what names of the source showed, and with directories what lies in them.
    fn find_gone(&mut self) -> std::result::Result<(), Failed> {
        let mut places: HashMap<Key, Vec<usize>> = HashMap::new();
        for (index, placed) in self.placed.iter().enumerate().rev() {
            places
                .entry(placed.now.place.key())
                .or_default()
                .push(index);
        }
        while let Some(gone) = self.gone.pop() {
            let key = Key::Source(gone.found.place.key());
            self.gone_link(key, &gone)
                .map_err(|errno| (gone.way.clone(), errno))?;
            let moved = places.get_mut(&key).and_then(Vec::pop);
            if self.detail == Detail::Commit {
                let attr = &gone.found.attr;
                let node = match attr.is_dir() || attr.nlink < 2 {
                    true => Ok(None),
                    false => self.layers.claim(&gone.found.place),
                };
                let node = node.map_err(|errno| (gone.way.clone(), errno))?;
                self.left.push(gone.left(moved.is_some(), node));
            }
            if let Some(index) = moved {
                self.renamed.insert(gone.way.clone());
                self.placed[index].from = Some(gone.way);
                continue;
            }
            let is_late = is_later(&gone.found.attr, gone.since);
            if matches!(gone.instead, Instead::Nothing) || is_late && gone.over.is_some() {
                self.found.push(Difference {
                    kind: if is_late {
                        Kind::Conflict
                    } else {
                        Kind::Deleted
                    },
                    path: gone.way.clone(),
                    from: None,
                    now: gone.over,
                    before: Some(shape(&gone.found.attr)),
                    ranges: Vec::new(),
                });
            }
            if gone.found.attr.is_dir() {
                let children = self.layers.children_of(&gone);
                self.gone
                    .extend(children.map_err(|errno| (gone.way, errno))?);
            }
        }
        Ok(())
    }

    /// A file may have further names, by which its changes show.
    fn gone_link(&mut self, key: Key, gone: &Gone) -> Result<()> {
        let links = gone.found.attr.nlink;
        if gone.found.attr.is_dir() || links < 2 {
            return Ok(());
        }
        self.links.seen(key, links);
        if let Some(id) = self.layers.claim(&gone.found.place)? {
            self.links.changed(key, id, links);
        }
        Ok(())
    }

    /// An inode of the source that was renamed, or anything else.
    fn placed(&mut self, placed: &Placed) -> Result<()> {
        let Placed { now, id, .. } = placed;
        // What was there is elsewhere.
        let way = placed.spot.way.as_ref();
        let is_free = way.is_some_and(|way| self.renamed.contains(way));
        let is_late = placed.is_late && !is_free;
        let (Some(from), Some(source)) = (&placed.from, now.place.source()) else {
            let old = placed.old.as_ref().filter(|_| !is_free);
            let before = (self.found.len(), self.changed.len());
            self.compared(placed.spot.clone(), (now, *id), old)?;
            // What is no difference is no conflict.
            if let Some(found) = self.found.get_mut(before.0).filter(|_| is_late) {
                found.kind = Kind::Conflict;
                if let Some(changed) = self.changed.get_mut(before.1) {
                    changed.difference = Some(found.clone());
                }
            }
            return Ok(());
        };
        let attr = self.layers.below.attr(source)?;
        self.links.changed(now.place.key(), *id, attr.nlink);
        let old = Found::seen(source.clone(), attr, Seen::Held);
        let stored = self.layers.stored(*id)?;
        let kind = match is_late || self.layers.is_conflict(&stored, now, *id)? {
            true => Kind::Conflict,
            false => Kind::Renamed,
        };
        let ranges = self.layers.ranges(self.detail, (now, *id), Some(&old))?;
        let difference = Difference {
            kind,
            path: placed.spot.path.clone(),
            from: Some(from.clone()),
            now: Some(shape(&now.attr)),
            before: Some(shape(&attr)),
            ranges,
        };
        self.found.push(difference.clone());
        self.note(
            placed.spot.clone(),
            (now, *id),
            Some(&old),
            Some(difference),
        );
        Ok(())
    }

    /// Keeps what a commit has to know.
    fn note(
        &mut self,
        spot: Spot,
        (now, id): (&Found<Node>, NodeId),
        old: Option<&Found<shared::Node>>,
        difference: Option<Difference>,
    ) {
        if self.detail == Detail::Commit {
            let changed = Changed::new(spot, (now, id), old, difference);
            self.changed.push(changed);
        }
    }

    fn compared(
        &mut self,
        spot: Spot,
        (now, id): (&Found<Node>, NodeId),
        old: Option<&Found<shared::Node>>,
    ) -> Result<()> {
        let layers = self.layers;
        let path: &[u8] = match &*spot.path {
            b"" => b".",
            path => path,
        };
        let found = layers.difference(self.detail, path, (now, id), old)?;
        self.note(spot, (now, id), old, found.clone());
        let Some(found) = found else {
            return Ok(());
        };
        self.found.push(found);
        if let Some(source) = now.place.source().filter(|_| !now.attr.is_dir()) {
            let links = layers.below.attr(source)?.nlink;
            self.links.changed(now.place.key(), id, links);
        }
        Ok(())
    }

    fn find_other_names(&mut self) -> std::result::Result<(), Failed> {
        let wanted = self.links.with_others();
        if wanted.is_empty() {
            return Ok(());
        }
        let passed = std::mem::take(&mut self.passed);
        for other in self.layers.other_names(&wanted, passed)? {
            let path = other.path.clone();
            self.other_name(&other).map_err(|errno| (path, errno))?;
        }
        Ok(())
    }

    fn other_name(&mut self, other: &Other) -> Result<()> {
        let source = other.found.place.source().ok_or(Errno::STALE)?;
        let attr = self.layers.below.attr(source)?;
        let old = Found::seen(source.clone(), attr, Seen::Held);
        let spot = Spot {
            path: other.path.clone(),
            way: Some(other.way.clone()),
            name: None,
        };
        self.compared(spot, (&other.found, other.id), Some(&old))
    }
}
