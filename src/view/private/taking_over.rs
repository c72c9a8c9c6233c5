//! Directories that were made in the view, were committed, and have changes left: the source's directory stands for them from then on.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::layers::known;
use super::names::new_node;
use super::origins::Hold;
use super::unmounted::Unmounted;
use crate::store::{self, Change, Kind, Name, NodeId};

/// Such a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its path, in the view and in the source.
    pub path: Vec<u8>,
    /// Its node.
    pub node: NodeId,
    /// The source did not have it before.
    pub is_new: bool,
    /// Names in it that were committed.
    pub committed: Vec<Vec<u8>>,
}

impl Unmounted {
    /// Lets the source's directory stand for one of the view. What the view has not shown of it stays hidden. Twice is as once.
    ///
    /// # Errors
    /// Those of the store and of the source.
    pub fn take_over(&self, kept: &Kept) -> io::Result<()> {
        let layers = &self.layers;
        let store = &layers.store;
        let Some(old) = store.node(kept.node)? else {
            return Ok(());
        };
        let found = layers.walk(&kept.path, Hold::IfNeeded)?;
        let (Some(found), Some((parent, name)), None) = (found, old.place, old.origin) else {
            return Ok(());
        };
        let mut changes = match layers.claim(&found.place)? {
            Some(other) => layers.part(other)?,
            None => Vec::new(),
        };
        let names = self.all_names(kept.node)?;
        let mut links = 0;
        for (_, leads) in &names {
            links += i64::from(self.is_directory(*leads)?);
        }
        let id = store.new_number();
        let node = store::Node {
            origin: Some(layers.numbered_origin(&found.place)?),
            links,
            reached: kept.path.clone(),
            known: known(&found.attr),
            ..new_node(Kind::Directory, old.attributes)
        };
        changes.push(Change::Make(id, Box::new(node)));
        for (name, value) in store.xattrs(kept.node)? {
            changes.push(Change::Xattr(id, name, Some(value)));
        }
        let own: HashSet<&[u8]> = names.iter().map(|(name, _)| &**name).collect();
        let is_shown = |name: &Vec<u8>| own.contains(&**name) || kept.committed.contains(name);
        let hidden = layers.names_in_source(&found.place)?.into_iter();
        let hidden: Vec<Vec<u8>> = hidden.filter(|name| !is_shown(name)).collect();
        for name in hidden {
            changes.push(layers.named(id, OsStr::from_bytes(&name), Some(Name::Hidden), false));
        }
        for (name, leads) in names {
            changes.push(layers.named(id, OsStr::from_bytes(&name), Some(leads), false));
        }
        let name = OsStr::from_bytes(&name);
        changes.push(layers.named(parent, name, Some(Name::Node(id)), false));
        changes.push(Change::Links(parent, -i64::from(kept.is_new)));
        changes.push(Change::Remove(kept.node));
        store.change(changes)
    }

    fn all_names(&self, directory: NodeId) -> io::Result<Vec<(Vec<u8>, Name)>> {
        let mut all: Vec<(Vec<u8>, Name)> = Vec::new();
        loop {
            let last = all.last().map_or(&b""[..], |(name, _)| name);
            let more = self.layers.store.names(directory, last, 1024)?;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more);
        }
    }

    /// Whether a name leads to a directory that the source does not count.
    fn is_directory(&self, leads: Name) -> io::Result<bool> {
        let Name::Node(id) = leads else {
            return Ok(false);
        };
        let node = self.layers.store.node(id)?;
        Ok(node.is_some_and(|node| node.kind == Kind::Directory))
    }
}
