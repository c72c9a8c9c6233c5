//! Extended attributes of a private view, POSIX ACLs among them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};

use super::acl::{ACCESS, Acl, DEFAULT};
use super::layers::{Layers, errno, to_store};
use super::node::Node;
use super::view::Private;
use crate::actor::Actor;
use crate::attr::Time;
use crate::store::{Attributes as Overrides, Change, Xattr};
use crate::view::{Attributes as _, Xattrs};

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
        layers.xattr_of(node, name)?;
        let id = layers.adopt(node)?;
        let over = Overrides {
            ctime: Some(to_store(Time::now())),
            ..Overrides::default()
        };
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
        let id = self.id(node)?;
        if let Some(id) = id {
            match self.store.xattr(id, name.as_bytes()).map_err(errno)? {
                Some(Xattr::Set(value)) => return Ok(value),
                Some(Xattr::Hidden) => return Err(Errno::NODATA),
                None => {}
            }
        }
        let Some(source) = node.source() else {
            return Err(Errno::NODATA);
        };
        match self.below.xattr(source, name, Xattr::MAX_VALUE) {
            // The store has attributes where the source's filesystem has none.
            Err(Errno::OPNOTSUPP) => Err(Errno::NODATA),
            // The source has lost it while it is open.
            Err(Errno::STALE | Errno::NOENT) if id.is_some() => Err(Errno::NODATA),
            value => value,
        }
    }

    fn xattr_names(&self, node: &Node) -> Result<BTreeSet<Vec<u8>>> {
        let mut names = BTreeSet::new();
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
        if let Some(id) = self.id(node)? {
            for (name, value) in self.store.xattrs(id).map_err(errno)? {
                match value {
                    Xattr::Set(_) => names.insert(name),
                    Xattr::Hidden => names.remove(&name),
                };
            }
        }
        Ok(names)
    }
}
