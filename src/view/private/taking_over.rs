//! Directories that were made in the view, were committed, and have changes left: the source's directory stands for them from then on.

use std::collections::HashSet;
use std::io;

use super::layers::known;
use super::names::new_node;
use super::origins::Hold;
use super::unmounted::Unmounted;
use crate::store::{self, Change, Kind, Name, NodeId, Time};

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

/// What a name leads to, since a moment that the store knows.
fn named((directory, name): (NodeId, &[u8]), to: Option<Name>, since: Option<Time>) -> Change {
    Change::Name {
        directory,
        name: name.to_vec(),
        to,
        replaces: false,
        since,
    }
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
        let found = found.filter(|found| found.attr.is_dir());
        let (Some(found), Some((parent, name)), None) = (found, old.place, old.origin) else {
            return Ok(());
        };
        let mut groups: Vec<Vec<Change>> = Vec::new();
        let claim = layers.claim(&found.place)?;
        // A part of this may have been done.
        let begun = match claim {
            Some(other) => {
                let node = store.node(other)?;
                node.is_some_and(|node| node.place.is_none() && node.reached == kept.path)
            }
            None => false,
        };
        let names = self.all_names(kept.node)?;
        let id = match claim.filter(|_| begun) {
            Some(id) => id,
            None => {
                let parted = claim.map(|other| layers.part(other)).transpose()?;
                groups.extend(parted);
                let id = store.new_number();
                let mut links = 0;
                for (_, leads) in &names {
                    links += i64::from(self.is_directory(*leads)?);
                }
                let node = store::Node {
                    origin: Some(layers.numbered_origin(&found.place)?),
                    links,
                    reached: kept.path.clone(),
                    known: known(&found.attr),
                    ..new_node(Kind::Directory, old.attributes)
                };
                groups.push(vec![Change::Make(id, Box::new(node))]);
                for (name, value) in store.xattrs(kept.node)? {
                    groups.push(vec![Change::Xattr(id, name, Some(value))]);
                }
                id
            }
        };
        let since = store.hidden_since(parent, &name)?;
        if !kept.is_new {
            let own: HashSet<&[u8]> = names.iter().map(|(name, _)| &**name).collect();
            let done: HashSet<Vec<u8>> = self.all_names(id)?.into_iter().map(|one| one.0).collect();
            for name in layers.names_in_source(&found.place)? {
                if !own.contains(&*name) && !done.contains(&name) && !kept.committed.contains(&name)
                {
                    groups.push(vec![named((id, &name), Some(Name::Hidden), since)]);
                }
            }
        }
        for (name, leads) in names {
            let since = store.hidden_since(kept.node, &name)?.or(since);
            groups.push(vec![
                named((kept.node, &name), None, None),
                named((id, &name), Some(leads), since),
            ]);
        }
        groups.push(vec![
            named((parent, &name), Some(Name::Node(id)), None),
            Change::Links(parent, -i64::from(kept.is_new)),
            Change::Remove(kept.node),
        ]);
        store.change_all(groups)
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
