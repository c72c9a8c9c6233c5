//! Opens, lists and closes directories.

use super::{Entry, Fs};
use crate::handle::DirHandle;
use crate::view::{DirEntry, Listing, Tree};
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// An entry of a listing.
#[derive(Debug)]
pub struct Listed<'a> {
    /// The inode number to show.
    pub ino: u64,
    /// Offset of the next entry.
    pub offset: u64,
    /// The type, or `Unknown` if the directory does not store it.
    pub kind: FileType,
    /// The name.
    pub name: &'a OsStr,
    /// For READDIRPLUS, the inode with one lookup counted. `None` if the lookup failed, and for READDIR.
    pub entry: Option<Entry>,
}

impl<'a> Listed<'a> {
    fn new(entry: &DirEntry<'a>) -> Self {
        Listed {
            ino: entry.ino,
            offset: entry.offset,
            kind: entry.kind,
            name: entry.name,
            entry: None,
        }
    }
}

impl<T: Tree> Fs<T> {
    /// Opens a directory for listing. Returns its handle, and whether the listing that the kernel has cached is still valid.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn opendir(&self, node: u64, flags: OFlags) -> Result<(u64, bool)> {
        let listing = self.tree.open_dir(&self.nodes.get(node)?, flags)?;
        let valid = |stamp| {
            let cache_state = self.nodes.cache_state(node);
            cache_state.is_some_and(|cache_state| self.cache.is_listing_valid(&cache_state, stamp))
        };
        let keep = listing.may_be_cached() && listing.stamp().is_some_and(valid);
        Ok((
            self.dirs.insert(Arc::new(DirHandle { node, listing })),
            keep,
        ))
    }

    /// Calls `take` for the entries from `offset` on, until it returns false because it has no room for the entry.
    ///
    /// # Errors
    /// Those of getdents64(2), if `take` has not been called.
    pub fn readdir(
        &self,
        fh: u64,
        offset: u64,
        mut take: impl FnMut(&Listed<'_>) -> bool,
    ) -> Result<()> {
        self.list(fh, offset, |_, entry| take(&Listed::new(entry)))
    }

    /// As `readdir`, but looks up each entry. The lookup is counted if `take` returns true.
    ///
    /// # Errors
    /// Those of `readdir`.
    pub fn readdirplus(
        &self,
        fh: u64,
        offset: u64,
        mut take: impl FnMut(&Listed<'_>) -> bool,
    ) -> Result<()> {
        self.list(fh, offset, |listing, entry| {
            let mut listed = Listed::new(entry);
            if matches!(entry.name.as_bytes(), b"." | b"..") {
                return take(&listed);
            }
            match self.found(|| self.tree.lookup_listed(listing, entry.name)) {
                Ok(entry) if entry.ask_again => {
                    // With attributes, the kernel would show its node id instead of its inode number.
                    self.forget(entry.attr.ino, 1);
                    let taken = take(&listed);
                    if taken {
                        self.nodes.count(listed.ino);
                    }
                    taken
                }
                Ok(entry) => {
                    listed.ino = entry.attr.ino;
                    listed.entry = Some(entry);
                    let taken = take(&listed);
                    if !taken {
                        self.forget(listed.ino, 1);
                    }
                    taken
                }
                // The name was removed after the directory was read.
                Err(Errno::NOENT) => true,
                Err(_) => {
                    let taken = take(&listed);
                    if taken {
                        self.nodes.count(listed.ino);
                    }
                    taken
                }
            }
        })
    }

    fn list(
        &self,
        fh: u64,
        offset: u64,
        mut take: impl FnMut(&T::Listing, &DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let handle = self.dirs.get(fh)?;
        let listing = &handle.listing;
        let complete = self
            .tree
            .list(listing, offset, |entry| take(listing, entry))?;
        if let Some(stamp) = listing.stamp().filter(|_| complete) {
            let listed = |cache_state: &mut _| self.cache.listed(cache_state, stamp);
            self.nodes.update_cache_state(handle.node, listed);
        }
        Ok(())
    }

    /// Makes a directory's changes durable.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn fsyncdir(&self, fh: u64, data_only: bool) -> Result<()> {
        let handle = self.dirs.get(fh)?;
        self.tree
            .with_open(&handle.listing, |open| open.sync(data_only))
    }

    /// Closes a directory.
    ///
    /// # Errors
    /// EBADF if there is no such handle.
    pub fn releasedir(&self, fh: u64) -> Result<()> {
        self.dirs.remove(fh).map(drop)
    }
}
