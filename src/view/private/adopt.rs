//! The first change of an inode of the source: it gets a node in the store, and the name by which it is changed leads to that.
//!
//! A name that the source has given to another inode since is left to that one. Then the node has no name of its own, and is shown
//! wherever the source shows its inode.

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::acl::{DEFAULT, KNOWN};
use super::layers::{Layers, errno, kind_of, known};
use super::node::{At, Node, Side};
use crate::attr::Attr;
use crate::inode::Place as _;
use crate::store::{self, Attributes, Change, Name, NodeId, Xattr};
use crate::view::shared;
use crate::view::{Attributes as _, Names as _};

/// What the source says of an inode.
pub(super) struct Asked {
    pub attr: Attr,
    /// By the names by which the store knows them.
    acls: Vec<(&'static str, Vec<u8>)>,
    /// Whether the source shows it under the name by which it is changed.
    is_named: bool,
}

impl Asked {
    /// The ACL that decides on access.
    pub fn access(&self) -> Option<&[u8]> {
        let access = |(name, _): &&(&str, Vec<u8>)| *name == KNOWN[0].1;
        self.acls.iter().find(access).map(|(_, value)| &**value)
    }
}

impl Layers {
    /// The store's node of an inode: a new one if this is its first change.
    pub fn adopt(&self, node: &Node) -> Result<NodeId> {
        if let Some(id) = self.id(node)? {
            self.record_name(node, id)?;
            return Ok(id);
        }
        self.adopt_with(node, None)?;
        self.id(node)?.ok_or(Errno::STALE)
    }

