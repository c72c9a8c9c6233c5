//! The source of a read-only view. Files, directories and symbolic links are opened through a read-only clone of their mount.
//! The kernel then refuses writes, and reading moves no access time.
//!
//! Names are looked up in the source itself, by statx(2) and O_PATH descriptors, which change nothing. A clone lacks what is
//! mounted below it. The inode found is then opened through the clone.

use super::again::{proc_path, reopen};
use crate::sys::mounts::{clone_read_only, clone_read_only_as_user};
use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A read-only clone of the mount that the source lies in.
#[derive(Debug)]
pub struct ReadOnlyClone {
    /// The clone's root, as an O_PATH descriptor and as an open one, for open_by_handle_at(2).
    root: OwnedFd,
    open_root: Option<OwnedFd>,
    /// The source's root itself. While it is open, umount(2) of the source's mount fails with EBUSY. The clone keeps only the
    /// device busy.
    original: OwnedFd,
    /// Whether this process may make clones, also of other mounts below the source.
    may_clone: bool,
}

impl ReadOnlyClone {
    /// A clone for the source whose root `original` is open at `path`. Without one, which the log says, the view is kept
    /// read-only by `Fs::changing`. No other thread may exist yet.
    pub fn of(original: BorrowedFd<'_>, path: &Path) -> Option<Arc<Self>> {
        let clone = Self::new(original, path).inspect_err(|errno| {
            log::warn!(
                "the source's mount cannot be cloned ({errno}): mmfs itself refuses changes, and reading may move access \
                 times of symbolic links and of other users' files and directories"
            );
        });
        clone.ok().map(Arc::new)
    }

    /// Fails if the kernel is too old, or if neither this process nor a child in a user namespace may make a clone.
    fn new(original: BorrowedFd<'_>, path: &Path) -> Result<Self> {
        let original = original.try_clone_to_owned();
        let original =
            original.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let (root, may_clone) = match clone_read_only(original.as_fd()) {
            Err(Errno::PERM) => (clone_read_only_as_user(path)?, false),
            clone => (clone?, true),
        };
        if !is_same(root.as_fd(), original.as_fd())? {
            return Err(Errno::STALE);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(ReadOnlyClone {
            open_root: fs::openat(&root, c".", flags, Mode::empty()).ok(),
            root,
            original,
            may_clone,
        })
    }

    /// The root of the clone, for open_by_handle_at(2).
    pub(super) fn open_root(&self) -> Option<&OwnedFd> {
        self.open_root.as_ref()
    }

    /// Opens the inode behind `fd`, which may be O_PATH, through a clone. `flags` may be O_PATH for a symbolic link. Calls
    /// `without` if no clone has the inode.
    ///
    /// # Errors
    /// Those of open(2). Without the right to make clones, ESTALE if the inode is not found by its path in the source's own
    /// filesystem.
    pub(super) fn open(
        &self,
        fd: BorrowedFd<'_>,
        flags: OFlags,
        without: impl FnOnce(Errno),
    ) -> Result<OwnedFd> {
        let found = match self.may_clone {
            true => clone_read_only(fd),
            false => self.find(fd),
        };
        let found = found.inspect_err(|&errno| without(errno))?;
        match flags.contains(OFlags::PATH) {
            true => Ok(found),
            false => reopen(found.as_fd(), flags),
        }
    }

    /// The same inode in the clone, found by its path.
    fn find(&self, fd: BorrowedFd<'_>) -> Result<OwnedFd> {
        /// Directories above it may be renamed meanwhile.
        const TRIES: usize = 3;
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        // O_PATH, to compare the inodes before opening: another file may have taken the name.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..TRIES {
            let (top, place) = (path_of(self.original.as_fd())?, path_of(fd)?);
            let below = place.strip_prefix(&top).map_err(|_| Errno::STALE)?;
            let below = match below.as_os_str().is_empty() {
                true => OsStr::new("."),
                false => below.as_os_str(),
            };
            let found = fs::openat2(&self.root, below, flags, Mode::empty(), how);
            match found {
                Ok(found) if is_same(found.as_fd(), fd)? => return Ok(found),
                _ => {}
            }
        }
        Err(Errno::STALE)
    }
}

/// Logs that the inode behind `fd` is opened without a clone of its mount.
pub(super) fn warn_of_no_clone(fd: BorrowedFd<'_>, errno: Errno) {
    let path = path_of(fd).unwrap_or_default();
    log::warn!(
        "{path:?} is opened without a read-only clone of its mount ({errno}): mmfs itself refuses changes there, and \
         reading may move access times of symbolic links and of other users' files and directories"
    );
}

/// Whether two descriptors, which may be O_PATH, are on one inode. An open inode keeps its number.
fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool> {
    let (one, other) = (fs::fstat(one)?, fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// The present path of a descriptor, as this process sees it.
fn path_of(fd: BorrowedFd<'_>) -> Result<PathBuf> {
    let path = fs::readlink(proc_path(fd), Vec::new())?;
    Ok(OsStr::from_bytes(path.as_bytes()).into())
}
