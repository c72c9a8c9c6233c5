//! Operations on names: finding, making, moving and removing them.

use super::{Asker, Fs, Opened, after_change};
use crate::inode::{Entry, Located};
use crate::mapping::Chore;
use crate::source::{check_name, proc_path};
use crate::sys::identity;
use rustix::fs::{self as sys, AtFlags, FileType, Mode, OFlags, RawMode, RenameFlags};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

impl Fs {
    /// Finds a name and counts one lookup of what it names.
    ///
    /// # Errors
    /// ENOENT when there is none; those of openat(2).
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Result<Entry> {
        Ok(self.settled(self.inodes.lookup(parent, name)?))
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, node: u64, count: u64) {
        if self.inodes.forget(node, count) {
            // Nobody listens any more when the session is ending.
            let _ = self.context.chores.send(Chore::Trim);
        }
    }

    /// Applies times that wait, for attributes are about to be shown.
    pub(super) fn settled(&self, mut entry: Entry) -> Entry {
        let node = entry.attr.ino;
        let open = entry.open.then(|| self.inodes.open_mapping(node));
        if open.flatten().is_some_and(|mapping| mapping.settle()) {
            if let Ok(attr) = self.getattr(node, None) {
                entry.attr = attr;
            }
        }
        entry
    }

    /// Makes this thread create as the caller would.
    fn create_as(&self, asker: &Asker, umask: u32) -> Result<()> {
        identity::act_for(asker.caller, true)?;
        identity::create_under(umask)
    }

    /// Makes a node of any type but a directory or symbolic link.
    ///
    /// # Errors
    /// Those of mknodat(2).
    pub fn mknod(
        &self,
        asker: &Asker,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u64,
    ) -> Result<Entry> {
        let dir = self.inodes.directory(parent)?;
        check_name(name)?;
        self.create_as(asker, umask)?;
        let kind = match FileType::from_raw_mode(mode as RawMode) {
            FileType::Unknown => FileType::RegularFile,
            kind => kind,
        };
        sys::mknodat(&dir, name, kind, Mode::from_raw_mode(mode & 0o7777), rdev)?;
        self.made(&dir, parent, name)
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Those of mkdirat(2).
    pub fn mkdir(
        &self,
        asker: &Asker,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<Entry> {
        let dir = self.inodes.directory(parent)?;
        check_name(name)?;
        self.create_as(asker, umask)?;
        sys::mkdirat(&dir, name, Mode::from_raw_mode(mode & 0o7777))?;
        self.made(&dir, parent, name)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// Those of symlinkat(2).
    pub fn symlink(
        &self,
        asker: &Asker,
        parent: u64,
        name: &OsStr,
        target: &Path,
    ) -> Result<Entry> {
        let dir = self.inodes.directory(parent)?;
        check_name(name)?;
        self.create_as(asker, 0)?;
        sys::symlinkat(target, &dir, name)?;
        self.made(&dir, parent, name)
    }

    /// Gives an inode another name.
    ///
    /// # Errors
    /// Those of linkat(2).
    pub fn link(&self, node: u64, parent: u64, name: &OsStr) -> Result<Entry> {
        let inode = self.inodes.locate(node)?;
        let dir = self.inodes.directory(parent)?;
        check_name(name)?;
        self.unchanged_in_bytes(node, &inode, || {
            sys::linkat(
                sys::CWD,
                proc_path(&inode),
                &dir,
                name,
                AtFlags::SYMLINK_FOLLOW,
            )
        })?;
        self.made(&dir, parent, name)
    }

    fn made(&self, dir: &Located, parent: u64, name: &OsStr) -> Result<Entry> {
        self.directory_changed(dir)?;
        after_change(|| self.lookup(parent, name))
    }

    /// Makes a regular file and opens it.
    ///
    /// # Errors
    /// EEXIST when the caller insists on a new one; ESTALE when one has appeared that the kernel must check
    /// the caller's permissions on first; those of openat(2).
    pub fn create(
        &self,
        asker: &Asker,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: OFlags,
    ) -> Result<(Entry, Opened)> {
        let dir = self.inodes.directory(parent)?;
        check_name(name)?;
        self.create_as(asker, umask)?;
        let access = if flags & OFlags::RWMODE == OFlags::RDONLY {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        let how = access | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let fd = match self.inodes.with_room(|| sys::openat(&dir, name, how, mode)) {
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => return Err(Errno::STALE),
            other => Arc::new(other?),
        };
        let found = after_change(|| self.inodes.sources().identify(fd.clone()))?;
        let (attr, source) = (found.attr, found.source.clone());
        let entry = self.inodes.remember(found, parent, name);
        let node = entry.attr.ino;
        let opened = self
            .directory_changed(&dir)
            .and_then(|()| {
                after_change(|| self.opened(asker, node, &source, fd.clone(), access, true))
            })
            .inspect_err(|_| self.forget(node, 1))?;
        let opened = Opened {
            keep_cache: false,
            ..opened
        };
        debug_assert!(attr.is_file());
        Ok((entry, opened))
    }

    /// Removes a name that is no directory.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        self.remove(parent, name, AtFlags::empty())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    pub fn rmdir(&self, parent: u64, name: &OsStr) -> Result<()> {
        self.remove(parent, name, AtFlags::REMOVEDIR)
    }

    fn remove(&self, parent: u64, name: &OsStr, how: AtFlags) -> Result<()> {
        let dir = self.inodes.directory(parent)?;
        check_name(name)?;
        self.inodes
            .keep_reachable(&dir, name, || sys::unlinkat(&dir, name, how))?;
        self.directory_changed(&dir)
    }

    /// Moves a name.
    ///
    /// # Errors
    /// Those of renameat2(2).
    pub fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr), flags: RenameFlags) -> Result<()> {
        let (old_dir, new_dir) = (self.inodes.directory(from.0)?, self.inodes.directory(to.0)?);
        check_name(from.1)?;
        check_name(to.1)?;
        let rename = || sys::renameat_with(&old_dir, from.1, &new_dir, to.1, flags);
        if flags.intersects(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE) {
            rename()?;
        } else {
            self.inodes.keep_reachable(&new_dir, to.1, rename)?;
        }
        self.inodes.renamed(to.0, &new_dir, to.1);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.inodes.renamed(from.0, &old_dir, from.1);
        }
        self.directory_changed(&old_dir)?;
        if from.0 == to.0 {
            Ok(())
        } else {
            self.directory_changed(&new_dir)
        }
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// EINVAL when it is none.
    pub fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        let link = self.inodes.locate(node)?;
        Ok(sys::readlinkat(&link, c"", Vec::new())?.into_bytes())
    }
}
