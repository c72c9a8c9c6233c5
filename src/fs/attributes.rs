//! Attributes: showing and changing them.

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

/// Attributes as the kernel is told them, `ino` being the number to show.
#[derive(Debug, Clone, Copy)]
pub struct Shown {
    attr: Attr,
    /// Otherwise the kernel is to ask again before it uses them.
    is_settled: bool,
}

impl Shown {
    /// How long the kernel may believe them, which believes what it is told for as long as `timeouts` say.
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
    /// The attributes of an inode, through the handle it is open by if there is one.
    ///
    /// # Errors
    /// ESTALE when the inode is gone; those of statx(2).
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

    /// Whether clients may have stored into the kernel's pages of an inode what moves its times when it is written back.
    pub fn may_hold_stores(&self, node: u64) -> bool {
        self.cache.may_hold_stores(node)
    }

    /// Has written back what clients have stored through mappings of an inode, so that it moves no time that is set from
    /// now on. The caller must not be needed to serve the writes that this takes.
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
        // The kernel takes the attributes that come with this reply, however old they are (`fuse_do_setattr`, Linux 6.18).
        // A file may have grown behind the mount meanwhile, and somebody may have opened it.
        Ok(Shown {
            is_settled: shown.is_settled && !shown.is_file(),
            ..shown
        })
    }

    /// Usage of the filesystem an inode lives on.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    pub fn statfs(&self, node: u64) -> Result<StatVfs> {
        self.tree.statfs(&self.nodes.get(node)?)
    }
}
