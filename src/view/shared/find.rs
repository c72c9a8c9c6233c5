//! Finds the inode of a node: by a descriptor kept open, by its exported handle, or by its name.

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

/// An inode with a descriptor.
#[derive(Debug, Clone)]
pub struct Located {
    /// A descriptor on it, O_PATH or better.
    pub fd: Arc<OwnedFd>,
    /// Its filesystem.
    pub source: Arc<SourceDir>,
    /// Its mapping, while it is open.
    pub mapping: Option<Arc<Mapping>>,
}

impl AsFd for Located {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Shared {
    /// Finds the inode of a node.
    ///
    /// # Errors
    /// ESTALE if it is gone, EPERM for mmfs's own mount.
    pub fn locate(&self, node: &Node) -> Result<Located> {
        self.reach(node, Errno::PERM)
    }

    /// Finds a directory, to look up names in.
    ///
    /// # Errors
    /// ENOENT for mmfs's own mount, which is shown empty; ESTALE if it is gone.
    pub fn directory(&self, node: &Node) -> Result<Located> {
        self.reach(node, Errno::NOENT)
    }

    fn reach(&self, node: &Node, own_mount: Errno) -> Result<Located> {
        if node.kind() == Kind::OwnMount {
            return Err(own_mount);
        }
        let source = self.source_of(node)?;
        let (fd, mapping) = self.in_use.touch(&node.life());
        // Called without the lock of `in_use`: the mapping may wait for its file with its own lock held.
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

    /// The filesystem of an inode.
    ///
    /// # Errors
    /// EPERM for mmfs's own mount.
    pub fn source_of(&self, node: &Node) -> Result<Arc<SourceDir>> {
        if node.kind() == Kind::OwnMount {
            return Err(Errno::PERM);
        }
        let index = node.life().key.source;
        self.sources.at(index).ok_or(Errno::STALE)
    }

    /// Opens an inode. The result is a new open file description.
    ///
    /// # Errors
    /// ESTALE if the inode is gone; those of open(2).
    pub fn open_inode(&self, node: &Node, flags: OFlags) -> Result<OwnedFd> {
        match node.locator() {
            Locator::Exported(handle) if self.in_use.is_idle(&node.life()) => {
                let source = self.source_of(node)?;
                let open = || source.open_exported(handle, flags);
                self.in_use
                    .with_room(open)
                    .inspect_err(|&errno| self.unconfirm_if_stale(node, errno))
            }
            _ => self.open_again(node, &self.locate(node)?, flags),
        }
    }

    /// As `open_inode`, for an inode already found. `flags` may be O_PATH.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open_again(&self, node: &Node, located: &Located, flags: OFlags) -> Result<OwnedFd> {
        let source = &located.source;
        self.in_use.with_room(|| match node.locator() {
            // Opening by handle is the fastest way into a clone of the mount.
            Locator::Exported(handle) if source.is_read_only() => {
                source.open_exported(handle, flags)
            }
            _ => source.reopen(located.as_fd(), flags),
        })
    }

    /// An exported handle did not lead to its inode. The node may have been taken for another inode's, so the kernel's next
    /// lookup checks it.
    fn unconfirm_if_stale(&self, node: &Node, errno: Errno) {
        if errno == Errno::STALE {
            self.nodes.update(node, Node::unconfirm);
        }
    }

    fn find_again(&self, source: &SourceDir, node: &Node) -> Result<Arc<OwnedFd>> {
        let fd = match node.locator() {
            // An exported handle opens its inode in that life, or fails.
            Locator::Exported(handle) => {
                let fd = self.in_use.with_room(|| source.find_exported(handle));
                Arc::new(fd.inspect_err(|&errno| self.unconfirm_if_stale(node, errno))?)
            }
            Locator::Named { parent, name } => self.find_by_name(*parent, name, node.life())?,
        };
        if node.is_dir() && source.index == 0 {
            self.in_use.keep(node.life(), fd.clone());
        }
        Ok(fd)
    }

    /// Goes up to the nearest ancestor with a descriptor or a handle, then down name by name. It is not recursive, because a
    /// tree may be deeper than a stack. Names recorded across renames behind the mount may form a circle.
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

/// If the name is gone, the inode is stale: ESTALE instead of ENOENT.
fn stale_if_absent(errno: Errno) -> Errno {
    if errno == Errno::NOENT {
        Errno::STALE
    } else {
        errno
    }
}
