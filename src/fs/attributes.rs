//! Reads and changes attributes.

use super::Fs;
use crate::actor::Actor;
use crate::attr::Attr;
use crate::cache::Timeouts;
use crate::request::SetAttr;
use crate::view::{Content, Tree};
use rustix::fs::StatVfs;
use rustix::io::Result;
use std::ops::Deref;
use std::time::Duration;

/// Attributes for a reply. `ino` is the inode number that stat(2) shows.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    attr: Attr,
    /// Whether the kernel may cache the attributes.
    is_settled: bool,
}

impl Shown {
    /// How long the kernel may cache these attributes. `timeouts` are those of the mount.
    pub fn timeout(&self, timeouts: Timeouts) -> Duration {
        match self.is_settled {
            true => timeouts.attr,
            false => Duration::ZERO,
        }
    }
}

impl Deref for Shown {
    type Target = Attr;

    fn deref(&self) -> &Attr {
        &self.attr
    }
}

impl<T: Tree> Fs<T> {
    /// The attributes of an inode, read through the handle `fh` if there is one.
    ///
    /// # Errors
    /// ESTALE if the inode no longer exists. Those of statx(2).
    pub fn getattr(&self, node: u64, fh: Option<u64>) -> Result<Shown> {
        let asking = self.cache.asking();
        let attr = match fh.and_then(|fh| self.files.get(fh).ok()) {
            Some(file) => file.open.attr(),
            None => self.tree.attr(&self.nodes.get(node)?),
        };
        let ino = self.nodes.shown_number(node);
        attr.map(|attr| Shown {
            attr: Attr { ino, ..attr },
            is_settled: self.cache.is_settled(node, asking),
        })
    }

    /// Whether the kernel may hold dirty pages of an inode, which clients have stored through mappings. Writing them back would
    /// move the inode's times.
    pub fn may_hold_stores(&self, node: u64) -> bool {
        self.cache.may_hold_stores(node)
    }

    /// Waits until the kernel has written back dirty pages of an inode, so that they do not move times that are set later. The
    /// kernel sends WRITE requests for them, so the calling thread must not be one that serves those.
    pub fn write_back(&self, node: u64) {
        self.cache.write_back(node);
    }

    /// Changes attributes and returns the new ones.
    ///
    /// # Errors
    /// Those of chown(2), chmod(2), truncate(2) and utimensat(2).
    pub fn setattr(&self, by: &Actor, node: u64, fh: Option<u64>, set: &SetAttr) -> Result<Shown> {
        self.changing()?;
        let file = fh.and_then(|fh| self.files.get(fh).ok());
        let open = file.as_ref().map(|file| &*file.open);
        self.tree.set_attr(by, &self.nodes.get(node)?, open, set)?;
        let shown = self.getattr(node, fh)?;
        // The kernel uses the attributes of this reply even if it has newer ones (`fuse_do_setattr`, Linux 6.18).
        // Meanwhile a file may have grown behind the mount, and another client may have opened it.
        Ok(Shown {
            is_settled: shown.is_settled && !shown.is_file(),
            ..shown
        })
    }

    /// Usage of the filesystem that holds an inode.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    pub fn statfs(&self, node: u64) -> Result<StatVfs> {
        self.tree.statfs(&self.nodes.get(node)?)
    }
}
