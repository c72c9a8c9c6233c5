//! Looking up, making and removing names of a private view.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, OFlags, RenameFlags};
use rustix::io::{Errno, Result};

use super::acl::{ACCESS, Acl, DEFAULT};
use super::content::OpenFile;
use super::layers::{Layers, errno, kind_of, to_store};
use super::node::{Node, Side};
use super::origins::Hold;
use super::since::precise_now;
use super::standing::{changed_at, dir_changed, until_recorded};
use super::view::Private;
use crate::actor::Actor;
use crate::attr::{Attr, Time};
use crate::inode::Place;
use crate::request::{New, Permissions, Removal};
use crate::store::{self, Attributes as Overrides, Change, NodeId, Xattr};
use crate::view::{Directories as _, Files as _, Found, Name, Names, shared};

impl Names for Private {
    fn lookup(&self, dir: &Node, name: &OsStr) -> Result<Found<Node>> {
        self.layers.lookup(dir, name)
    }

    fn lookup_to_hold(&self, dir: &Node, name: &OsStr) -> Result<Found<Node>> {
        let layers = &self.layers;
        let below = |source: &_| layers.lookup_source(source, name, Hold::Always);
        layers.lookup_by((dir, name), Hold::Always, below)
    }

    fn make(&self, by: &Actor, at: Name<'_, Node>, new: New<'_>) -> Result<Found<Node>> {
        self.layers.make(by, at, new)
    }

    fn create(
        &self,
        by: &Actor,
        at: Name<'_, Node>,
        permissions: Permissions,
        flags: OFlags,
        made: impl FnOnce(Found<Node>),
    ) -> Result<OpenFile> {
        let new = New::Other(FileType::RegularFile, permissions, 0);
        let found = match self.layers.make(by, at, new) {
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => return Err(Errno::STALE),
            found => found?,
        };
        let node = found.place.clone();
        made(found);
        self.open(by, &node, flags - OFlags::TRUNC)
    }

    fn link(&self, node: &Node, (dir, name): Name<'_, Node>) -> Result<Found<Node>> {
        let layers = &self.layers;
        check_name(name)?;
        layers.must_not_exist(dir, name)?;
        let attr = layers.attr(node)?;
        if attr.is_dir() {
            return Err(Errno::PERM);
        }
        if attr.nlink == 0 {
            return Err(Errno::NOENT);
        }
        let directory = layers.adopt(dir)?;
        let id = layers.adopt(node)?;
        let now = Time::now();
        let mut changes = vec![Change::Links(id, 1), changed_at(id, now)];
        changes.push(layers.named(directory, name, Some(store::Name::Node(id)), false));
        changes.push(dir_changed(directory, now));
        {
            let _recording = layers.recording.lock();
            layers.must_be_there(directory)?;
            layers.must_be_there(id)?;
            if !layers.still_leads(directory, name, None)? {
                return Err(Errno::EXIST);
            }
            layers.record_made(changes)?;
        }
        layers.found(id)
    }

    fn remove(&self, at: Name<'_, Node>, what: Removal) -> Result<()> {
        check_name(at.1)?;
        until_recorded(|| self.layers.remove(at, what))
    }

    fn rename(&self, from: Name<'_, Node>, to: Name<'_, Node>, flags: RenameFlags) -> Result<()> {
        until_recorded(|| self.layers.rename(from, to, flags))
    }

    fn read_link(&self, node: &Node) -> Result<Vec<u8>> {
        match &node.side {
            Side::Source(source) => self.layers.below.read_link(source),
            Side::Own(id) => {
                let stored = self
                    .layers
                    .store
                    .node(*id)
                    .map_err(errno)?
                    .ok_or(Errno::STALE)?;
                match stored.kind {
                    store::Kind::Symlink => Ok(stored.target),
                    _ => Err(Errno::INVAL),
                }
            }
        }
    }
}

/// Checks that `name` is one component and not too long: the store has no filesystem to ask.
pub(super) fn check_name(name: &OsStr) -> Result<()> {
    match name.len() > store::MAX_NAME {
        true => Err(Errno::NAMETOOLONG),
        false => crate::source::check_name(name),
    }
}

/// Attributes of what is made now, with no permissions.
pub(super) fn made_by(uid: u32, gid: u32, now: Time) -> Overrides {
    let time = Some(to_store(now));
    Overrides {
        mode: Some(0),
        uid: Some(uid),
        gid: Some(gid),
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
    }
}

