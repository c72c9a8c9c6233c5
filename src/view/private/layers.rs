//! The source and the store, and what both together say of an inode.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::node::{Key, Node, Side};
use crate::attr::{Attr, MountId, Time};
use crate::config::OnSourceChange;
use crate::inode::{NodeTable, ROOT, Seen};
use crate::store::{Attributes, Change, Content, Kind, Name, NodeId, Origin, Store};
use crate::view::shared::{self, Shared};
use crate::view::{Attributes as _, Found, Names as _, Tree as _};

/// Locks of files, each for those whose number has the same remainder.
const LOCKS: usize = 64;

/// The layers of one private view.
pub(super) struct Layers {
    /// The source, which is never changed.
    pub below: Shared,
    /// The source's inodes that the kernel knows through this view.
    pub below_nodes: Arc<NodeTable<shared::Node>>,
    pub on_source_change: OnSourceChange,
    pub store: Arc<Store>,
    pub nodes: Arc<NodeTable<Node>>,
    /// Whoever changes names holds it.
    pub names: Mutex<()>,
    /// Who reads a file's bytes shares its lock, who changes them has it alone.
    pub bytes: [RwLock<()>; LOCKS],
    /// Inodes of the source that are unchanged and lost their last name, until the kernel forgets them.
    pub gone: Mutex<HashSet<Key>>,
    /// Where the origins of nodes were found in this life.
    pub origins: Mutex<HashMap<NodeId, shared::Node>>,
}

/// The errno of an error of the store.
pub(super) fn errno(error: io::Error) -> Errno {
    match Errno::from_io_error(&error) {
        Some(Errno::UCLEAN) | None => Errno::IO,
        Some(errno) => errno,
    }
}

pub(super) fn to_store(time: Time) -> crate::store::Time {
    crate::store::Time {
        seconds: time.sec,
        nanoseconds: time.nsec,
    }
}

pub(super) fn from_store(time: crate::store::Time) -> Time {
    Time {
        sec: time.seconds,
        nsec: time.nanoseconds,
    }
}

pub(super) fn kind_of(kind: FileType) -> Result<Kind> {
    Ok(match kind {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Socket => Kind::Socket,
        FileType::Unknown => return Err(Errno::INVAL),
    })
}

fn type_of(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Socket => FileType::Socket,
    }
}

impl Layers {
    fn origin(node: &shared::Node) -> Origin {
        let (filesystem, number, life) = node.identity();
        Origin {
            filesystem,
            number,
            identity: life.to_le_bytes().to_vec(),
        }
    }

    /// The store's node of an inode, if it has one.
    pub fn id(&self, node: &Node) -> Result<Option<NodeId>> {
        match &node.side {
            Side::Own(id) => Ok(Some(*id)),
            Side::Source(node) if node.is_own_mount() => Ok(None),
            Side::Source(node) => self.store.by_origin(&Self::origin(node)).map_err(errno),
        }
    }

    /// As `id`, for an inode that the store must have.
    fn stored(&self, id: NodeId) -> Result<crate::store::Node> {
        self.store.node(id).map_err(errno)?.ok_or(Errno::STALE)
    }

    /// An inode that the source has shown as `name` in the directory with node id `parent`.
    pub fn shown(
        &self,
        parent: u64,
        name: &OsStr,
        found: Found<shared::Node>,
    ) -> Result<Found<Node>> {
        let at = Some((parent, Arc::from(name)));
        self.placed(at, found)
    }

    fn placed(
        &self,
        at: Option<(u64, Arc<OsStr>)>,
        found: Found<shared::Node>,
    ) -> Result<Found<Node>> {
        if self.below_nodes.remembered(&found.place).is_none() {
            let _ = self
                .below_nodes
                .remember(found.place.clone(), found.seen, 0);
        }
        let node = Node {
            kind: found.attr.kind(),
            side: Side::Source(found.place),
            at,
        };
        let attr = self.over(&node, found.attr)?;
        let (mut seen, hold) = (found.seen, found.hold);
        // The source's table may know an inode that this view's does not: a listing looked at it.
        if seen == Seen::Recognized && self.nodes.remembered(&node).is_none() {
            seen = Seen::NotHeld;
        }
        Ok(Found {
            place: node,
            attr,
            seen,
            hold,
        })
    }

    /// Forgets an inode of the source that was looked at, unless the kernel knows it.
    pub fn let_go(&self, node: &Node) {
        let Side::Source(source) = &node.side else {
            return;
        };
        if self.nodes.remembered(node).is_some() {
            return;
        }
        let number = self.below_nodes.number_of(source);
        if self.below_nodes.forget(number, u64::MAX).is_some() {
            self.below.forget(source);
        }
    }

