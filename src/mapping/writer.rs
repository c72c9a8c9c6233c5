//! One open for writing.
//!
//! close(2) closes its description at the source, too. The kernel sends FLUSH before close(2) returns. It sends RELEASE after
//! the last close(2) has returned. By then somebody may execute the file at the source, or ask for a lease on it. So mmfs
//! closes the description at each FLUSH, and opens it again for the next write. A duplicate of the client's descriptor, or the
//! client's mapping, may still write.

use super::file::Mapping;
use crate::actor::Actor;
use crate::chores::PendingTimes;
use crate::descriptors::Slot;
use crate::source::{hold, open_noatime, proc_path, reopen};
use crate::sys::identity;
use crate::sys::writeback::writeback_error;
use parking_lot::Mutex;
use rustix::fs::{Access, AtFlags, CWD, OFlags, accessat};
use rustix::io::{self, Errno};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long FLUSH waits for reads and writes that use the file's windows. If the source does not answer within this time,
/// RELEASE closes the description.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// How often to check whether other threads still use a descriptor.
const POLL_INTERVAL: Duration = Duration::from_micros(20);

/// One open for writing.
#[derive(Debug)]
pub struct Writer {
    /// The flags of its open(2).
    flags: OFlags,
    /// Lock order: before the mapping's gate.
    state: Mutex<State>,
    /// For its description, or for the one that stands in for it.
    _slot: Slot,
}

#[derive(Debug)]
struct State {
    /// An open file description of its own: the kernel reports a lost write once to each description. `None` while closed.
    fd: Option<Arc<OwnedFd>>,
    /// A lost write that the kernel has reported to mmfs, and mmfs to no fsync(2) yet.
    lost: Option<Errno>,
    /// The mapping's count of losses that is accounted for here. Later losses count only while the description is closed.
    known: u64,
}

impl Writer {
    /// Its description, unless it is closed.
    pub fn description(&self) -> Option<Arc<OwnedFd>> {
        self.state.lock().fd.clone()
    }
}

impl Mapping {
    /// An open for writing with the description `fd`, opened with `flags`.
    pub fn open_writer(&self, fd: Arc<OwnedFd>, flags: OFlags, slot: Slot) -> Writer {
        self.backing.lock().count_open();
        self.add_writer(&fd, flags);
        let state = State {
            fd: Some(fd),
            lost: None,
            known: self.losses.count(),
        };
        let state = Mutex::new(state);
        Writer {
            flags,
            state,
            _slot: slot,
        }
    }

    /// The first writer replaces the windows by ones that can be made writable. On overlayfs the new windows also show the copy
    /// that the open has just made.
    fn add_writer(&self, fd: &Arc<OwnedFd>, flags: OFlags) {
        let _closed = self.gate.write();
        if self.backing.lock().add_writer(fd, flags) {
            self.windows.clear();
        }
    }

    /// The description to write through. If it is closed, it is opened again as `by`.
    ///
    /// # Errors
    /// Those of open(2): ETXTBSY if the file is being executed, EACCES if its mode now forbids writing.
    pub fn reopen_writer(&self, writer: &Writer, by: &Actor) -> io::Result<Arc<OwnedFd>> {
        let mut state = writer.state.lock();
        if let Some(fd) = &state.fd {
            return Ok(fd.clone());
        }
        let fd = self.open_again(writer, by)?;
        // The new description reports losses that no description has reported yet.
        self.record_losses(&mut state, Ok(()));
        self.add_writer(&fd, writer.flags);
        state.fd = Some(fd.clone());
        Ok(fd)
    }

    /// The description for writing back a client's mapping. If it is closed, it is opened for this write only: no close(2) need
    /// follow.
    ///
    /// # Errors
    /// EIO if it cannot be opened. The bytes are then a lost write, which the kernel reports to all who have the file open.
    pub(super) fn description_for_writeback(
        &self,
        writer: &Writer,
        by: &Actor,
    ) -> io::Result<Arc<OwnedFd>> {
        let open = writer.description();
        if let Some(fd) = open.or_else(|| self.backing.lock().writer()) {
            return Ok(fd);
        }
        let fd = self.open_again(writer, by).map_err(|_| Errno::IO)?;
        match self.is_privileged(&fd) {
            // Only a store through the region keeps the bits that pwrite(2) removes.
            true => self.reopen_writer(writer, by).map_err(|_| Errno::IO),
            false => Ok(fd),
        }
    }

    fn open_again(&self, writer: &Writer, by: &Actor) -> io::Result<Arc<OwnedFd>> {
        let (held, spare) = {
            let backing = self.backing.lock();
            (backing.any().ok_or(Errno::BADF)?, backing.spare())
        };
        by.begin();
        let open = |flags| reopen(&*held, flags);
        match (open_noatime(writer.flags, open), spare) {
            (Err(Errno::ACCESS), Some(spare)) => Ok(spare),
            (opened, _) => opened.map(Arc::new),
        }
    }

