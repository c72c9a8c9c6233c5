//! Extended attributes of a private view, POSIX ACLs among them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

use super::acl::{ACCESS, Acl, DEFAULT, KNOWN};
use super::attributes::CAPABILITY;
use super::layers::{Layers, errno, to_store};
use super::node::Node;
use super::setid::with_owner;
use super::view::Private;
use crate::actor::Actor;
use crate::attr::Time;
use crate::store::{Attributes as Overrides, Change, NodeId, Xattr};
use crate::view::{Attributes as _, Xattrs, shared};

/// The namespaces of xattr(7).
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", SYSTEM];

const SYSTEM: &[u8] = b"system.";

/// What is in no namespace, or has no name there, is refused, as by the filesystems of disks.
fn check_namespace(name: &OsStr) -> Result<()> {
    let name = name.as_bytes();
    let namespace = NAMESPACES.iter().find(|space| name.starts_with(space));
    match namespace {
        Some(namespace) if name == *namespace && name != SYSTEM => Err(Errno::INVAL),
        Some(_) => Ok(()),
        None => Err(Errno::OPNOTSUPP),
    }
}

fn is_acl(name: &OsStr) -> bool {
    name == ACCESS || name == DEFAULT
}

/// What a file answers that has no such attribute. Of the system's, the store has ACLs only: others are what a filesystem makes of them.
fn absent(name: &OsStr) -> Errno {
    match name.as_bytes().starts_with(SYSTEM) && !is_acl(name) {
        true => Errno::OPNOTSUPP,
        false => Errno::NODATA,
    }
}

impl Xattrs for Private {
    fn xattr(&self, node: &Node, name: &OsStr, room: usize) -> Result<Vec<u8>> {
        let value = self.layers.xattr_of(node, name)?;
        if value.len() > room {
            Err(Errno::RANGE)
        } else {
            Ok(value)
        }
    }

    fn xattr_len(&self, node: &Node, name: &OsStr) -> Result<usize> {
        Ok(self.layers.xattr_of(node, name)?.len())
    }

    fn xattr_names(&self, node: &Node) -> Result<Vec<u8>> {
        let names = self.layers.xattr_names(node)?;
        Ok(names
            .into_iter()
            .flat_map(|name| [name, vec![0]].concat())
            .collect())
    }

    fn set_xattr(
        &self,
        by: &Actor,
        node: &Node,
        name: &OsStr,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        let layers = &self.layers;
        let is_there = match layers.xattr_of(node, name) {
            Ok(_) => true,
            Err(Errno::NODATA) => false,
            Err(errno) => return Err(errno),
        };
        if is_there && flags.contains(XattrFlags::CREATE) {
            return Err(Errno::EXIST);
        }
        if !is_there && flags.contains(XattrFlags::REPLACE) {
            return Err(Errno::NODATA);
        }
        if let Some(id) = layers.id(node)?.filter(|_| name == CAPABILITY) {
            // It is of no use to who writes without mmfs being asked.
            layers.store.refresh_and_part(id).map_err(errno)?;
        }
        let attr = self.attr(node)?;
        let mut over = Overrides {
            ctime: Some(to_store(Time::now())),
            ..Overrides::default()
        };
        let mut to = Xattr::Set(value.to_vec());
        if name == ACCESS {
            let acl = Acl::parse(value)?;
            let mut mode = (attr.mode & 0o7000) | acl.mode();
            if !by.is_in_group(attr.gid) {
                mode &= !0o2000;
            }
            over.mode = Some(mode);
            if acl.is_mode() {
                to = Xattr::Hidden;
            }
        }
        if name == DEFAULT {
            if !attr.is_dir() {
                return Err(Errno::ACCESS);
            }
            Acl::parse(value)?;
        }
        with_owner(&mut over, &attr);
        let id = layers.adopt(node)?;
        let name = name.as_bytes().to_vec();
        let changes = vec![
            Change::Xattr(id, name, Some(to)),
            Change::Attributes(id, over),
        ];
        layers.store.change(changes).map_err(errno)
    }

