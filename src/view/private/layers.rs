//! The source and the store, and what both together say of an inode.

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::caches::Caches;
use super::conflicts::Conflicts;
use super::filesystems::Filesystems;
use super::node::{Key, Node, Side};
use super::renamed::Renamed;
use crate::attr::{Attr, MountId, Time};
use crate::config::OnSourceChange;
use crate::inode::{NodeTable, Place as _, ROOT};
use crate::store::{Attributes, Change, Content, Kind, Name, NodeId, SourceState, Store};
use crate::view::shared::{self, Shared};
use crate::view::{Attributes as _, Names as _};

/// Locks of files, each for those whose number has the same remainder.
const LOCKS: usize = 64;

/// The layers of one private view.
pub(super) struct Layers {
    /// The source, which is never changed.
    pub below: Shared,
    /// The source's inodes that the kernel knows through this view.
    pub below_nodes: Arc<NodeTable<shared::Node>>,
    pub on_source_change: OnSourceChange,
    /// The source may have been restored or cloned: its files may have other inode numbers.
    pub base_moved: bool,
    pub caches: Caches,
    pub store: Arc<Store>,
    pub nodes: Arc<NodeTable<Node>>,
    /// Whoever changes names holds it.
    pub names: Mutex<()>,
    /// Who reads a file's bytes shares its lock, who changes them has it alone.
    pub bytes: [RwLock<()>; LOCKS],
    /// Inodes of the source that are unchanged and lost their last name, until the kernel forgets them.
    pub gone: Mutex<HashSet<Key>>,
    pub renamed: Mutex<Renamed>,
    pub conflicts: Conflicts,
    pub filesystems: Filesystems,
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

pub(super) fn type_of(kind: Kind) -> FileType {
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
    /// As `id`, for an inode that the store must have.
    pub fn stored(&self, id: NodeId) -> Result<crate::store::Node> {
        self.store.node(id).map_err(errno)?.ok_or(Errno::STALE)
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
            self.record_name(node, id)?;
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

    /// Records the name by which an inode of the source is changed, if it was changed by another of its names before.
    fn record_name(&self, node: &Node, id: NodeId) -> Result<()> {
        let Some((parent, name)) = &node.at else {
            return Ok(());
        };
        let is_recorded = |node: &Node| node.is_recorded;
        let known = || self.nodes.with(self.nodes.number_of(node), is_recorded);
        if node.is_recorded || node.kind == FileType::Directory || known().unwrap_or(false) {
            return Ok(());
        }
        let Ok(dir) = self.nodes.get(*parent) else {
            return Ok(());
        };
        let directory = self.adopt(&dir)?;
        let name = name.as_bytes().to_vec();
        if self.store.name(directory, &name).map_err(errno)?.is_none() {
            let to = Some(Name::Node(id));
            let replaces = false;
            let change = Change::Name {
                directory,
                name,
                to,
                replaces,
            };
            self.store.change(vec![change]).map_err(errno)?;
        }
        self.nodes.update(node, |node| node.is_recorded = true);
        Ok(())
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
        // What it is when the source has lost it.
        let target = match node.kind {
            FileType::Symlink => self.below.read_link(source)?,
            _ => Vec::new(),
        };
        let made = crate::store::Node {
            kind: kind_of(node.kind)?,
            origin: Some(self.numbered_origin(source)?),
            attributes: Attributes::default(),
            links: 0,
            opaque: false,
            device: attr.rdev,
            target,
            reached: self.reached(node)?,
            known: known(&attr),
            known_size: attr.size,
            place: None,
        };
        // A node that has lost this inode does not get it back.
        let mut changes = match self.claim(source)? {
            Some(other) if self.renamed.lock().is_plain(node.key()) => self.part(other)?,
            _ => Vec::new(),
        };
        changes.push(Change::Make(id, Box::new(made)));
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
        if self.gone.lock().contains(&node.key()) {
            changes.push(Change::Links(id, -i64::from(attr.nlink)));
            changes.push(Change::Orphan(id, true));
        }
        match self.store.change(changes) {
            // Another thread was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done.map_err(errno),
        }?;
        self.renamed.lock().adopted(node.key());
        self.nodes.update(node, |node| node.is_recorded = true);
        Ok(())
    }

    /// The attributes of an inode.
    pub fn attr(&self, node: &Node) -> Result<Attr> {
        match &node.side {
            Side::Source(source) => {
                let id = self.id(node)?;
                let attr = match (self.below.attr(source), id) {
                    // The source has lost it while it is open.
                    (Err(Errno::STALE | Errno::NOENT), Some(id)) => {
                        return self.attr_of_own(id, &self.stored(id)?);
                    }
                    (attr, _) => attr?,
                };
                let mut attr = self.over(id, attr)?;
                if id.is_none() && self.gone.lock().contains(&node.key()) {
                    attr.nlink = 0;
                }
                Ok(attr)
            }
            Side::Own(id) => self.attr_of_own(*id, &self.stored(*id)?),
        }
    }

    /// The attributes of an inode of the source with those of its node over them.
    pub fn over(&self, id: Option<NodeId>, mut attr: Attr) -> Result<Attr> {
        let Some(id) = id else {
            return Ok(attr);
        };
        let stored = self.stored(id)?;
        let now = SourceState {
            size: attr.size,
            mtime: to_store(attr.mtime),
        };
        let content = self.lay(id, &stored, &mut attr)?;
        match content.and_then(|content| content.source) {
            Some(was) if was != now => self.conflicts.add(id, &stored.reached),
            _ => self.conflicts.remove(id),
        }
        Ok(attr)
    }

    pub fn attr_of_own(&self, id: NodeId, stored: &crate::store::Node) -> Result<Attr> {
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

    /// Lays what the store has of a node over attributes. Returns what it has of the bytes.
    fn lay(
        &self,
        id: NodeId,
        stored: &crate::store::Node,
        attr: &mut Attr,
    ) -> Result<Option<Content>> {
        lay_attributes(&stored.attributes, attr);
        let links = i64::from(attr.nlink) + stored.links;
        // The source may have taken links away that the view had taken away, too. What has a name has a link.
        let least = i64::from(links < 1 && !self.store.is_orphan(id).map_err(errno)?);
        attr.nlink = links.clamp(least, u32::MAX.into()) as u32;
        if stored.kind != Kind::File {
            return Ok(None);
        }
        let content = self.store.content(id).map_err(errno)?;
        if let Some(content) = &content {
            lay_content(content, attr);
        }
        Ok(content)
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
