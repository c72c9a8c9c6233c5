//! Which inode of the source a node of the store is about.
//!
//! A file is about the inode that it began as, as long as that inode has a name of the file in the source: the name by which it
//! was changed, or the name under which it is shown. If the view does not show it by the name by which it was changed, any name of
//! the inode will do. A directory is about whatever directory has its name in the source now. A
//! node that is about no inode of the source is shown as the store has it, and is a conflict.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::layers::{Layers, errno};
use super::node::{At, Key, Node, Side};
use crate::inode::{Place, ROOT, Seen};
use crate::source::Lasting;
use crate::store::{self, Change, Kind, NodeId, Origin};
use crate::view::shared;
use crate::view::{Attributes as _, Found, Names as _};

/// The first byte of an identity that no inode has: its node has lost its inode to another node.
const PARTED: u8 = b'p';

/// So many inodes that lead to others are remembered, where inodes are found by their names.
const MOST_PASSED: usize = 1024;

/// Whether what is found in the source is held open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    IfNeeded,
    /// Whoever asks was told ESTALE: the source may give the name away at once.
    Always,
}

impl Layers {
    /// The store's number of a filesystem of the source. None: the store knows nothing of it.
    fn filesystem(&self, index: u32) -> Result<Option<u32>> {
        if let Some(known) = self.filesystems.known(index) {
            return Ok(known);
        }
        let lasting = self.below.filesystem(index)?;
        let is_at = |path: &[u8]| {
            self.is_another(index, &lasting, path)
                .map_err(std::io::Error::from)
        };
        let found = self.filesystems.find(index, &lasting, &self.store, is_at);
        found.map_err(errno)
    }

    /// Whether another filesystem than this one, and of its UUID, begins at a path of the source.
    fn is_another(&self, index: u32, lasting: &Lasting, path: &[u8]) -> Result<bool> {
        let there = self.below.filesystem_at(path)?;
        let there = there.filter(|there| *there != index);
        let there = there
            .map(|there| self.below.filesystem(there))
            .transpose()?;
        Ok(there.is_some_and(|there| there.uuid == lasting.uuid))
    }

    /// As `filesystem`. Gives it a number if it has none.
    fn numbered_filesystem(&self, index: u32) -> Result<u32> {
        if let Some(number) = self.filesystem(index)? {
            return Ok(number);
        }
        let lasting = self.below.filesystem(index)?;
        let added = self.filesystems.add(index, &lasting, &self.store);
        added.map_err(errno)
    }

    /// Inode numbers of another filesystem than the root's are made of the store's number for it.
    fn number_filesystem(&self, node: &shared::Node) {
        let index = node.number().0;
        if index == 0 || node.is_own_mount() || self.filesystems.is_shown(index) {
            return;
        }
        // The root's is the first in each store. A store without room for one more leads to numbers of this life.
        let first = self.numbered_filesystem(0);
        let number = first.and_then(|_| self.numbered_filesystem(index));
        self.filesystems.show(index, number.ok());
    }

    /// What the store may know an inode by. None: it knows nothing of the inode's filesystem.
    pub fn origin(&self, node: &shared::Node) -> Result<Option<Origin>> {
        if node.is_own_mount() {
            return Ok(None);
        }
        let number = self.filesystem(node.number().0)?;
        Ok(number.map(|filesystem| self.origin_on(filesystem, node)))
    }

    fn origin_on(&self, filesystem: u32, node: &shared::Node) -> Origin {
        let number = node.number();
        // The root is the same in any life and in any clone of the source.
        let (number, identity) = match number == (0, self.below.root_number()) {
            true => (0, Vec::new()),
            false => (number.1, node.identity()),
        };
        Origin {
            filesystem,
            number,
            identity,
        }
    }

    /// As `origin`, for an inode that the store is about to know.
    pub fn numbered_origin(&self, node: &shared::Node) -> Result<Origin> {
        let filesystem = self.numbered_filesystem(node.number().0)?;
        Ok(self.origin_on(filesystem, node))
    }

    /// The node that began as this inode, even if it is about the inode no more.
    pub fn claim(&self, node: &shared::Node) -> Result<Option<NodeId>> {
        match self.origin(node)? {
            Some(origin) => self.store.by_origin(&origin).map_err(errno),
            None => Ok(None),
        }
    }

