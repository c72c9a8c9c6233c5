//! The traits that a kind of view implements: [`Tree`] for names and attributes, [`Content`] for the bytes of one file.
//! [`shared`] is the source itself. The operations ([`crate::fs`]) are compiled once for each kind, so no request allocates a
//! trait object.

mod given_up;
pub mod private;
mod reporter;
pub mod shared;

pub use given_up::{GivenUp, GivesUp, Prepared, Stay, Used};
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

/// An inode just found. Dropped when it has an entry in the node table.
#[derive(Debug, Clone)]
pub struct Found<P> {
    /// Finds the inode again.
    pub place: P,
    /// Its attributes; `ino` is not yet the node id.
    pub attr: Attr,
    /// How it was found.
    pub seen: Seen,
    /// Holds the inode open, so that its number is not given to another one.
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

    /// An inode that is not held open. With `Seen::Held` its number is nevertheless not given to another one.
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

/// A name in a directory: the directory, and the component.
pub type Name<'a, P> = (&'a P, &'a OsStr);

/// A directory entry, as listed.
#[derive(Debug, Clone, Copy)]
pub struct DirEntry<'a> {
    /// The inode number shown (`NodeTable::listed_number`).
    pub ino: u64,
    /// The offset at which the next entry begins.
    pub offset: u64,
    /// Its type, if the directory records it.
    pub kind: FileType,
    /// Its name.
    pub name: &'a OsStr,
}

/// The types that a kind of view consists of.
pub trait View: Send + Sync + Sized + 'static {
    /// Finds an inode again.
    type Node: Place;
    /// One open of a file. Opens of one inode share state inside the view.
    type Open: Content + Debug;
    /// One open of a directory.
    type Listing: Listing + Debug;
}

/// A view: names, attributes, and opening files and directories.
///
/// Errors are those of the system call that an operation is named after. ESTALE: an inode cannot be found any more. An operation
/// that has changed something never fails with ESTALE, ENOSPC or EDQUOT, because the caller would do it again.
pub trait Tree: Names + Attributes + Xattrs + Files + Directories + GivesUp {
    /// The kernel has forgotten an inode. Its state may be dropped, unless the node table knows it again.
    fn forget(&self, node: &Self::Node);

    /// Many inodes were forgotten: returns memory to the system.
    fn trim(&self) {}

    /// Keeps an inode reachable until `release_held` was called twice, even if its last name is removed. Returns whether it is the
    /// only such inode.
    fn hold(&self, _found: &Found<Self::Node>) -> bool {
        false
    }

    /// Releases the inodes that `hold` has kept since before the previous call. Returns whether any are left.
    fn release_held(&self) -> bool {
        false
    }

    /// Whether removing a file may soon free space.
    fn may_make_room(&self, _wanted: Wanted) -> bool {
        false
    }

    /// Closes descriptors that can be opened again, and waits a moment until the kernel releases removed inodes. False if there
    /// is nothing left to wait for.
    fn make_room(&self, _wanted: Wanted) -> bool {
        false
    }

    /// A client has closed a descriptor of this open, perhaps the last one.
    fn closing(&self, _open: &Self::Open) {}

    /// Checks whether open files were changed behind the mount, and reports it.
    fn check_open_files(&self);

    /// Sets the device number of mmfs's own mount, which is never entered.
    fn set_own_device(&self, _device: u64) {}

    /// Figures for status. Takes no lock that a request holds while it waits, and makes no system call on the source.
    fn report(&self) -> ViewReport {
        ViewReport::default()
    }

    /// Whether opening with O_TRUNC cuts the file.
    const TRUNCATES_AT_OPEN: bool = false;

    /// Whether files that are passed through are on a stacked filesystem, or may be.
    fn is_stacked(&self) -> bool {
        false
    }
}

/// The names of a view.
pub trait Names: View {
    /// Finds a name in a directory.
    ///
    /// # Errors
    /// ENOENT if there is none.
    fn lookup(&self, dir: &Self::Node, name: &OsStr) -> Result<Found<Self::Node>>;

