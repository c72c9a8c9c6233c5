//! Operations on names: finding, making, moving and removing them.

use super::{Entry, Fs, Opened};
use crate::actor::Actor;
use crate::attr::Attr;
use crate::cache::Asking;
use crate::chores::Chore;
use crate::request::{New, Permissions, Removal, SetAttr};
use crate::view::{Found, Name, Tree, after_change};
use rustix::fs::{FileType, OFlags, RawMode, RenameFlags};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

impl<T: Tree> Fs<T> {
    /// Finds a name and counts one lookup of what it names.
    ///
    /// # Errors
    /// ENOENT when there is none; those of openat(2).
    pub fn lookup(&self, by: &Actor, parent: u64, name: &OsStr) -> Result<Entry> {
        let dir = self.nodes.get(parent)?;
        if self.retries.is_walking(by.pid) {
            return self.lookup_again(by, parent, &dir, name);
        }
        self.found(|| self.tree.lookup(&dir, name))
    }

    /// As `lookup`, for a caller that was told ESTALE: what is found stays reachable until it is used.
    fn lookup_again(&self, by: &Actor, parent: u64, dir: &T::Node, name: &OsStr) -> Result<Entry> {
        let found = match self.tree.lookup_to_hold(dir, name) {
            Err(Errno::NOENT) => self.retries.met(by.pid, parent, name)?,
            outcome => outcome?,
        };
        let entry = self.remember_and_hold(found).ok_or(Errno::STALE)?;
        let ask_again = true;
        Ok(Entry { ask_again, ..entry })
    }

    /// As `remember`; what was found stays reachable for a moment.
    fn remember_and_hold(&self, found: Found<T::Node>) -> Option<Entry> {
        let entry = self.remember(found.clone(), Asking::default())?;
        if self.tree.hold(&found) {
            self.chores.add(Chore::ReleaseHeld);
        }
        Some(entry)
    }

    /// Counts one lookup of what was found after it was made.
    fn made(&self, found: Found<T::Node>, dir: &T::Node, name: &OsStr) -> Result<Entry> {
        self.names_changed(dir)?;
        match self.remember(found, Asking::default()) {
            Some(entry) => Ok(entry),
            None => after_change(|| self.found(|| self.tree.lookup(dir, name))),
        }
    }

