//! The seam below which a kind of view is made: [`Tree`], its names and attributes, and [`Content`], the bytes of one
//! file. [`shared`] is the source itself. The operations ([`crate::fs`]) are compiled once for each kind, so nothing is boxed per request.

mod reporter;
pub mod shared;

pub use reporter::Reporter;

use crate::actor::Actor;
use crate::attr::Attr;
use crate::cache::MayKeep;
use crate::inode::{Place, Seen};
use crate::report::ViewReport;
use crate::request::{ExtendedFlags, New, Permissions, Removal, Seek, SetAttr, Write};
use rustix::fs::{FallocateFlags, FileType, IFlags, OFlags, RenameFlags, StatVfs, XattrFlags};
use rustix::io::{Errno, Result};
use std::any::Any;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// An inode just found, whatever its name. Dropped when it is remembered as a node.
#[derive(Debug, Clone)]
pub struct Found<P> {
    /// What finds it again.
    pub place: P,
    /// Its attributes; `ino` is not yet the node id.
    pub attr: Attr,
    /// How it was seen.
    pub seen: Seen,
    /// Keeps its number from being given to another inode.
    pub hold: Option<Arc<dyn Any + Send + Sync>>,
}

impl<P> Found<P> {
    /// An inode that `hold` holds open.
    pub fn held(place: P, attr: Attr, hold: Arc<dyn Any + Send + Sync>) -> Self {
        let (seen, hold) = (Seen::Held, Some(hold));
        Found {
            place,
            attr,
            seen,
            hold,
        }
    }

    /// An inode that nothing holds. `Seen::Held` says that its number cannot be given to another one all the same.
    pub fn seen(place: P, attr: Attr, seen: Seen) -> Self {
        let hold = None;
        Found {
            place,
            attr,
            seen,
            hold,
        }
    }
}

/// A name in a directory.
pub type Name<'a, P> = (&'a P, &'a OsStr);

/// An entry of a directory as it is listed.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// The number it is shown with (`NodeTable::listed_number`).
    pub ino: u64,
    /// Where the entry after this one is found.
    pub offset: u64,
    /// Its type, as far as the directory knows.
    pub kind: FileType,
    /// Its name.
    pub name: &'a OsStr,
}

/// What a kind of view is made of.
pub trait View: Send + Sync + Sized + 'static {
    /// What finds an inode again.
    type Node: Place;
    /// One open of a file. Opens of one inode share what they can inside the view.
    type Open: Content + Debug;
    /// One open of a directory.
    type Listing: Listing + Debug;
}

/// A view: its names and attributes, and the opening of its files and directories.
///
/// Errors are those of the system call that an operation is named after, on the view's own filesystem. ESTALE says that
/// an inode cannot be found any more. An operation that has changed something never fails with ESTALE, ENOSPC or EDQUOT:
/// it would be done again.
pub trait Tree: Names + Attributes + Xattrs + Files + Directories {
    /// The kernel has forgotten an inode: what was kept for it may go, unless the node table knows it again.
    fn forget(&self, node: &Self::Node);

    /// Many inodes were forgotten: memory that was kept for them can go back.
    fn trim(&self) {}

    /// Keeps reachable for a moment what was found, even if its last name goes: until `let_go` has been called twice. Says
    /// whether nothing else is kept so.
    fn hold(&self, _found: &Found<Self::Node>) -> bool {
        false
    }

    /// Gives up what was held for a moment that is over. Says whether anything is held still.
    fn let_go(&self) -> bool {
        false
    }

    /// Whether space may be about to be freed that belongs to what was removed.
    fn may_make_room(&self, _wanted: Wanted) -> bool {
        false
    }

    /// Gives back what can be had again, and waits, for a moment, for the kernel to give back what was removed. False when
    /// there is nothing to wait for any more.
    fn make_room(&self, _wanted: Wanted) -> bool {
        false
    }

    /// A descriptor of this open was closed: perhaps it will be given back.
    fn closing(&self, _open: &Self::Open) {}

