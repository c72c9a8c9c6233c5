//! What one open for writing works through.
//!
//! Its description at the source outlives no close(2). The kernel tells of a close before close(2) returns (FLUSH), and
//! of the last one only after it (RELEASE), by when somebody may execute the file at the source or ask for a lease on
//! it. So every close gives the description up, and it is taken up again when there is more to write: by a duplicate of
//! the client's descriptor, or by its mapping.

use super::file::Mapping;
use crate::actor::Actor;
use crate::chores::PendingTimes;
use crate::descriptors::Slot;
use crate::source::{hold, proc_path, quietly, reopen};
use crate::sys::identity;
use crate::sys::writeback::writeback_error;
use parking_lot::Mutex;
use rustix::fs::{Access, AtFlags, CWD, OFlags, accessat};
use rustix::io::{self, Errno};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a close waits for reads and writes of the file that are under way, and use windows which are to go. A source
/// that does not answer holds up no close for longer: the last one then gives the description up.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// How often it is looked whether other threads have done with a descriptor.
const MOMENT: Duration = Duration::from_micros(20);

/// One open for writing.
#[derive(Debug)]
pub struct Writer {
    /// How it was opened, and is opened again.
    flags: OFlags,
    /// Lock order: before the mapping's gate.
    state: Mutex<State>,
    /// For its description, or what stands in for it.
    _slot: Slot,
}

#[derive(Debug)]
struct State {
    /// An open file description of its own: the kernel reports lost writes to each, once. `None` while given up.
    fd: Option<Arc<OwnedFd>>,
    /// A lost write that the kernel has reported to us, and we to no fsync(2) yet.
    lost: Option<Errno>,
    /// How many of the mapping's losses it knows of. They count while the description is given up.
    known: u64,
}

impl Writer {
    /// Its description, unless it is given up.
    pub fn description(&self) -> Option<Arc<OwnedFd>> {
        self.state.lock().fd.clone()
    }
}

impl Mapping {
    /// An open for writing that works on `fd`, opened with `flags`.
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

    /// With the first writer the windows give way to such as can be made writable (and, on overlayfs, to such as show
    /// the copy that the open has just made).
    fn add_writer(&self, fd: &Arc<OwnedFd>, flags: OFlags) {
        let _closed = self.gate.write();
        if self.backing.lock().add_writer(fd, flags) {
            self.windows.clear();
        }
    }

    /// The description to write through, opened again as `by` where it was given up.
    ///
    /// # Errors
    /// Those of open(2): ETXTBSY when the file is executed by now, EACCES when its mode forbids it by now.
    pub fn take_up(&self, writer: &Writer, by: &Actor) -> io::Result<Arc<OwnedFd>> {
        let mut state = writer.state.lock();
        if let Some(fd) = &state.fd {
            return Ok(fd.clone());
        }
        let fd = self.open_again(writer, by)?;
        // Of what nobody was told yet, the new description tells.
        self.learn(&mut state, Ok(()));
        self.add_writer(&fd, writer.flags);
        state.fd = Some(fd.clone());
        Ok(fd)
    }

    /// The description to write back a client's mapping through. No close need follow, so one that was given up is
    /// opened for this once.
    ///
    /// # Errors
    /// EIO when it cannot be had again: the bytes are a lost write, of which the kernel tells all who have the file open.
    pub(super) fn lend_for_writeback(
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
            // Only the region keeps what pwrite(2) takes.
            true => self.take_up(writer, by).map_err(|_| Errno::IO),
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
        match (quietly(writer.flags, open), spare) {
            (Err(Errno::ACCESS), Some(spare)) => Ok(spare),
            (opened, _) => opened.map(Arc::new),
        }
    }