/// A node that the source does not have, without links.
pub(super) fn new_node(kind: store::Kind, attributes: Overrides) -> store::Node {
    store::Node {
        kind,
        origin: None,
        attributes,
        links: 0,
        opaque: false,
        device: 0,
        target: Vec::new(),
        reached: Vec::new(),
        known: Overrides::default(),
        known_size: 0,
        place: None,
    }
}

impl Layers {
    /// What a name leads to.
    pub fn lookup(&self, dir: &Node, name: &OsStr) -> Result<Found<Node>> {
        let below = |source: &_| self.lookup_source(source, name, Hold::IfNeeded);
        self.lookup_by((dir, name), Hold::IfNeeded, below)
    }

    /// As `lookup`. `below` looks the name up in the directory's inode of the source.
    pub fn lookup_by(
        &self,
        (dir, name): Name<'_, Node>,
        hold: Hold,
        below: impl FnOnce(&shared::Node) -> Result<Found<shared::Node>>,
    ) -> Result<Found<Node>> {
        check_name(name)?;
        if let Some(source) = dir.source() {
            self.remember_way(source);
        }
        if let Some(directory) = self.id(dir)? {
            match self.store.name(directory, name.as_bytes()).map_err(errno)? {
                Some(store::Name::Hidden) => return Err(Errno::NOENT),
                Some(store::Name::Node(id)) => {
                    return self.found_at(dir, directory, name, (id, hold));
                }
                None => {}
            }
        }
        // What the source shows under a name of which the store says nothing.
        let found = below(dir.source().ok_or(Errno::NOENT)?)?;
        self.found_below(dir, name, found)
    }

