//! Data files that a commit gives a second name.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{OFlags, SeekFrom, fstat, seek};
use rustix::io::{Errno, pread};

use super::data;
use super::disk::{Disk, How};
use super::journal::{Journal, NEW};
use super::node::NodeId;

/// So much is copied at once, in bytes.
const BUFFER: usize = 1 << 20;

impl Journal {
    /// A data file, O_PATH, whatever lies there. None: nothing does.
    ///
    /// # Errors
    /// That of the open.
    pub fn data_file(&self, id: NodeId, data: u64) -> io::Result<Option<OwnedFd>> {
        match self
            .directory()
            .open_at(&data::path(id, data), OFlags::PATH)
        {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// Gives the store a copy of a data file of which somebody else has a name, too. What that name leads to stays.
    ///
    /// # Errors
    /// That of the call that failed.
    pub fn part_from_others(&self, id: NodeId, data: u64) -> io::Result<()> {
        let (directory, path) = (self.directory(), data::path(id, data));
        let from = directory.open_at(&path, OFlags::RDONLY)?;
        let size = u64::try_from(fstat(&from)?.st_size).unwrap_or(0);
        let to = directory.open(Path::new(NEW), How::Empty)?;
        let mut buffer = vec![0; BUFFER];
        let mut at = 0;
        while at < size {
            at = match seek(&from, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => break,
                found => found?,
            };
            let read = pread(&from, &mut *buffer, at)?;
            if read == 0 {
                break;
            }
            to.write_all_at(&buffer[..read], at)?;
            at += read as u64;
        }
        to.set_len(size)?;
        to.sync()?;
        directory.rename(Path::new(NEW), &path)?;
        directory.sync_directory(&data::directory(id))
    }
}
