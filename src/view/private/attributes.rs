//! Changing attributes: what the source's kernel did for a mirror, the view does itself.

use std::sync::Arc;

use rustix::fs::{OFlags, StatVfs};
use rustix::io::{Errno, Result};

use super::acl::{ACCESS, Acl};
use super::adopt::Asked;
use super::content::OpenFile;
use super::layers::{Layers, errno, to_store};
use super::node::{Node, Side};
use super::setid::{SGID, SUID, stripped, with_owner};
use super::view::Private;
use crate::actor::Actor;
use crate::attr::{Attr, Time};
use crate::config::OnSourceChange;
use crate::request::{SetAttr, SetTime};
use crate::store::{Attributes as Overrides, Change, NodeId, Xattr};
use crate::view::{Attributes, Files as _};

pub(super) const CAPABILITY: &str = "security.capability";

impl Attributes for Private {
    fn attr(&self, node: &Node) -> Result<Attr> {
        self.layers.attr(node)
    }

    fn set_attr(
        &self,
        by: &Actor,
        node: &Node,
        _open: Option<&OpenFile>,
        set: &SetAttr,
    ) -> Result<()> {
        let layers = &self.layers;
        if set.mode.is_some_and(|mode| mode & (SUID | SGID) != 0) {
            let id = layers.adopt(node)?;
            layers.store.refresh_and_part(id).map_err(errno)?;
        }
        let now = Time::now();
        if let Some(size) = set.size {
            return self.cut(by, node, set, size, now);
        }
        let asked = layers.asked_first(node)?;
        let (over, xattrs) = layers.to_set(by, node, asked.as_ref(), set, now)?;
        if xattrs.is_empty() {
            return layers.change_node(node, asked, over);
        }
        let id = layers.adopt(node)?;
        let changes = changes_of(id, over, xattrs);
        layers.store.change(changes).map_err(errno)
    }

    fn statfs(&self, node: &Node) -> Result<StatVfs> {
        let root;
        let below = match &node.side {
            Side::Source(below) => below,
            Side::Own(_) => {
                root = self.layers.below_nodes.get(crate::inode::ROOT)?;
                &root
            }
        };
        let mut usage = self.layers.below.statfs(below)?;
        // What can be written is what the store has room for.
        let blocks = self.layers.store.free().map_err(errno)? / usage.f_frsize.max(1);
        usage.f_blocks = usage.f_blocks.saturating_sub(usage.f_bfree) + blocks;
        (usage.f_bfree, usage.f_bavail) = (blocks, blocks);
        Ok(usage)
    }
}

/// Attributes to set, and extended ones.
type ToSet = (Overrides, Vec<(Vec<u8>, Xattr)>);

fn changes_of(id: NodeId, over: Overrides, xattrs: Vec<(Vec<u8>, Xattr)>) -> Vec<Change> {
    let xattr = |(name, value)| Change::Xattr(id, name, Some(value));
    let mut changes: Vec<_> = xattrs.into_iter().map(xattr).collect();
    changes.push(Change::Attributes(id, over));
    changes
}

impl Private {
    /// Sets the length with all else that is to be set, in one record: what a write has found in between, or a store without room for
    /// another record, could leave bytes with rights that are not for them.
    fn cut(&self, by: &Actor, node: &Node, set: &SetAttr, size: u64, now: Time) -> Result<()> {
        let layers = &self.layers;
        let id = layers.adopt(node)?;
        self.copy_before_cut(by, node, size)?;
        let lock = layers.lock(id);
        let alone = lock.write();
        let (mut over, xattrs) = layers.to_set(by, node, None, set, now)?;
        // A new length moves the times.
        over.ctime = None;
        let more = match over == Overrides::default() && xattrs.is_empty() {
            true => Vec::new(),
            false => changes_of(id, over, xattrs),
        };
        layers.resize(node, id, (size, now), more)?;
        drop(alone);
        layers.store.refresh(id).map_err(errno)
    }

    /// Before a new length is the first change of a file's bytes: copies them, if that is asked for.
    fn copy_before_cut(&self, by: &Actor, node: &Node, size: u64) -> Result<()> {
        if size == 0 || self.layers.on_source_change != OnSourceChange::Copy {
            return Ok(());
        }
        let open = Arc::new(self.open(by, node, OFlags::RDWR)?);
        let copied = open.copy_first();
        self.close(open);
        copied
    }
}

fn moment(time: SetTime, now: Time) -> crate::store::Time {
    match time {
        SetTime::Now => to_store(now),
        SetTime::To(time) => to_store(time),
    }
}

/// An ACL after a chmod(2).
fn with_mode(acl: &[u8], mode: u32) -> Result<(Vec<u8>, Xattr)> {
    let mut acl = Acl::parse(acl)?;
    acl.set_mode(mode);
    Ok((ACCESS.into(), Xattr::Set(acl.value())))
}

/// The change that makes a mode the view's own.
fn to_mode(id: NodeId, mode: u32, attr: &Attr) -> Change {
    let mut over = Overrides {
        mode: Some(mode),
        ..Overrides::default()
    };
    with_owner(&mut over, attr);
    Change::Attributes(id, over)
}