    /// Whether the source has this name in the directory, shown or not.
    pub fn is_below(&self, dir: &Node, name: &OsStr) -> Result<bool> {
        let Some(source) = dir.source() else {
            return Ok(false);
        };
        match self.below.lookup(source, name) {
            Ok(_) => Ok(true),
            // The directory itself may have gone.
            Err(Errno::NOENT | Errno::STALE) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    pub fn must_not_exist(&self, dir: &Node, name: &OsStr) -> Result<()> {
        match self.lookup(dir, name) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    pub fn must_be_empty(&self, dir: &Node) -> Result<()> {
        if let Some(id) = self.id(dir)? {
            self.must_have_no_names(id)?;
        }
        let Some(source) = dir.source() else {
            return Ok(());
        };
        let listing = self.below.open_dir(source, OFlags::empty())?;
        let id = self.id(dir)?;
        let (mut offset, mut outcome) = (0, Ok(()));
        loop {
            let ended = self.below.list(&listing, offset, |entry| {
                offset = entry.offset;
                if !matches!(entry.name.as_bytes(), b"." | b"..") {
                    let hidden = id.map(|id| self.store.name(id, entry.name.as_bytes()));
                    match hidden.transpose() {
                        Ok(Some(Some(store::Name::Hidden))) => {}
                        Ok(_) => outcome = Err(Errno::NOTEMPTY),
                        Err(error) => outcome = Err(errno(error)),
                    }
                }
                outcome.is_ok()
            })?;
            if ended || outcome.is_err() {
                return outcome;
            }
        }
    }

    /// The change that makes a name lead somewhere. The source's entry of this name does not show from now on.
    pub fn named(
        &self,
        directory: NodeId,
        name: &OsStr,
        to: Option<store::Name>,
        replaces: bool,
    ) -> Change {
        let name = name.as_bytes().to_vec();
        Change::Name {
            directory,
            name,
            to,
            replaces,
            since: Some(precise_now()),
        }
    }

    /// The change that makes a name lead nowhere.
    pub fn unnamed(&self, dir: &Node, directory: NodeId, name: &OsStr) -> Result<Change> {
        let to = self.is_below(dir, name)?.then_some(store::Name::Hidden);
        Ok(self.named(directory, name, to, false))
    }

    /// Removes a name. False: others have changed what it leads to.
    fn remove(&self, (dir, name): Name<'_, Node>, what: Removal) -> Result<bool> {
        let found = self.lookup(dir, name)?;
        let is_dir = found.place.kind == FileType::Directory;
        match what {
            Removal::Name if is_dir => return Err(Errno::ISDIR),
            Removal::Directory if !is_dir => return Err(Errno::NOTDIR),
            _ => {}
        }
        let victim = self.victim(&found)?;
        let directory = self.adopt(dir)?;
        let now = Time::now();
        let mut changes = vec![
            self.unnamed(dir, directory, name)?,
            dir_changed(directory, now),
        ];
        if is_dir {
            changes.push(Change::Links(directory, -1));
        }
        let _recording = self.recording.lock();
        if !self.still_leads(directory, name, Some(&found.place))? {
            return Ok(false);
        }
        let Some(unlinked) = self.unlinked(&victim, now)? else {
            return Ok(false);
        };
        changes.extend(unlinked.changes);
        self.store.change(changes).map_err(errno)?;
        if unlinked.is_gone {
            self.gone.lock().insert(found.place.key());
        }
        Ok(true)
    }

    fn make(&self, by: &Actor, (dir, name): Name<'_, Node>, new: New<'_>) -> Result<Found<Node>> {
        check_name(name)?;
        self.must_not_exist(dir, name)?;
        let parent = self.attr(dir)?;
        if parent.nlink == 0 {
            return Err(Errno::NOENT);
        }
        let directory = self.adopt(dir)?;
        let id = self.store.new_number();
        let now = Time::now();
        let (node, mut changes) = self.new_node(by, dir, &parent, id, new, now)?;
        let is_dir = node.kind == store::Kind::Directory;
        changes.insert(0, Change::Make(id, Box::new(node)));
        changes.push(self.named(directory, name, Some(store::Name::Node(id)), false));
        changes.push(dir_changed(directory, now));
        if is_dir {
            changes.push(Change::Links(directory, 1));
        }
        {
            let _recording = self.recording.lock();
            self.must_be_there(directory)?;
            if !self.still_leads(directory, name, None)? {
                return Err(Errno::EXIST);
            }
            self.record_made(changes)?;
        }
        self.found(id)
    }

    /// A new node with what it gets from its directory: group, ACLs.
    fn new_node(
        &self,
        by: &Actor,
        dir: &Node,
        parent: &Attr,
        id: NodeId,
        new: New<'_>,
        now: Time,
    ) -> Result<(store::Node, Vec<Change>)> {
        let (kind, permissions, device, target) = match new {
            New::Directory(permissions) => (FileType::Directory, permissions, 0, Vec::new()),
            New::Other(kind, permissions, device) => (kind, permissions, device, Vec::new()),
            New::Symlink(target) => {
                let permissions = Permissions {
                    mode: 0o777,
                    umask: 0,
                };
                (
                    FileType::Symlink,
                    permissions,
                    0,
                    target.as_os_str().as_bytes().to_vec(),
                )
            }
        };
        if target.len() >= store::Node::MAX_TARGET {
            return Err(Errno::NAMETOOLONG);
        }
        let is_dir = kind == FileType::Directory;
        let mut mode = permissions.mode & 0o7777;
        let mut changes = Vec::new();
        match self
            .xattr_of(dir, DEFAULT.as_ref())
            .ok()
            .filter(|_| kind != FileType::Symlink)
        {
            None => mode &= !permissions.umask,
            Some(default) => changes.extend(inherited(id, is_dir, default, &mut mode)?),
        }
        let mut gid = by.caller.gid;
        if parent.mode & 0o2000 != 0 {
            gid = parent.gid;
            if is_dir {
                mode |= 0o2000;
            }
        }
        let attributes = Overrides {
            mode: Some(mode),
            ..made_by(by.caller.uid, gid, now)
        };
        let node = store::Node {
            links: if is_dir { 2 } else { 1 },
            device,
            target,
            ..new_node(kind_of(kind)?, attributes)
        };
        Ok((node, changes))
    }
}

/// What a new inode gets from its directory's default ACL.
fn inherited(id: NodeId, is_dir: bool, default: Vec<u8>, mode: &mut u32) -> Result<Vec<Change>> {
    let acl = Acl::parse(&default)?.inherited(mode);
    let set = |name: &str, value| Change::Xattr(id, name.into(), Some(Xattr::Set(value)));
    let access = (!acl.is_mode()).then(|| set(ACCESS, acl.value()));
    let default = is_dir.then(|| set(DEFAULT, default));
    Ok(access.into_iter().chain(default).collect())
}
