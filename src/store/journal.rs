//! The file that says that a commit goes on. The store knows that it is there, not what stands in it.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, OFlags, fstat, renameat, unlinkat};

use super::codec::damaged;
use super::data;
use super::disk::{Directory, Disk, How};
use super::format::put;
use super::node::NodeId;
use super::open_error::{OpenError, at};

const NAME: &str = "commit";
const NEW: &str = "commit.new";
/// A million changes take some 300 MB.
const MAX_SIZE: usize = 8 << 30;

/// The journal of a commit, in the directory of its store.
#[derive(Debug)]
pub struct Journal(Directory);

impl Journal {
    /// That of the store in a directory. Until this value goes, no other commit has it: the lock of the store is free while the source is
    /// changed.
    ///
    /// # Errors
    /// [`OpenError::InUse`], or that of the call that failed.
    pub fn of(store: &Path) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Failed("the directory", error);
        let directory = Directory::open(store).map_err(failed)?;
        match directory.lock_itself().map_err(failed)? {
            true => Ok(Self(directory)),
            false => Err(OpenError::InUse),
        }
    }

    /// Where a data file of the store lies: the directory, and its name there. None: there is no such directory.
    ///
    /// # Errors
    /// That of the open.
    pub fn data_file(&self, id: NodeId, data: u64) -> io::Result<Option<(OwnedFd, OsString)>> {
        let path = data::path(id, data);
        let name = path.file_name().unwrap_or_default().to_owned();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.0.open_at(&data::directory(id), flags) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(|directory| Some((directory, name))),
        }
    }

    /// Whether nobody but the owner reaches the data files.
    ///
    /// # Errors
    /// That of the open.
    pub fn has_private_data(&self) -> io::Result<bool> {
        let data = self.0.open_at(Path::new("data"), OFlags::PATH)?;
        Ok(fstat(&data)?.st_mode & 0o077 == 0)
    }

    /// Whether a file of the store can be renamed into a directory, where nothing has this name: some security modules forbid it.
    pub fn may_move_to(&self, directory: &OwnedFd, name: &OsStr) -> bool {
        let from = Path::new(NEW);
        let moved = self.0.open(from, How::Empty).and_then(|_| {
            let (store, from) = self.0.parent(from)?;
            renameat(&store, from, directory, name)?;
            Ok(unlinkat(directory, name, AtFlags::empty())?)
        });
        moved.is_ok()
    }

    /// What was written last. None: there is no journal.
    ///
    /// # Errors
    /// That of the read.
    pub fn read(&self) -> io::Result<Option<Vec<u8>>> {
        let file = match self.0.open(Path::new(NAME), How::Read) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        // A hostile one may be one long hole.
        if size > MAX_SIZE || bytes.try_reserve_exact(size).is_err() {
            return Err(damaged());
        }
        bytes.resize(size, 0);
        let len = file.read_full_at(&mut bytes, 0)?;
        bytes.truncate(len);
        Ok(Some(bytes))
    }

    /// Replaces it, durably: a kill or a power cut leaves the old one or the new one.
    ///
    /// # Errors
    /// That of the call that failed.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        put(&self.0, NAME, bytes)
    }

    /// Removes it, durably.
    ///
    /// # Errors
    /// That of the call that failed.
    pub fn remove(&self) -> io::Result<()> {
        // A write of it may have been cut short.
        match self.0.remove(Path::new(NEW)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => self.0.remove(Path::new(NAME))?,
        }
        self.0.sync_directory(Path::new(""))
    }
}

/// Refuses a store of which a commit was cut short.
pub(super) fn check(directory: &Directory) -> Result<(), OpenError> {
    match directory.open(Path::new(NAME), How::Read) {
        Ok(_) => match directory.lock_itself() {
            Ok(false) => Err(OpenError::InUse),
            _ => Err(OpenError::Committing),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at(NAME)(error)),
    }
}
