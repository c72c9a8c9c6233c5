//! One open of a file of the source. All opens of the inode share its mapping.

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

/// The description that one open uses.
#[derive(Debug)]
pub(super) enum Access {
    /// For reading: the mapping's description for readers.
    Shared,
    /// For reading: a description of its own. The slot is here unless the mapping has it.
    Reader {
        fd: Arc<OwnedFd>,
        _slot: Option<Slot>,
    },
    /// For writing.
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
    /// Whether it was opened with O_NOATIME.
    noatime: bool,
    /// The pattern of its reads.
    read: ReadPattern,
    /// The pattern of its writes.
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
            noatime: flags.contains(OFlags::NOATIME),
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

    /// The writer, if it is open for writing.
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

    /// The description for writing, truncating and allocating. EBADF if it is open for reading only.
    pub(super) fn writable(&self) -> Result<Arc<OwnedFd>> {
        let writer = self.writer().ok_or(Errno::BADF)?;
        self.mapping.reopen_writer(writer, &self.opener)
    }

    /// Any descriptor on the file, which may be O_PATH. EBADF if the mapping has none, which cannot be while it is open.
    fn any(&self) -> Result<Arc<OwnedFd>> {
        let own = self.writer().and_then(Writer::description);
        own.or_else(|| self.mapping.descriptor()).ok_or(Errno::BADF)
    }

    /// Any open file description of the file, where an O_PATH descriptor is not enough.
    fn described(&self) -> Result<Arc<OwnedFd>> {
        let own = self.writer().and_then(Writer::description);
        own.map_or_else(|| self.mapping.shared(), Ok)
    }

    /// Reads into a buffer that others do not see, and returns how far the file reaches.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read_into(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<usize> {
        let (fd, mut done) = (self.described()?, 0);
        while !buffer.is_empty() {
            match rustix::io::pread(&*fd, &mut *buffer, offset) {
                Ok(0) => break,
                Ok(n) => {
                    (offset, done) = (offset + n as u64, done + n);
                    buffer = &mut buffer[n..];
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    /// With passthrough, clients map the source's own pages. Their stores change times that the mount's kernel does not learn
    /// of, so its attributes are dropped.
    pub(super) fn expire_times(&self) {
        if self.writer().is_some() && self.mapping.is_passed_through() {
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
        self.expire_times();
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
        // Descriptions are O_NOATIME, for all readers. The source decides whether a copy moves the access time.
        let plain = (!from.noatime).then(|| reopen(&input, OFlags::RDONLY).ok());
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
        // A network filesystem may never answer.
        if !self.mapping.is_remote() {
            self.opener.begin();
            self.mapping.apply_times();
        }
    }

    /// The kernel reads and writes as the user who registers. So that is the opener, without the privilege to keep suid and
    /// sgid. A file with such a bit is not passed through.
    fn pass_through<H: Any + Send + Sync>(
        &self,
        by: &Actor,
        register: impl FnOnce(BorrowedFd<'_>) -> Option<H>,
    ) -> Option<&H> {
        let mapping = &self.mapping;
        mapping.pass_through(|| {
            // The server would be asked in the name of the first opener.
            if mapping.is_remote() {
                return None;
            }
            // A description opened for writing would keep the source ETXTBSY while anyone reads.
            let reader = match mapping.reader() {
                Some(reader) => reader,
                None => Arc::new(reopen(&*mapping.descriptor()?, OFlags::RDONLY).ok()?),
            };
            if mapping.attr(reader.as_fd()).ok()?.has_setid() {
                return None;
            }
            // With passthrough the kernel applies the atime rule of the reader's mount.
            let moves_atime = AtimeRule::of(reader.as_fd()) != AtimeRule::Never;
            // A client's page fault in a hole would allocate its block.
            if mapping.never_moves_atime() && (moves_atime || mapping.faults_allocate()) {
                return None;
            }
            by.without_setid().ok()?;
            register(reader.as_fd())
        })
    }

    fn is_passed_through(&self) -> bool {
        self.mapping.is_passed_through()
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
