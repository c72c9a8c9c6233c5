//! Durability: what was written reaches the device, and writes that were lost are told of.

use super::file::Mapping;
use crate::chores::PendingTimes;
use crate::sys::writeback::writeback_error;
use rustix::io::Result;
use std::os::fd::OwnedFd;

impl Mapping {
    /// Makes the file durable; with `data_only` as fdatasync(2). What was stored through a window is dirty in the page
    /// cache, where fsync(2) finds it: msync(2) would be an fdatasync(2) of its own, and flush the device once more.
    ///
    /// # Errors
    /// Those of fsync(2): a write that was lost since `fd` was opened or last synced.
    pub fn sync(&self, fd: &OwnedFd, data_only: bool) -> Result<()> {
        self.apply_times();
        let synced = match data_only {
            true => rustix::fs::fdatasync(fd),
            false => rustix::fs::fsync(fd),
        };
        if let (Err(errno), true) = (synced, self.backing.lock().cannot_probe()) {
            self.losses.add(errno);
        }
        self.ask_for_losses();
        synced
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
