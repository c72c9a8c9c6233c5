//! Names in memory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use mmfs::actor::Actor;
use mmfs::request::{New, Permissions, Removal};
use mmfs::view::{Found, Name, Names};
use rustix::fs::{FileType, OFlags, RenameFlags};
use rustix::io::{Errno, Result};

use super::file::MemoryFile;
use super::{Contents, Memory};
use crate::inodes::{Body, Ino, Inode};

impl Names for Memory {
    fn lookup(&self, dir: &Ino, name: &OsStr) -> Result<Found<Ino>> {
        self.called("lookup", shown((dir, name)))?;
        self.find((dir, name))
    }

    fn make(&self, by: &Actor, at: Name<'_, Ino>, new: New<'_>) -> Result<Found<Ino>> {
        self.called("make", shown(at))?;
        let inode = match new {
            New::Directory(permissions) => Inode::new(Body::directory(), allowed(permissions)),
            New::Symlink(target) => {
                let target = target.as_os_str().as_bytes().to_vec();
                Inode::new(Body::Symlink(target), 0o777)
            }
            New::Other(FileType::RegularFile, permissions, _) => empty_file(permissions),
            New::Other(kind, permissions, device) => {
                Inode::new(Body::Special(kind, device), allowed(permissions))
            }
        };
        let mut contents = self.contents();
        let ino = contents.make(by, at, inode)?;
        contents.found(ino)
    }

    fn create(
        &self,
        by: &Actor,
        at: Name<'_, Ino>,
        permissions: Permissions,
        flags: OFlags,
        made: impl FnOnce(Found<Ino>),
    ) -> Result<MemoryFile> {
        self.called("create", shown(at))?;
        let mut contents = self.contents();
        let ino = match contents.make(by, at, empty_file(permissions)) {
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => return Err(Errno::STALE),
            other => other?,
        };
        let found = contents.found(ino)?;
        drop(contents);
        made(found);
        self.opened(&mut self.contents(), ino, flags)
    }

    fn link(&self, node: &Ino, at: Name<'_, Ino>) -> Result<Found<Ino>> {
        self.called("link", format!("{node} to {}", shown(at)))?;
        let keeps_bytes = true;
        self.change(*node, keeps_bytes, |contents| {
            if contents.inodes.get(*node)?.links >= contents.knobs.names {
                return Err(Errno::MLINK);
            }
            contents.inodes.link(*node, bytes(at))?;
            contents.found(*node)
        })
    }

    fn remove(&self, at: Name<'_, Ino>, what: Removal) -> Result<()> {
        self.called("remove", shown(at))?;
        let mut contents = self.contents();
        contents
            .inodes
            .remove(bytes(at), what == Removal::Directory)
    }

    fn rename(&self, from: Name<'_, Ino>, to: Name<'_, Ino>, flags: RenameFlags) -> Result<()> {
        self.called("rename", format!("{} to {}", shown(from), shown(to)))?;
        let (noreplace, exchange) = (RenameFlags::NOREPLACE, RenameFlags::EXCHANGE);
        let unknown = flags.intersects((noreplace | exchange).complement());
        if unknown || flags.contains(noreplace | exchange) {
            return Err(Errno::INVAL);
        }
        let mut contents = self.contents();
        contents.inodes.rename(bytes(from), bytes(to), flags)
    }

    fn read_link(&self, node: &Ino) -> Result<Vec<u8>> {
        self.called("read_link", node)?;
        Ok(self.contents().inodes.read_link(*node)?.to_vec())
    }
}

impl Memory {
    pub(super) fn find(&self, at: Name<'_, Ino>) -> Result<Found<Ino>> {
        let contents = self.contents();
        contents.found(contents.inodes.existing(bytes(at))?)
    }
}

impl Contents {
    /// Puts a new inode of the caller's under a new name.
    fn make(&mut self, by: &Actor, at: Name<'_, Ino>, mut inode: Inode) -> Result<Ino> {
        (inode.uid, inode.gid) = (by.caller.uid, by.caller.gid);
        if self.inodes.used() + inode.body.size() > self.knobs.room {
            return Err(Errno::NOSPC);
        }
        self.inodes.make(bytes(at), inode)
    }
}

fn empty_file(permissions: Permissions) -> Inode {
    Inode::new(Body::File(Vec::new()), allowed(permissions))
}

fn allowed(permissions: Permissions) -> u32 {
    permissions.mode & !permissions.umask & 0o7777
}

pub(super) fn bytes<'a>((dir, name): Name<'a, Ino>) -> (Ino, &'a [u8]) {
    (*dir, name.as_bytes())
}

pub(super) fn shown((dir, name): Name<'_, Ino>) -> String {
    format!("{dir} {}", name.to_string_lossy())
}