    /// Looks whether open files were changed behind the mount, and reports it.
    fn check_open_files(&self);

    /// The device number of our own mount, which is never entered.
    fn set_own_device(&self, _device: u64) {}

    /// What it says of itself. Takes no lock, and asks the source nothing.
    fn report(&self) -> ViewReport {
        ViewReport::default()
    }

    /// Whether the view itself stands on stacked filesystems, or may do so.
    fn is_stacked(&self) -> bool {
        false
    }
}

/// The names of a view.
pub trait Names: View {
    /// Finds a name in a directory.
    ///
    /// # Errors
    /// ENOENT when there is none.
    fn lookup(&self, dir: &Self::Node, name: &OsStr) -> Result<Found<Self::Node>>;

    /// As `lookup`; what is found is held.
    ///
    /// # Errors
    /// Those of `lookup`.
    fn lookup_to_hold(&self, dir: &Self::Node, name: &OsStr) -> Result<Found<Self::Node>> {
        self.lookup(dir, name)
    }

    /// Makes an inode under a new name.
    ///
    /// # Errors
    /// Those of mknodat(2), mkdirat(2) and symlinkat(2).
    fn make(&self, by: &Actor, at: Name<'_, Self::Node>, new: New<'_>)
    -> Result<Found<Self::Node>>;

    /// Makes a regular file and opens it with `flags`. `made` is told of it in between, so that it is a node when it is
    /// opened.
    ///
    /// # Errors
    /// EEXIST when the caller insists on a new one; ESTALE when one has appeared that the kernel must check the
    /// caller's permissions on first; those of openat(2).
    fn create(
        &self,
        by: &Actor,
        at: Name<'_, Self::Node>,
        permissions: Permissions,
        flags: OFlags,
        made: impl FnOnce(Found<Self::Node>),
    ) -> Result<Self::Open>;

    /// Gives an inode another name.
    ///
    /// # Errors
    /// Those of linkat(2).
    fn link(&self, node: &Self::Node, at: Name<'_, Self::Node>) -> Result<Found<Self::Node>>;

    /// Removes a name.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    fn remove(&self, at: Name<'_, Self::Node>, what: Removal) -> Result<()>;

    /// Moves a name.
    ///
    /// # Errors
    /// Those of renameat2(2).
    fn rename(
        &self,
        from: Name<'_, Self::Node>,
        to: Name<'_, Self::Node>,
        flags: RenameFlags,
    ) -> Result<()>;

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// EINVAL when it is none.
    fn read_link(&self, node: &Self::Node) -> Result<Vec<u8>>;
}

/// The attributes of a view's inodes.
pub trait Attributes: View {
    /// The attributes of an inode.
    ///
    /// # Errors
    /// Those of statx(2).
    fn attr(&self, node: &Self::Node) -> Result<Attr>;

    /// Changes attributes, through the handle that the caller has open if there is one.
    ///
    /// # Errors
    /// Those of chown(2), chmod(2), truncate(2) and utimensat(2).
    fn set_attr(
        &self,
        by: &Actor,
        node: &Self::Node,
        open: Option<&Self::Open>,
        set: &SetAttr,
    ) -> Result<()>;

    /// Usage of the filesystem an inode lives on.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    fn statfs(&self, node: &Self::Node) -> Result<StatVfs>;
}

/// The extended attributes of a view's inodes, POSIX ACLs among them.
pub trait Xattrs: View {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// ENODATA when there is none; ERANGE when it is longer than `room` bytes.
    fn xattr(&self, node: &Self::Node, name: &OsStr, room: usize) -> Result<Vec<u8>>;

    /// The length of an extended attribute's value in bytes.
    ///
    /// # Errors
    /// ENODATA when there is none.
    fn xattr_len(&self, node: &Self::Node, name: &OsStr) -> Result<usize>;

