//! One source file while somebody has it open: its windows, its descriptors, and what is known of it.

use super::backing::Backing;
use super::budget::AddressSpace;
use super::geometry::BaseOffset;
use super::guard;
use super::losses::Losses;
use super::times::Times;
use super::windows::{Loan, WindowSet};
use crate::attr::Attr;
use crate::cache::{FileCache, MayKeep};
use crate::chores::{Chore, Chores, PendingTimes};
use crate::config::WritePath;
use crate::descriptors::Slot;
use crate::source::{SourceDir, quietly, reopen};
use parking_lot::{Mutex, RwLock};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use std::any::Any;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

/// What all mappings of one view share.
#[derive(Debug)]
pub struct Context {
    /// The address space that windows live in.
    pub space: Arc<AddressSpace>,
    /// The SIGBUS handler, without which nothing is mapped.
    pub handler: guard::Installed,
    /// Which way in-place writes take.
    pub write_path: WritePath,
    /// Whether reading leaves access times alone.
    pub no_atime: bool,
    /// Where files whose times wait are reported.
    pub chores: Chores,
    /// What went wrong.
    pub mishaps: Mishaps,
}

/// How often something went wrong. Counts only.
#[derive(Debug, Default)]
pub struct Mishaps {
    /// Copies from or to a window that faulted.
    pub faults: AtomicU64,
    /// Reads that had faulted and failed otherwise, too.
    pub faults_eio: AtomicU64,
    /// Writes found lost after they had been answered.
    pub lost_writes: AtomicU64,
}

/// One source file while somebody has it open, shared by all its opens.
#[derive(Debug)]
pub struct Mapping {
    /// Itself, for chores that outlive the request.
    pub(super) this: Weak<Mapping>,
    pub(super) context: Arc<Context>,
    pub(super) source: Arc<SourceDir>,
    pub(super) windows: Arc<WindowSet>,
    /// Held shared while bytes are copied or lent, exclusively while the file is resized or its windows
    /// are replaced. Lock order: after a writer's state, before `backing`, `times` and the window table.
    pub(super) gate: RwLock<()>,
    pub(super) backing: Mutex<Backing>,
    /// Held from finding out where a write by a descriptor with O_APPEND goes until it is there. The kernel sends one at a time, but
    /// for the parts of a long asynchronous one. Lock order: after `gate`.
    pub(super) appending: Mutex<()>,
    pub(super) times: Times,
    pub(super) cache: Arc<FileCache>,
    pub(super) losses: Losses,
    /// The stamp as of which the file is known to carry no security.capability; 0 when unknown.
    pub(super) unprivileged: AtomicU64,
    /// The stamp as of which the file is known not to be synchronous; 0 when unknown.
    pub(super) asynchronous: AtomicU64,
    pub(super) unmappable: AtomicBool,
    /// Whether its length says nothing of what a read returns, as on procfs.
    pub(super) without_length: AtomicBool,
    /// Whether that has been looked for.
    pub(super) length_looked_for: AtomicBool,
    /// It was made through the view, so it has the contents that were written.
    pub(super) made_here: AtomicBool,
    /// What the file was found to be before and after a read; `None` once it was found to be something else. Nothing else
    /// is taken with it locked.
    pub(super) settled: Mutex<Option<Attr>>,
    /// The length that was last read from the source for a read, 0 before.
    pub(super) length: AtomicU64,
    /// Reads that were not worth a window.
    pub(super) declined: AtomicU64,
    /// Keeps the file's mount busy where its descriptions, which lie in a clone of it, do not.
    place: OnceLock<(Arc<OwnedFd>, Slot)>,
    /// What the kernel serves the file with by itself, once that is decided.
    handed_over: OnceLock<Option<Handover>>,
}

/// The kernel's hold on a file, whatever it is made of.
struct Handover(Box<dyn Any + Send + Sync>);

impl std::fmt::Debug for Handover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handover")
    }
}

impl PendingTimes for Mapping {
    /// Applies times that wait, so that attributes can be shown.
    fn apply_times(&self) -> bool {
        if !self.times.wait_to_be_applied() {
            return false;
        }
        let Some(fd) = self.descriptor() else {
            return false;
        };
        // Sole effect of an error here is a modification time that stays behind by milliseconds.
        let apply = || self.times.apply(fd.as_fd(), &self.source);
        let (_, _) = self.restamping(fd.as_fd(), apply);
        true
    }
}

impl Mapping {
    /// The file behind `cache`, which lies on `source`.
    pub fn new(source: Arc<SourceDir>, cache: Arc<FileCache>, context: Arc<Context>) -> Arc<Self> {
        let windows = WindowSet::new(&context.space, context.handler, BaseOffset::ZERO);
        Arc::new_cyclic(|this| Mapping {
            this: this.clone(),
            source,
            windows,
            gate: RwLock::new(()),
            backing: Mutex::default(),
            appending: Mutex::new(()),
            times: Times::default(),
            cache,
            losses: Losses::default(),
            unprivileged: AtomicU64::new(0),
            asynchronous: AtomicU64::new(0),
            unmappable: AtomicBool::new(false),
            without_length: AtomicBool::new(false),
            length_looked_for: AtomicBool::new(false),
            made_here: AtomicBool::new(false),
            settled: Mutex::default(),
            length: AtomicU64::new(0),
            declined: AtomicU64::new(0),
            place: OnceLock::new(),
            handed_over: OnceLock::new(),
            context,
        })
    }

