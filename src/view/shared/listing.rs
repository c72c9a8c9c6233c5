//! Listing directories of the source.

use super::node::{Key, Node};
use super::stream::{Held, OpenDir, Stream};
use super::view::Shared;
use crate::inode::ROOT;
use crate::source::{Kind, open_noatime, reopen};
use crate::view::{DirEntry, Directories, Found};
use rustix::fs::{self as sys, OFlags};
use rustix::io::Result;
use std::ffi::OsStr;
use std::os::fd::AsFd;

impl Directories for Shared {
    fn open_dir(&self, node: &Node, flags: OFlags) -> Result<OpenDir> {
        let own_mount = node.kind() == Kind::OwnMount;
        let is_cloned = !own_mount && self.source_of(node)?.is_read_only();
        // With a clone a stream has two descriptors.
        let slots = [true, is_cloned].map(|more| more.then(|| self.in_use.slot_for_listing()));
        let lacks = slots.iter().any(|slot| matches!(slot, Some(None)));
        let held = match own_mount {
            true => Held::OwnMount,
            false if lacks => self.open_stream(node, flags)?.close(flags),
            false => Held::Stream(self.open_stream(node, flags)?),
        };
        let slots = slots.map(Option::flatten);
        Ok(OpenDir::new(self.nodes.number_of(node), held, slots))
    }

    fn list(
        &self,
        listing: &OpenDir,
        offset: u64,
        take: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<bool> {
        self.list_numbered(listing, offset, |key| self.nodes.listed_number(key), take)
    }

    fn lookup_listed(&self, listing: &OpenDir, name: &OsStr) -> Result<Found<Node>> {
        if let Held::Nothing { .. } = listing.held() {
            let dir = self.directory(&self.nodes.get(listing.node())?)?;
            return self.lookup_in(dir.as_fd(), &dir.source, listing.node(), name);
        }
        let stream = listing.stream()?;
        self.lookup_in(stream.names(), stream.source(), listing.node(), name)
    }

    fn with_open<R>(&self, listing: &OpenDir, op: impl FnOnce(&OpenDir) -> Result<R>) -> Result<R> {
        let Held::Nothing { flags, .. } = listing.held() else {
            return op(listing);
        };
        let stream = self.open_stream(&self.nodes.get(listing.node())?, *flags)?;
        let slots = Default::default(); // From the reserve, like the descriptors of any request.
        op(&OpenDir::new(listing.node(), Held::Stream(stream), slots))
    }

    fn sync_names(&self, dir: &Node) -> Result<()> {
        let dir = self.directory(dir)?;
        sys::fsync(reopen(dir, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }
}

impl Shared {
    fn open_stream(&self, node: &Node, flags: OFlags) -> Result<Stream> {
        let dir = self.locate(node)?;
        let flags = flags & OFlags::NOATIME | OFlags::RDONLY | OFlags::DIRECTORY;
        // By descriptor, because opening "." requires search permission.
        let open = |flags| self.open_again(node, &dir, flags);
        let noatime = self.context.no_atime || flags.contains(OFlags::NOATIME);
        let fd = match self.context.no_atime {
            true => open_noatime(flags, open)?,
            false => open(flags)?,
        };
        let positions = self.positions.open(node.life());
        Stream::new(fd, dir.source, dir.fd, noatime, positions)
    }

    /// As `list`, with inode numbers that are made by `number`.
    ///
    /// # Errors
    /// Those of `list`.
    pub fn list_numbered(
        &self,
        listing: &OpenDir,
        offset: u64,
        number: impl Fn(Key) -> u64,
        mut take: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<bool> {
        let opened;
        let stream = match listing.held() {
            Held::OwnMount => return Ok(true),
            Held::Stream(stream) => stream,
            Held::Nothing { flags, .. } => {
                opened = self.open_stream(&self.nodes.get(listing.node())?, *flags)?;
                &opened
            }
        };
        stream.read(offset, |entry| {
            let dir = listing.node();
            let ino = match dir == ROOT && entry.name == ".." {
                // The root's parent lies outside of the view, and is shown as the root.
                true => ROOT,
                false => number(Key {
                    source: stream.source().index,
                    ino: entry.ino,
                }),
            };
            take(&DirEntry { ino, ..*entry })
        })
    }
}
