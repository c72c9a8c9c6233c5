//! How a view differs from its source: a walk through the names that the store has. What the store says nothing of is the same.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, Result};

use super::layers::{Layers, errno, to_store};
use super::node::{Key, Node};
use super::origins::Hold;
use super::other_links::{Links, Other};
use crate::attr::Attr;
use crate::cache::{KernelCache, Timeouts};
use crate::chores::Chores;
use crate::config::{Config, StoreConfig};
use crate::difference::{Detail, Difference, Kind, Shape, joined};
use crate::inode::{Place as _, ROOT, Seen};
use crate::store::{self, NodeId, SourceState, Store};
use crate::view::{Attributes as _, Directories as _, Found, Names as _, Reporter, shared};

/// So many names of a directory are read at once.
const NAMES: usize = 1024;

/// A directory whose names the store has.
struct Dir {
    id: NodeId,
    node: Node,
    path: Vec<u8>,
    /// The source's directory under it, or the one that it hides.
    below: Option<shared::Node>,
    /// The path of `below`.
    way: Vec<u8>,
}

/// What the source has under a name that shows something else, or nothing.
struct Gone {
    way: Vec<u8>,
    found: Found<shared::Node>,
    instead: Instead,
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
    Ok(layers.differences(detail))
}

fn shape(attr: &Attr) -> Shape {
    Shape {
        kind: attr.kind(),
        size: attr.size,
    }
}

impl Layers {
    /// How the view differs from the source, sorted by path.
    fn differences(&self, detail: Detail) -> std::result::Result<Vec<Difference>, Failed> {
        let mut walk = Walk {
            layers: self,
            detail,
            found: Vec::new(),
            directories: Vec::new(),
            passed: Vec::new(),
            gone: Vec::new(),
            placed: Vec::new(),
            renamed: HashSet::new(),
            links: Links::default(),
        };
        walk.root().map_err(|errno| (b".".to_vec(), errno))?;
        // In a store that mmfs has not written, directories may lie in each other.
        let mut passed = HashSet::new();
        while let Some(dir) = walk.directories.pop() {
            if passed.insert(dir.id) {
                walk.directory(&dir)?;
                walk.passed.push((dir.node, dir.path));
            }
        }
        walk.find_gone()?;
        for placed in std::mem::take(&mut walk.placed) {
            walk.placed(&placed).map_err(|errno| (placed.path, errno))?;
        }
        walk.find_other_names()?;
        walk.found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(walk.found)
    }

