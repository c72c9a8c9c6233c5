//! Durability: fsync(2), and reports of lost writes.

use super::file::Mapping;
use crate::chores::PendingTimes;
use crate::sys::writeback::writeback_error;
use rustix::io::{Errno, Result};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

impl Mapping {
    /// Makes the file durable; with `data_only` as fdatasync(2). Bytes stored through a window are dirty in the page cache,
    /// where fsync(2) finds them. msync(2) would do an fdatasync(2) of its own, and flush the device once more.
    ///
    /// # Errors
    /// Those of fsync(2): a write that was lost since the writer's description `fd` was opened or last synced.
    pub(super) fn sync(&self, fd: &OwnedFd, data_only: bool) -> Result<()> {
        let synced = self.make_durable(fd, data_only);
        if let Err(errno) = synced {
            self.count_for_others(errno);
        }
        synced
    }

    /// Counts the loss, once, for writers whose description is closed.
    fn count_for_others(&self, errno: Errno) {
        let (reader, has_closed_writer) = {
            let backing = self.backing.lock();
            (backing.reader(), backing.has_closed_writer())
        };
        match reader {
            Some(_) => self.ask_for_losses(),
            None if has_closed_writer => {
                self.lose(errno);
                // From now on the shared description reports losses. It was opened after this one.
                let _ = self.shared();
            }
            None => {}
        }
    }

    /// As `sync`, through the description shared by opens without one of their own.
    ///
    /// # Errors
    /// Those of fsync(2). The first caller gets the error.
    pub fn sync_shared(&self, data_only: bool) -> Result<()> {
        let synced = self.make_durable(&*self.shared()?, data_only);
        synced.inspect_err(|&errno| self.lose(errno))
    }

    fn make_durable(&self, fd: &OwnedFd, data_only: bool) -> Result<()> {
        self.apply_times();
        match data_only {
            true => rustix::fs::fdatasync(fd),
            false => rustix::fs::fsync(fd),
        }
    }

    /// Counts a loss that the shared description reports. Each loss counts once.
    fn ask_for_losses(&self) {
        let shared = self.backing.lock().reader();
        if let Some(Err(errno)) = shared.map(writeback_error) {
            self.lose(errno);
        }
    }

    fn lose(&self, errno: Errno) {
        self.losses.add(errno);
        self.context.error_counts.lost_writes.fetch_add(1, Relaxed);
    }

    /// Whether a write was lost after the first `known` losses. Asking does not take the report from any open.
    ///
    /// # Errors
    /// EIO, ENOSPC or EDQUOT if one was lost.
    pub(super) fn lost_since(&self, known: u64) -> Result<()> {
        self.ask_for_losses();
        self.losses.since(known)
    }
}
