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

/// What the kernel is told of a new handle.
#[derive(Debug)]
pub struct Opened<O> {
    /// The handle's number.
    pub fh: u64,
    /// Bypass the kernel's cache, unless the kernel serves the file by itself.
    pub direct_io: bool,
    /// The kernel may serve the file by itself.
    pub may_pass_through: bool,
    /// What the kernel has cached of the file is still true.
    pub keep_cache: bool,
    /// Closing it needs no word: nothing can have been written.
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

impl<T: Tree> Fs<T> {
    /// Opens a regular file.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(&self, by: &Actor, node: u64, flags: OFlags) -> Result<Opened<T::Open>> {
        let mode = flags & OFlags::RWMODE;
        if mode != OFlags::RDONLY {
            self.changing()?;
        }
        let open = self
            .nodes
            .get(node)
            .and_then(|node| self.tree.open(by, &node, flags));
        // Without a descriptor it may be done again.
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

    /// Gives an open of `node`, made with these `flags`, its number.
    pub(super) fn register(
        &self,
        node: u64,
        open: Arc<T::Open>,
        flags: OFlags,
        keep_cache: bool,
    ) -> Opened<T::Open> {
        let read_only = !open.is_writable();
        let may_pass_through = !self.settings.direct_io && open.is_cacheable();
        // An O_DIRECT read that comes short goes on in the kernel's cache otherwise (`generic_file_read_iter`), which fills a page
        // up with zeros: they would be read where a file has just been truncated behind the mount.
        let direct = flags.contains(OFlags::DIRECT);
        // The kernel cuts a cached append at a page that it has not read (Linux 6.18).
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

    /// What a write through a handle asks for before it is answered. The kernel itself sends an FSYNC after a
    /// synchronous write through its cache (`generic_write_sync`), and none after one that bypasses it or is
    /// asynchronous, as one with O_DIRECT may be. Each is to flush the device once: hence the handles that are opened
    /// with both flags bypass the cache.
    fn durability(&self, direct_io: bool, how: Writing) -> Durability {
        let flags = how.flags;
        let synced_after = !direct_io && flags & (OFlags::DIRECT | DSYNC) == DSYNC;
        if synced_after || how.from_mapping {
            return Durability::Cached;
        }
        self.asked_for(flags)
    }

    /// What these flags of a descriptor ask for before a write through it is answered.
    fn asked_for(&self, flags: OFlags) -> Durability {
        if self.settings.flags.sync || flags.contains(OFlags::SYNC) {
            Durability::Full
        } else if flags.contains(DSYNC) {
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
        self.closes.fetch_add(1, SeqCst);
        let file = self.files.get(fh)?;
        self.tree.closing(&file.open);
        file.open.flush(self.settings.sync_on_close)
    }

    /// Makes a file's bytes durable, and with them its attributes unless `data_only`.
    ///
    /// # Errors
    /// Those of fsync(2): a lost write is reported to each handle that was open for writing, once.
    pub fn fsync(&self, fh: u64, data_only: bool) -> Result<()> {
        self.files.get(fh)?.open.sync(data_only)
    }

    /// Ends a handle.
    ///
    /// # Errors
    /// EBADF when there is no such handle.
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
        made_durable(&file)
    }

    /// Finds data or a hole.
    ///
    /// # Errors
    /// ENXIO when there is none from there on; EINVAL for other kinds of seeking, which are the kernel's own.
    pub fn lseek(&self, fh: u64, offset: u64, whence: i32) -> Result<u64> {
        let file = self.files.get(fh)?;
        let open = &file.open;
        match whence {
            libc::SEEK_DATA => open.seek(Seek::Data(offset)),
            libc::SEEK_HOLE => open.seek(Seek::Hole(offset)),
            _ => Err(Errno::INVAL),
        }
    }

    /// Copies between two open files of the view; returns the bytes copied, perhaps fewer than asked for.
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
        // What fits into the reply, and keeps the request short enough to be waited for.
        const MAX_COPY: usize = 1 << 30;
        self.changing()?;
        let (input, output) = (self.files.get(from.0)?, self.files.get(to.0)?);
        let len = usize::try_from(len).unwrap_or(MAX_COPY).min(MAX_COPY);
        let copied = output
            .open
            .copy_from(by, (&input.open, from.1), to.1, len)?;
        made_durable(&output)?;
        Ok(copied)
    }

    /// The inode flags that lsattr(1) shows.
    ///
    /// # Errors
    /// ENOTTY where the view has none; EBADF for an unknown handle.
    pub fn inode_flags(&self, fh: u64) -> Result<IFlags> {
        self.with_flags(fh, HasFlags::flags, HasFlags::flags)
    }

    /// As `inode_flags`, in the extended form.
    ///
    /// # Errors
    /// Those of `inode_flags`.
    pub fn extended_flags(&self, fh: u64) -> Result<ExtendedFlags> {
        self.with_flags(fh, HasFlags::extended_flags, HasFlags::extended_flags)
    }

    /// Sets the inode flags; the kernel has checked that the caller may.
    ///
    /// # Errors
    /// Those of ioctl_iflags(2).
    pub fn set_inode_flags(&self, node: u64, fh: u64, flags: IFlags) -> Result<()> {
        self.changing()?;
        let outcome = self.with_flags(fh, |f| f.set_flags(flags), |d| d.set_flags(flags));
        // The kernel does not expect an ioctl to move the ctime.
        self.cache.attributes_changed(node);
        outcome
    }

    /// As `set_inode_flags`, in the extended form.
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

    /// Handles of files and of directories have numbers of their own kinds; a file is looked for first.
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

/// Before a change through `file` is answered that is no write.
fn made_durable<O: Content>(file: &FileHandle<O>) -> Result<()> {
    match file.durability {
        Durability::Cached => Ok(()),
        Durability::Data => file.open.sync(true),
        Durability::Full => file.open.sync(false),
    }
}
