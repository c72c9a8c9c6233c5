//! The seam under the store: each call that reaches its files. Tests record these calls, cut them short and make them fail.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    self, AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, ResolveFlags, SeekFrom,
};
use rustix::io::Errno;

use super::node::Time;

/// The folder of one store. Paths are relative to it, and never lead out of it.
pub trait Disk: Send + Sync {
    /// Opens a regular file.
    ///
    /// # Errors
    /// ENOENT; EEXIST for [`How::Make`]; EINVAL if it is no regular file, or a file with a second name, which may lie
    /// elsewhere.
    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn DiskFile>>;
    /// rename(2): what `to` named before is gone.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// unlink(2).
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// mkdir(2). A directory that is there is not an error.
    fn make_directory(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// Makes the names of a directory durable: fsync(2).
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes all files of the store's filesystem durable: syncfs(2). False if this filesystem may do less.
    fn sync_filesystem(&self) -> io::Result<bool>;
    /// Bytes that can still be written, as statvfs(2) tells.
    fn free(&self) -> io::Result<u64>;
    /// The store's directory, on a real disk.
    fn directory(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// One open file of the store.
pub trait DiskFile: Send + Sync {
    /// pread(2). Less than asked for is the end of the file.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    /// pwrite(2). It may write less than asked for.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize>;
    /// fdatasync(2), which makes the length durable too.
    fn sync(&self) -> io::Result<()>;
    /// ftruncate(2).
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// The length in bytes, and the time of the last modification.
    fn state(&self) -> io::Result<(u64, Time)>;
    /// fallocate(2): what is written to these bytes later finds room. EOPNOTSUPP where there is no such call. The length may grow,
    /// with zeros.
    fn allocate(&self, at: u64, len: u64) -> io::Result<()>;
    /// fallocate(2), PUNCH_HOLE: gives the room of these bytes back. They read as zeros from then on.
    fn punch(&self, at: u64, len: u64) -> io::Result<()>;
    /// lseek(2) with SEEK_DATA: where data begins, at `at` or after it. None: there is only a hole.
    fn seek_data(&self, at: u64) -> io::Result<Option<u64>>;
    /// lseek(2) with SEEK_HOLE. The end of the file counts as a hole.
    fn seek_hole(&self, at: u64) -> io::Result<u64>;
    /// The descriptor, for maps. None on a disk that is not real.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
}

impl dyn DiskFile + '_ {
    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// That of the first write that fails. What was written before it stays written.
    pub fn write_all_at(&self, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, at) {
                Ok(0) => return Err(Errno::NOSPC.into()),
                Ok(n) => (bytes, at) = (&bytes[n..], at + n as u64),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills the buffer as far as the file reaches, and returns how far.
    ///
    /// # Errors
    /// That of the read.
    pub fn read_full_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// The highest number of a table or tail that lies there, whether it counts or not.
pub(super) fn highest(disk: &dyn Disk, directory: &str) -> io::Result<u64> {
    let names = disk.list(Path::new(directory))?;
    let number = |name: &OsString| u64::from_str_radix(name.to_str()?, 16).ok();
    let numbers = names.iter().filter_map(number);
    Ok(numbers
        .filter(|number| *number < 1 << 61)
        .max()
        .unwrap_or(0))
}

/// How [`Disk::open`] opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// To read what is there.
    Read,
    /// To read and write what is there.
    Write,
    /// To make a file that is not there yet.
    Make,
    /// To read and write an empty file: made, or emptied.
    Empty,
}

/// The real disk: a directory, by its descriptor.
#[derive(Debug)]
pub struct Directory {
    directory: OwnedFd,
    /// syncfs(2) covers file data on these; on overlayfs or FUSE it may not.
    syncs_all: bool,
    /// On these, bytes that were written once are written over in place, and fdatasync(2) of that needs no commit of the
    /// journal: on ext4 a sync of first pages took 2.7 times as long as fdatasync(2) of a plain file, and 3.2 without.
    overwrites: bool,
}

/// `f_type` of statfs(2).
const EXT4: i64 = 0xEF53;
const XFS: i64 = 0x5846_5342;
const BTRFS: i64 = 0x9123_683E;

/// Whether syncfs(2) covers the data of a file's filesystem. On overlayfs or FUSE it may not.
pub fn is_synced_as_a_whole(file: impl AsFd) -> bool {
    fs::fstatfs(file).is_ok_and(|stat| [EXT4, XFS, BTRFS].contains(&stat.f_type))
}

impl Directory {
    /// Opens the directory `path`.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EACCES.
    pub fn open(path: &Path) -> io::Result<Self> {
        let directory = fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let kind = fs::fstatfs(&directory)?.f_type;
        Ok(Self {
            syncs_all: is_synced_as_a_whole(&directory),
            directory,
            overwrites: [EXT4, XFS].contains(&kind),
        })
    }

    /// Takes the lock of the store. It is held until this value goes.
    ///
    /// # Errors
    /// EWOULDBLOCK if another process has it.
    pub fn lock(&self) -> io::Result<OwnedFd> {
        let path = Path::new("lock");
        self.check_regular(path)?;
        let lock = self.open_at(path, OFlags::RDWR | OFlags::CREATE)?;
        fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(lock)
    }

    /// Takes a lock on the directory itself. It is held until this value goes. False: another process has it.
    ///
    /// # Errors
    /// That of flock(2).
    pub fn lock_itself(&self) -> io::Result<bool> {
        match fs::flock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Ok(false),
            done => Ok(done.map(|()| true)?),
        }
    }

    /// Whether another process holds the lock of the store. Nothing is made or changed.
    ///
    /// # Errors
    /// Those of openat(2) and flock(2).
    pub fn is_locked(&self) -> io::Result<bool> {
        let path = Path::new("lock");
        self.check_regular(path)?;
        let lock = match self.open_at(path, OFlags::RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            lock => lock?,
        };
        match fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Ok(true),
            done => Ok(done.map(|()| false)?),
        }
    }

    /// Checks what is there, if anything is, before it is opened: to open a device may do something.
    fn check_regular(&self, path: &Path) -> io::Result<()> {
        match self.open_at(path, OFlags::PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            found => check_regular(&fs::fstat(found?)?),
        }
    }

    pub(super) fn open_at(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        // O_NONBLOCK: a FIFO in a hostile store stops nobody.
        let flags = match flags.contains(OFlags::PATH) {
            true => flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            false => flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY,
        };
        let mode = if flags.contains(OFlags::CREATE) {
            Mode::from_raw_mode(0o600)
        } else {
            Mode::empty()
        };
        let beneath = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        Ok(rustix::io::retry_on_intr(|| {
            fs::openat2(&self.directory, path, flags, mode, beneath)
        })?)
    }

    /// The parent of `path`, and its last part: for calls that take no resolve flags.
    pub(super) fn parent(&self, path: &Path) -> io::Result<(OwnedFd, OsString)> {
        let name = path.file_name().ok_or(Errno::INVAL)?.to_owned();
        let parent = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        Ok((
            self.open_at(parent, OFlags::RDONLY | OFlags::DIRECTORY)?,
            name,
        ))
    }
}

fn check_regular(stat: &fs::Stat) -> io::Result<()> {
    let is_regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    if is_regular && stat.st_nlink == 1 {
        Ok(())
    } else {
        Err(Errno::INVAL.into())
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Disk for Directory {
    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn DiskFile>> {
        let flags = match how {
            How::Read => OFlags::RDONLY,
            How::Write => OFlags::RDWR,
            How::Make => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            // Not O_TRUNC: what this is, is looked at first.
            How::Empty => OFlags::RDWR | OFlags::CREATE,
        };
        self.check_regular(path)?;
        let fd = self.open_at(path, flags)?;
        let stat = fs::fstat(&fd)?;
        check_regular(&stat)?;
        if how == How::Empty && stat.st_size != 0 {
            fs::ftruncate(&fd, 0)?;
        }
        Ok(Arc::new(Open {
            fd,
            overwrites: self.overwrites,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let ((from, old), (to, new)) = (self.parent(from)?, self.parent(to)?);
        Ok(fs::renameat(&from, old, &to, new)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(fs::unlinkat(&parent, name, AtFlags::empty())?)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        match fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let names =
            fs::Dir::read_from(&directory)?.map(|entry| Ok(entry?.file_name().to_bytes().to_vec()));
        let names: io::Result<Vec<Vec<u8>>> = names.collect();
        Ok(names?
            .into_iter()
            .filter(|n| n != b"." && n != b"..")
            .map(OsString::from_vec)
            .collect())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        Ok(fs::fsync(
            self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?,
        )?)
    }

    fn sync_filesystem(&self) -> io::Result<bool> {
        if self.syncs_all {
            fs::syncfs(&self.directory)?;
        }
        Ok(self.syncs_all)
    }

    fn free(&self) -> io::Result<u64> {
        let stat = fs::fstatvfs(&self.directory)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn directory(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

struct Open {
    fd: OwnedFd,
    overwrites: bool,
}

impl DiskFile for Open {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(rustix::io::pread(&self.fd, buffer, at)?)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        Ok(rustix::io::pwrite(&self.fd, bytes, at)?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| fs::fdatasync(&self.fd))?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| fs::ftruncate(&self.fd, len))?)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(u64::try_from(fs::fstat(&self.fd)?.st_size).unwrap_or(0))
    }

    fn state(&self) -> io::Result<(u64, Time)> {
        let stat = fs::fstat(&self.fd)?;
        let time = Time {
            seconds: stat.st_mtime,
            nanoseconds: stat.st_mtime_nsec as u32,
        };
        Ok((u64::try_from(stat.st_size).unwrap_or(0), time))
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        let keep = FallocateFlags::KEEP_SIZE;
        rustix::io::retry_on_intr(|| fs::fallocate(&self.fd, keep, at, len))?;
        if self.overwrites {
            (self as &dyn DiskFile).write_all_at(&vec![0; len as usize], at)?;
        }
        Ok(())
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::io::retry_on_intr(|| {
            fs::fallocate(&self.fd, how, at, len)
        })?)
    }

    fn seek_data(&self, at: u64) -> io::Result<Option<u64>> {
        match fs::seek(&self.fd, SeekFrom::Data(at)) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn seek_hole(&self, at: u64) -> io::Result<u64> {
        Ok(fs::seek(&self.fd, SeekFrom::Hole(at))?)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }
}