    /// Asks the source of an inode that was never changed. None: the store has it.
    pub fn asked_first(&self, node: &Node) -> Result<Option<Asked>> {
        match &node.side {
            Side::Source(source) if !source.is_own_mount() && self.id(node)?.is_none() => {
                self.ask(node, source).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Sets attributes. At the first change of an inode, of which `asked` tells, they are in the record that makes its node. Nothing
    /// larger is: that record may use the reserve.
    pub fn change_node(&self, node: &Node, asked: Option<Asked>, over: Attributes) -> Result<()> {
        if let Some(asked) = asked {
            if self.adopt_with(node, Some((asked, over)))? {
                return Ok(());
            }
        }
        let id = self.adopt(node)?;
        let change = Change::Attributes(id, over);
        self.store.change(vec![change]).map_err(errno)
    }

    /// Makes a node for an inode, and for the directories above it. `first`: what the source says of it, and attributes of the node.
    /// False: another thread has made it, without these.
    fn adopt_with(&self, node: &Node, first: Option<(Asked, Attributes)>) -> Result<bool> {
        // From the root down, so that each directory is there when a name in it is recorded.
        let mut way = vec![node.clone()];
        let mut passed = HashSet::new();
        while let Some(at) = &way[way.len() - 1].at {
            let dir = self.directory_of(at);
            // Places of directories that were found at different times may form a circle.
            if self.id(&dir)?.is_some() || !passed.insert(dir.key()) {
                break;
            }
            way.push(dir);
        }
        for dir in way.drain(1..).rev() {
            self.adopt_one(&dir, None)?;
        }
        self.adopt_one(node, first)
    }

    /// The directory of a name. The kernel may have forgotten it.
    pub(super) fn directory_of(&self, at: &At) -> Node {
        let node = Node {
            side: Side::Source(at.way.source.clone()),
            kind: FileType::Directory,
            at: at.way.at.clone(),
            way: Some(at.way.clone()),
            is_recorded: false,
        };
        self.nodes.remembered(&node).unwrap_or(node)
    }

    /// The path below the source's root of an inode of the source.
    fn reached(&self, node: &Node) -> Result<Vec<u8>> {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut passed = HashSet::new();
        let mut at = node.at.clone();
        while let Some(name) = at {
            parts.push(name.name.as_bytes().to_vec());
            let dir = self.directory_of(&name);
            if !passed.insert(dir.key()) {
                return Err(Errno::STALE);
            }
            // A directory that was renamed in the view knows its way in the source.
            if dir.at.is_none() {
                if let Some(id) = self.id(&dir)? {
                    parts.push(self.stored(id)?.reached);
                }
            }
            at = dir.at;
        }
        parts.reverse();
        parts.retain(|part| !part.is_empty());
        let path = parts.join(&b'/');
        match path.len() > store::Node::MAX_TARGET {
            true => Err(Errno::NAMETOOLONG),
            false => Ok(path),
        }
    }

    /// The attributes of the inode, if the source shows it under this name.
    fn attr_at(&self, node: &shared::Node, at: &At) -> Result<Option<Attr>> {
        match self.below.lookup(&at.way.source, &at.name) {
            Ok(found) => Ok((found.place == *node).then_some(found.attr)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn ask(&self, node: &Node, source: &shared::Node) -> Result<Asked> {
        let named = match &node.at {
            Some(at) => self.attr_at(source, at)?,
            None => None,
        };
        Ok(Asked {
            attr: named.map_or_else(|| self.below.attr(source), Ok)?,
            acls: self.known_acls(node, source)?,
            is_named: named.is_some(),
        })
    }

    /// Records the name by which an inode of the source is changed, if it was changed by another of its names before.
    fn record_name(&self, node: &Node, id: NodeId) -> Result<()> {
        let (Some(at), Some(source)) = (&node.at, node.source()) else {
            return Ok(());
        };
        let is_recorded = |node: &Node| node.is_recorded;
        let known = || self.nodes.with(self.nodes.number_of(node), is_recorded);
        if node.is_recorded || node.kind == FileType::Directory || known().unwrap_or(false) {
            return Ok(());
        }
        if self.attr_at(source, at)?.is_some() {
            let directory = self.adopt(&self.directory_of(at))?;
            let _recording = self.recording.lock();
            if let Some(change) = self.new_name(directory, at, id)? {
                self.store.change(vec![change]).map_err(errno)?;
            }
        }
        self.nodes.update(node, |node| node.is_recorded = true);
        Ok(())
    }

    /// The change that makes a name lead to a node. One that the store says something of stays as it is.
    fn new_name(&self, directory: NodeId, at: &At, id: NodeId) -> Result<Option<Change>> {
        let name = at.name.as_bytes().to_vec();
        let known = self.store.name(directory, &name).map_err(errno)?;
        Ok(known.is_none().then_some(Change::Name {
            directory,
            name,
            to: Some(Name::Node(id)),
            replaces: false,
            // What the source has there goes on to show.
            since: None,
        }))
    }

    fn adopt_one(&self, node: &Node, first: Option<(Asked, Attributes)>) -> Result<bool> {
        let Side::Source(source) = &node.side else {
            return Ok(false);
        };
        if source.is_own_mount() {
            return Err(Errno::PERM);
        }
        let (asked, over) = match first {
            Some((asked, over)) => (asked, Some(over)),
            None => (self.ask(node, source)?, None),
        };
        let mut made = self.new_origin(node, source, &asked.attr)?;
        let named = node.at.as_ref().filter(|_| asked.is_named);
        if named.is_none() && node.kind != FileType::Directory {
            made.reached.clear();
        }
        let directory = match named {
            Some(at) => Some(self.id(&self.directory_of(at))?.ok_or(Errno::STALE)?),
            None => None,
        };
        // Nobody records a name meanwhile.
        let _recording = self.recording.lock();
        // A node that has lost this inode does not get it back.
        let mut changes = match self.claim(source)? {
            Some(other) if self.renamed.lock().is_plain(node.key()) => self.give_up(other)?,
            _ => Vec::new(),
        };
        let id = self.store.new_number();
        changes.push(Change::Make(id, Box::new(made)));
        if let (Some(at), Some(directory)) = (named, directory) {
            changes.extend(self.new_name(directory, at, id)?);
        }
        for (name, value) in asked.acls {
            changes.push(Change::Xattr(id, name.into(), Some(Xattr::Set(value))));
        }
        // It has lost its last name: in the view, or in the source.
        let nlink = asked.attr.nlink;
        if nlink == 0 || self.gone.lock().contains(&node.key()) {
            changes.push(Change::Links(id, -i64::from(nlink)));
            changes.push(Change::Orphan(id, true));
        }
        changes.extend(over.map(|over| Change::Attributes(id, over)));
        let is_ours = match self.store.change(changes) {
            // Another thread was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            done => done.map(|()| true).map_err(errno)?,
        };
        self.renamed.lock().adopted(node.key());
        self.nodes.update(node, |node| node.is_recorded = true);
        Ok(is_ours)
    }

    /// The changes that take from a node the inode that it began as, for another node. If it was deleted, it goes: the kernel forgets the
    /// other one by this inode.
    fn give_up(&self, id: NodeId) -> Result<Vec<Change>> {
        let mut changes = self.part(id)?;
        let own = Node::own(id, FileType::RegularFile);
        let is_open = self.caches.is_open(self.nodes.number_of(&own));
        if self.store.is_orphan(id).map_err(errno)? && !is_open {
            changes.push(Change::Remove(id));
        }
        Ok(changes)
    }

    /// The ACLs of an inode of the source. They show if the source has lost it: its permissions may be too many without them.
    fn known_acls(
        &self,
        node: &Node,
        source: &shared::Node,
    ) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let mut acls = Vec::new();
        for (name, known) in KNOWN {
            if node.kind == FileType::Symlink || name == DEFAULT && node.kind != FileType::Directory
            {
                continue;
            }
            match self.source_xattr(source, name.as_ref()) {
                Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
                value => acls.push((known, value?)),
            }
        }
        Ok(acls)
    }

    /// What the store is to know of an inode of the source.
    fn new_origin(&self, node: &Node, source: &shared::Node, attr: &Attr) -> Result<store::Node> {
        // What it is when the source has lost it.
        let target = match node.kind {
            FileType::Symlink => self.below.read_link(source)?,
            _ => Vec::new(),
        };
        Ok(store::Node {
            kind: kind_of(node.kind)?,
            origin: Some(self.numbered_origin(source)?),
            attributes: Attributes::default(),
            links: 0,
            opaque: false,
            device: attr.rdev,
            target,
            reached: self.reached(node)?,
            known: known(attr),
            known_size: attr.size,
            place: None,
        })
    }
}
