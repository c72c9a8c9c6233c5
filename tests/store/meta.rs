//! What a store should know of names and attributes.

use std::collections::{BTreeMap, BTreeSet};

use mmfs::store::{Change, Name, Node, NodeId, Store, Time, Xattr};

/// Names and attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    pub nodes: BTreeMap<NodeId, Node>,
    pub names: BTreeMap<(NodeId, Vec<u8>), Name>,
    /// Of names: since when they hide the source's.
    pub since: BTreeMap<(NodeId, Vec<u8>), Time>,
    pub xattrs: BTreeMap<(NodeId, Vec<u8>), Xattr>,
    pub filesystems: BTreeMap<u32, Vec<u8>>,
    pub orphans: BTreeSet<NodeId>,
}

impl Meta {
    /// What an open store has.
    pub fn read(store: &Store, ids: impl Iterator<Item = NodeId>) -> std::io::Result<Self> {
        let mut meta = Self {
            filesystems: store.filesystems()?.into_iter().collect(),
            ..Self::default()
        };
        for id in ids {
            for (name, leads) in store.names(id, b"", 1000)? {
                let key = (id, name);
                let since = store.hidden_since(id, &key.1)?;
                meta.since.extend(since.map(|since| (key.clone(), since)));
                meta.names.insert(key, leads);
            }
            for (name, value) in store.xattrs(id)? {
                meta.xattrs.insert((id, name), value);
            }
            if let Some(node) = store.node(id)? {
                meta.nodes.insert(id, node);
            }
        }
        Ok(meta)
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node that is there")
    }

    pub fn change(&mut self, change: &Change) {
        match change {
            Change::Make(id, node) => _ = self.nodes.insert(*id, (**node).clone()),
            Change::Attributes(id, set) => self.node(*id).attributes.set(set),
            Change::Links(id, more) => self.node(*id).links += more,
            Change::Reset(id) => self.node(*id).attributes = Default::default(),
            Change::Opaque(id, opaque) => self.node(*id).opaque = *opaque,
            Change::Origin(id, origin) => self.node(*id).origin = Some((**origin).clone()),
            Change::Name {
                directory,
                name,
                to,
                since,
                ..
            } => {
                if let Some(Name::Node(id)) = to {
                    if self.nodes[id].kind == mmfs::store::Kind::Directory {
                        self.node(*id).place = Some((*directory, name.clone()));
                    }
                }
                let key = (*directory, name.clone());
                match to {
                    Some(to) => {
                        if let Some(since) = since {
                            self.since.entry(key.clone()).or_insert(*since);
                        }
                        self.names.insert(key, *to);
                    }
                    None => {
                        self.since.remove(&key);
                        self.names.remove(&key);
                    }
                }
            }
            Change::Xattr(id, name, Some(value)) => {
                self.xattrs.insert((*id, name.clone()), value.clone());
            }
            Change::Xattr(id, name, None) => _ = self.xattrs.remove(&(*id, name.clone())),
            Change::Orphan(id, true) => _ = self.orphans.insert(*id),
            Change::Orphan(id, false) => _ = self.orphans.remove(id),
            Change::Remove(id) => self.remove(*id),
            Change::Filesystem(number, identity) => {
                self.filesystems.insert(*number, identity.clone());
            }
            Change::Truncate { .. } => {}
        }
    }

    fn remove(&mut self, id: NodeId) {
        self.nodes.remove(&id);
        self.orphans.remove(&id);
        self.names.retain(|(directory, _), _| *directory != id);
        self.since.retain(|(directory, _), _| *directory != id);
        self.xattrs.retain(|(node, _), _| *node != id);
    }

    /// What the next opening shows of it.
    pub fn without_orphans(&self) -> Self {
        let mut meta = self.clone();
        for id in &self.orphans {
            meta.remove(*id);
        }
        meta
    }
}