impl Layers {
    /// What is to be set of a node, beside its length. `asked`: what the source says of one that was never changed.
    fn to_set(
        &self,
        by: &Actor,
        node: &Node,
        asked: Option<&Asked>,
        set: &SetAttr,
        now: Time,
    ) -> Result<ToSet> {
        let attr = asked.map_or_else(|| self.attr(node), |asked| Ok(asked.attr))?;
        let mut over = Overrides::default();
        let mut xattrs = Vec::new();
        let takes_setid = set.is_nothing() && by.owns(attr.uid);
        let mut mode = attr.mode & 0o7777;
        if set.uid.is_some() || set.gid.is_some() || takes_setid {
            (over.uid, over.gid) = (set.uid, set.gid);
            if !attr.is_dir() {
                mode = stripped(mode, by.is_in_group(attr.gid));
                xattrs.extend(self.without_capability(node)?);
            }
        }
        if let Some(wanted) = set.mode {
            mode = wanted & 0o7777;
            let acl = match asked {
                Some(asked) => asked.access().map(<[u8]>::to_vec),
                None => self.access_acl(node)?,
            };
            xattrs.extend(acl.map(|acl| with_mode(&acl, mode)).transpose()?);
        }
        if set.size.is_some() {
            if !by.is_root() {
                mode = stripped(mode, by.is_in_group(attr.gid));
            }
            xattrs.extend(self.without_capability(node)?);
        }
        // What the source says of a file whose bytes or owner are changed gives nobody a privilege. So what it keeps is recorded.
        let moves = set.size.is_some() || set.uid.is_some() || set.gid.is_some() || takes_setid;
        let keeps = moves && !attr.is_dir() && mode & (SUID | SGID) != 0;
        if mode != attr.mode & 0o7777 || keeps {
            over.mode = Some(mode);
        }
        with_owner(&mut over, &attr);
        over.atime = set.atime.map(|time| moment(time, now));
        over.mtime = set.mtime.map(|time| moment(time, now));
        over.ctime = Some(to_store(now));
        Ok((over, xattrs))
    }

    /// The attribute that takes the file's capabilities away, if it has any.
    fn without_capability(&self, node: &Node) -> Result<Option<(Vec<u8>, Xattr)>> {
        match self.xattr_of(node, CAPABILITY.as_ref()) {
            Ok(_) => Ok(Some((CAPABILITY.into(), Xattr::Hidden))),
            Err(Errno::NODATA) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether a write takes something away from the file: suid, sgid or capabilities.
    pub fn has_privilege(&self, node: &Node) -> Result<bool> {
        Ok(self.attr(node)?.has_setid() || self.without_capability(node)?.is_some())
    }

    /// Whether the store gives the file a privilege that a write may take.
    fn is_given_privilege(&self, id: NodeId) -> Result<bool> {
        let mode = self.stored(id)?.attributes.mode;
        let has_setid = mode.is_some_and(|mode| mode & (SUID | SGID) != 0);
        let capability = self.store.xattr(id, CAPABILITY.as_bytes());
        Ok(has_setid || matches!(capability.map_err(errno)?, Some(Xattr::Set(_))))
    }

    fn access_acl(&self, node: &Node) -> Result<Option<Vec<u8>>> {
        match self.xattr_of(node, ACCESS.as_ref()) {
            Err(Errno::NODATA) => Ok(None),
            value => value.map(Some),
        }
    }

    /// Before a change of a file's bytes. `strips`: for whom suid, sgid and capabilities go, and whether he may keep the bits. A store
    /// through a mapping takes none of them. `is_first`: no byte of it was changed before.
    pub fn begin_change(
        &self,
        strips: Option<(&Actor, bool)>,
        node: &Node,
        id: NodeId,
        is_first: bool,
    ) -> Result<()> {
        match strips {
            Some((by, keeps_setid)) => self.strip(by, node, id, (is_first, keeps_setid)),
            None if is_first => self.keep_privileges(node, id),
            None => Ok(()),
        }
    }

    /// Records what privileges the source gives a file. Once bytes of it are changed, only the store gives it any (`lay`).
    fn keep_privileges(&self, node: &Node, id: NodeId) -> Result<()> {
        let attr = self.attr(node)?;
        let mut changes = Vec::new();
        match self.xattr_of(node, CAPABILITY.as_ref()) {
            Ok(value) => {
                let name = CAPABILITY.into();
                changes.push(Change::Xattr(id, name, Some(Xattr::Set(value))));
            }
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
        if attr.has_setid() {
            changes.push(to_mode(id, attr.mode & 0o7777, &attr));
        }
        match changes.is_empty() {
            true => Ok(()),
            false => self.store.change(changes).map_err(errno),
        }
    }

    /// What a write takes away from a file: capabilities, and suid and sgid unless the user may keep them. `is_first`: no byte of it
    /// was changed before. Later only the store gives it privileges (`lay`).
    fn strip(
        &self,
        by: &Actor,
        node: &Node,
        id: NodeId,
        (is_first, keeps_setid): (bool, bool),
    ) -> Result<()> {
        if !is_first && !self.is_given_privilege(id)? {
            return Ok(());
        }
        let attr = self.attr(node)?;
        let mut changes = Vec::new();
        if let Some((name, value)) = self.without_capability(node)? {
            changes.push(Change::Xattr(id, name, Some(value)));
        }
        let mode = attr.mode & 0o7777;
        let kept = match keeps_setid {
            true => mode,
            // Root would keep them. So it has opened the file for somebody else, of whom nothing is known.
            false => stripped(mode, !by.is_root() && by.is_in_group(attr.gid)),
        };
        if kept != mode || is_first && kept & (SUID | SGID) != 0 {
            changes.push(to_mode(id, kept, &attr));
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.store.change(changes).map_err(errno)?;
        if kept != mode {
            // The kernel would execute the file with these bits until its attributes expire.
            self.caches.attributes_changed(self.nodes.number_of(node));
        }
        Ok(())
    }
}
