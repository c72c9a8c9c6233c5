//! Directories in memory, listed.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStringExt;

use mmfs::view::{DirEntry, Directories, Found, HasFlags, Listing};
use parking_lot::Mutex;
use rustix::fs::{FileType, IFlags, OFlags};
use rustix::io::{Errno, Result};

use super::names::shown;
use super::{Contents, Memory};
use crate::inodes::Ino;

/// One open of a directory. It has flags but not the extended ones.
pub struct MemoryListing {
    view: Memory,
    dir: Ino,
    stamp: u64,
    /// As they were when listing last began; the offset of an entry is its place here.
    entries: Mutex<Vec<Named>>,
}

#[derive(Clone)]
struct Named {
    name: OsString,
    ino: Ino,
    kind: FileType,
}

impl fmt::Debug for MemoryListing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryListing({})", self.dir)
    }
}

impl Directories for Memory {
    fn open_dir(&self, node: &Ino, _: OFlags) -> Result<MemoryListing> {
        self.called("open_dir", node)?;
        let mut contents = self.contents();
        contents.inodes.entries(*node)?;
        contents.inodes.hold(*node)?;
        Ok(MemoryListing {
            view: self.clone(),
            dir: *node,
            stamp: contents.stamp(*node),
            entries: Mutex::default(),
        })
    }

    fn list(
        &self,
        listing: &MemoryListing,
        offset: u64,
        mut take: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<bool> {
        self.called("list", format!("{} from {offset}", listing.dir))?;
        if offset == 0 {
            let entries = self.contents().listed(listing.dir)?;
            *listing.entries.lock() = entries;
        }
        // Nothing is locked while entries are looked up.
        let entries = listing.entries.lock().clone();
        let rest = (1..).zip(&entries).skip(offset as usize);
        for (offset, Named { name, ino, kind }) in rest {
            let entry = DirEntry {
                ino: self.0.nodes.listed_number(ino.number),
                offset,
                kind: *kind,
                name,
            };
            if !take(&entry) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn lookup_listed(&self, listing: &MemoryListing, name: &OsStr) -> Result<Found<Ino>> {
        let at = (&listing.dir, name);
        self.called("lookup_listed", shown(at))?;
        self.find(at)
    }

    fn sync_names(&self, dir: &Ino) -> Result<()> {
        self.called("sync_names", dir)
    }
}

impl Contents {
    fn listed(&self, dir: Ino) -> Result<Vec<Named>> {
        if self.inodes.get(dir)?.links == 0 {
            return Err(Errno::NOENT);
        }
        let dots = [(".", dir), ("..", self.inodes.parent(dir))];
        let dots = dots.map(|(name, ino)| (name.into(), ino));
        let entries = self.inodes.entries(dir)?.iter();
        let entries = entries.map(|(name, ino)| (OsString::from_vec(name.clone()), *ino));
        let named = |(name, ino)| -> Result<Named> {
            let kind = self.inodes.get(ino)?.body.kind();
            Ok(Named { name, ino, kind })
        };
        dots.into_iter().chain(entries).map(named).collect()
    }
}

impl Listing for MemoryListing {
    fn stamp(&self) -> Option<u64> {
        Some(self.stamp)
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        let what = if data_only { "data" } else { "all" };
        self.view
            .called("Listing::sync", format!("{} {what}", self.dir))
    }
}

impl HasFlags for MemoryListing {
    fn flags(&self) -> Result<IFlags> {
        self.view.called("flags", self.dir)?;
        Ok(self.view.flags_of(self.dir).flags)
    }

    fn set_flags(&self, flags: IFlags) -> Result<()> {
        self.view.called("set_flags", self.dir)?;
        self.view.change_flags(self.dir, |set| set.flags = flags)
    }
}

impl Drop for MemoryListing {
    fn drop(&mut self) {
        self.view.contents().inodes.release(self.dir);
    }
}
