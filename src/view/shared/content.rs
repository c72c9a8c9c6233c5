//! One open of a file of the source: its bytes, by way of the mapping that all opens of the inode share.

use super::node::Node;
use crate::actor::Actor;
use crate::attr::Attr;
use crate::cache::MayKeep;
use crate::chores::PendingTimes;
use crate::descriptors::Slot;
use crate::mapping::{Mapping, ReadPattern, WritePattern, Writer};
use crate::request::{ExtendedFlags, Seek, Write};
use crate::source::{AtimeRule, reopen};
use crate::sys::inode_flags::{fs_ioc_fsgetxattr, fs_ioc_fssetxattr};
use crate::view::{Content, HasFlags};
use rustix::fs::{self as sys, FallocateFlags, IFlags, OFlags, SeekFrom};
use rustix::io::{Errno, Result};
use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What one open of a file works through.
#[derive(Debug)]
pub(super) enum Access {
    /// Opened to read: the mapping's description for readers.
    Shared,
    /// Opened to read: a description of its own, and its slot unless the mapping has that.
    Reader {
        fd: Arc<OwnedFd>,
        _slot: Option<Slot>,
    },
    /// Opened to write.
    Writer(Writer),
}

/// One open of a regular file.
#[derive(Debug)]
pub struct OpenFile {
    node: Node,
    /// The file's bytes, shared by all its opens.
    mapping: Arc<Mapping>,
    access: Access,
    opener: Actor,
    /// Opened with O_NOATIME.
    quiet: bool,
    /// How it was read so far.
    read: ReadPattern,
    /// How it was written so far.
    written: WritePattern,
}

impl OpenFile {
    pub(super) fn new(
        by: &Actor,
        node: &Node,
        mapping: Arc<Mapping>,
        access: Access,
        flags: OFlags,
    ) -> Self {
        mapping.apply_times();
        OpenFile {
            node: node.clone(),
            mapping,
            access,
            opener: *by,
            quiet: flags.contains(OFlags::NOATIME),
            read: ReadPattern::default(),
            written: WritePattern::default(),
        }
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    pub(super) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    pub(super) fn opener(&self) -> &Actor {
        &self.opener
    }

    /// What it writes through, where it was opened to write.
    pub(super) fn writer(&self) -> Option<&Writer> {
        match &self.access {
            Access::Writer(writer) => Some(writer),
            Access::Shared | Access::Reader { .. } => None,
        }
    }

    /// Its own description, if it has one now.
    fn own(&self) -> Option<Arc<OwnedFd>> {
        match &self.access {
            Access::Shared => None,
            Access::Reader { fd, .. } => Some(fd.clone()),
            Access::Writer(writer) => writer.description(),
        }
    }

    /// The description to write, truncate or allocate through; EBADF where it was opened to read.
    pub(super) fn writable(&self) -> Result<Arc<OwnedFd>> {
        let writer = self.writer().ok_or(Errno::BADF)?;
        self.mapping.take_up(writer, &self.opener)
    }

    /// Any descriptor on the file, perhaps O_PATH; EBADF when the mapping has none, which its being open rules out.
    fn any(&self) -> Result<Arc<OwnedFd>> {
        let own = self.writer().and_then(Writer::description);
        own.or_else(|| self.mapping.descriptor()).ok_or(Errno::BADF)
    }

    /// Any description of the file, for what takes more than an O_PATH descriptor.
    fn described(&self) -> Result<Arc<OwnedFd>> {
        let own = self.writer().and_then(Writer::description);
        own.map_or_else(|| self.mapping.shared(), Ok)
    }

    /// Of a file that the kernel serves by itself, clients map the source's own pages: stores move times then of which
    /// its FUSE knows nothing.
    pub(super) fn doubt_times(&self) {
        if self.writer().is_some() && self.mapping.is_handed_over() {
            self.mapping.cache().attributes_changed();
        }
    }
}

impl Content for OpenFile {
    fn attr(&self) -> Result<Attr> {
        self.mapping.apply_times();
        self.mapping.attr(self.any()?.as_fd())
    }

    fn is_writable(&self) -> bool {
        self.writer().is_some()
    }

    fn is_cacheable(&self) -> bool {
        !self.mapping.is_without_length()
    }

    fn may_keep(&self, moves_atime: bool) -> Result<MayKeep> {
        self.mapping.may_keep(moves_atime)
    }

