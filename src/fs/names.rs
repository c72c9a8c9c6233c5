//! Operations on names: lookup, creation, link, rename, removal.

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
    /// Looks up a name and counts one lookup of its inode.
    ///
    /// # Errors
    /// ENOENT if there is no such name. Those of openat(2).
    pub fn lookup(&self, by: &Actor, parent: u64, name: &OsStr) -> Result<Entry> {
        let dir = self.nodes.get(parent)?;
        if self.retries.is_walking(by.pid) {
            return self.lookup_again(by, parent, &dir, name);
        }
        self.found(|| self.tree.lookup(&dir, name))
    }

    /// As `lookup`, for a caller that got ESTALE. The inode is held until the caller's next request uses it.
    fn lookup_again(&self, by: &Actor, parent: u64, dir: &T::Node, name: &OsStr) -> Result<Entry> {
        let found = match self.tree.lookup_to_hold(dir, name) {
            Err(Errno::NOENT) => self.retries.existing(by.pid, parent, name)?,
            outcome => outcome?,
        };
        let entry = self.remember_and_hold(found).ok_or(Errno::STALE)?;
        let ask_again = true;
        Ok(Entry { ask_again, ..entry })
    }

    /// As `remember`, but holds the inode for a moment.
    fn remember_and_hold(&self, found: Found<T::Node>) -> Option<Entry> {
        let entry = self.remember(found.clone(), Asking::default())?;
        if self.tree.hold(&found) {
            self.chores.add(Chore::ReleaseHeld);
        }
        Some(entry)
    }

    /// Counts one lookup of an inode that was just created or linked as `name`.
    fn made(&self, found: Found<T::Node>, dir: &T::Node, name: &OsStr) -> Result<Entry> {
        self.names_changed(dir)?;
        match self.remember(found, Asking::default()) {
            Some(entry) => Ok(entry),
            None => after_change(|| self.found(|| self.tree.lookup(dir, name))),
        }
    }

    /// Creates an inode of any type except directory and symbolic link.
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

    /// Creates a directory.
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

    /// Creates a symbolic link.
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

    /// Creates a regular file and opens it.
    ///
    /// # Errors
    /// EEXIST if the file exists and `flags` has O_EXCL. ESTALE if it exists without O_EXCL: the kernel must then look it up and
    /// check the caller's permissions. Those of openat(2).
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
        for tries in 1..MAX_TRIES {
            match self.create_new(by, (&dir, name), permissions, flags) {
                Err(Errno::STALE) => {}
                outcome => return outcome,
            }
            match self.tree.lookup_to_hold(&dir, name) {
                Ok(found) if is_second && may_open(by, &found.attr, flags) => {
                    return self.open_existing(by, found, flags);
                }
                // Only the kernel could check the caller's permissions, and it does not try a third time. The name may be
                // removed soon.
                Ok(_) if is_second => std::thread::sleep(Duration::from_micros(500)),
                Ok(found) => {
                    self.retries.begin_with(by.pid, parent, name, found);
                    self.chores.add(Chore::ReleaseHeld);
                    return Err(Errno::STALE);
                }
                Err(Errno::NOENT) => std::thread::sleep(retry_delay(tries)),
                Err(errno) => return Err(errno),
            }
        }
        self.create_new(by, (&dir, name), permissions, flags)
    }

    /// Opens a file that already existed when CREATE came, and counts one lookup of it.
    fn open_existing(
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
            // The kernel treats the file as new, so it sends no SETATTR for O_TRUNC.
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
            // The kernel uses the attributes of this reply even if it has newer ones.
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
            // The kernel learns of the file by this reply, so it has no cached pages that it could keep.
            (Ok(open), Some(entry)) => {
                let opened = self.register(entry.attr.ino, open, flags, false);
                Ok((entry, opened))
            }
            (open, entry) => {
                let errno = open.map(|open| self.tree.close(open)).err();
                let errno = errno.unwrap_or(Errno::IO); // the view has not called `made`
                let Some(entry) = entry else {
                    return Err(errno);
                };
                self.forget(entry.attr.ino, 1);
                match errno {
                    // These two would be tried again, and the second try would find the file that this one has created.
                    Errno::MFILE | Errno::NFILE => Err(Errno::IO),
                    other => Err(other),
                }
            }
        }
    }

    /// Makes a new name in `dir` durable if the mount asks for it. Closes the file on an error.
    fn created(&self, open: Arc<T::Open>, dir: &T::Node) -> Result<Arc<T::Open>> {
        match self.names_changed(dir) {
            Ok(()) => Ok(open),
            Err(errno) => {
                self.tree.close(open);
                Err(errno)
            }
        }
    }

    /// Removes a name of an inode that is no directory.
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

    /// Renames or exchanges names.
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
    /// EINVAL if the inode is no symbolic link.
    pub fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        self.tree.read_link(&self.nodes.get(node)?)
    }
}

/// How often CREATE tries. It tries again if the file existed, and was removed before it could be looked up.
const MAX_TRIES: usize = 64;

/// How long CREATE waits before it tries again. All delays differ. Otherwise a client that creates and removes a file in a loop
/// can get into step with CREATE, because both wait for the directory's lock: the file existed at each of 63 tries and was
/// gone after each. Measured on Linux 6.18: about once a minute, with four such clients.
fn retry_delay(tries: usize) -> Duration {
    Duration::from_micros(61 * tries as u64 % 199)
}

/// Whether the caller owns a regular file and its mode allows `flags`. Groups and ACLs do not matter to the owner. For other
/// callers this returns false.
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
    fn all_retry_delays_differ() {
        let delays: HashSet<Duration> = (1..MAX_TRIES).map(retry_delay).collect();
        assert_eq!(delays.len(), MAX_TRIES - 1);
    }
}
