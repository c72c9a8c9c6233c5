//! From a node to its inode: by a descriptor that is kept open, by its exported handle, or by its name.

use super::node::{Life, Locator, Node};
use super::view::Shared;
use crate::mapping::Mapping;
use crate::source::{Kind, SourceDir};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// An inode that can be worked on.
#[derive(Debug, Clone)]
pub struct Located {
    /// A descriptor on it, O_PATH or better.
    pub fd: Arc<OwnedFd>,
    /// Its filesystem.
    pub source: Arc<SourceDir>,
    /// Its mapping, while somebody has it open.
    pub mapping: Option<Arc<Mapping>>,
}

impl AsFd for Located {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Shared {
    /// An inode to work on.
    ///
    /// # Errors
    /// ESTALE when it cannot be found any more, EPERM for a mount of mmfs's own.
    pub fn locate(&self, node: &Node) -> Result<Located> {
        self.reach(node, Errno::PERM)
    }

    /// A directory to look names up in.
    ///
    /// # Errors
    /// ENOENT for a mount of mmfs's own, which is shown empty; ESTALE when it is gone.
    pub fn directory(&self, node: &Node) -> Result<Located> {
        self.reach(node, Errno::NOENT)
    }

    fn reach(&self, node: &Node, own_mount: Errno) -> Result<Located> {
        if node.kind() == Kind::OwnMount {
            return Err(own_mount);
        }
        let source = self.source_of(node)?;
        let (fd, mapping) = self.in_use.take_up(&node.life());
        // The mapping may be waiting for its file with its own lock held: it is asked outside ours.
        let held = fd.or_else(|| mapping.as_ref().and_then(|m| m.descriptor()));
        let fd = match held {
            Some(fd) => fd,
            None => self.find_again(&source, node)?,
        };
        Ok(Located {
            fd,
            source,
            mapping,
        })
    }

    /// The filesystem an inode lives on.
    ///
    /// # Errors
    /// EPERM for a mount of mmfs's own.
    pub fn source_of(&self, node: &Node) -> Result<Arc<SourceDir>> {
        if node.kind() == Kind::OwnMount {
            return Err(Errno::PERM);
        }
        let index = node.life().key.source;
        self.sources.at(index).ok_or(Errno::STALE)
    }

    /// Opens an inode with an open file description of its own.
    ///
    /// # Errors
    /// ESTALE when it cannot be found any more; those of open(2).
    pub fn open_inode(&self, node: &Node, flags: OFlags) -> Result<OwnedFd> {
        match node.locator() {
            Locator::Exported(handle) if self.in_use.is_idle(&node.life()) => {
                let source = self.source_of(node)?;
                let open = || source.open_exported(handle, flags);
                self.in_use
                    .with_room(open)
                    .inspect_err(|&errno| self.doubt_if_stale(node, errno))
            }
            _ => self.open_again(node, &self.locate(node)?, flags),
        }
    }

    /// As `open_inode`, an inode that was located. `flags` may be O_PATH.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open_again(&self, node: &Node, located: &Located, flags: OFlags) -> Result<OwnedFd> {
        let source = &located.source;
        self.in_use.with_room(|| match node.locator() {
            // A clone of the mount finds it by its handle fastest.
            Locator::Exported(handle) if source.is_read_only() => {
                source.open_exported(handle, flags)
            }
            _ => source.reopen(located.as_fd(), flags),
        })
    }

    /// An exported handle did not lead to its inode: should the inode ever have been taken for another, the kernel's
    /// next lookup sets that right.
    fn doubt_if_stale(&self, node: &Node, errno: Errno) {
        if errno == Errno::STALE {
            self.nodes.update(node, Node::doubt);
        }
    }

    fn find_again(&self, source: &SourceDir, node: &Node) -> Result<Arc<OwnedFd>> {
        let fd = match node.locator() {
            // An exported handle opens the inode it was made of, in that life, or nothing.
            Locator::Exported(handle) => {
                let fd = self.in_use.with_room(|| source.find_exported(handle));
                Arc::new(fd.inspect_err(|&errno| self.doubt_if_stale(node, errno))?)
            }
            Locator::Named { parent, name } => self.find_by_name(*parent, name, node.life())?,
        };
        if node.is_dir() && source.index == 0 {
            self.in_use.keep(node.life(), fd.clone());
        }
        Ok(fd)
    }

    /// Goes up to the nearest ancestor that has a descriptor or a handle, then down name by name: without
    /// recursion, for a tree may be deeper than a stack, and names remembered across renames behind the
    /// mount may run in a circle.
    fn find_by_name(&self, parent: u64, name: &OsStr, life: Life) -> Result<Arc<OwnedFd>> {
        let mut way = vec![(Arc::from(name), life)];
        let (mut at, mut passed) = (parent, HashSet::new());
        let mut fd = loop {
            if !passed.insert(at) {
                return Err(Errno::STALE);
            }
            let node = self.nodes.get(at)?;
            match (self.in_use.descriptor(&node.life()), node.locator()) {
                (Some(fd), _) => break fd,
                (None, Locator::Exported(_)) => {
                    break self.locate(&node).map_err(|_| Errno::STALE)?.fd;
                }
                (None, Locator::Named { parent, name }) => {
                    way.push((name.clone(), node.life()));
                    at = *parent;
                }
            }
        };
        while let Some((name, life)) = way.pop() {
            let find = || self.sources.find(fd.as_fd(), &name);
            let found = self.in_use.with_room(find).map_err(stale_if_absent)?;
            if Life::of(&found) != life {
                return Err(Errno::STALE);
            }
            fd = found.fd.ok_or(Errno::STALE)?;
        }
        Ok(fd)
    }
}

/// A name that vanished makes the inode known by it stale, not absent.
fn stale_if_absent(errno: Errno) -> Errno {
    if errno == Errno::NOENT {
        Errno::STALE
    } else {
        errno
    }
}