    /// As `lookup`, and the inode found is held.
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

    /// Creates a regular file and opens it with `flags`. Calls `made` with it before opening, so that it is a node by then.
    ///
    /// # Errors
    /// EEXIST with O_EXCL. ESTALE if another file has appeared, because the kernel must check permissions for that one first.
    /// Those of openat(2).
    fn create(
        &self,
        by: &Actor,
        at: Name<'_, Self::Node>,
        permissions: Permissions,
        flags: OFlags,
        made: impl FnOnce(Found<Self::Node>),
    ) -> Result<Self::Open>;

    /// Makes a hard link.
    ///
    /// # Errors
    /// Those of linkat(2).
    fn link(&self, node: &Self::Node, at: Name<'_, Self::Node>) -> Result<Found<Self::Node>>;

    /// Removes a name.
    ///
    /// # Errors
    /// Those of unlinkat(2).
    fn remove(&self, at: Name<'_, Self::Node>, what: Removal) -> Result<()>;

    /// Renames.
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
    /// EINVAL if the inode is not one.
    fn read_link(&self, node: &Self::Node) -> Result<Vec<u8>>;
}

/// The attributes of a view's inodes.
pub trait Attributes: View {
    /// The attributes of an inode.
    ///
    /// # Errors
    /// Those of statx(2).
    fn attr(&self, node: &Self::Node) -> Result<Attr>;

    /// Changes attributes, through the caller's handle if there is one.
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

    /// Usage of the filesystem of an inode.
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
    /// ENODATA if there is none; ERANGE if it is longer than `room` bytes.
    fn xattr(&self, node: &Self::Node, name: &OsStr, room: usize) -> Result<Vec<u8>>;

    /// The length of an extended attribute's value in bytes.
    ///
    /// # Errors
    /// ENODATA if there is none.
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
    /// ENODATA if there is none.
    fn remove_xattr(&self, by: &Actor, node: &Self::Node, name: &OsStr) -> Result<()>;
}

/// Opening and closing the files of a view.
pub trait Files: View {
    /// Opens a regular file with the access, O_APPEND and O_NOATIME of `flags`.
    ///
    /// # Errors
    /// Those of open(2).
    fn open(&self, by: &Actor, node: &Self::Node, flags: OFlags) -> Result<Self::Open>;

    /// Ends an open.
    fn close(&self, open: Arc<Self::Open>);
}

/// Listing the directories of a view.
pub trait Directories: View {
    /// Opens a directory for listing, with the O_NOATIME of `flags`.
    ///
    /// # Errors
    /// Those of open(2).
    fn open_dir(&self, node: &Self::Node, flags: OFlags) -> Result<Self::Listing>;

    /// Calls `take` with each entry from `offset` on, until it returns that there is no room for the entry. True at the end of
    /// the directory. Offset 0 is the beginning. The offset of an entry leads to the next one. `.` and `..` are entries, too.
    ///
    /// # Errors
    /// Those of getdents64(2), before the first entry.
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

    /// Runs `op` with a listing that has its directory open. `listing` may not have it open if descriptors are scarce.
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
    /// The directory's change stamp when it was opened. `None` if the kernel may not cache the listing.
    fn stamp(&self) -> Option<u64>;

    /// Whether the kernel may use its cached listing. Not if this listing has to move the directory's access time.
    fn may_be_cached(&self) -> bool {
        true
    }

    /// Makes the directory's changes durable, and its attributes unless `data_only`.
    ///
    /// # Errors
    /// Those of fsync(2).
    fn sync(&self, data_only: bool) -> Result<()>;
}

/// The bytes of one file, through one open. There is no other way to the bytes.
pub trait Content: HasFlags + Send + Sync {
    /// The attributes of the file; `ino` is not the node id.
    ///
    /// # Errors
    /// Those of statx(2).
    fn attr(&self) -> Result<Attr>;

    /// Whether it is open for writing.
    fn is_writable(&self) -> bool;

    /// Whether the kernel may cache its bytes. False if the length says nothing about the bytes a read returns.
    fn is_cacheable(&self) -> bool;

    /// Which parts of its cache the kernel may keep at this open. If the first read of the open `moves_atime`, and the access
    /// time is due, the kernel keeps no pages.
    ///
    /// # Errors
    /// Those of statx(2).
    fn may_keep(&self, moves_atime: bool) -> Result<MayKeep>;

    /// Calls `lend` with up to `len` bytes from `offset` on, fewer at the end of the file. `flags` are the present flags of the
    /// reader's descriptor. A read with O_DIRECT bypasses the kernel's cache, one with O_NOATIME leaves the access time alone.
    /// `lend` is called exactly once, before `read` returns. The bytes may be in a mapping of a file that others change: they
    /// may be passed to one system call, and must not be loaded.
    fn read<R>(
        &self,
        offset: u64,
        len: usize,
        flags: OFlags,
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R;

    /// Writes. Returns the number of bytes written: fewer than asked for if an error followed them.
    ///
    /// # Errors
    /// Those of pwrite(2), if nothing was written; EBADF if the file is open for reading only.
    fn write(&self, write: &Write<'_>) -> Result<usize>;

    /// Answers FLUSH: a client has closed a descriptor, perhaps not the last one. With `sync` the bytes are made durable
    /// before.
    ///
    /// # Errors
    /// A write that was lost since the file was opened or last synced. Each call returns the error.
    fn flush(&self, sync: bool) -> Result<()>;

    /// Makes the bytes durable, and the attributes unless `data_only`.
    ///
    /// # Errors
    /// Those of fsync(2). A lost write is reported to each open for writing once.
    fn sync(&self, data_only: bool) -> Result<()>;

    /// Allocates a range, or makes a hole or zeros of it.
    ///
    /// # Errors
    /// Those of fallocate(2).
    fn allocate(&self, by: &Actor, mode: FallocateFlags, offset: u64, len: u64) -> Result<()>;

    /// Finds data or a hole.
    ///
    /// # Errors
    /// ENXIO if there is none behind the offset.
    fn seek(&self, to: Seek) -> Result<u64>;

    /// Copies from another file of the view. Returns the bytes copied, which may be fewer than asked for.
    ///
    /// # Errors
    /// Those of copy_file_range(2).
    fn copy_from(&self, by: &Actor, from: (&Self, u64), offset: u64, len: usize) -> Result<usize>;

    /// Applies times that wait, before the daemon ends.
    fn settle(&self) {}

    /// Gives the kernel the file by `register`, or not (`None`). The first open decides for all until the last is closed.
    fn pass_through<H: Any + Send + Sync>(
        &self,
        _by: &Actor,
        _register: impl FnOnce(BorrowedFd<'_>) -> Option<H>,
    ) -> Option<&H> {
        None
    }

    /// Whether the kernel serves the file by passthrough.
    fn is_passed_through(&self) -> bool {
        false
    }
}

/// The resource that an operation lacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Bytes of a file.
    Bytes,
    /// Blocks or inodes: there may be no inode left although there are blocks.
    Anything,
}

/// Inode flags of an open file or directory: those of lsattr(1), and the extended ones.
pub trait HasFlags {
    /// The inode flags.
    ///
    /// # Errors
    /// ENOTTY if the view has none.
    fn flags(&self) -> Result<IFlags> {
        Err(Errno::NOTTY)
    }

    /// The extended inode flags.
    ///
    /// # Errors
    /// ENOTTY if the view has none.
    fn extended_flags(&self) -> Result<ExtendedFlags> {
        Err(Errno::NOTTY)
    }

    /// Sets the inode flags. The kernel has checked that the caller may.
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

/// Runs `work` after a change that has succeeded. On ESTALE it runs once more. ESTALE, ENOSPC, EDQUOT, EMFILE and ENFILE become EIO:
/// for these the kernel or mmfs would do the whole operation again, and find its own change (EEXIST for a file just created).
///
/// # Errors
/// Those of `work`, with these five as EIO.
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