    /// The store's node of an inode, if it has one.
    pub fn id(&self, node: &Node) -> Result<Option<NodeId>> {
        match &node.side {
            Side::Own(id) => Ok(Some(*id)),
            Side::Source(node) => {
                let claim = self.claim(node)?;
                let key = Key::Source(node.key());
                Ok(claim.filter(|_| !self.renamed.lock().is_plain(key)))
            }
        }
    }

    /// A node of the store, wherever it is shown.
    pub fn found(&self, id: NodeId) -> Result<Found<Node>> {
        let stored = self.stored(id)?;
        self.found_by_way(id, &stored, Hold::IfNeeded)
    }

    fn found_by_way(&self, id: NodeId, stored: &store::Node, hold: Hold) -> Result<Found<Node>> {
        if stored.origin.is_none() {
            return self.own(id, stored);
        }
        match self.walk(&stored.reached, hold)? {
            Some(found) => self.about(id, stored, None, found),
            None => self.lost(id, stored),
        }
    }

    /// A node of the store, as `name` in the directory.
    pub fn found_at(
        &self,
        dir: &Node,
        directory: NodeId,
        name: &OsStr,
        (id, hold): (NodeId, Hold),
    ) -> Result<Found<Node>> {
        let stored = self.stored(id)?;
        let (Some(origin), Some(source)) = (&stored.origin, dir.source()) else {
            return self.found_by_way(id, &stored, hold);
        };
        let at = dir.name(name);
        let found = match self.lookup_source(source, name, hold) {
            Err(Errno::NOENT) => None,
            found => Some(found?),
        };
        if let Some(found) = &found {
            if self.origin(&found.place)?.as_ref() == Some(origin) {
                return self.about(id, &stored, at, found.clone());
            }
        }
        let way = self.stored(directory)?.reached;
        let here = [way.as_slice(), name.as_bytes()].join(&b'/');
        if here.strip_prefix(b"/").unwrap_or(&here) != stored.reached {
            return self.found_by_way(id, &stored, hold);
        }
        match found {
            Some(found) => self.about(id, &stored, at, found),
            None => self.lost(id, &stored),
        }
    }

    /// A node whose name leads to this inode in the source.
    fn about(
        &self,
        id: NodeId,
        stored: &store::Node,
        at: Option<At>,
        found: Found<shared::Node>,
    ) -> Result<Found<Node>> {
        let is_same = self.origin(&found.place)? == stored.origin;
        // Directories merge by name. A file of the same name is another file.
        let may_merge = stored.kind == Kind::Directory && found.attr.is_dir()
            || self.is_restored(stored, &found.attr);
        if !is_same && (!may_merge || !self.move_on(id, &found.place)?) {
            return self.lost(id, stored);
        }
        let key = Key::Source(found.place.key());
        self.renamed.lock().shown(key, false);
        self.placed(at, found, Some(id), true)
    }

    /// Lets a directory stand for the one that has its name in the source now. False: that is mmfs's own mount.
    fn move_on(&self, id: NodeId, to: &shared::Node) -> Result<bool> {
        if to.is_own_mount() {
            return Ok(false);
        }
        if self.store.is_closed() {
            // It is only looked at.
            return Ok(true);
        }
        let mut changes = match self.claim(to)? {
            Some(other) => self.part(other)?,
            None => Vec::new(),
        };
        let origin = self.numbered_origin(to)?;
        changes.push(Change::Origin(id, Box::new(origin)));
        match self.store.change(changes) {
            // Another thread was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => done.map_err(errno)?,
        }
        Ok(true)
    }

    /// The change that takes from a node the inode that it began as.
    pub fn part(&self, id: NodeId) -> Result<Vec<Change>> {
        let mut origin = self.stored(id)?.origin.ok_or(Errno::STALE)?;
        // No two nodes have one.
        origin.identity = [&[PARTED], &id.0.to_le_bytes()[..]].concat();
        Ok(vec![Change::Origin(id, Box::new(origin))])
    }

    /// A node that the source has lost: what the store has of it is shown.
    fn lost(&self, id: NodeId, stored: &store::Node) -> Result<Found<Node>> {
        self.conflicts.add(id, &stored.reached);
        self.own(id, stored)
    }

