//! Opening and listing directories of a private view.

use std::ffi::OsStr;
use std::sync::OnceLock;

use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::io::Result;

use super::layers::errno;
use super::listing::OpenDir;
use super::node::{Node, Side};
use super::origins::Hold;
use super::view::Private;
use crate::view::{DirEntry, Directories, Found};

impl Directories for Private {
    fn open_dir(&self, node: &Node, flags: OFlags) -> Result<OpenDir> {
        let below = match &node.side {
            Side::Source(source) => Some(self.layers.below.open_dir(source, flags)?),
            Side::Own(_) => None,
        };
        Ok(OpenDir {
            stamp: self.layers.stamp(node, below.as_ref())?,
            layers: self.layers.clone(),
            node: node.clone(),
            below,
            own: OnceLock::new(),
            placed: Mutex::default(),
            last: Mutex::default(),
        })
    }

    fn list(
        &self,
        listing: &OpenDir,
        offset: u64,
        mut take: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<bool> {
        let layers = &self.layers;
        let directory = layers.id(&listing.node)?;
        if offset == 0 {
            listing.begin();
        }
        let mut has_taken = false;
        let mut take = |entry: &DirEntry<'_>| {
            let has_room = take(entry);
            has_taken |= has_room;
            has_room
        };
        let done = layers.list_all(listing, directory, offset, &mut take);
        match done {
            Err(_) if has_taken => Ok(false),
            done => done,
        }
    }

    fn lookup_listed(&self, listing: &OpenDir, name: &OsStr) -> Result<Found<Node>> {
        match listing.take_listed(name) {
            Some(found) => Ok(found),
            None => {
                let layers = &self.layers;
                let below = |source: &_| match &listing.below {
                    Some(below) => {
                        let found = layers.below.lookup_listed(below, name)?;
                        layers.held_if_needed(source, name, found)
                    }
                    None => layers.lookup_source(source, name, Hold::IfNeeded),
                };
                layers.lookup_by((&listing.node, name), Hold::IfNeeded, below)
            }
        }
    }

    fn sync_names(&self, _dir: &Node) -> Result<()> {
        self.layers.store.sync_names().map_err(errno)
    }
}
