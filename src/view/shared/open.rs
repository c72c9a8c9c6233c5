//! Opening and closing files of the source.

use super::content::OpenFile;
use super::node::Node;
use super::view::Shared;
use crate::actor::Actor;
use crate::cache::FileCache;
use crate::inode::Place;
use crate::mapping::Mapping;
use crate::source::SourceDir;
use crate::view::Files;
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use std::os::fd::OwnedFd;
use std::sync::Arc;

impl Files for Shared {
    fn open(&self, by: &Actor, node: &Node, flags: OFlags) -> Result<OpenFile> {
        let source = self.source_of(node)?;
        if flags & OFlags::RWMODE != OFlags::RDONLY {
            // Whoever cannot be acted for cannot write: better to hear of it now than when a mapping is written back.
            by.change()?;
            let (fd, flags) = self.open_writer(node, flags)?;
            return Ok(self.opened(by, node, &source, Arc::new(fd), flags));
        }
        let open = self.in_use.mapping(&node.life());
        if let Some(mapping) = open.filter(|mapping| mapping.reader().is_some()) {
            return Ok(OpenFile::new(by, node, mapping, None));
        }
        let fd = Arc::new(self.open_reader(node)?);
        Ok(self.opened(by, node, &source, fd, OFlags::RDONLY))
    }

    fn close(&self, open: Arc<OpenFile>) {
        open.opener().begin();
        open.doubt_times();
        let (node, mapping) = (open.node().clone(), open.mapping().clone());
        if let Some(writer) = open.writer() {
            mapping.close_writer(writer);
        }
        drop(open);
        // With the last open, what is known of the kernel's cache is remembered with the node.
        self.in_use.close(&node.life(), mapping, |mapping| {
            let stamp = mapping.cache().stamp();
            self.nodes.believe_of(&node, |belief| belief.closed(stamp));
        });
    }
}

impl Shared {
    fn open_reader(&self, node: &Node) -> Result<OwnedFd> {
        if self.context.no_atime {
            match self.open_inode(node, OFlags::RDONLY | OFlags::NOATIME) {
                Err(Errno::PERM) => {} // the owner's privilege
                outcome => return outcome,
            }
        }
        self.open_inode(node, OFlags::RDONLY)
    }

    /// Opens O_RDWR even for O_WRONLY, since the region needs it; with less where the source allows no more.
    fn open_writer(&self, node: &Node, flags: OFlags) -> Result<(OwnedFd, OFlags)> {
        let append = flags & OFlags::APPEND;
        let write_only = flags & OFlags::RWMODE == OFlags::WRONLY;
        let less = match self.open_inode(node, OFlags::RDWR) {
            // An append-only file insists on O_APPEND.
            Err(Errno::PERM) if !append.is_empty() => OFlags::WRONLY | append,
            Err(Errno::ACCESS) if write_only => OFlags::WRONLY,
            outcome => return Ok((outcome?, OFlags::RDWR)),
        };
        Ok((self.open_inode(node, less)?, less))
    }

    /// Makes an open of a description that `by` has just opened with the access and O_APPEND of `flags`.
    pub(super) fn opened(
        &self,
        by: &Actor,
        node: &Node,
        source: &Arc<SourceDir>,
        fd: Arc<OwnedFd>,
        flags: OFlags,
    ) -> OpenFile {
        let mapping = self.in_use.open(&node.life(), || {
            let stamp = self.nodes.belief_of(node).stamp();
            let id = self.nodes.number(node.key());
            let cache = FileCache::new(id, stamp, self.cache.clone());
            Mapping::new(source.clone(), cache, self.context.clone())
        });
        if flags == OFlags::RDONLY {
            mapping.open_reader(fd);
            return OpenFile::new(by, node, mapping, None);
        }
        let writer = mapping.open_writer(fd, flags);
        OpenFile::new(by, node, mapping, Some(writer))
    }
}