    /// The kernel's cache of the file.
    pub fn cache(&self) -> &FileCache {
        &self.cache
    }

    /// A descriptor on the inode, perhaps O_PATH, for whatever does not touch its bytes.
    pub fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        self.backing.lock().any()
    }

    /// A descriptor on the inode that nobody writes through; `None` where there is none, or it is being opened.
    pub fn anchor(&self) -> Option<Arc<OwnedFd>> {
        self.backing.try_lock()?.anchor()
    }

    /// The description for readers, if there is one.
    pub fn reader(&self) -> Option<Arc<OwnedFd>> {
        self.backing.lock().reader()
    }

    /// Keeps `place`, a descriptor on the file, open for as long as the file is.
    pub fn hold(&self, place: Arc<OwnedFd>, slot: Slot) {
        let _ = self.place.set((place, slot)); // it may have one
    }

    /// Whether nothing may move access times.
    pub fn is_never_accessed(&self) -> bool {
        self.context.no_atime
    }

    /// Whether touching a hole through a map fills it.
    pub fn faults_allocate(&self) -> bool {
        self.source.faults_allocate
    }

    /// Whether somebody has opened the file to read.
    pub fn is_read(&self) -> bool {
        self.backing.lock().is_read()
    }

    /// Gives the mapping a description for readers, opened O_RDONLY. Returns its slot where the mapping has one already.
    pub fn open_reader(&self, fd: Arc<OwnedFd>, slot: Slot) -> Option<Slot> {
        self.backing.lock().open_reader(fd, Some(slot))
    }

    /// A description to read through: the one that windows are mapped from.
    ///
    /// # Errors
    /// Those of open(2), where all who write have given up theirs.
    pub(super) fn readable(&self) -> Result<Arc<OwnedFd>> {
        let open = self.backing.lock().readable();
        open.map_or_else(|| self.shared(), Ok)
    }

    /// The description for readers, opened now if there was none. Lost writes that it is told of count for all who have
    /// none of their own.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn shared(&self) -> Result<Arc<OwnedFd>> {
        let mut backing = self.backing.lock();
        if let Some(reader) = backing.reader() {
            return Ok(reader);
        }
        let held = backing.any().ok_or(Errno::BADF)?;
        let fd = quietly(OFlags::RDONLY, |flags| reopen(&*held, flags))?;
        let fd = Arc::new(fd);
        backing.open_reader(fd.clone(), None);
        Ok(fd)
    }

    /// What the kernel serves the file with by itself: made by `make` the first time, kept until the file is
    /// closed. `None`, for as long, when `make` has nothing to give.
    pub fn hand_over<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Option<T>) -> Option<&T> {
        let decide = || {
            let hold = make()?;
            self.cache.handed_over();
            Some(Handover(Box::new(hold)))
        };
        self.handed_over
            .get_or_init(decide)
            .as_ref()?
            .0
            .downcast_ref()
    }

    /// Whether the kernel serves the file by itself.
    pub fn is_handed_over(&self) -> bool {
        matches!(self.handed_over.get(), Some(Some(_)))
    }

    /// Whether the file has the suid or the sgid bit, as far as can be told.
    pub fn has_setid(&self) -> bool {
        let attr = self.descriptor().map(|fd| self.source.stat(fd.as_fd()));
        attr.is_some_and(|attr| attr.is_ok_and(|attr| attr.has_setid()))
    }

    /// Changes the length to `len` bytes, which `truncate` does to the file.
    ///
    /// # Errors
    /// Those of `truncate`.
    pub fn resize(&self, len: u64, truncate: impl FnOnce() -> Result<()>) -> Result<()> {
        let closed = self.gate.write();
        self.apply_times();
        let Some(fd) = self.descriptor() else {
            return truncate();
        };
        let (outcome, grown) = self.restamping(fd.as_fd(), || {
            truncate()?;
            self.windows.resize(len);
            Ok(())
        });
        if outcome.is_ok() {
            self.cache.set_length(len);
        }
        drop(closed);
        self.cache.show_zeros(grown);
        outcome
    }

    /// Runs an operation of ours that changes the file by other means than writing, so that it is not taken
    /// for a change behind the mount.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn altering<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        self.altering_from(u64::MAX, change)
    }

    /// As `altering`, for an operation that puts bytes at `offset`.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn altering_from<T>(&self, offset: u64, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let _open = self.gate.read();
        let Some(fd) = self.descriptor() else {
            return change();
        };
        let (outcome, grown) = self.restamping(fd.as_fd(), change);
        self.cache.show_zeros(grown.start..grown.end.min(offset));
        outcome
    }

    /// Runs a change of ours. Returns also by what range the file has grown.
    fn restamping<T>(
        &self,
        fd: BorrowedFd<'_>,
        change: impl FnOnce() -> Result<T>,
    ) -> (Result<T>, Range<u64>) {
        let mut grown = 0..0;
        let changing = self.cache.change();
        let before = self.source.stat(fd);
        if let Ok(before) = &before {
            changing.began_at(before.stamp());
        }
        let outcome = change();
        if let Ok(after) = self.source.stat(fd) {
            changing.led_to(after.stamp());
            if let Ok(before) = &before {
                self.compare_mode(before, &after);
                self.cache.altered(before.size, after.size);
                self.cache.resized(before.size, after.size);
                grown = before.size..after.size;
            }
        }
        (outcome, grown)
    }

    /// Notices that a change of the bytes has taken suid or sgid: the kernel would believe in them for as long as
    /// in any attribute, and execute the file under them.
    pub(super) fn compare_mode(&self, before: &Attr, after: &Attr) {
        if before.mode != after.mode {
            self.cache.attributes_changed();
        }
    }

    /// Forgets times that wait to be applied: the caller is about to set others.
    pub fn cancel_times(&self) {
        self.times.cancel();
    }

    /// Has times that wait applied soon.
    pub(super) fn times_wait(&self) {
        let this: Weak<Mapping> = self.this.clone();
        self.context.chores.add(Chore::ApplyTimes(this));
    }

    /// The attributes behind a descriptor on the file, which the kernel is about to be told; a change behind the mount is
    /// noticed.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn attr(&self, fd: BorrowedFd<'_>) -> Result<Attr> {
        let looking = self.cache.looking();
        let attr = self.look(fd)?;
        let read = |range| self.bytes(range);
        self.cache.telling(looking, attr.size, read);
        Ok(attr)
    }

    /// The source's bytes in this range; fewer where it ends, none where they cannot be read.
    fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = self.readable();
        let read = read.and_then(|fd| rustix::io::pread(&fd, &mut bytes, range.start));
        bytes.truncate(read.unwrap_or(0));
        bytes
    }

    /// As `attr`, without telling the kernel.
    ///
    /// # Errors
    /// Those of statx(2).
    pub(super) fn look(&self, fd: BorrowedFd<'_>) -> Result<Attr> {
        let changes = self.cache.changes();
        let attr = self.source.stat(fd)?;
        self.cache.seen(attr.stamp(), changes);
        Ok(attr)
    }

    /// Looks whether the source changed behind the mount; if so the kernel's cache goes. Sources that would
    /// have to be asked over a network are left alone: they may never answer.
    pub fn check(&self) {
        if let Some(fd) = self.descriptor().filter(|_| !self.source.remote) {
            // What cannot be looked at now is noticed by whoever reads next.
            let _ = self.look(fd.as_fd());
            // A description that is to tell of lost writes has to be there before others are told. The kernel starts
            // writing back by itself after seconds (vm.dirty_expire_centisecs).
            if self.backing.lock().is_given_up() {
                let _ = self.shared();
            }
        }
        self.cache.looked_at();
    }

    /// What the kernel may keep of what it has cached, now that the file is opened once more. No pages when the open's first
    /// read `moves_atime`, and that time is due to move: that read has to reach us.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn may_keep(&self, moves_atime: bool) -> Result<MayKeep> {
        let fd = self.descriptor().ok_or(Errno::BADF)?;
        let attr = self.source.stat(fd.as_fd())?;
        self.look_for_length(fd.as_fd(), &attr);
        let has_to_reach_us = moves_atime && self.is_access_time_due(&attr);
        let found = (attr.stamp(), attr.size);
        let look_again = || Some(self.source.stat(fd.as_fd()).ok()?.stamp());
        let cache = &self.cache;
        Ok(cache.before_open(found, has_to_reach_us, look_again))
    }

    /// Whether the source has to ask another machine, which may never answer.
    pub fn is_remote(&self) -> bool {
        self.source.remote
    }

    /// The file has just been made: it is empty, and its length is to be believed.
    pub fn made(&self) {
        self.made_here.store(true, Relaxed);
    }

    /// Whether the file's length says nothing of what a read returns, as on procfs. It is known once
    /// `may_keep` was asked.
    pub fn is_without_length(&self) -> bool {
        self.without_length.load(Relaxed)
    }

    /// A range of the file, mapped from `fd`; `None` where it cannot be mapped.
    pub(super) fn borrow(
        &self,
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        file_len: u64,
    ) -> Option<Loan> {
        if self.unmappable.load(Relaxed) || len as u64 > self.context.space.geometry().overlap {
            return None;
        }
        match self.windows.borrow(fd, offset, len, file_len) {
            Ok(loan) => Some(loan),
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                if errno != Errno::NOMEM && !self.unmappable.swap(true, Relaxed) {
                    log::info!(
                        "node {} cannot be mapped ({error}): it is served by pread and pwrite",
                        self.cache.node()
                    );
                }
                None
            }
        }
    }
}
