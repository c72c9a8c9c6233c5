//! Attributes: showing and changing them.

use super::Fs;
use crate::actor::Actor;
use crate::attr::Attr;
use crate::request::SetAttr;
use crate::view::{Content, Tree};
use rustix::fs::StatVfs;
use rustix::io::Result;

impl<T: Tree> Fs<T> {
    /// The attributes of an inode, through the handle it is open by if there is one.
    ///
    /// # Errors
    /// ESTALE when the inode is gone; those of statx(2).
    pub fn getattr(&self, node: u64, fh: Option<u64>) -> Result<Attr> {
        let attr = match fh.and_then(|fh| self.files.get(fh).ok()) {
            Some(file) => file.open.attr(),
            None => self.tree.attr(&self.nodes.get(node)?),
        };
        let ino = self.nodes.shown_number(node);
        attr.map(|attr| Attr { ino, ..attr })
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
    pub fn setattr(&self, by: &Actor, node: u64, fh: Option<u64>, set: &SetAttr) -> Result<Attr> {
        self.changing()?;
        let file = fh.and_then(|fh| self.files.get(fh).ok());
        let open = file.as_ref().map(|file| &*file.open);
        self.tree.set_attr(by, &self.nodes.get(node)?, open, set)?;
        self.getattr(node, fh)
    }

    /// Usage of the filesystem an inode lives on.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    pub fn statfs(&self, node: u64) -> Result<StatVfs> {
        self.tree.statfs(&self.nodes.get(node)?)
    }
}
