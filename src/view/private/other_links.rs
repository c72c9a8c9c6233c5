//! Other names of changed files: a file with several links is changed under each, and the store knows those by which it was changed.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, Result};

use super::layers::{Layers, errno};
use super::node::{Key, Node};
use crate::difference::joined;
use crate::inode::Place as _;
use crate::store::NodeId;
use crate::view::{Directories as _, Found};

/// Files with several links in the source, of which changes were found.
#[derive(Default)]
pub(super) struct Links(HashMap<Key, Linked>);

#[derive(Default)]
struct Linked {
    /// The node, if it differs from the source's file.
    changed: Option<NodeId>,
    /// Links in the source.
    links: u32,
    /// Names of the source that were looked at.
    seen: u32,
}

impl Links {
    /// A name of the source leads to this inode.
    pub fn seen(&mut self, key: Key, links: u32) {
        if links > 1 {
            let linked = self.0.entry(key).or_default();
            (linked.links, linked.seen) = (links, linked.seen + 1);
        }
    }

    /// The inode is changed.
    pub fn changed(&mut self, key: Key, id: NodeId, links: u32) {
        if links > 1 {
            let linked = self.0.entry(key).or_default();
            (linked.links, linked.changed) = (links, Some(id));
        }
    }

    /// Those that have further names in the source.
    pub fn with_others(&self) -> HashMap<Key, NodeId> {
        let with_others = self.0.iter().filter(|(_, one)| one.seen < one.links);
        with_others
            .filter_map(|(key, one)| Some((*key, one.changed?)))
            .collect()
    }
}

/// A file under a name of which the store says nothing.
pub(super) struct Other {
    pub path: Vec<u8>,
    /// The path in the source.
    pub way: Vec<u8>,
    pub found: Found<Node>,
    pub id: NodeId,
}

impl Layers {
    /// Looks for files in directories of the view and what lies below them, under names of which the store says nothing. An error comes with the
    /// path of its directory.
    pub fn other_names(
        &self,
        wanted: &HashMap<Key, NodeId>,
        mut directories: Vec<(Node, Vec<u8>, Vec<u8>)>,
    ) -> std::result::Result<Vec<Other>, (Vec<u8>, Errno)> {
        let numbers = wanted.keys().map(|key| match key {
            Key::Source(key) => self.below_nodes.listed_number(*key),
            Key::Own(id) => id.0,
        });
        let numbers: HashSet<u64> = numbers.collect();
        let mut others = Vec::new();
        while let Some((node, path, way)) = directories.pop() {
            let found = match self.names_to_look_at(&node, &numbers) {
                // Who may not list it does not see names in it either.
                Err(Errno::ACCESS) => continue,
                found => found,
            };
            for name in found.map_err(|errno| (path.clone(), errno))? {
                let found = self.lookup(&node, OsStr::from_bytes(&name));
                let found = match found {
                    Err(Errno::NOENT) => continue,
                    found => found.map_err(|errno| (joined(&path, &name), errno))?,
                };
                let (path, way) = (joined(&path, &name), joined(&way, &name));
                if found.attr.is_dir() {
                    directories.push((found.place, path, way));
                } else if let Some(id) = wanted.get(&found.place.key()) {
                    let id = *id;
                    others.push(Other {
                        path,
                        way,
                        found,
                        id,
                    });
                } else {
                    self.let_go(&found.place);
                }
            }
        }
        Ok(others)
    }

    /// Names in the source's directory of which the store says nothing: of directories, and of inodes with these numbers.
    fn names_to_look_at(&self, dir: &Node, numbers: &HashSet<u64>) -> Result<Vec<Vec<u8>>> {
        let Some(source) = dir.source() else {
            return Ok(Vec::new());
        };
        let id = self.id(dir)?;
        let listing = self.below.open_dir(source, OFlags::empty())?;
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let ended = self.below.list(&listing, offset, |entry| {
                offset = entry.offset;
                let name = entry.name.as_bytes();
                let may_be = matches!(entry.kind, FileType::Directory | FileType::Unknown);
                if !matches!(name, b"." | b"..") && (may_be || numbers.contains(&entry.ino)) {
                    names.push(name.to_vec());
                }
                true
            })?;
            if ended {
                break;
            }
        }
        let Some(id) = id else { return Ok(names) };
        let mut unknown = Vec::new();
        for name in names {
            if self.store.name(id, &name).map_err(errno)?.is_none() {
                unknown.push(name);
            }
        }
        Ok(unknown)
    }
}