    /// An ordinary user's daemon is about to take its own permission to open the file: those who have given up their
    /// descriptions, but not their opens, need one in reserve.
    pub fn before_permissions_go(&self) {
        if identity::privileged() {
            return;
        }
        let mut backing = self.backing.lock();
        let held = backing.any().filter(|_| backing.lacks_spare());
        // Where it cannot be had, they could not open the file before, either.
        let open = |held: Arc<OwnedFd>| quietly(OFlags::RDWR, |flags| reopen(&*held, flags));
        if let Some(Ok(fd)) = held.map(open) {
            backing.keep_spare(fd);
        }
    }

    /// A descriptor of the client was closed, perhaps not the last one: gives the description up, if it can be had
    /// again. With `sync` as fsync(2), first.
    ///
    /// # Errors
    /// A write that was lost since the file was opened or last synced, however often this is asked.
    pub fn flush(&self, writer: &Writer, sync: bool) -> io::Result<()> {
        self.apply_times();
        let synced = match sync {
            true => self.sync_through(writer, false),
            false => Ok(()),
        };
        let mut state = writer.state.lock();
        let asked = state.fd.as_ref().map_or(Ok(()), writeback_error);
        self.learn(&mut state, synced.and(asked));
        state.fd = match state.fd.take() {
            // What is written to a file without a length may belong to what was written before.
            Some(fd) if !self.is_without_length() && self.may_be_had_again(&fd) => {
                self.leave(fd, Some(MAX_WAIT)).err()
            }
            kept => kept,
        };
        state.lost.map_or(Ok(()), Err)
    }

    /// fsync(2) for one open for writing; with `data_only` fdatasync(2).
    ///
    /// # Errors
    /// Those of fsync(2): a lost write is reported to each open for writing, once.
    pub fn sync_writer(&self, writer: &Writer, data_only: bool) -> io::Result<()> {
        let synced = self.sync_through(writer, data_only);
        let mut state = writer.state.lock();
        self.learn(&mut state, synced);
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
            // It waits as long as it takes.
            let _ = self.leave(fd, None);
        }
    }

    /// Remembers what its description was told, and what was counted while it had none.
    fn learn(&self, state: &mut State, told: io::Result<()>) {
        let counted = match state.fd {
            Some(_) => Ok(()),
            None => self.lost_since(state.known),
        };
        if let Err(errno) = told.and(counted) {
            state.lost = Some(errno);
        }
        state.known = self.losses.count();
    }

    /// Whether the file can be opened for writing once more: an ordinary user's may have been made read-only since, and
    /// another machine decides by itself.
    fn may_be_had_again(&self, fd: &OwnedFd) -> bool {
        let access = Access::READ_OK | Access::WRITE_OK;
        (identity::privileged() && !self.is_remote())
            || accessat(CWD, proc_path(fd), access, AtFlags::EACCESS).is_ok()
    }

    /// One who writes through `fd` does so no more. With the last one the region is read-only again, and nothing of
    /// ours has the file open for writing.
    ///
    /// # Errors
    /// `fd`, when windows were in use for `max_wait`, or nothing else could be had to keep the inode.
    fn leave(&self, fd: Arc<OwnedFd>, max_wait: Option<Duration>) -> Result<(), Arc<OwnedFd>> {
        if self.backing.lock().leave_others() {
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
        if backing.leave_others() {
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
        let others = backing.leave_alone(anchor);
        drop((backing, closed));
        let other = |other: &Arc<OwnedFd>| !Arc::ptr_eq(other, &fd);
        let others = others.into_iter().flatten().filter(other);
        others.for_each(close_at_once);
        close_at_once(fd);
        Ok(())
    }
}

/// Closes a descriptor that nobody gets any more. Other threads may still be using it: to look at attributes, which
/// takes a moment, or to sync it, which is not waited for.
fn close_at_once(fd: Arc<OwnedFd>) {
    let deadline = Instant::now() + MAX_WAIT;
    while Arc::strong_count(&fd) > 1 && Instant::now() < deadline {
        std::thread::sleep(MOMENT);
    }
}