    fn own(&self, id: NodeId, stored: &store::Node) -> Result<Found<Node>> {
        let attr = self.attr_of_own(id, stored)?;
        let node = Node::own(id, super::layers::type_of(stored.kind));
        Ok(Found::seen(node, attr, Seen::Held))
    }

    /// What the source shows under a name of which the store says nothing: another name of an inode that the store has changes to,
    /// or one of which it has none. A file that the source has renamed is not what the store has changes to.
    pub fn found_below(
        &self,
        dir: &Node,
        name: &OsStr,
        found: Found<shared::Node>,
    ) -> Result<Found<Node>> {
        let mut id = self.claim(&found.place)?;
        if let Some(claim) = id {
            let stored = self.stored(claim)?;
            let is_there = !self.is_deleted(claim, &found)?
                && match self.walk(&stored.reached, Hold::IfNeeded)? {
                    Some(there) if there.place == found.place => true,
                    _ => !self.may_be_shown(claim, &stored)?,
                };
            let key = Key::Source(found.place.key());
            self.renamed.lock().shown(key, !is_there);
            id = id.filter(|_| is_there);
        }
        self.has_name_again(dir, name, &found)?;
        self.placed(dir.name(name), found, id, false)
    }

    /// An inode that had lost its last name in the view is shown under another. Who is removing this one meanwhile comes first.
    fn has_name_again(&self, dir: &Node, name: &OsStr, found: &Found<shared::Node>) -> Result<()> {
        let key = Key::Source(found.place.key());
        if !self.gone.lock().contains(&key) {
            return Ok(());
        }
        let _recording = self.recording.lock();
        let leads = match self.id(dir)? {
            Some(directory) => self.store.name(directory, name.as_bytes()).map_err(errno)?,
            None => None,
        };
        if leads.is_none() {
            self.gone.lock().remove(&key);
        }
        Ok(())
    }

    /// Whether the view has removed the last name of a node, and nobody has it open with its changes.
    fn is_deleted(&self, id: NodeId, found: &Found<shared::Node>) -> Result<bool> {
        let node = Node::of_source(found.place.clone(), found.attr.kind(), None, false);
        let is_orphan = self.store.is_orphan(id).map_err(errno)?;
        // Who has opened it since it was shown without its changes has it without them.
        let is_plain = self.renamed.lock().is_plain(node.key());
        Ok(is_orphan && (is_plain || !self.caches.is_open(self.nodes.number_of(&node))))
    }

    /// Whether the view may show a node by the path by which it was first changed, or by a name to which it has moved it from there.
    /// Not if the view has removed that name, or if it was another file's already.
    fn may_be_shown(&self, id: NodeId, stored: &store::Node) -> Result<bool> {
        if stored.kind == Kind::Directory {
            return Ok(stored.place.is_some());
        }
        let Some(mut directory) = self.id(&self.nodes.get(ROOT)?)? else {
            return Ok(false);
        };
        let mut parts = stored.reached.split(|byte| *byte == b'/').peekable();
        let mut passed = 0;
        while let Some(part) = parts.next() {
            if part.is_empty() {
                return Ok(false);
            }
            passed += part.len();
            let leads = self.store.name(directory, part).map_err(errno)?;
            let Some(store::Name::Node(found)) = leads else {
                break;
            };
            if found == id {
                return Ok(true);
            }
            let is_way = self.stored(found)?.reached == stored.reached[..passed];
            match parts.peek() {
                Some(_) if is_way => directory = found,
                None if is_way => return Ok(false),
                _ => break,
            }
            passed += 1;
        }
        // Who removes a name takes a link away, who moves one, or a directory of its path, does not.
        Ok(stored.links >= 0)
    }

