//! The source as a commit changes it. No symbolic link is followed, so nothing outside of it is reached.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{self, AtFlags, Mode, OFlags, StatxAttributes};
use rustix::io::{Errno, Result};
use serde::{Deserialize, Serialize};

use super::path::{Name, parent};
use crate::attr::{Attr, Time};
use crate::source::{proc_path, reopen};

/// An inode of the source, told from others that had or will have its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    number: u64,
    born: Option<(i64, u32)>,
    kind: u32,
}

/// What an inode was when the plan was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Which inode.
    pub identity: Identity,
    size: u64,
    mtime: (i64, u32),
}

fn plain(time: Time) -> (i64, u32) {
    (time.sec, time.nsec)
}

impl Identity {
    /// That of the inode with these attributes.
    pub fn of(attr: &Attr) -> Self {
        Self {
            number: attr.ino,
            born: attr.btime.map(plain),
            kind: attr.kind().as_raw_mode(),
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        rustix::fs::FileType::from_raw_mode(self.kind).is_dir()
    }
}

impl Seen {
    /// The inode with these attributes, as it is now.
    pub fn of(attr: &Attr) -> Self {
        let is_dir = attr.is_dir();
        Self {
            identity: Identity::of(attr),
            size: if is_dir { 0 } else { attr.size },
            // The commit itself changes names.
            mtime: if is_dir { (0, 0) } else { plain(attr.mtime) },
        }
    }
}

/// The root of the source, and the directory that was used last.
pub struct Tree {
    root: Rc<OwnedFd>,
    last: RefCell<Option<(Vec<u8>, Rc<OwnedFd>)>>,
}

impl Tree {
    /// Opens the source.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(source: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(source, flags, Mode::empty())?;
        Ok(Self {
            root: Rc::new(root),
            last: RefCell::new(None),
        })
    }

    /// The directory at a path. That of the root is empty.
    ///
    /// # Errors
    /// ENOENT; ENOTDIR also for a symbolic link; EACCES.
    pub fn directory(&self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some((last, fd)) = &*self.last.borrow() {
            if last == path {
                return Ok(fd.clone());
            }
        }
        let mut at = self.root.clone();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for part in path.split(|byte| *byte == b'/') {
            // The store has no such names. This keeps the promise where it is needed.
            if matches!(part, b"" | b"." | b"..") {
                return Err(Errno::INVAL);
            }
            at = Rc::new(fs::openat(
                &*at,
                OsStr::from_bytes(part),
                flags,
                Mode::empty(),
            )?);
        }
        *self.last.borrow_mut() = Some((path.to_vec(), at.clone()));
        Ok(at)
    }

    /// Forgets the directory that was used last: its path may lead elsewhere now.
    pub fn forget(&self) {
        *self.last.borrow_mut() = None;
    }