    /// A node of the store.
    pub fn found(&self, id: NodeId) -> Result<Found<Node>> {
        let stored = self.stored(id)?;
        let kind = type_of(stored.kind);
        if stored.origin.is_none() {
            let node = Node::own(id, kind);
            let attr = self.attr_of_own(id, &stored)?;
            return Ok(Found::seen(node, attr, Seen::Held));
        }
        let known = self.origins.lock().get(&id).cloned();
        if let Some(place) = known {
            if let Ok(attr) = self.below.attr(&place) {
                let found = Found::seen(place, attr, Seen::NotHeld);
                return self.placed(None, found);
            }
        }
        match self.find_origin(&stored) {
            Some(found) => {
                self.origins.lock().insert(id, found.place.clone());
                self.placed(None, found)
            }
            None => self.lost(id, &stored),
        }
    }

    /// A node of the store, under a name of the directory. In a directory of the source the name decides: what the source has
    /// there now is what the node is about, if it still is.
    pub fn found_at(
        &self,
        dir: &Node,
        directory: NodeId,
        name: &OsStr,
        id: NodeId,
    ) -> Result<Found<Node>> {
        let stored = self.stored(id)?;
        let (Some(origin), Some(source)) = (&stored.origin, dir.source()) else {
            return self.found(id);
        };
        let way = self.stored(directory)?.reached;
        let here = [way.as_slice(), name.as_bytes()].join(&b'/');
        if here.strip_prefix(b"/").unwrap_or(&here) != stored.reached {
            return self.found(id);
        }
        let found = match self.below.lookup(source, name) {
            Err(Errno::NOENT) => return self.lost(id, &stored),
            found => found?,
        };
        let now = Self::origin(&found.place);
        if now != *origin {
            // Directories merge by name. A file of the same name is another file.
            if !found.attr.is_dir() || stored.kind != Kind::Directory || !self.move_on(id, now)? {
                return self.lost(id, &stored);
            }
        }
        self.origins.lock().insert(id, found.place.clone());
        self.shown(self.nodes.number_of(dir), name, found)
    }

    /// Lets a directory stand for the one that has its name in the source now. False: the store has another node for that one.
    fn move_on(&self, id: NodeId, origin: Origin) -> Result<bool> {
        match self
            .store
            .change(vec![Change::Origin(id, Box::new(origin))])
        {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(errno(error)),
        }
    }

    /// A node that the source has lost: what the store has of it is shown.
    fn lost(&self, id: NodeId, stored: &crate::store::Node) -> Result<Found<Node>> {
        self.origins.lock().remove(&id);
        let attr = self.attr_of_own(id, stored)?;
        let node = Node::own(id, type_of(stored.kind));
        Ok(Found::seen(node, attr, Seen::Held))
    }

    /// Goes the way by which the origin was reached at its first change.
    fn find_origin(&self, stored: &crate::store::Node) -> Option<Found<shared::Node>> {
        let origin = stored.origin.as_ref()?;
        let mut at = self.below_nodes.get(ROOT).ok()?;
        let attr = self.below.attr(&at).ok()?;
        let mut found = Found::seen(at.clone(), attr, Seen::Held);
        for part in Path::new(OsStr::from_bytes(&stored.reached)).components() {
            let Component::Normal(name) = part else {
                return None;
            };
            found = self.below.lookup(&at, name).ok()?;
            if self.below_nodes.remembered(&found.place).is_none() {
                let _ = self
                    .below_nodes
                    .remember(found.place.clone(), found.seen, 0);
            }
            at = found.place.clone();
        }
        (Self::origin(&found.place) == *origin).then_some(found)
    }

