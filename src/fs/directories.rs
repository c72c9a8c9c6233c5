//! Directories being listed.

use super::{Entry, Fs};
use crate::handle::DirHandle;
use crate::view::{DirEntry, Listing, Tree};
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// An entry as it is listed.
#[derive(Debug)]
pub struct Listed<'a> {
    /// The number it is shown with.
    pub ino: u64,
    /// Where the next one is found.
    pub offset: u64,
    /// Its type, as far as the directory knows.
    pub kind: FileType,
    /// Its name.
    pub name: &'a OsStr,
    /// With attributes asked for: the inode, one lookup counted, where it could be looked at.
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
    /// Opens a directory for listing with these `flags`; also says whether the kernel's memory of its last listing is true.
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

    /// Hands entries from `offset` on to `take` until it says that there is no room for the one offered.
    ///
    /// # Errors
    /// Those of getdents64(2), when nothing was handed out before.
    pub fn readdir(
        &self,
        fh: u64,
        offset: u64,
        mut take: impl FnMut(&Listed<'_>) -> bool,
    ) -> Result<()> {
        self.list(fh, offset, |_, entry| take(&Listed::new(entry)))
    }

    /// As `readdir`, each entry looked up and its lookup counted if `take` accepts it.
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
                    // Listed with attributes, it would be listed with its node id.
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
                // Removed since the directory was read.
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

    /// Ends a listing.
    ///
    /// # Errors
    /// EBADF when there is no such handle.
    pub fn releasedir(&self, fh: u64) -> Result<()> {
        self.dirs.remove(fh).map(drop)
    }
}