    /// The directory and the last component of a path.
    ///
    /// # Errors
    /// Those of [`Tree::directory`].
    pub fn place<'a>(&self, path: &'a [u8]) -> Result<(Rc<OwnedFd>, Name<'a>)> {
        let (directory, name) = parent(path);
        Ok((self.directory(directory)?, name))
    }

    /// What there is at a path. None: nothing.
    ///
    /// # Errors
    /// Those of statx(2), but for ENOENT and ENOTDIR.
    pub fn attr(&self, path: &[u8]) -> Result<Option<Attr>> {
        let found = match path.is_empty() {
            true => stat(&self.root).map(Some),
            false => self.place(path).and_then(|(at, name)| named(&at, name)),
        };
        match found {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            found => found,
        }
    }

    /// Opens the inode at a path, O_PATH, if it is the one that is meant.
    ///
    /// # Errors
    /// ESTALE if another one is there, or those of open(2).
    pub fn hold(&self, path: &[u8], identity: &Identity) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match path.is_empty() {
            true => fs::openat(&*self.root, c".", flags, Mode::empty())?,
            false => {
                let (at, name) = self.place(path)?;
                fs::openat(&*at, name, flags, Mode::empty())?
            }
        };
        match Identity::of(&stat(&fd)?) == *identity {
            true => Ok(fd),
            false => Err(Errno::STALE),
        }
    }

    /// Opens a file to read it, if it is the one that is meant.
    ///
    /// # Errors
    /// As [`Tree::hold`].
    pub fn read(&self, path: &[u8], identity: &Identity) -> Result<OwnedFd> {
        let held = self.hold(path, identity)?;
        let open = |flags| reopen(&held, OFlags::RDONLY | flags);
        // Only the owner and root may have it.
        open(OFlags::NOATIME).or_else(|_| open(OFlags::empty()))
    }

    /// Whether the source is an overlayfs.
    ///
    /// # Errors
    /// Those of fstatfs(2).
    pub fn is_overlay(&self) -> Result<bool> {
        const OVERLAYFS: u64 = 0x794c_7630;
        Ok(fs::fstatfs(&*self.root)?.f_type as u64 == OVERLAYFS)
    }

    /// Checks that whoever runs mmfs may take a name away: it belongs to him in a sticky directory, is no mount point, and nothing forbids it.
    ///
    /// # Errors
    /// EPERM, EBUSY, or those of statx(2).
    pub fn may_take_away(&self, path: &[u8]) -> Result<()> {
        let (directory, name) = self.place(path)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let found = fs::statx(&*directory, name, flags, Attr::MASK)?;
        let above = fs::statx(&*directory, c"", AtFlags::EMPTY_PATH, Attr::MASK)?;
        let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
        if found.stx_attributes.intersects(fixed) || above.stx_attributes.intersects(fixed) {
            return Err(Errno::PERM);
        }
        if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Err(Errno::BUSY);
        }
        let user = rustix::process::geteuid().as_raw();
        let is_sticky = u32::from(above.stx_mode) & 0o1000 != 0;
        match is_sticky && ![0, above.stx_uid, found.stx_uid].contains(&user) && user != 0 {
            true => Err(Errno::PERM),
            false => Ok(()),
        }
    }

    /// Whether whoever runs mmfs may change names in a directory.
    ///
    /// # Errors
    /// EACCES, EROFS and others of access(2).
    pub fn may_change(&self, directory: &[u8]) -> Result<()> {
        let fd = self.directory(directory)?;
        let access = fs::Access::WRITE_OK | fs::Access::EXEC_OK;
        fs::accessat(fs::CWD, proc_path(&*fd), access, AtFlags::EACCESS)
    }

    /// Removes what is at a path, with all that lies in it. Nothing there is no error.
    ///
    /// # Errors
    /// The first one.
    pub fn remove_all(&self, path: &[u8]) -> io::Result<()> {
        self.forget();
        let (at, name) = match self.place(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            found => found?,
        };
        let Some(attr) = named(&at, name)? else {
            return Ok(());
        };
        if !attr.is_dir() {
            return Ok(fs::unlinkat(&*at, name, AtFlags::empty())?);
        }
        // std's function holds descriptors, and follows no link.
        let path = Path::new(&proc_path(&*at)).join(name);
        std::fs::remove_dir_all(path)
    }

    /// Makes all that was written to the filesystem of a directory durable.
    ///
    /// # Errors
    /// That of syncfs(2).
    pub fn sync(&self, directory: &[u8]) -> Result<()> {
        let open = reopen(
            &*self.directory(directory)?,
            OFlags::RDONLY | OFlags::DIRECTORY,
        )?;
        fs::syncfs(&open)?;
        // Where syncfs(2) does less than it says, names are durable by this.
        fs::fsync(&open)
    }
}

/// The attributes of an open inode.
///
/// # Errors
/// Those of statx(2).
pub fn stat(fd: impl AsFd) -> Result<Attr> {
    fs::statx(fd, c"", AtFlags::EMPTY_PATH, Attr::MASK).map(Attr::from)
}

/// What a name of a directory leads to. None: there is no such name.
///
/// # Errors
/// Those of statx(2).
pub fn named(directory: &OwnedFd, name: Name<'_>) -> Result<Option<Attr>> {
    match fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, Attr::MASK) {
        Err(Errno::NOENT) => Ok(None),
        found => found.map(|found| Some(found.into())),
    }
}
