//! Durability: what was written reaches the device, and writes that were lost are told of.

use super::file::Mapping;
use crate::chores::PendingTimes;
use crate::sys::writeback::writeback_error;
use rustix::io::{Errno, Result};
use std::os::fd::{AsFd, OwnedFd};

impl Mapping {
    /// Makes durable what was written: the pages of the region, then the file; with `data_only` as fdatasync(2).
    ///
    /// # Errors
    /// Those of fsync(2): a write that was lost since `fd` was opened or last synced.
    pub fn sync(&self, fd: &OwnedFd, data_only: bool) -> Result<()> {
        self.apply_times();
        let size = self
            .source
            .stat(fd.as_fd())
            .map_or(u64::MAX, |attr| attr.size);
        let pages = self.windows.sync();
        let pages = pages.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        let shared = self.backing.lock().shared();
        let file = match pages {
            // msync(2) is fsync(2) for what it covers: a second one would flush the device once more. What is left
            // is to tell this open of writes that were lost.
            Ok(durable) if durable > 0 && durable >= size && !shared => writeback_error(fd),
            _ if data_only => rustix::fs::fdatasync(fd),
            _ => rustix::fs::fsync(fd),
        };
        let pages = pages.map(drop);
        if let Err(errno) = if shared { pages.and(file) } else { pages } {
            self.losses.add(errno);
        }
        self.ask_for_losses();
        // What msync says of a description of our own is for every open's own fsync to say again.
        if shared { file.and(pages) } else { file }
    }

    /// Counts a loss that our own description has not been told of yet; every loss counts once.
    fn ask_for_losses(&self) {
        let probe = self.backing.lock().probe();
        if let Some(Err(errno)) = probe.map(writeback_error) {
            self.losses.add(errno);
        }
    }

    /// How many times writes were found lost so far.
    pub fn losses(&self) -> u64 {
        self.losses.count()
    }

    /// Whether a write was lost since there were `known` losses. Asking takes the report from no open.
    ///
    /// # Errors
    /// EIO, ENOSPC or EDQUOT when one was.
    pub fn lost_since(&self, known: u64) -> Result<()> {
        self.ask_for_losses();
        self.losses.since(known)
    }
}