    fn remove_xattr(&self, _by: &Actor, node: &Node, name: &OsStr) -> Result<()> {
        let layers = &self.layers;
        match layers.xattr_of(node, name) {
            // An ACL that is not there is removed all the same, as on other filesystems.
            Err(Errno::NODATA) if is_acl(name) => return Ok(()),
            found => found?,
        };
        let over = Overrides {
            ctime: Some(to_store(Time::now())),
            ..Overrides::default()
        };
        let id = layers.adopt(node)?;
        let name = name.as_bytes().to_vec();
        let changes = vec![
            Change::Xattr(id, name, Some(Xattr::Hidden)),
            Change::Attributes(id, over),
        ];
        layers.store.change(changes).map_err(errno)
    }
}

impl Layers {
    /// The value of an extended attribute.
    pub fn xattr_of(&self, node: &Node, name: &OsStr) -> Result<Vec<u8>> {
        check_namespace(name)?;
        let id = self.id(node)?;
        if let Some(id) = id {
            match self.store.xattr(id, name.as_bytes()).map_err(errno)? {
                Some(Xattr::Set(value)) => return Ok(value),
                Some(Xattr::Hidden) => return Err(Errno::NODATA),
                None => {}
            }
        }
        let Some(source) = node.source() else {
            return self.known_acl(id, name);
        };
        if name == CAPABILITY && self.has_changed_bytes(id)? {
            return Err(Errno::NODATA);
        }
        match self.source_xattr(source, name) {
            // The store has attributes where the source's filesystem has none.
            Err(Errno::OPNOTSUPP) => Err(absent(name)),
            // The source has lost it while it is open.
            Err(Errno::STALE | Errno::NOENT) if id.is_some() => self.known_acl(id, name),
            value => value,
        }
    }

    /// Whether the store has bytes of the file: the source's capability is not for these.
    fn has_changed_bytes(&self, id: Option<NodeId>) -> Result<bool> {
        let content = id.map(|id| self.store.content(id).map_err(errno));
        Ok(content.transpose()?.flatten().is_some())
    }

    /// The source's value. Most are short, and for long ones the kernel takes memory whether there is one or not.
    pub fn source_xattr(&self, source: &shared::Node, name: &OsStr) -> Result<Vec<u8>> {
        const SHORT: usize = 256;
        match self.below.xattr(source, name, SHORT) {
            Err(Errno::RANGE) => self.below.xattr(source, name, Xattr::MAX_VALUE),
            value => value,
        }
    }

    /// The ACL of an inode that the source has lost.
    fn known_acl(&self, id: Option<NodeId>, name: &OsStr) -> Result<Vec<u8>> {
        let known = KNOWN.iter().find(|(acl, _)| name == *acl);
        let (Some(id), Some((_, known))) = (id, known) else {
            return Err(absent(name));
        };
        match self.store.xattr(id, known.as_bytes()).map_err(errno)? {
            Some(Xattr::Set(value)) => Ok(value),
            _ => Err(Errno::NODATA),
        }
    }

    pub fn xattr_names(&self, node: &Node) -> Result<BTreeSet<Vec<u8>>> {
        let mut names = BTreeSet::new();
        if node.source().is_none() {
            for (acl, _) in KNOWN {
                if self.xattr_of(node, acl.as_ref()).is_ok() {
                    names.insert(acl.into());
                }
            }
        }
        if let Some(source) = node.source() {
            let list = match self.below.xattr_names(source) {
                Err(Errno::OPNOTSUPP) => Vec::new(),
                list => list?,
            };
            names.extend(
                list.split(|byte| *byte == 0)
                    .filter(|name| !name.is_empty())
                    .map(<[u8]>::to_vec),
            );
        }
        let id = self.id(node)?;
        if self.has_changed_bytes(id)? {
            names.remove(CAPABILITY.as_bytes());
        }
        if let Some(id) = id {
            let is_known = |name: &[u8]| KNOWN.iter().any(|(_, known)| known.as_bytes() == name);
            let all = self.store.xattrs(id).map_err(errno)?;
            for (name, value) in all.into_iter().filter(|(name, _)| !is_known(name)) {
                match value {
                    Xattr::Set(_) => names.insert(name),
                    Xattr::Hidden => names.remove(&name),
                };
            }
        }
        Ok(names)
    }
}