    fn read<R>(
        &self,
        offset: u64,
        len: usize,
        flags: OFlags,
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R {
        let (end, direct) = (
            offset.saturating_add(len as u64),
            flags.contains(OFlags::DIRECT),
        );
        self.mapping.cache().reading(end, direct);
        if self.mapping.is_remote() {
            self.opener.begin();
        }
        if self.mapping.is_without_length() {
            let own = self.own();
            return self.mapping.read_once(own, (offset, len), &self.read, lend);
        }
        let moves_atime = !flags.contains(OFlags::NOATIME);
        self.mapping
            .read_at((offset, len), &self.read, moves_atime, lend)
    }

    fn write(&self, write: &Write<'_>) -> Result<usize> {
        let writer = self.writer().ok_or(Errno::BADF)?;
        let written = self
            .mapping
            .write_at(writer, &self.opener, &self.written, write);
        if write.direct && !write.from_mapping {
            self.mapping.cache().bypassed();
        }
        written
    }

    fn flush(&self, sync: bool) -> Result<()> {
        self.opener.begin();
        self.mapping.apply_times();
        self.doubt_times();
        match self.writer() {
            Some(writer) => self.mapping.flush(writer, sync),
            None => Ok(()),
        }
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        self.opener.begin();
        match self.writer() {
            Some(writer) => self.mapping.sync_writer(writer, data_only),
            None => self.mapping.sync_shared(data_only),
        }
    }

    fn allocate(&self, by: &Actor, mode: FallocateFlags, offset: u64, len: u64) -> Result<()> {
        let fd = self.writable()?;
        by.change()?;
        self.mapping
            .altering(|| sys::fallocate(&*fd, mode, offset, len))
    }

    fn seek(&self, to: Seek) -> Result<u64> {
        let to = match to {
            Seek::Data(offset) => SeekFrom::Data(offset),
            Seek::Hole(offset) => SeekFrom::Hole(offset),
        };
        sys::seek(&*self.described()?, to)
    }

    fn copy_from(
        &self,
        by: &Actor,
        (from, mut offset_in): (&Self, u64),
        mut offset: u64,
        len: usize,
    ) -> Result<usize> {
        let (input, output) = (from.described()?, self.writable()?);
        // Descriptions are O_NOATIME, for all readers. Whether a copy moves the access time is the source's to know.
        let plain = (!from.quiet).then(|| reopen(&input, OFlags::RDONLY).ok());
        let input = plain.flatten().map_or(input, Arc::new);
        by.change()?;
        self.mapping.altering_from(offset, || {
            sys::copy_file_range(
                &*input,
                Some(&mut offset_in),
                &*output,
                Some(&mut offset),
                len,
            )
        })
    }

    fn settle(&self) {
        // Another machine may never answer.
        if !self.mapping.is_remote() {
            self.opener.begin();
            self.mapping.apply_times();
        }
    }

    /// The kernel acts as who registers, so that is the opener, without the privilege of leaving suid and sgid alone;
    /// files that have one are not handed over.
    fn hand_over<H: Any + Send + Sync>(
        &self,
        by: &Actor,
        register: impl FnOnce(BorrowedFd<'_>) -> Option<H>,
    ) -> Option<&H> {
        let mapping = &self.mapping;
        mapping.hand_over(|| {
            // Another machine would be asked in the name of who opened the file first.
            if mapping.is_remote() {
                return None;
            }
            // One open for writing would keep the source from being executed for as long as anybody reads.
            let reader = match mapping.reader() {
                Some(reader) => reader,
                None => Arc::new(reopen(&*mapping.descriptor()?, OFlags::RDONLY).ok()?),
            };
            if mapping.attr(reader.as_fd()).ok()?.has_setid() {
                return None;
            }
            // Reading by itself, the kernel goes by the rule of the mount that the reader lies in.
            let moves_atime = AtimeRule::of(reader.as_fd()) != AtimeRule::Never;
            // And where a map allocates, a client's would fill holes.
            if mapping.is_never_accessed() && (moves_atime || mapping.faults_allocate()) {
                return None;
            }
            by.without_setid().ok()?;
            register(reader.as_fd())
        })
    }

    fn is_handed_over(&self) -> bool {
        self.mapping.is_handed_over()
    }
}

impl HasFlags for OpenFile {
    fn flags(&self) -> Result<IFlags> {
        sys::ioctl_getflags(self.described()?)
    }

    fn extended_flags(&self) -> Result<ExtendedFlags> {
        fs_ioc_fsgetxattr(self.described()?)
    }

    fn set_flags(&self, flags: IFlags) -> Result<()> {
        let fd = self.described()?;
        self.mapping.altering(|| sys::ioctl_setflags(&fd, flags))
    }

    fn set_extended_flags(&self, attr: &ExtendedFlags) -> Result<()> {
        let fd = self.described()?;
        self.mapping.altering(|| fs_ioc_fssetxattr(&fd, attr))
    }
}