    /// The names of all extended attributes, each followed by a zero byte.
    ///
    /// # Errors
    /// Those of listxattr(2).
    fn xattr_names(&self, node: &Self::Node) -> Result<Vec<u8>>;

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// Those of setxattr(2).
    fn set_xattr(
        &self,
        by: &Actor,
        node: &Self::Node,
        name: &OsStr,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()>;

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// ENODATA when there is none.
    fn remove_xattr(&self, by: &Actor, node: &Self::Node, name: &OsStr) -> Result<()>;
}

/// The files of a view that are open.
pub trait Files: View {
    /// Opens a regular file with the access, O_APPEND and O_NOATIME of `flags`.
    ///
    /// # Errors
    /// Those of open(2).
    fn open(&self, by: &Actor, node: &Self::Node, flags: OFlags) -> Result<Self::Open>;

    /// Ends an open.
    fn close(&self, open: Arc<Self::Open>);
}

/// The directories of a view, listed.
pub trait Directories: View {
    /// Opens a directory for listing, with the O_NOATIME of `flags`.
    ///
    /// # Errors
    /// Those of open(2).
    fn open_dir(&self, node: &Self::Node, flags: OFlags) -> Result<Self::Listing>;

    /// Hands entries from `offset` on to `take` until it says that there is no room for the one offered. True when
    /// the end was reached. Offset 0 is the beginning, and the offset of an entry leads to what follows it. `.` and `..`
    /// are entries like others.
    ///
    /// # Errors
    /// Those of getdents64(2), when nothing was handed out before.
    fn list(
        &self,
        listing: &Self::Listing,
        offset: u64,
        take: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<bool>;

    /// As `lookup`, in a directory that is being listed.
    ///
    /// # Errors
    /// Those of `lookup`.
    fn lookup_listed(&self, listing: &Self::Listing, name: &OsStr) -> Result<Found<Self::Node>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Those of fsync(2).
    fn sync_names(&self, dir: &Self::Node) -> Result<()>;

    /// Does `op` on a listing that has its directory open, as this one may not where descriptors are few.
    ///
    /// # Errors
    /// Those of open(2) and of `op`.
    fn with_open<R>(
        &self,
        listing: &Self::Listing,
        op: impl FnOnce(&Self::Listing) -> Result<R>,
    ) -> Result<R> {
        op(listing)
    }
}

/// One open of a directory.
pub trait Listing: HasFlags + Send + Sync {
    /// The directory's change stamp when it was opened; `None` where the kernel may keep nothing.
    fn stamp(&self) -> Option<u64>;

    /// Whether the kernel may show what it remembers of the last listing. It may not where this one is to move the
    /// directory's access time.
    fn may_be_remembered(&self) -> bool {
        true
    }

    /// Makes the directory's changes durable, and its attributes unless `data_only`.
    ///
    /// # Errors
    /// Those of fsync(2).
    fn sync(&self, data_only: bool) -> Result<()>;
}

/// The bytes of one file as one open sees them: the only way to bytes.
pub trait Content: HasFlags + Send + Sync {
    /// The attributes of the file; `ino` is not the node id.
    ///
    /// # Errors
    /// Those of statx(2).
    fn attr(&self) -> Result<Attr>;

    /// Whether it was opened to write.
    fn is_writable(&self) -> bool;

    /// Whether the kernel may cache bytes of it at all. False where the length says nothing of what a read returns.
    fn is_cacheable(&self) -> bool;

    /// What the kernel may keep of what it has cached, now that the file was opened. No pages where the open is to
    /// move the access time (`moves_atime`) with its first read, and that time is due to move.
    ///
    /// # Errors
    /// Those of statx(2).
    fn may_keep(&self, moves_atime: bool) -> Result<MayKeep>;

