//! How a view differs from its source: a walk through the names that the store has. What the store says nothing of is the same.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::io::{Errno, Result};

use super::kinds::shape;
use super::layers::{Layers, errno};
use super::node::{Key, Node};
use super::origins::Hold;
use super::other_links::{Links, Other};
use super::since::{is_later, merge_conflicts};
use crate::cache::{KernelCache, Timeouts};
use crate::chores::Chores;
use crate::config::{Config, StoreConfig};
use crate::difference::{Detail, Difference, Kind, Shape, joined};
use crate::inode::{Place as _, ROOT, Seen};
use crate::store::{self, NodeId, Store};
use crate::view::{Attributes as _, Found, Reporter, shared};

/// So many names of a directory are read at once.
const NAMES: usize = 1024;
/// So often it begins anew, as it knows of more directories that were renamed.
const MOST_WALKS: usize = 4;
/// So often it begins anew if the source changes meanwhile.
const MOST_TRIES: usize = 5;

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

/// What the source has under a name that shows something else, or nothing.
struct Gone {
    way: Vec<u8>,
    found: Found<shared::Node>,
    instead: Instead,
    since: Option<store::Time>,
    /// In a directory that another of the source stands for: what that one shows there.
    over: Option<Shape>,
}

impl Gone {
    fn new(
        way: Vec<u8>,
        found: Found<shared::Node>,
        instead: Instead,
        since: Option<store::Time>,
    ) -> Self {
        Self {
            way,
            found,
            instead,
            since,
            over: None,
        }
    }
}

/// What the view has there.
#[derive(Clone)]
enum Instead {
    Nothing,
    File,
    Directory(Node),
}

/// What the view has under a name that the source has for nothing, or for another inode.
struct Placed {
    path: Vec<u8>,
    /// The path in the source.
    way: Vec<u8>,
    now: Found<Node>,
    id: NodeId,
    old: Option<Found<shared::Node>>,
    /// The source has changed `old` since.
    is_late: bool,
    /// An inode of the source: the name that it had, if it has it no more.
    from: Option<Vec<u8>>,
}

struct Walk<'a> {
    layers: &'a Layers,
    detail: Detail,
    found: Vec<Difference>,
    directories: Vec<Dir>,
    /// Those that were looked through, with their paths.
    passed: Vec<(Node, Vec<u8>)>,
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

/// An error, and the path that it is about.
pub type Failed = (Vec<u8>, Errno);

/// How a view of `store` differs from the source of `config`, sorted by path. Nothing is mounted.
///
/// # Errors
/// That of opening the source, or the first one that was found on a path.
pub fn differences(
    config: &Config,
    wanted: &StoreConfig,
    store: Store,
    detail: Detail,
) -> io::Result<std::result::Result<Vec<Difference>, Failed>> {
    let never = Timeouts {
        attr: Duration::ZERO,
        entry: Duration::ZERO,
    };
    let (sender, _receiver) = channel();
    let reporter = Reporter {
        cache: KernelCache::new(never),
        chores: Chores::new(sender),
    };
    let layers = Layers::open(config, wanted, reporter, store)?;
    let mut tries = 0;
    loop {
        tries += 1;
        match layers.differences(detail) {
            // It was there a moment ago.
            Err((_, Errno::STALE | Errno::NOENT)) if tries < MOST_TRIES => {}
            found => return Ok(found),
        }
    }
}

impl Layers {
    /// How the view differs from the source, sorted by path.
    pub fn differences(&self, detail: Detail) -> std::result::Result<Vec<Difference>, Failed> {
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
            walk.placed(&placed).map_err(|errno| (placed.path, errno))?;
        }
        walk.find_other_names()?;
        walk.found.sort_by(|one, other| one.path.cmp(&other.path));
        merge_conflicts(&mut walk.found);
        Ok(walk.found)
    }
}

