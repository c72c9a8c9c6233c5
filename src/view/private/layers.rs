//! The source and the store, and what both together say of an inode.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, RwLock};
use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::caches::Caches;
use super::conflicts::Conflicts;
use super::file_locks::FileLocks;
use super::filesystems::Filesystems;
use super::freeing::Freeing;
use super::node::{Key, Node, Side};
use super::own_names::OwnNames;
use super::renamed::Renamed;
use super::setid::{SGID, SUID};
use crate::attr::{Attr, MountId, Time};
use crate::config::OnSourceChange;
use crate::inode::{NodeTable, Place as _};
use crate::store::{Attributes, Change, Content, Kind, NodeId, PAGE, SourceState, Store};
use crate::view::Attributes as _;
use crate::view::shared::{self, Shared};

/// The layers of one private view.
pub(super) struct Layers {
    /// The source, which is never changed.
    pub below: Arc<Shared>,
    /// The source's inodes that the kernel knows through this view.
    pub below_nodes: Arc<NodeTable<shared::Node>>,
    pub on_source_change: OnSourceChange,
    /// The source may have been restored or cloned: its files may have other inode numbers.
    pub base_moved: bool,
    pub caches: Arc<Caches>,
    pub store: Arc<Store>,
    pub nodes: Arc<NodeTable<Node>>,
    /// Who records names holds it. Nothing is asked of the source with it. Lock order: before `gone`, `renamed` and `conflicts`.
    pub recording: Mutex<()>,
    /// How many names were made in this life.
    pub made: AtomicU64,
    pub bytes: FileLocks,
    /// Inodes of the source that are unchanged and lost their last name, until the kernel forgets them.
    pub gone: Mutex<HashSet<Key>>,
    pub renamed: Mutex<Renamed>,
    pub conflicts: Conflicts,
    pub own_names: OwnNames,
    /// Inodes of the source that lead to others by their names, in the order in which they were first needed.
    pub passed: Mutex<VecDeque<shared::Node>>,
    pub filesystems: Arc<Filesystems>,
    pub freeing: Freeing,
    /// How often changes were given up in this life.
    pub given_up: AtomicU64,
    /// Of layers that only look at a view which is mounted ([`Layers::to_look_at`]): inodes that the source's table knows because of that.
    pub looked_at: Option<Mutex<Vec<shared::Node>>>,
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
    /// Moves the times of a file of which no byte changes.
    pub fn touch(&self, id: NodeId, now: crate::store::Time) -> Result<()> {
        let over = Attributes {
            mtime: Some(now),
            ctime: Some(now),
            ..Attributes::default()
        };
        let changes = vec![Change::Attributes(id, over)];
        self.store.change(changes).map_err(errno)
    }

    /// As `id`, for an inode that the store must have.
    pub fn stored(&self, id: NodeId) -> Result<crate::store::Node> {
        self.store.node(id).map_err(errno)?.ok_or(Errno::STALE)
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
        let content = self.store.content_now(id).map_err(errno)?;
        if let Some(content) = &content {
            lay_content(content, attr);
        }
        if !has_own_privileges(stored, content.is_some()) {
            attr.mode &= !(SUID | SGID);
        }
        Ok(content)
    }

    /// The lock of a file's bytes.
    pub fn lock(&self, id: NodeId) -> Arc<RwLock<()>> {
        self.bytes.of(id)
    }
}

/// Whether suid and sgid are of the side that bytes and owner are of: the source's, or the view's. Else somebody could give his bytes
/// the rights of a user whom the other side has made their owner.
fn has_own_privileges(stored: &crate::store::Node, has_bytes: bool) -> bool {
    let own = &stored.attributes;
    match own.mode {
        None => !has_bytes && own.uid.is_none() && own.gid.is_none(),
        // They are recorded with their owner.
        Some(_) => own.uid.is_some() && own.gid.is_some(),
    }
}

fn lay_content(content: &Content, attr: &mut Attr) {
    let below = if content.source_limit > 0 {
        // Of what was cut off, nothing is shown.
        attr.blocks
            .min(content.source_limit.div_ceil(PAGE) * (PAGE / 512))
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
pub(super) fn known(attr: &Attr) -> Attributes {
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