    /// Lends `lend` up to `len` bytes from `offset` on, fewer at the end of the file. The reader's descriptor has these
    /// `flags` now: a read with O_DIRECT goes past the kernel's cache, one with O_NOATIME leaves the access time alone.
    /// Calls `lend` exactly once, before returning. What is lent may be a mapping of a file that others change: it may
    /// be handed to one system call, and not be looked at.
    fn read<R>(
        &self,
        offset: u64,
        len: usize,
        flags: OFlags,
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R;

    /// Writes, and returns how many bytes were written: fewer than asked for when an error came after them.
    ///
    /// # Errors
    /// Those of pwrite(2), when nothing was written; EBADF when the file was opened to read only.
    fn write(&self, write: &Write<'_>) -> Result<usize>;

    /// A descriptor of the file was closed, perhaps not the last one. With `sync` as `sync` does.
    ///
    /// # Errors
    /// A write that was lost since the file was opened or last synced, however often this is asked.
    fn flush(&self, sync: bool) -> Result<()>;

    /// Makes the bytes durable, and with them the attributes unless `data_only`.
    ///
    /// # Errors
    /// Those of fsync(2): a lost write is reported to each open for writing, once.
    fn sync(&self, data_only: bool) -> Result<()>;

    /// Allocates, punches or zeroes a range.
    ///
    /// # Errors
    /// Those of fallocate(2).
    fn allocate(&self, by: &Actor, mode: FallocateFlags, offset: u64, len: u64) -> Result<()>;

    /// Finds data or a hole.
    ///
    /// # Errors
    /// ENXIO when there is none from there on.
    fn seek(&self, to: Seek) -> Result<u64>;

    /// Copies from another file of the view; returns the bytes copied, perhaps fewer than asked for.
    ///
    /// # Errors
    /// Those of copy_file_range(2).
    fn copy_from(&self, by: &Actor, from: (&Self, u64), offset: u64, len: usize) -> Result<usize>;

    /// Applies what waits to be applied, before the daemon ends.
    fn settle(&self) {}

    /// Has `register` give the kernel the file, which it then serves by itself: the first open decides for all until
    /// the last one is closed. `None` where the view serves it.
    fn hand_over<H: Any + Send + Sync>(
        &self,
        _by: &Actor,
        _register: impl FnOnce(BorrowedFd<'_>) -> Option<H>,
    ) -> Option<&H> {
        None
    }

    /// Whether the kernel serves the file by itself.
    fn is_handed_over(&self) -> bool {
        false
    }
}

/// What there is no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Bytes of a file.
    Bytes,
    /// Perhaps an inode: there may be none left, where there are blocks.
    Anything,
}

/// The inode flags of something that is open: those of lsattr(1), and the extended ones.
pub trait HasFlags {
    /// The inode flags.
    ///
    /// # Errors
    /// ENOTTY where the view has none.
    fn flags(&self) -> Result<IFlags> {
        Err(Errno::NOTTY)
    }

    /// The extended inode flags.
    ///
    /// # Errors
    /// ENOTTY where the view has none.
    fn extended_flags(&self) -> Result<ExtendedFlags> {
        Err(Errno::NOTTY)
    }

    /// Sets the inode flags; the kernel has checked that the caller may.
    ///
    /// # Errors
    /// Those of ioctl_iflags(2).
    fn set_flags(&self, _flags: IFlags) -> Result<()> {
        Err(Errno::NOTTY)
    }

    /// Sets the extended inode flags.
    ///
    /// # Errors
    /// Those of ioctl_xfs_fsgetxattr(2).
    fn set_extended_flags(&self, _attr: &ExtendedFlags) -> Result<()> {
        Err(Errno::NOTTY)
    }
}

/// Runs what comes after a change that took place: once more where it finds something stale, and then that is
/// EIO. ESTALE would have the kernel do the whole operation again, and want of space or of descriptors mmfs, which then meets
/// its own change (EEXIST for the caller's own new file).
///
/// # Errors
/// Those of `work`, but ESTALE, ENOSPC, EDQUOT, EMFILE and ENFILE.
pub fn after_change<T>(work: impl Fn() -> Result<T>) -> Result<T> {
    let outcome = match work() {
        Err(Errno::STALE) => work(),
        outcome => outcome,
    };
    outcome.map_err(|errno| match errno {
        Errno::STALE | Errno::NOSPC | Errno::DQUOT | Errno::MFILE | Errno::NFILE => Errno::IO,
        other => other,
    })
}
