//! Looking at names of the source, whatever the store says of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use super::layers::Layers;
use crate::view::{Directories as _, Found, Names as _, shared};

impl Layers {
    /// What the source has under a name.
    pub fn in_source(
        &self,
        dir: &shared::Node,
        name: &OsStr,
    ) -> Result<Option<Found<shared::Node>>> {
        match self.below.lookup(dir, name) {
            Ok(found) if found.place.is_own_mount() => Ok(None),
            Ok(found) => {
                // Where inodes are found by their names, what lies in it is found through it.
                if found.attr.is_dir() && !found.place.is_found_by_handle() {
                    self.remember(&found);
                }
                Ok(Some(found))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The names in a directory of the source.
    pub fn names_in_source(&self, dir: &shared::Node) -> Result<Vec<Vec<u8>>> {
        let listing = self.below.open_dir(dir, OFlags::empty())?;
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let ended = self.below.list(&listing, offset, |entry| {
                offset = entry.offset;
                if !matches!(entry.name.as_bytes(), b"." | b"..") {
                    names.push(entry.name.as_bytes().to_vec());
                }
                true
            })?;
            if ended {
                return Ok(names);
            }
        }
    }
}
