//! Operations on open files.

use super::Fs;
use crate::actor::Actor;
use crate::cache::MayKeep;
use crate::chores::Chore;
use crate::handle::FileHandle;
use crate::request::{Durability, ExtendedFlags, Seek, Write};
use crate::view::{Content, HasFlags, Tree};
use rustix::fs::{FallocateFlags, IFlags, OFlags};
use rustix::io::{Errno, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// A new handle, for the reply to OPEN or CREATE.
#[derive(Debug)]
pub struct Opened<O> {
    /// The handle's number.
    pub fh: u64,
    /// Whether to bypass the kernel's cache, unless the kernel serves the file by itself.
    pub direct_io: bool,
    /// Whether the kernel may serve the file by itself (`--passthrough`).
    pub may_pass_through: bool,
    /// Whether the pages that the kernel has cached of the file are still valid.
    pub keep_cache: bool,
    /// Whether the kernel need not send FLUSH, because nothing can be written.
    pub read_only: bool,
    open: Arc<O>,
}

impl<O> Opened<O> {
    /// The open file.
    pub fn content(&self) -> &O {
        &self.open
    }
}

/// O_DSYNC of open(2). The constant of that name in rustix 1.1 is O_SYNC, which has one bit more.
const DSYNC: OFlags = OFlags::from_bits_retain(libc::O_DSYNC as u32);

/// The flags of a WRITE request.
#[derive(Debug, Clone, Copy)]
pub struct Writing {
    /// The flags that the descriptor has at this moment.
    pub flags: OFlags,
    /// The kernel writes back pages of a shared mapping. The request does not name the client.
    pub from_mapping: bool,
    /// suid and sgid bits must be stripped.
    pub drop_setid: bool,
}

impl<T: Tree> Fs<T> {
    /// Opens a regular file.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(&self, by: &Actor, node: u64, flags: OFlags) -> Result<Opened<T::Open>> {
        let mode = flags & OFlags::RWMODE;
        if mode != OFlags::RDONLY || flags.contains(OFlags::TRUNC) {
            self.changing()?;
        }
        let open = self
            .nodes
            .get(node)
            .and_then(|node| self.tree.open(by, &node, flags));
        // After these errors the open may be tried again (`with_descriptor`).
        if !matches!(open, Err(Errno::MFILE | Errno::NFILE)) {
            self.retries.end(by.pid);
        }
        let open = Arc::new(open?);
        let moves_atime = mode != OFlags::WRONLY && !flags.contains(OFlags::NOATIME);
        match open.may_keep(moves_atime) {
            Ok(kept) => Ok(self.register(node, open, flags, kept == MayKeep::All)),
            Err(errno) => {
                self.tree.close(open);
                Err(errno)
            }
        }
    }

    /// Adds an open file of `node`, opened with `flags`, to the handle table.
    pub(super) fn register(
        &self,
        node: u64,
        open: Arc<T::Open>,
        flags: OFlags,
        keep_cache: bool,
    ) -> Opened<T::Open> {
        let read_only = !open.is_writable();
        let may_pass_through = !self.settings.direct_io && open.is_cacheable();
        // Without direct I/O, an O_DIRECT read that comes short continues in the kernel's cache (`generic_file_read_iter`). The
        // cache pads a page with zeros. A client would read them after the file has been truncated behind the mount.
        let direct = flags.contains(OFlags::DIRECT);
        // Linux 6.18 splits a cached append at a page that it has not read.
        let append = !read_only && flags.contains(OFlags::APPEND) && self.mixes_direct.load(SeqCst);
        let direct_io = !may_pass_through || direct || append;
        let may_store = flags & OFlags::RWMODE == OFlags::RDWR;
        let file = FileHandle {
            open: open.clone(),
            direct_io,
            durability: self.asked_for(flags),
            storing: may_store.then(|| self.cache.opened_to_store(node)),
        };
        let fh = self.files.insert(Arc::new(file));
        if !self.watched.swap(true, SeqCst) {
            self.chores.add(Chore::Watch);
        }
        Opened {
            fh,
            direct_io,
            may_pass_through,
            keep_cache,
            read_only,
            open,
        }
    }

    /// Reads up to `size` bytes and lends them to `lend`. `flags` are those of the descriptor.
    pub fn read<R>(
        &self,
        fh: u64,
        offset: u64,
        size: u32,
        flags: OFlags,
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R {
        match self.files.get(fh) {
            Ok(file) => file.open.read(offset, size as usize, flags, lend),
            Err(errno) => lend(Err(errno)),
        }
    }

    /// Writes to an open file.
    ///
    /// # Errors
    /// Those of pwrite(2).
    pub fn write(&self, fh: u64, offset: u64, data: &[u8], how: Writing) -> Result<usize> {
        let file = self.files.get(fh)?;
        file.open.write(&Write {
            offset,
            data,
            append: how.flags.contains(OFlags::APPEND) && !how.from_mapping,
            from_mapping: how.from_mapping,
            direct: how.flags.contains(OFlags::DIRECT),
            keeps_setid: !how.drop_setid,
            durability: self.durability(file.direct_io, how),
        })
    }

    /// The durability that a write needs before it is answered. The kernel sends an FSYNC after a synchronous write through its
    /// cache (`generic_write_sync`). It sends none after a write that bypasses the cache or is asynchronous, which a write with
    /// O_DIRECT may be. Each write must flush the device once. So handles that are opened with both O_DIRECT and O_DSYNC bypass
    /// the cache.
    fn durability(&self, direct_io: bool, how: Writing) -> Durability {
        let flags = how.flags;
        let synced_after = !direct_io && flags & (OFlags::DIRECT | DSYNC) == DSYNC;
        if synced_after || how.from_mapping {
            return Durability::Cached;
        }
        self.asked_for(flags)
    }

    /// The durability that the flags of a descriptor and of the mount ask for.
    fn asked_for(&self, flags: OFlags) -> Durability {
        if self.settings.flags.sync || flags.contains(OFlags::SYNC) {
            Durability::Full
        } else if flags.contains(DSYNC) {
            Durability::Data
        } else {
            Durability::Cached
        }
    }

    /// Serves FLUSH, which the kernel sends at each close(2) of a descriptor. Other descriptors of the handle may stay open.
    ///
    /// # Errors
    /// The error of a write that was lost since the handle was opened or last synced. Each FLUSH reports it. With
    /// `--sync-on-close` those of fsync(2).
    pub fn flush(&self, fh: u64) -> Result<()> {
        self.closes.fetch_add(1, SeqCst);
        let file = self.files.get(fh)?;
        self.tree.closing(&file.open);
        file.open.flush(self.settings.sync_on_close)
    }

    /// Makes a file's bytes durable, and its attributes unless `data_only`.
    ///
    /// # Errors
    /// Those of fsync(2). A lost write is reported once to each handle that was open for writing.
    pub fn fsync(&self, fh: u64, data_only: bool) -> Result<()> {
        self.files.get(fh)?.open.sync(data_only)
    }

    /// Closes a handle.
    ///
    /// # Errors
    /// EBADF if there is no such handle.
    pub fn release(&self, fh: u64) -> Result<()> {
        let open = self.files.remove(fh)?.open.clone();
        self.tree.close(open);
        self.closes.fetch_add(1, SeqCst);
        Ok(())
    }

    /// Allocates, punches or zeroes a range.
    ///
    /// # Errors
    /// Those of fallocate(2).
    pub fn fallocate(
        &self,
        by: &Actor,
        fh: u64,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> Result<()> {
        self.changing()?;
        let mode = FallocateFlags::from_bits_retain(mode);
        let file = self.files.get(fh)?;
        file.open.allocate(by, mode, offset, length)?;
        make_durable(&file)
    }

    /// Finds data or a hole.
    ///
    /// # Errors
    /// ENXIO if there is none at or after `offset`. EINVAL for any other `whence`: the kernel serves those by itself.
    pub fn lseek(&self, fh: u64, offset: u64, whence: i32) -> Result<u64> {
        let file = self.files.get(fh)?;
        let open = &file.open;
        match whence {
            libc::SEEK_DATA => open.seek(Seek::Data(offset)),
            libc::SEEK_HOLE => open.seek(Seek::Hole(offset)),
            _ => Err(Errno::INVAL),
        }
    }

    /// Copies between two open files. Returns the number of bytes copied, which may be less than `len`.
    ///
    /// # Errors
    /// Those of copy_file_range(2).
    pub fn copy_file_range(
        &self,
        by: &Actor,
        from: (u64, u64),
        to: (u64, u64),
        len: u64,
    ) -> Result<usize> {
        // The reply has 32 bits for the length. A limit also keeps the request short.
        const MAX_COPY: usize = 1 << 30;
        self.changing()?;
        let (input, output) = (self.files.get(from.0)?, self.files.get(to.0)?);
        let len = usize::try_from(len).unwrap_or(MAX_COPY).min(MAX_COPY);
        let copied = output
            .open
            .copy_from(by, (&input.open, from.1), to.1, len)?;
        make_durable(&output)?;
        Ok(copied)
    }

    /// The inode flags that lsattr(1) shows.
    ///
    /// # Errors
    /// ENOTTY if the source's filesystem has no flags. EBADF for an unknown handle.
    pub fn inode_flags(&self, fh: u64) -> Result<IFlags> {
        self.with_flags(fh, HasFlags::flags, HasFlags::flags)
    }

    /// As `inode_flags`, in the form of FS_IOC_FSGETXATTR.
    ///
    /// # Errors
    /// Those of `inode_flags`.
    pub fn extended_flags(&self, fh: u64) -> Result<ExtendedFlags> {
        self.with_flags(fh, HasFlags::extended_flags, HasFlags::extended_flags)
    }

    /// Sets the inode flags. The kernel has already checked the caller's permission.
    ///
    /// # Errors
    /// Those of ioctl_iflags(2).
    pub fn set_inode_flags(&self, node: u64, fh: u64, flags: IFlags) -> Result<()> {
        self.changing()?;
        let outcome = self.with_flags(fh, |f| f.set_flags(flags), |d| d.set_flags(flags));
        // The kernel does not drop cached attributes after an ioctl, which moves the ctime.
        self.cache.attributes_changed(node);
        outcome
    }

    /// As `set_inode_flags`, in the form of FS_IOC_FSSETXATTR.
    ///
    /// # Errors
    /// Those of `set_inode_flags`.
    pub fn set_extended_flags(&self, node: u64, fh: u64, attr: &ExtendedFlags) -> Result<()> {
        self.changing()?;
        let (file, dir) = (
            |f: &T::Open| f.set_extended_flags(attr),
            |d: &T::Listing| d.set_extended_flags(attr),
        );
        let outcome = self.with_flags(fh, file, dir);
        self.cache.attributes_changed(node);
        outcome
    }

    /// Calls `file` or `dir` with the open file or directory of a handle. Files and directories share no numbers.
    fn with_flags<R>(
        &self,
        fh: u64,
        file: impl FnOnce(&T::Open) -> Result<R>,
        dir: impl FnOnce(&T::Listing) -> Result<R>,
    ) -> Result<R> {
        match self.files.get(fh) {
            Ok(handle) => file(&handle.open),
            Err(_) => self.tree.with_open(&self.dirs.get(fh)?.listing, dir),
        }
    }
}

/// Makes a change durable that is no write, if the flags of open(2) or of the mount ask for it.
fn make_durable<O: Content>(file: &FileHandle<O>) -> Result<()> {
    match file.durability {
        Durability::Cached => Ok(()),
        Durability::Data => file.open.sync(true),
        Durability::Full => file.open.sync(false),
    }
}
