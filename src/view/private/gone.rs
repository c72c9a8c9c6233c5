//! Names of the source that the view does not show as they are.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::{Errno, Result};

use super::changed::{Fate, Left};
use super::kinds::shape;
use super::layers::Layers;
use super::node::Node;
use crate::difference::{Shape, joined};
use crate::store::{self, NodeId};
use crate::view::{Found, shared};

/// What the source has under a name that shows something else, or nothing.
pub(super) struct Gone {
    pub way: Vec<u8>,
    pub found: Found<shared::Node>,
    pub instead: Instead,
    /// By which name the store has it, if it is not gone with its directory.
    pub name: Option<(NodeId, Vec<u8>)>,
    pub since: Option<store::Time>,
    /// In a directory that another of the source stands for: what that one shows there.
    pub over: Option<Shape>,
}

/// What the view has there.
#[derive(Clone)]
pub(super) enum Instead {
    Nothing,
    File,
    Directory(Node),
    /// A directory that lies in a renamed one, and so has nothing to do with what was there.
    Apart(Node),
}

impl Gone {
    /// `moved`: the view has it elsewhere.
    pub fn left(&self, moved: bool, node: Option<NodeId>) -> Left {
        let fate = match &self.instead {
            _ if moved => Fate::Moved,
            Instead::Nothing => Fate::Deleted,
            Instead::Directory(node) if node.source().is_none() && self.found.attr.is_dir() => {
                Fate::Merged
            }
            _ => Fate::Replaced,
        };
        Left {
            way: self.way.clone(),
            attr: self.found.attr,
            fate,
            name: self.name.clone(),
            node,
        }
    }
}

impl Layers {
    /// What lies in a directory of the source that is gone.
    pub fn children_of(&self, gone: &Gone) -> Result<Vec<Gone>> {
        let mut children = Vec::new();
        let id = self.claim(&gone.found.place)?;
        for name in self.names_in_source(&gone.found.place)? {
            let os_name = OsStr::from_bytes(&name);
            let Some(found) = self.in_source(&gone.found.place, os_name)? else {
                continue;
            };
            let mut over = None;
            let (node, is_own) = match &gone.instead {
                Instead::Directory(node) => (Some(node), node.source().is_none()),
                Instead::Apart(node) => (Some(node), false),
                Instead::Nothing | Instead::File => (None, false),
            };
            let instead = match node.map(|node| self.lookup(node, os_name)) {
                None | Some(Err(Errno::NOENT)) => Instead::Nothing,
                Some(Err(errno)) => return Err(errno),
                // In a directory of the view's own, it was looked at under its name.
                Some(Ok(_)) if is_own => continue,
                Some(Ok(shown)) => {
                    over = Some(shape(&shown.attr));
                    match shown.attr.is_dir() {
                        true => Instead::Apart(shown.place),
                        false => Instead::File,
                    }
                }
            };
            children.push(Gone {
                since: self.removed_since(id, &name)?.or(gone.since),
                way: joined(&gone.way, &name),
                found,
                instead,
                name: None,
                over,
            });
        }
        Ok(children)
    }
}
