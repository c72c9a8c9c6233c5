//! Operations on open files.

use super::{Asker, Fs};
use crate::handle::FileHandle;
use crate::mapping::{Chore, Durability, Mapping, ReadPattern, WritePattern, WriteRequest};
use crate::source::{SourceDir, reopen};
use crate::sys::identity;
use crate::sys::inode_flags::{FsXattr, fs_ioc_fsgetxattr, fs_ioc_fssetxattr};
use rustix::fs::{self as sys, FallocateFlags, IFlags, OFlags, SeekFrom};
use rustix::io::{Errno, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// What the kernel is told of a new handle.
#[derive(Debug)]
pub struct Opened {
    /// The handle's number.
    pub fh: u64,
    /// Bypass the kernel's cache.
    pub direct_io: bool,
    /// What the kernel has cached of the file is still true.
    pub keep_cache: bool,
    /// Closing it needs no word: nothing can have been written.
    pub read_only: bool,
    pub(super) mapping: Arc<Mapping>,
}

impl Opened {
    /// Whether the kernel serves the file by itself.
    pub fn is_handed_over(&self) -> bool {
        self.mapping.is_handed_over()
    }
}

/// What the kernel says of a write.
#[derive(Debug, Clone, Copy)]
pub struct Writing {
    /// The flags its descriptor has now.
    pub flags: OFlags,
    /// It writes back a client's mapping; who that was nobody knows.
    pub from_mapping: bool,
    /// suid and sgid bits must go.
    pub drop_setid: bool,
}

impl Fs {
    /// Opens a regular file.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(&self, asker: &Asker, node: u64, flags: OFlags) -> Result<Opened> {
        let source = self.inodes.source(node)?;
        let mode = flags & OFlags::RWMODE;
        let reads = mode != OFlags::WRONLY;
        if mode == OFlags::RDONLY {
            if let Some(mapping) = self
                .inodes
                .open_mapping(node)
                .filter(|m| m.reader().is_some())
            {
                return self.register(asker, node, mapping, None, reads);
            }
            let fd = self.open_reader(node)?;
            let fd = Arc::new(fd);
            return self.opened(asker, node, &source, fd, OFlags::RDONLY, reads);
        }
        let (fd, access) = self.open_writer(node, flags)?;
        self.opened(asker, node, &source, Arc::new(fd), access, reads)
    }

    fn open_reader(&self, node: u64) -> Result<OwnedFd> {
        if self.flags.no_atime {
            match self
                .inodes
                .open_inode(node, OFlags::RDONLY | OFlags::NOATIME)
            {
                Err(Errno::PERM) => {} // the owner's privilege
                outcome => return outcome,
            }
        }
        self.inodes.open_inode(node, OFlags::RDONLY)
    }

    /// Opens O_RDWR even for O_WRONLY, since the region needs it; with less where the source allows no more.
    fn open_writer(&self, node: u64, flags: OFlags) -> Result<(OwnedFd, OFlags)> {
        let append = flags & OFlags::APPEND;
        let write_only = flags & OFlags::RWMODE == OFlags::WRONLY;
        match self.inodes.open_inode(node, OFlags::RDWR) {
            // An append-only file insists on O_APPEND.
            Err(Errno::PERM) if !append.is_empty() => Ok((
                self.inodes.open_inode(node, OFlags::WRONLY | append)?,
                OFlags::WRONLY,
            )),
            Err(Errno::ACCESS) if write_only => Ok((
                self.inodes.open_inode(node, OFlags::WRONLY)?,
                OFlags::WRONLY,
            )),
            outcome => Ok((outcome?, OFlags::RDWR)),
        }
    }

    /// Makes a handle of a description just opened with `access`, for a client that `reads` or only writes.
    pub(super) fn opened(
        &self,
        asker: &Asker,
        node: u64,
        source: &Arc<SourceDir>,
        fd: Arc<OwnedFd>,
        access: OFlags,
        reads: bool,
    ) -> Result<Opened> {
        let mapping = self.inodes.mapping(node, |stamp| {
            Ok(Mapping::new(
                node,
                source.clone(),
                stamp,
                self.context.clone(),
            ))
        })?;
        if access == OFlags::RDONLY {
            mapping.open_reader(fd);
            self.register(asker, node, mapping, None, reads)
        } else {
            mapping.open_writer(&fd, access);
            self.register(asker, node, mapping.clone(), Some(fd), reads)
                .inspect_err(|_| mapping.close_writer())
        }
    }

    fn register(
        &self,
        asker: &Asker,
        node: u64,
        mapping: Arc<Mapping>,
        fd: Option<Arc<OwnedFd>>,
        reads: bool,
    ) -> Result<Opened> {
        mapping.settle();
        let keep_cache = mapping.may_keep_cache(reads)?;
        let direct_io = self.direct_io || mapping.is_synthetic();
        let read_only = fd.is_none();
        let known_losses = AtomicU64::new(mapping.losses());
        let handle = FileHandle {
            node,
            mapping: mapping.clone(),
            fd,
            opener: asker.caller,
            pattern: ReadPattern::default(),
            written: WritePattern::default(),
            known_losses,
        };
        let fh = self.files.insert(handle);
        if !self.watched.swap(true, SeqCst) {
            // Nobody listens any more when the session is ending.
            let _ = self.context.chores.send(Chore::Watch);
        }
        Ok(Opened {
            fh,
            direct_io,
            keep_cache,
            read_only,
            mapping,
        })
    }

    /// Has `register` give the kernel the file, which it then serves by itself: the first who opens the file
    /// decides for all until the last one has closed it. The kernel acts as who registers, so that is the
    /// opener, without the privilege of leaving suid and sgid alone; files that have one are not handed over.
    pub fn hand_over<'a, T: Send + Sync + 'static>(
        &self,
        asker: &Asker,
        opened: &'a Opened,
        register: impl FnOnce(BorrowedFd<'_>) -> Option<T>,
    ) -> Option<&'a T> {
        const SETID: u32 = 0o6000;
        let mapping = &opened.mapping;
        mapping.hand_over(|| {
            // Another machine would be asked in the name of who opened the file first.
            if opened.direct_io || mapping.is_remote() {
                return None;
            }
            // One open for writing would keep the source from being executed for as long as anybody reads.
            let reader = match mapping.reader() {
                Some(reader) => reader,
                None => Arc::new(reopen(&*mapping.descriptor()?, OFlags::RDONLY).ok()?),
            };
            if mapping.stat(reader.as_fd()).ok()?.mode & SETID != 0 {
                return None;
            }
            identity::act_for(asker.caller, false).ok()?;
            register(reader.as_fd())
        })
    }

    /// Lends `lend` up to `size` bytes of a file, open with these `flags`.
    pub fn read<R>(
        &self,
        fh: u64,
        offset: u64,
        size: u32,
        flags: OFlags,
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R {
        match self.files.get(fh) {
            Ok(handle) => {
                let FileHandle {
                    mapping, pattern, ..
                } = &*handle;
                if !flags.contains(OFlags::DIRECT) {
                    mapping.cache_filling();
                }
                mapping.read_at(offset, size as usize, pattern, lend)
            }
            Err(errno) => lend(Err(errno)),
        }
    }

    /// Writes to an open file.
    ///
    /// # Errors
    /// Those of pwrite(2).
    pub fn write(&self, fh: u64, offset: u64, data: &[u8], how: Writing) -> Result<usize> {
        let handle = self.files.get(fh)?;
        let request = WriteRequest {
            offset,
            data,
            pattern: &handle.written,
            append: how.flags.contains(OFlags::APPEND) && !how.from_mapping,
            from_mapping: how.from_mapping,
            keeps_setid: !how.drop_setid,
            caller: handle.opener,
            durability: self.durability(how.flags),
        };
        let written = handle.mapping.write_at(handle.writable()?, &request);
        if how.flags.contains(OFlags::DIRECT) && !how.from_mapping {
            handle.mapping.cache_bypassed();
        }
        written
    }

    fn durability(&self, flags: OFlags) -> Durability {
        if self.flags.sync || flags.contains(OFlags::SYNC) {
            Durability::Full
        } else if flags.contains(OFlags::DSYNC) {
            Durability::Data
        } else {
            Durability::Cached
        }
    }

    /// A descriptor of the file was closed, perhaps not the last one.
    ///
    /// # Errors
    /// A write that was lost since the handle was opened or last synced, however often it is asked; with
    /// `--sync-on-close` those of fsync(2).
    pub fn flush(&self, fh: u64) -> Result<()> {
        let handle = self.files.get(fh)?;
        handle.mapping.settle();
        self.doubt_times(&handle);
        match &handle.fd {
            Some(fd) if self.sync_on_close => handle.mapping.sync(fd, false),
            Some(_) => handle.mapping.lost_since(handle.known_losses.load(Relaxed)),
            None => Ok(()),
        }
    }

    /// Makes a file's bytes durable, and with them its attributes unless `data_only`.
    ///
    /// # Errors
    /// Those of fsync(2): a lost write is reported to each handle that was open for writing, once.
    pub fn fsync(&self, fh: u64, data_only: bool) -> Result<()> {
        let handle = self.files.get(fh)?;
        let outcome = handle.mapping.sync(&*handle.any()?, data_only);
        handle.known_losses.store(handle.mapping.losses(), Relaxed);
        outcome
    }

    /// Ends a handle.
    ///
    /// # Errors
    /// EBADF when there is no such handle.
    pub fn release(&self, fh: u64) -> Result<()> {
        let handle = self.files.remove(fh)?;
        self.doubt_times(&handle);
        if handle.fd.is_some() {
            handle.mapping.close_writer();
        }
        let (node, mapping) = (handle.node, handle.mapping.clone());
        drop(handle);
        self.inodes.close_mapping(node, mapping);
        Ok(())
    }

    /// Of a file that the kernel serves by itself, clients map the source's own pages: stores move times then of which
    /// its FUSE knows nothing.
    fn doubt_times(&self, handle: &FileHandle) {
        if handle.fd.is_some() && handle.mapping.is_handed_over() {
            self.context.attributes.raise(handle.node);
        }
    }

    /// Allocates, punches or zeroes a range.
    ///
    /// # Errors
    /// Those of fallocate(2).
    pub fn fallocate(
        &self,
        asker: &Asker,
        fh: u64,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> Result<()> {
        let handle = self.files.get(fh)?;
        let fd = handle.writable()?;
        identity::act_for(asker.caller, asker.keeps_setid())?;
        let mode = FallocateFlags::from_bits_retain(mode);
        handle
            .mapping
            .altering(|| sys::fallocate(fd, mode, offset, length))
    }

    /// Finds data or a hole.
    ///
    /// # Errors
    /// ENXIO when there is none from there on; EINVAL for other kinds of seeking, which are the kernel's own.
    pub fn lseek(&self, fh: u64, offset: u64, whence: i32) -> Result<u64> {
        let handle = self.files.get(fh)?;
        let from = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        sys::seek(&*handle.any()?, from)
    }

    /// Copies between two open files within the source; returns the bytes copied, perhaps fewer than asked for.
    ///
    /// # Errors
    /// Those of copy_file_range(2).
    pub fn copy_file_range(
        &self,
        asker: &Asker,
        from: (u64, u64),
        to: (u64, u64),
        len: u64,
    ) -> Result<usize> {
        // What fits into the reply, and keeps the request short enough to be waited for.
        const MOST: usize = 1 << 30;
        let (input, output) = (self.files.get(from.0)?, self.files.get(to.0)?);
        let (source, target) = (input.any()?, output.writable()?);
        identity::act_for(asker.caller, asker.keeps_setid())?;
        let len = usize::try_from(len).unwrap_or(MOST).min(MOST);
        let (mut offset_in, mut offset_out) = (from.1, to.1);
        output.mapping.altering(|| {
            sys::copy_file_range(
                &*source,
                Some(&mut offset_in),
                target,
                Some(&mut offset_out),
                len,
            )
        })
    }

    /// The inode flags that lsattr(1) shows, and the extended ones.
    ///
    /// # Errors
    /// ENOTTY where the source has none; EBADF for an unknown handle.
    pub fn inode_flags(&self, fh: u64) -> Result<IFlags> {
        sys::ioctl_getflags(self.descriptor_of(fh)?)
    }

    /// As `inode_flags`, in the extended form.
    ///
    /// # Errors
    /// Those of `inode_flags`.
    pub fn extended_flags(&self, fh: u64) -> Result<FsXattr> {
        fs_ioc_fsgetxattr(self.descriptor_of(fh)?)
    }

    /// Sets the inode flags; the kernel has checked that the caller may.
    ///
    /// # Errors
    /// Those of ioctl_iflags(2).
    pub fn set_inode_flags(&self, node: u64, fh: u64, flags: IFlags) -> Result<()> {
        let fd = self.descriptor_of(fh)?;
        self.flagging(node, fh, || sys::ioctl_setflags(&fd, flags))
    }

    /// As `set_inode_flags`, in the extended form.
    ///
    /// # Errors
    /// Those of `set_inode_flags`.
    pub fn set_extended_flags(&self, node: u64, fh: u64, attr: &FsXattr) -> Result<()> {
        let fd = self.descriptor_of(fh)?;
        self.flagging(node, fh, || fs_ioc_fssetxattr(&fd, attr))
    }

    /// The kernel does not expect an ioctl to move the ctime.
    fn flagging(&self, node: u64, fh: u64, change: impl FnOnce() -> Result<()>) -> Result<()> {
        let outcome = match self.files.get(fh) {
            Ok(handle) => handle.mapping.altering(change),
            Err(_) => change(),
        };
        self.context.attributes.raise(node);
        outcome
    }

    fn descriptor_of(&self, fh: u64) -> Result<Arc<OwnedFd>> {
        match self.files.get(fh) {
            Ok(handle) => handle.any(),
            Err(_) => self.dirs.get(fh)?.descriptor(),
        }
    }

    /// Applies what waits, before the daemon ends; not where that might wait for another machine.
    pub fn settle(&self) {
        for handle in self.files.all().iter().filter(|h| !h.mapping.is_remote()) {
            handle.mapping.settle();
        }
    }
}