    /// What the source has under a name.
    fn in_source(&self, dir: &shared::Node, name: &OsStr) -> Result<Option<Found<shared::Node>>> {
        match self.below.lookup(dir, name) {
            Ok(found) => Ok((!found.place.is_own_mount()).then_some(found)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The names in a directory of the source.
    fn names_in_source(&self, dir: &shared::Node) -> Result<Vec<Vec<u8>>> {
        let listing = self.below.open_dir(dir, OFlags::empty())?;
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let ended = self.below.list(&listing, offset, |entry| {
                offset = entry.offset;
                if !matches!(entry.name.as_bytes(), b"." | b"..") {
                    names.push(entry.name.as_bytes().to_vec());
                }
                true
            })?;
            if ended {
                return Ok(names);
            }
        }
    }

    /// Whether what was changed was changed in the source, too.
    fn is_conflict(&self, stored: &store::Node, now: &Found<Node>, id: NodeId) -> Result<bool> {
        let Some(source) = now.place.source() else {
            return Ok(stored.origin.is_some());
        };
        let content = self.store.content(id).map_err(errno)?;
        let Some(was) = content.and_then(|content| content.source) else {
            return Ok(false);
        };
        let attr = self.below.attr(source)?;
        let is = SourceState {
            size: attr.size,
            mtime: to_store(attr.mtime),
        };
        Ok(was != is)
    }
}

impl Walk<'_> {
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
        let store::Name::Node(id) = leads else {
            self.gone.extend(old.map(|found| Gone {
                way,
                found,
                instead: Instead::Nothing,
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
            let hidden = old.as_ref().filter(|old| old.attr.is_dir());
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
            });
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
            });
        }
        if !is_same && (source.is_some() || old.is_some()) {
            self.placed.push(Placed {
                path,
                way,
                now,
                id,
                old,
                from: None,
            });
            return Ok(());
        }
        self.compared(&path, (&now, id), old.as_ref())?;
        layers.let_go(&now.place);
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
            if !gone.found.attr.is_dir() {
                self.links.seen(key, gone.found.attr.nlink);
            }
            if let Some(index) = places.get_mut(&key).and_then(Vec::pop) {
                self.renamed.insert(gone.way.clone());
                self.placed[index].from = Some(gone.way);
                continue;
            }
            if matches!(gone.instead, Instead::Nothing) {
                self.found.push(Difference {
                    kind: Kind::Deleted,
                    path: gone.way.clone(),
                    from: None,
                    now: None,
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

    fn children_of(&mut self, gone: &Gone) -> Result<()> {
        let layers = self.layers;
        for name in layers.names_in_source(&gone.found.place)? {
            let os_name = OsStr::from_bytes(&name);
            if let Instead::Directory(node) = &gone.instead {
                match layers.lookup(node, os_name) {
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno),
                    // It was looked at under its name.
                    Ok(found) => {
                        layers.let_go(&found.place);
                        continue;
                    }
                }
            }
            let found = layers.in_source(&gone.found.place, os_name)?;
            self.gone.extend(found.map(|found| Gone {
                way: joined(&gone.way, &name),
                found,
                instead: Instead::Nothing,
            }));
        }
        Ok(())
    }

    /// An inode of the source that was renamed, or anything else.
    fn placed(&mut self, placed: &Placed) -> Result<()> {
        let Placed { now, id, .. } = placed;
        let (Some(from), Some(source)) = (&placed.from, now.place.source()) else {
            // What was there is elsewhere.
            let is_free = self.renamed.contains(&placed.way);
            let old = placed.old.as_ref().filter(|_| !is_free);
            return self.compared(&placed.path, (now, *id), old);
        };
        let attr = self.layers.below.attr(source)?;
        self.links.changed(now.place.key(), *id, attr.nlink);
        let old = Found::seen(source.clone(), attr, Seen::Held);
        let stored = self.layers.stored(*id)?;
        let kind = match self.layers.is_conflict(&stored, now, *id)? {
            true => Kind::Conflict,
            false => Kind::Renamed,
        };
        let ranges = self.ranges((now, *id), Some(&old))?;
        self.found.push(Difference {
            kind,
            path: placed.path.clone(),
            from: Some(from.clone()),
            now: Some(shape(&now.attr)),
            before: Some(shape(&attr)),
            ranges,
        });
        self.layers.let_go(&now.place);
        Ok(())
    }

    fn compared(
        &mut self,
        path: &[u8],
        (now, id): (&Found<Node>, NodeId),
        old: Option<&Found<shared::Node>>,
    ) -> Result<()> {
        let layers = self.layers;
        let stored = layers.stored(id)?;
        let kind = match old {
            _ if layers.is_conflict(&stored, now, id)? => Kind::Conflict,
            None => Kind::Added,
            Some(old) if old.attr.kind() != now.attr.kind() => Kind::Type,
            Some(old) if layers.has_other_bytes((now, Some(id)), old)? => Kind::Modified,
            Some(old) if layers.has_other_permissions((now, Some(id)), old)? => Kind::Permissions,
            Some(_) => return Ok(()),
        };
        if let Some(source) = now.place.source().filter(|_| !now.attr.is_dir()) {
            let links = layers.below.attr(source)?.nlink;
            self.links.changed(now.place.key(), id, links);
        }
        let ranges = match kind {
            Kind::Permissions => Vec::new(),
            Kind::Conflict | Kind::Type | Kind::Added => self.ranges((now, id), None)?,
            _ => self.ranges((now, id), old)?,
        };
        self.found.push(Difference {
            kind,
            path: path.to_vec(),
            from: None,
            now: Some(shape(&now.attr)),
            before: old.map(|old| shape(&old.attr)),
            ranges,
        });
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

    /// Where the bytes of a file differ from those of `old`. Without it, where the store has them.
    fn ranges(
        &self,
        (now, id): (&Found<Node>, NodeId),
        old: Option<&Found<shared::Node>>,
    ) -> Result<Vec<std::ops::Range<u64>>> {
        if self.detail == Detail::Kinds || now.attr.kind() != FileType::RegularFile {
            return Ok(Vec::new());
        }
        match old {
            Some(old) => self.layers.differing((now, Some(id)), old, usize::MAX),
            None => self.layers.stored_ranges(id),
        }
    }
}
