//! Opening and closing files of the source.

use super::content::{Access, OpenFile};
use super::node::Node;
use super::view::Shared;
use crate::actor::Actor;
use crate::cache::FileCache;
use crate::descriptors::Slot;
use crate::mapping::Mapping;
use crate::source::{SourceDir, open_noatime};
use crate::view::Files;
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{Errno, Result};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an open waits for a close, and how often it checks.
const MAX_CLOSE_WAIT: Duration = Duration::from_millis(20);
const POLL_INTERVAL: Duration = Duration::from_micros(200);

impl Files for Shared {
    fn open(&self, by: &Actor, node: &Node, flags: OFlags) -> Result<OpenFile> {
        let source = self.source_of(node)?;
        if flags & OFlags::RWMODE != OFlags::RDONLY {
            // If the thread cannot act for the user, no write can succeed. The open fails instead of a later writeback.
            by.change()?;
            self.await_close_of_passed_through(node);
            let slot = self.in_use.slot_for_file()?;
            let (fd, access) = self.open_writer(node, flags)?;
            let fd = (Arc::new(fd), access, slot);
            return Ok(self.opened(by, node, &source, fd, flags));
        }
        // On a read-only clone all descriptions leave access times alone.
        let asked = match source.is_read_only() {
            true => OFlags::empty(),
            false => flags & OFlags::NOATIME,
        };
        let open = self.in_use.mapping(&node.life());
        let serves = |mapping: &Arc<Mapping>| {
            let reader = mapping.reader().filter(|_| mapping.is_read());
            mapping.shares_descriptions()
                && reader.is_some_and(|reader| asked.is_empty() || is_noatime(&reader))
        };
        if let Some(mapping) = open.filter(serves) {
            return Ok(OpenFile::new(by, node, mapping, Access::Shared, flags));
        }
        let slot = self.in_use.slot_for_file()?;
        let place = match source.needs_holding() {
            true => Some((self.locate(node)?.fd, self.in_use.slot_for_file()?)),
            false => None,
        };
        let fd = open_noatime(OFlags::RDONLY | asked, |flags| self.open_inode(node, flags))?;
        let fd = (Arc::new(fd), OFlags::RDONLY, slot);
        let open = self.opened(by, node, &source, fd, flags);
        if let Some((place, slot)) = place {
            open.mapping().hold(place, slot);
        }
        Ok(open)
    }

    fn close(&self, open: Arc<OpenFile>) {
        open.opener().begin();
        open.expire_times();
        let (node, mapping) = (open.node().clone(), open.mapping().clone());
        if let Some(writer) = open.writer() {
            mapping.close_writer(writer);
        }
        drop(open);
        // At the last close the node table gets the state of the kernel's cache.
        self.in_use.close(&node.life(), mapping, |mapping| {
            let closed = |cache_state: &mut _| mapping.cache().closed(cache_state);
            self.nodes.update_cache_state_of(&node, closed);
        });
    }
}

impl Shared {
    /// With passthrough, the kernel writes without the privilege to keep suid and sgid, until the file is closed. Its RELEASE
    /// comes after close(2) has returned. So if the file has got suid or sgid since, this waits a moment for that close.
    /// Clients may keep the file open.
    fn await_close_of_passed_through(&self, node: &Node) {
        let is_open = || {
            let mapping = self.in_use.mapping(&node.life());
            let mapping = mapping.filter(|mapping| mapping.is_passed_through());
            mapping.is_some_and(|mapping| mapping.has_setid())
        };
        let since = Instant::now();
        while is_open() && since.elapsed() < MAX_CLOSE_WAIT {
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Opens O_RDWR also for O_WRONLY, because the region needs it. O_WRONLY if the source allows no more.
    fn open_writer(&self, node: &Node, flags: OFlags) -> Result<(OwnedFd, OFlags)> {
        let (append, asked) = (flags & OFlags::APPEND, flags & OFlags::NOATIME);
        let write_only = flags & OFlags::RWMODE == OFlags::WRONLY;
        let open = |flags| open_noatime(flags | asked, |flags| self.open_inode(node, flags));
        let less = match open(OFlags::RDWR) {
            // An append-only file requires O_APPEND.
            Err(Errno::PERM) if !append.is_empty() => OFlags::WRONLY | append,
            Err(Errno::ACCESS) if write_only => OFlags::WRONLY,
            outcome => return Ok((outcome?, OFlags::RDWR)),
        };
        Ok((open(less)?, less))
    }

    /// One open with `flags`, of a description that `by` has just opened with `access`, and perhaps O_APPEND.
    pub(super) fn opened(
        &self,
        by: &Actor,
        node: &Node,
        source: &Arc<SourceDir>,
        (fd, access, slot): (Arc<OwnedFd>, OFlags, Slot),
        flags: OFlags,
    ) -> OpenFile {
        let mapping = self.in_use.open(&node.life(), || {
            let cache_state = self.nodes.cache_state_of(node);
            let id = self.nodes.number_of(node);
            let cache = FileCache::new(id, cache_state, self.cache.clone());
            Mapping::new(source.clone(), cache, self.context.clone())
        });
        if access == OFlags::RDONLY {
            let _slot = mapping.open_reader(fd.clone(), slot);
            return OpenFile::new(by, node, mapping, Access::Reader { fd, _slot }, flags);
        }
        let writer = mapping.open_writer(fd, access, slot);
        OpenFile::new(by, node, mapping, Access::Writer(writer), flags)
    }
}

/// Whether reading and mapping through a descriptor leave the access time alone.
fn is_noatime(fd: &OwnedFd) -> bool {
    fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::NOATIME))
}