    /// Makes a node of any type but a directory or symbolic link.
    ///
    /// # Errors
    /// Those of mknodat(2).
    pub fn mknod(
        &self,
        by: &Actor,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u64,
    ) -> Result<Entry> {
        let kind = match FileType::from_raw_mode(mode as RawMode) {
            FileType::Unknown => FileType::RegularFile,
            kind => kind,
        };
        let new = New::Other(kind, Permissions { mode, umask }, device);
        self.make(by, parent, name, new)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Those of mkdirat(2).
    pub fn mkdir(
        &self,
        by: &Actor,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<Entry> {
        self.make(
            by,
            parent,
            name,
            New::Directory(Permissions { mode, umask }),
        )
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Those of symlinkat(2).
    pub fn symlink(&self, by: &Actor, parent: u64, name: &OsStr, target: &Path) -> Result<Entry> {
        self.make(by, parent, name, New::Symlink(target))
    }

    fn make(&self, by: &Actor, parent: u64, name: &OsStr, new: New<'_>) -> Result<Entry> {
        self.changing()?;
        let dir = self.nodes.get(parent)?;
        let found = self.tree.make(by, (&dir, name), new)?;
        self.made(found, &dir, name)
    }

    /// Gives an inode another name.
    ///
    /// # Errors
    /// Those of linkat(2).
    pub fn link(&self, node: u64, parent: u64, name: &OsStr) -> Result<Entry> {
        self.changing()?;
        let (inode, dir) = (self.nodes.get(node)?, self.nodes.get(parent)?);
        let found = self.tree.link(&inode, (&dir, name))?;
        self.made(found, &dir, name)
    }

    /// Makes a regular file and opens it.
    ///
    /// # Errors
    /// EEXIST when the caller insists on a new one; ESTALE when one has appeared that the kernel must check
    /// the caller's permissions on first; those of openat(2).
    pub fn create(
        &self,
        by: &Actor,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: OFlags,
    ) -> Result<(Entry, Opened<T::Open>)> {
        self.changing()?;
        let permissions = Permissions { mode, umask };
        let dir = self.nodes.get(parent)?;
        let is_second = self.retries.is_walking(by.pid);
        for tries in 1..TRIES {
            match self.create_new(by, (&dir, name), permissions, flags) {
                Err(Errno::STALE) => {}
                outcome => return outcome,
            }
            match self.tree.lookup_to_hold(&dir, name) {
                Ok(found) if is_second && may_open(by, &found.attr, flags) => {
                    return self.open_met(by, found, flags);
                }
                // Only the kernel knows what the caller may do. It does not ask again: the name may be free soon.
                Ok(_) if is_second => std::thread::sleep(Duration::from_micros(500)),
                Ok(found) => {
                    self.retries.begin_to(by.pid, parent, name, found);
                    self.chores.add(Chore::ReleaseHeld);
                    return Err(Errno::STALE);
                }
                Err(Errno::NOENT) => std::thread::sleep(out_of_step(tries)),
                Err(errno) => return Err(errno),
            }
        }
        self.create_new(by, (&dir, name), permissions, flags)
    }

    /// Opens a file that CREATE has met, and counts one lookup of it.
    fn open_met(
        &self,
        by: &Actor,
        found: Found<T::Node>,
        flags: OFlags,
    ) -> Result<(Entry, Opened<T::Open>)> {
        let entry = self.remember_and_hold(found).ok_or(Errno::STALE)?;
        let node = entry.attr.ino;
        let opened = self.open(by, node, flags).and_then(|opened| {
            let (fh, size) = (Some(opened.fh), Some(0));
            let empty = SetAttr {
                size,
                ..SetAttr::default()
            };
            // Of a file that it takes for a new one, the kernel does not ask for this.
            let shown = match flags.contains(OFlags::TRUNC) {
                true => self.setattr(by, node, fh, &empty),
                false => self.getattr(node, fh),
            };
            match shown {
                Ok(shown) => Ok((opened, *shown)),
                Err(errno) => self.release(opened.fh).and(Err(errno)),
            }
        });
        match opened {
            // The kernel takes the attributes that come with this reply, however old they are.
            Ok((opened, attr)) => {
                let entry = Entry {
                    attr: Attr { ino: node, ..attr },
                    is_settled: false,
                    ..entry
                };
                Ok((entry, opened))
            }
            Err(errno) => {
                self.forget(node, 1);
                Err(errno)
            }
        }
    }

    fn create_new(
        &self,
        by: &Actor,
        (dir, name): Name<'_, T::Node>,
        permissions: Permissions,
        flags: OFlags,
    ) -> Result<(Entry, Opened<T::Open>)> {
        let mut entry = None;
        let made = |found| entry = self.remember(found, Asking::default());
        let open = self
            .tree
            .create(by, (dir, name), permissions, flags, made)
            .and_then(|open| self.created(Arc::new(open), dir));
        match (open, entry) {
            // The kernel is told of it by this reply, and has nothing yet that it might keep.
            (Ok(open), Some(entry)) => {
                let opened = self.register(entry.attr.ino, open, flags, false);
                Ok((entry, opened))
            }
            (open, entry) => {
                let errno = open.map(|open| self.tree.close(open)).err();
                let errno = errno.unwrap_or(Errno::IO); // a view that told of no file
                let Some(entry) = entry else {
                    return Err(errno);
                };
                self.forget(entry.attr.ino, 1);
                match errno {
                    // Done again, it would meet its own file.
                    Errno::MFILE | Errno::NFILE => Err(Errno::IO),
                    other => Err(other),
                }
            }
        }
    }

    /// What comes after a file was made in `dir` and opened; closes it again where that fails.
    fn created(&self, open: Arc<T::Open>, dir: &T::Node) -> Result<Arc<T::Open>> {
        match self.names_changed(dir) {
            Ok(()) => Ok(open),
            Err(errno) => {
                self.tree.close(open);
                Err(errno)
            }
        }
    }

    /// Removes a name that is no directory.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        self.remove(parent, name, Removal::Name)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        self.remove(parent, name, Removal::Directory)
    }

    fn remove(&self, parent: u64, name: &OsStr, what: Removal) -> Result<()> {
        self.changing()?;
        let dir = self.nodes.get(parent)?;
        self.tree.remove((&dir, name), what)?;
        self.names_changed(&dir)
    }

    /// Moves a name.
    ///
    /// # Errors
    /// Those of renameat2(2).
    pub fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr), flags: RenameFlags) -> Result<()> {
        self.changing()?;
        let (old_dir, new_dir) = (self.nodes.get(from.0)?, self.nodes.get(to.0)?);
        self.tree
            .rename((&old_dir, from.1), (&new_dir, to.1), flags)?;
        self.names_changed(&old_dir)?;
        if from.0 == to.0 {
            Ok(())
        } else {
            self.names_changed(&new_dir)
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// EINVAL when it is none.
    pub fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        self.tree.read_link(&self.nodes.get(node)?)
    }
}

/// How often CREATE tries, as often as a file is removed just after it was met.
const TRIES: usize = 64;

/// How long CREATE waits before it tries again, as the file that it met has gone. Whoever makes and removes a file in a loop waits
/// for the directory's lock as CREATE does, and comes to go in step with it: it was there at each of 63 tries and gone after
/// each (about once a minute beside four clients that do nothing else, Linux 6.18). So no two waits are the same.
fn out_of_step(tries: usize) -> Duration {
    Duration::from_micros(61 * tries as u64 % 199)
}

/// Whether the caller certainly may open a file with these attributes: as the owner, for whom neither groups nor ACLs count.
fn may_open(by: &Actor, attr: &Attr, flags: OFlags) -> bool {
    let wanted = match flags & OFlags::RWMODE {
        OFlags::RDONLY => 0o400,
        OFlags::WRONLY => 0o200,
        _ => 0o600,
    };
    let is_file = attr.kind() == FileType::RegularFile;
    is_file && attr.uid == by.caller.uid && attr.mode & wanted == wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_waits_of_create_are_the_same() {
        let waits: HashSet<Duration> = (1..TRIES).map(out_of_step).collect();
        assert_eq!(waits.len(), TRIES - 1);
    }
}