    fn placed(
        &self,
        at: Option<At>,
        found: Found<shared::Node>,
        id: Option<NodeId>,
        is_recorded: bool,
    ) -> Result<Found<Node>> {
        self.number_filesystem(&found.place);
        self.remember(&found);
        let node = Node::of_source(found.place, found.attr.kind(), at, is_recorded);
        let attr = self.over(id, found.attr)?;
        let (mut seen, hold) = (found.seen, found.hold);
        // The source's table may know an inode that this view's does not: a listing looked at it.
        if seen == Seen::Recognized {
            self.nodes.update(&node, |known| known.found_as(&node));
            if self.nodes.remembered(&node).is_none() {
                seen = Seen::NotHeld;
            }
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
        if self.looked_at.is_some() {
            // Whether the kernel knows it, another table says.
            return;
        }
        let is_known = || self.nodes.remembered(node).is_some();
        if self.below_nodes.forget_unless(source, is_known) {
            self.below.forget_unless(source, is_known);
            if is_known() {
                self.remember_again(source);
            }
        }
    }

    /// The kernel has come to know an inode of the source while it was let go.
    pub fn remember_again(&self, source: &shared::Node) {
        if self.below_nodes.remembered(source).is_none() {
            self.look_at(source);
            let _ = self.below_nodes.remember(source.clone(), Seen::NotHeld, 0);
        }
    }

    /// Notes what is forgotten after a look.
    fn look_at(&self, source: &shared::Node) {
        if let Some(looked_at) = &self.looked_at {
            looked_at.lock().push(source.clone());
        }
    }

    /// A directory that the kernel knows. What is found in it may be found again only by it. It was let go if the kernel came to know
    /// it at that moment.
    pub fn remember_way(&self, dir: &shared::Node) {
        if !dir.is_found_by_handle() {
            self.remember_again(dir);
        }
    }

    pub fn remember(&self, found: &Found<shared::Node>) {
        let is_new = self.below_nodes.remembered(&found.place).is_none();
        let node = Node::of_source(found.place.clone(), FileType::Unknown, None, false);
        // The kernel gets these attributes. Of what it knows already it may have pages that nobody remembers.
        let is_told = self.looked_at.is_none();
        let is_sure = !is_new || is_told && self.nodes.remembered(&node).is_none();
        if is_new {
            self.look_at(&found.place);
        }
        let stamp = match found.attr.is_file() && is_sure {
            true => found.attr.stamp(),
            false => 0,
        };
        let _ = self
            .below_nodes
            .remember(found.place.clone(), found.seen, stamp);
    }

    /// As `remember`, for what only leads to something else. The last ones are remembered.
    fn remember_on_the_way(&self, found: &Found<shared::Node>) {
        if self.below_nodes.remembered(&found.place).is_some() {
            return;
        }
        self.remember(found);
        let mut passed = self.passed.lock();
        passed.push_back(found.place.clone());
        let oldest = match passed.len() > MOST_PASSED {
            true => passed.pop_front(),
            false => None,
        };
        drop(passed);
        if let Some(oldest) = oldest {
            self.let_go(&Node::of_source(oldest, FileType::Unknown, None, false));
        }
    }

    /// Looks up a name in the source.
    pub fn lookup_source(
        &self,
        dir: &shared::Node,
        name: &OsStr,
        hold: Hold,
    ) -> Result<Found<shared::Node>> {
        if hold == Hold::Always {
            return self.below.lookup_to_hold(dir, name);
        }
        let found = self.below.lookup(dir, name)?;
        self.held_if_needed(dir, name, found)
    }

    /// What was found in the source. It is held if the view's own table of nodes has another inode of its number.
    pub fn held_if_needed(
        &self,
        dir: &shared::Node,
        name: &OsStr,
        found: Found<shared::Node>,
    ) -> Result<Found<shared::Node>> {
        self.number_filesystem(&found.place);
        let number = self.nodes.number(Key::Source(found.place.key()));
        let is_other = |known: &Node| known.source() != Some(&found.place);
        match self.nodes.with(number, is_other) {
            Ok(true) if found.seen != Seen::Held => self.below.lookup_to_hold(dir, name),
            _ => Ok(found),
        }
    }

    /// What a path below the source's root leads to. Symbolic links are not followed.
    pub fn walk(&self, path: &[u8], hold: Hold) -> Result<Option<Found<shared::Node>>> {
        let mut at = self.below_nodes.get(ROOT)?;
        let attr = self.below.attr(&at)?;
        let mut found = Found::seen(at.clone(), attr, Seen::Held);
        for part in Path::new(OsStr::from_bytes(path)).components() {
            let Component::Normal(name) = part else {
                return Ok(None);
            };
            if !found.attr.is_dir() {
                return Ok(None);
            }
            found = match self.lookup_source(&at, name, hold) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => return Ok(None),
                found => found?,
            };
            if !found.place.is_found_by_handle() {
                self.remember_on_the_way(&found);
            }
            at = found.place.clone();
        }
        Ok(Some(found))
    }
}