impl<'a> Walk<'a> {
    fn new(layers: &'a Layers, detail: Detail) -> Self {
        Walk {
            layers,
            detail,
            found: Vec::new(),
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
                self.passed.push((dir.node, dir.path));
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
        self.compared(b".", (&now, id), Some(&old))?;
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
        let since = layers.hidden_since(dir.since, dir.id, name)?;
        let store::Name::Node(id) = leads else {
            let gone = |found| Gone::new(way, found, Instead::Nothing, since);
            self.gone.extend(old.map(gone));
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
            let key = |old: &Found<shared::Node>| Key::Source(old.place.key());
            let is_hidden = |old: &&Found<shared::Node>| {
                old.attr.is_dir() && !is_same && !self.moved.contains(&key(old))
            };
            let hidden = old.as_ref().filter(is_hidden);
            if source.is_none() {
                self.covered.extend(hidden.map(key));
            }
            self.directories.push(Dir {
                id,
                node: now.place.clone(),
                path: path.clone(),
                way: match (&source, is_same) {
                    (Some(_), false) => layers.stored(id)?.reached,
                    _ => way.clone(),
                },
                below: source
                    .clone()
                    .or_else(|| hidden.map(|old| old.place.clone())),
                since: since.filter(|_| source.is_none()),
            });
        }
        if let Some(old) = old.clone().filter(|_| !is_same) {
            let instead = match now.attr.is_dir() {
                true => Instead::Directory(now.place.clone()),
                false => Instead::File,
            };
            self.gone.push(Gone::new(way.clone(), old, instead, since));
        }
        if !is_same && (source.is_some() || old.is_some()) {
            self.placed.push(Placed {
                path,
                way,
                now,
                id,
                is_late: old.as_ref().is_some_and(|old| is_later(&old.attr, since)),
                old,
                from: None,
            });
            return Ok(());
        }
        self.compared(&path, (&now, id), old.as_ref())?;
        if !now.attr.is_dir() {
            layers.let_go(&now.place);
        }
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
            if let Some(index) = places.get_mut(&key).and_then(Vec::pop) {
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
                self.children_of(&gone).map_err(|errno| (gone.way, errno))?;
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

    fn children_of(&mut self, gone: &Gone) -> Result<()> {
        let layers = self.layers;
        let id = layers.claim(&gone.found.place)?;
        for name in layers.names_in_source(&gone.found.place)? {
            let os_name = OsStr::from_bytes(&name);
            let Some(found) = layers.in_source(&gone.found.place, os_name)? else {
                continue;
            };
            let mut over = None;
            let instead = match &gone.instead {
                Instead::Directory(node) => match layers.lookup(node, os_name) {
                    Err(Errno::NOENT) => Instead::Nothing,
                    Err(errno) => return Err(errno),
                    // In a directory of the view's own, it was looked at under its name.
                    Ok(shown)
                        if node.source().is_none()
                            || shown.place.source() == Some(&found.place) =>
                    {
                        continue;
                    }
                    Ok(shown) => {
                        over = Some(shape(&shown.attr));
                        match shown.attr.is_dir() {
                            true => Instead::Directory(shown.place),
                            false => Instead::File,
                        }
                    }
                },
                Instead::Nothing | Instead::File => Instead::Nothing,
            };
            self.gone.push(Gone {
                since: layers.removed_since(id, &name)?.or(gone.since),
                way: joined(&gone.way, &name),
                found,
                instead,
                over,
            });
        }
        Ok(())
    }

    /// An inode of the source that was renamed, or anything else.
    fn placed(&mut self, placed: &Placed) -> Result<()> {
        let Placed { now, id, .. } = placed;
        // What was there is elsewhere.
        let is_free = self.renamed.contains(&placed.way);
        let is_late = placed.is_late && !is_free;
        let (Some(from), Some(source)) = (&placed.from, now.place.source()) else {
            let old = placed.old.as_ref().filter(|_| !is_free);
            let before = self.found.len();
            self.compared(&placed.path, (now, *id), old)?;
            // What is no difference is no conflict.
            if let Some(found) = self.found.get_mut(before).filter(|_| is_late) {
                found.kind = Kind::Conflict;
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
        self.found.push(Difference {
            kind,
            path: placed.path.clone(),
            from: Some(from.clone()),
            now: Some(shape(&now.attr)),
            before: Some(shape(&attr)),
            ranges,
        });
        Ok(())
    }

    fn compared(
        &mut self,
        path: &[u8],
        (now, id): (&Found<Node>, NodeId),
        old: Option<&Found<shared::Node>>,
    ) -> Result<()> {
        let layers = self.layers;
        let Some(found) = layers.difference(self.detail, path, (now, id), old)? else {
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
        self.compared(&other.path, (&other.found, other.id), Some(&old))
    }
}