    /// To be called before chmod(2) or chown(2). The daemon of an ordinary user may then no longer be permitted to open the
    /// file. So if a writer's description is closed, this opens one in reserve.
    pub fn before_permission_change(&self) {
        if identity::privileged() {
            return;
        }
        let mut backing = self.backing.lock();
        let held = backing.any().filter(|_| backing.lacks_spare());
        // After an error the writers could not have opened the file before, either.
        let open = |held: Arc<OwnedFd>| open_noatime(OFlags::RDWR, |flags| reopen(&*held, flags));
        if let Some(Ok(fd)) = held.map(open) {
            backing.keep_spare(fd);
        }
    }

    /// Answers FLUSH: a client has closed a descriptor, perhaps not the last one. Closes the description if it can be opened
    /// again. With `sync` it calls fsync(2) before.
    ///
    /// # Errors
    /// A write that was lost since the file was opened or last synced. Each call returns the error.
    pub fn flush(&self, writer: &Writer, sync: bool) -> io::Result<()> {
        self.apply_times();
        let synced = match sync {
            true => self.sync_through(writer, false),
            false => Ok(()),
        };
        let mut state = writer.state.lock();
        let asked = state.fd.as_ref().map_or(Ok(()), writeback_error);
        self.record_losses(&mut state, synced.and(asked));
        state.fd = match state.fd.take() {
            // In a file without a length, a write may belong to the writes before it.
            Some(fd) if !self.is_without_length() && self.can_be_opened_again(&fd) => {
                self.end_writer(fd, Some(MAX_WAIT)).err()
            }
            kept => kept,
        };
        state.lost.map_or(Ok(()), Err)
    }

    /// fsync(2) for one open for writing; with `data_only` fdatasync(2).
    ///
    /// # Errors
    /// Those of fsync(2). A lost write is reported to each open for writing once.
    pub fn sync_writer(&self, writer: &Writer, data_only: bool) -> io::Result<()> {
        let synced = self.sync_through(writer, data_only);
        let mut state = writer.state.lock();
        self.record_losses(&mut state, synced);
        state.lost.take().map_or(Ok(()), Err)
    }

    fn sync_through(&self, writer: &Writer, data_only: bool) -> io::Result<()> {
        match writer.description() {
            Some(fd) => self.sync(&fd, data_only),
            None => self.sync_shared(data_only),
        }
    }

    /// Ends an open for writing.
    pub fn close_writer(&self, writer: &Writer) {
        self.backing.lock().uncount_open();
        if let Some(fd) = writer.state.lock().fd.take() {
            // No time limit, so no error.
            let _ = self.end_writer(fd, None);
        }
    }

    /// Records losses that its description reported, and those counted while the description was closed.
    fn record_losses(&self, state: &mut State, told: io::Result<()>) {
        let counted = match state.fd {
            Some(_) => Ok(()),
            None => self.lost_since(state.known),
        };
        if let Err(errno) = told.and(counted) {
            state.lost = Some(errno);
        }
        state.known = self.losses.count();
    }

    /// Whether the file can be opened for writing again. An ordinary user's file may have been made read-only, and a network
    /// filesystem's server decides by itself.
    fn can_be_opened_again(&self, fd: &OwnedFd) -> bool {
        let access = Access::READ_OK | Access::WRITE_OK;
        (identity::privileged() && !self.is_remote())
            || accessat(CWD, proc_path(fd), access, AtFlags::EACCESS).is_ok()
    }

    /// Closes `fd` for a writer. The last writer also makes the region read-only, and closes all that the daemon has open for
    /// writing.
    ///
    /// # Errors
    /// `fd`, if windows were in use for `max_wait`, or if no other descriptor could be opened to keep the inode.
    fn end_writer(&self, fd: Arc<OwnedFd>, max_wait: Option<Duration>) -> Result<(), Arc<OwnedFd>> {
        if self.backing.lock().uncount_writer_unless_last() {
            return Ok(());
        }
        let closed = match max_wait {
            Some(time) => self.gate.try_write_for(time),
            None => Some(self.gate.write()),
        };
        if closed.is_none() {
            return Err(fd);
        }
        self.apply_times();
        let mut backing = self.backing.lock();
        if backing.uncount_writer_unless_last() {
            return Ok(());
        }
        let reader = backing.reader();
        let anchor = match reader {
            Some(_) => None,
            None => hold(&fd).ok().map(Arc::new),
        };
        if reader.is_none() && anchor.is_none() && max_wait.is_some() {
            return Err(fd);
        }
        self.windows.protect();
        self.windows.clear();
        let others = backing.uncount_last_writer(anchor);
        drop((backing, closed));
        let other = |other: &Arc<OwnedFd>| !Arc::ptr_eq(other, &fd);
        let others = others.into_iter().flatten().filter(other);
        others.for_each(close_when_unused);
        close_when_unused(fd);
        Ok(())
    }
}

/// Closes a descriptor that no new code can get. Other threads may still use it. If they read attributes, this waits for them.
/// It does not wait for an fsync(2).
fn close_when_unused(fd: Arc<OwnedFd>) {
    let deadline = Instant::now() + MAX_WAIT;
    while Arc::strong_count(&fd) > 1 && Instant::now() < deadline {
        std::thread::sleep(POLL_INTERVAL);
    }
}
