//! Looking up, creating, renaming and removing names of the source.

use super::content::OpenFile;
use super::find::Located;
use super::node::{Locator, Node};
use super::view::Shared;
use crate::actor::Actor;
use crate::request::{New, Permissions, Removal};
use crate::source::{Inode, check_name, proc_path};
use crate::view::{Found, Name, Names, Tree, after_change};
use rustix::fs::{self as sys, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::Arc;

impl Names for Shared {
    fn lookup(&self, dir: &Node, name: &OsStr) -> Result<Found<Node>> {
        let parent = self.nodes.number_of(dir);
        let dir = self.directory(dir)?;
        self.lookup_in(dir.as_fd(), &dir.source, parent, name)
    }

    fn lookup_to_hold(&self, dir: &Node, name: &OsStr) -> Result<Found<Node>> {
        let parent = self.nodes.number_of(dir);
        let dir = self.directory(dir)?;
        self.lookup_held(dir.as_fd(), parent, name)
    }

    fn make(
        &self,
        by: &Actor,
        (parent, name): Name<'_, Node>,
        new: New<'_>,
    ) -> Result<Found<Node>> {
        let dir = self.directory(parent)?;
        check_name(name)?;
        match new {
            New::Directory(permissions) => {
                by.create(permissions.umask, || {
                    sys::mkdirat(&dir, name, mode_of(permissions))
                })?;
            }
            New::Symlink(target) => {
                by.manage()?;
                sys::symlinkat(target, &dir, name)?;
            }
            New::Other(kind, permissions, device) => {
                by.create(permissions.umask, || {
                    sys::mknodat(&dir, name, kind, mode_of(permissions), device)
                })?;
            }
        }
        self.made(&dir, parent, name)
    }

    fn create(
        &self,
        by: &Actor,
        (parent, name): Name<'_, Node>,
        permissions: Permissions,
        flags: OFlags,
        made: impl FnOnce(Found<Node>),
    ) -> Result<OpenFile> {
        check_name(name)?;
        let slot = self.in_use.slot_for_file()?;
        let dir = self.directory(parent)?;
        let access = if flags & OFlags::RWMODE == OFlags::RDONLY {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        let how = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || {
            by.create(permissions.umask, || {
                sys::openat(&dir, name, how, mode_of(permissions))
            })
        };
        let fd = match self.in_use.with_room(open) {
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => return Err(Errno::STALE),
            other => Arc::new(other?),
        };
        if flags.contains(OFlags::NOATIME) {
            // Set after opening: with O_NOATIME, openat(2) would create a file that gets another owner, and then refuse to open
            // it.
            let _ = sys::fcntl_setfl(&fd, access | OFlags::NOATIME);
        }
        let inode = after_change(|| self.sources.identify(fd.clone()))?;
        let source = inode.source.clone();
        let found = self.met(inode, self.nodes.number_of(parent), name);
        let node = found.place.clone();
        made(found);
        let open = self.opened(by, &node, &source, (fd, access, slot), flags);
        open.mapping().mark_created();
        Ok(open)
    }

    fn link(&self, node: &Node, (parent, name): Name<'_, Node>) -> Result<Found<Node>> {
        let inode = self.locate(node)?;
        let dir = self.directory(parent)?;
        check_name(name)?;
        self.unchanged_in_bytes(node, &inode, || {
            let path = proc_path(&inode);
            sys::linkat(sys::CWD, path, &dir, name, AtFlags::SYMLINK_FOLLOW)
        })?;
        self.made(&dir, parent, name)
    }

    fn remove(&self, (parent, name): Name<'_, Node>, what: Removal) -> Result<()> {
        let dir = self.directory(parent)?;
        check_name(name)?;
        let how = match what {
            Removal::Name => AtFlags::empty(),
            Removal::Directory => AtFlags::REMOVEDIR,
        };
        self.keep_reachable(&dir, name, || sys::unlinkat(&dir, name, how))
    }

    fn rename(&self, from: Name<'_, Node>, to: Name<'_, Node>, flags: RenameFlags) -> Result<()> {
        let (old_dir, new_dir) = (self.directory(from.0)?, self.directory(to.0)?);
        check_name(from.1)?;
        check_name(to.1)?;
        let rename = || sys::renameat_with(&old_dir, from.1, &new_dir, to.1, flags);
        if flags.intersects(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE) {
            rename()?;
        } else {
            self.keep_reachable(&new_dir, to.1, rename)?;
        }
        self.renamed(&new_dir, to);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.renamed(&old_dir, from);
        }
        Ok(())
    }

    fn read_link(&self, node: &Node) -> Result<Vec<u8>> {
        let link = self.locate(node)?;
        let target = match link.source.is_read_only() {
            // readlink(2) moves the access time, and has no O_NOATIME.
            true => sys::readlinkat(self.open_again(node, &link, OFlags::PATH)?, c"", Vec::new()),
            false => sys::readlinkat(&link, c"", Vec::new()),
        };
        Ok(target?.into_bytes())
    }
}

impl Shared {
    fn made(&self, dir: &Located, parent: &Node, name: &OsStr) -> Result<Found<Node>> {
        let id = self.nodes.number_of(parent);
        after_change(|| self.lookup_in(dir.as_fd(), &dir.source, id, name))
    }

    /// Runs `change`, which removes or replaces `name` in `dir`. Keeps the inode of that name afterwards, until the kernel
    /// forgets it. A process may have it as its working directory, and its number must not mean another file while the kernel
    /// uses it.
    fn keep_reachable(
        &self,
        dir: &Located,
        name: &OsStr,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let inode = self
            .in_use
            .with_room(|| self.sources.find(dir.as_fd(), name));
        change()?;
        if let Ok(inode) = inode {
            self.keep(inode, name);
        }
        Ok(())
    }

    fn keep(&self, inode: Inode, name: &OsStr) {
        let met = Node::new(&inode, 0, name);
        let (Some(known), Some(fd)) = (self.nodes.remembered(&met), inode.fd) else {
            return;
        };
        if inode.attr.nlink <= 1 || inode.attr.is_dir() {
            self.in_use.keep_until_forgotten(known.life(), fd);
            self.room.removed();
            // The kernel may have forgotten it meanwhile. It does not send FORGET again.
            self.forget(&known);
        } else if matches!(known.locator(), Locator::Named { .. }) {
            // It can be found by another of its names, so the budget may close the descriptor.
            self.in_use.keep(known.life(), fd);
        }
    }

    /// Records the new name of an inode that is found by name.
    fn renamed(&self, dir: &Located, (parent, name): Name<'_, Node>) {
        if dir.source.by_handle {
            return;
        }
        let find = || self.sources.find(dir.as_fd(), name);
        if let Ok(inode) = self.in_use.with_room(find) {
            let parent = self.nodes.number_of(parent);
            let met = Node::new(&inode, parent, name);
            self.nodes.update(&met, |known| known.renamed(parent, name));
        }
    }
}

fn mode_of(permissions: Permissions) -> Mode {
    Mode::from_raw_mode(permissions.mode & 0o7777)
}