    /// The path below the source's root of an inode of the source.
    fn reached(&self, node: &Node) -> Result<Vec<u8>> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut node = node.clone();
        while let Some((parent, name)) = node.at.clone() {
            parts.push(name.as_bytes().to_vec());
            let dir = self.nodes.get(parent)?;
            // A directory that was renamed in the view knows its way in the source.
            if dir.at.is_none() && parent != ROOT {
                let id = self.id(&dir)?.ok_or(Errno::STALE)?;
                parts.push(self.stored(id)?.reached);
                break;
            }
            node = dir;
        }
        parts.reverse();
        parts.retain(|part| !part.is_empty());
        Ok(parts.join(&b'/'))
    }

    /// The store's node of an inode: a new one if this is its first change.
    pub fn adopt(&self, node: &Node) -> Result<NodeId> {
        if let Some(id) = self.id(node)? {
            return Ok(id);
        }
        // From the root down, so that each directory is there when a name in it is recorded.
        let mut way = vec![node.clone()];
        while let Some((parent, _)) = way[way.len() - 1].at {
            let dir = self.nodes.get(parent)?;
            if self.id(&dir)?.is_some() {
                break;
            }
            way.push(dir);
        }
        while let Some(node) = way.pop() {
            self.adopt_one(&node)?;
        }
        self.id(node)?.ok_or(Errno::STALE)
    }

    fn adopt_one(&self, node: &Node) -> Result<()> {
        let Side::Source(source) = &node.side else {
            return Ok(());
        };
        if source.is_own_mount() {
            return Err(Errno::PERM);
        }
        let attr = self.below.attr(source)?;
        let id = self.store.new_number();
        let made = crate::store::Node {
            kind: kind_of(node.kind)?,
            origin: Some(Self::origin(source)),
            attributes: Attributes::default(),
            links: 0,
            opaque: false,
            device: 0,
            target: Vec::new(),
            reached: self.reached(node)?,
            known: known(&attr),
            known_size: attr.size,
            place: None,
        };
        let mut changes = vec![Change::Make(id, Box::new(made))];
        if let Some((parent, name)) = &node.at {
            let directory = self.id(&self.nodes.get(*parent)?)?.ok_or(Errno::STALE)?;
            let name = name.as_bytes().to_vec();
            // A name that leads elsewhere by now stays as it is.
            if self.store.name(directory, &name).map_err(errno)?.is_none() {
                let to = Some(Name::Node(id));
                let replaces = false;
                changes.push(Change::Name {
                    directory,
                    name,
                    to,
                    replaces,
                });
            }
        }
        match self.store.change(changes) {
            // Another thread was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map_err(errno),
        }?;
        self.origins.lock().insert(id, source.clone());
        Ok(())
    }

    /// The attributes of an inode.
    pub fn attr(&self, node: &Node) -> Result<Attr> {
        match &node.side {
            Side::Source(source) => self.over(node, self.below.attr(source)?),
            Side::Own(id) => self.attr_of_own(*id, &self.stored(*id)?),
        }
    }

    /// The attributes of an inode of the source with the store's over them.
    fn over(&self, node: &Node, mut attr: Attr) -> Result<Attr> {
        match self.id(node)? {
            None if self.gone.lock().contains(&crate::inode::Place::key(node)) => attr.nlink = 0,
            None => {}
            Some(id) => self.lay(id, &self.stored(id)?, &mut attr)?,
        }
        Ok(attr)
    }

    fn attr_of_own(&self, id: NodeId, stored: &crate::store::Node) -> Result<Attr> {
        let none = Time::default();
        let mut attr = Attr {
            dev: 0,
            ino: id.0,
            size: stored.known_size.max(stored.target.len() as u64),
            blocks: 0,
            atime: none,
            mtime: none,
            ctime: none,
            btime: None,
            mode: type_of(stored.kind).as_raw_mode(),
            nlink: 0,
            uid: 0,
            gid: 0,
            rdev: stored.device,
            blksize: 4096,
            mount_root: false,
            mount: MountId::default(),
        };
        // Links of a node that the source has lost are those it had.
        if stored.origin.is_some() {
            attr.nlink = 1;
        }
        lay_attributes(&stored.known, &mut attr);
        self.lay(id, stored, &mut attr)?;
        Ok(attr)
    }

    fn lay(&self, id: NodeId, stored: &crate::store::Node, attr: &mut Attr) -> Result<()> {
        lay_attributes(&stored.attributes, attr);
        let links = i64::from(attr.nlink) + stored.links;
        attr.nlink = links.clamp(0, u32::MAX.into()) as u32;
        if stored.kind == Kind::File {
            if let Some(content) = self.store.content(id).map_err(errno)? {
                lay_content(&content, attr);
            }
        }
        Ok(())
    }

    /// The lock of a file's bytes.
    pub fn lock(&self, id: NodeId) -> &RwLock<()> {
        &self.bytes[(id.0 % LOCKS as u64) as usize]
    }
}

fn lay_content(content: &Content, attr: &mut Attr) {
    let below = if content.source_limit > 0 {
        attr.blocks
    } else {
        0
    };
    attr.size = content.size;
    attr.blocks = (content.bytes() / 512).max(below);
    attr.mtime = content.mtime.map_or(attr.mtime, from_store);
    attr.ctime = content.ctime.map_or(attr.ctime, from_store).max(attr.ctime);
}

fn lay_attributes(over: &Attributes, attr: &mut Attr) {
    if let Some(mode) = over.mode {
        attr.mode = (attr.mode & !0o7777) | mode;
    }
    attr.uid = over.uid.unwrap_or(attr.uid);
    attr.gid = over.gid.unwrap_or(attr.gid);
    attr.atime = over.atime.map_or(attr.atime, from_store);
    attr.mtime = over.mtime.map_or(attr.mtime, from_store);
    attr.ctime = over.ctime.map_or(attr.ctime, from_store);
    attr.btime = over.btime.map(from_store).or(attr.btime);
}

/// What is kept of an origin's attributes.
fn known(attr: &Attr) -> Attributes {
    Attributes {
        mode: Some(attr.mode & 0o7777),
        uid: Some(attr.uid),
        gid: Some(attr.gid),
        atime: Some(to_store(attr.atime)),
        mtime: Some(to_store(attr.mtime)),
        ctime: Some(to_store(attr.ctime)),
        btime: attr.btime.map(to_store),
    }
}
