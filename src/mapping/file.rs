//! An open source file: its windows, its descriptors, and facts about it.

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
use crate::source::{SourceDir, open_noatime, reopen};
use parking_lot::{Mutex, RwLock};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use std::any::Any;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

/// Shared by all mappings of one view.
#[derive(Debug)]
pub struct Context {
    /// The address space that windows live in.
    pub space: Arc<AddressSpace>,
    /// Proof that the SIGBUS handler is installed. Nothing is mapped without it.
    pub handler: guard::Installed,
    /// How in-place writes are done.
    pub write_path: WritePath,
    /// Whether reads leave access times alone.
    pub no_atime: bool,
    /// Takes files whose times wait to be applied.
    pub chores: Chores,
    /// Counts of errors.
    pub error_counts: ErrorCounts,
}

/// How often each kind of error happened.
#[derive(Debug, Default)]
pub struct ErrorCounts {
    /// Guarded copies from or to a window that faulted.
    pub faults: AtomicU64,
    /// Reads that faulted, and whose pread(2) then failed, too.
    pub faults_eio: AtomicU64,
    /// Writes that were lost after mmfs had answered them.
    pub lost_writes: AtomicU64,
}

/// An open source file, shared by all its opens.
#[derive(Debug)]
pub struct Mapping {
    /// This mapping, for chores that outlive the request.
    pub(super) this: Weak<Mapping>,
    pub(super) context: Arc<Context>,
    pub(super) source: Arc<SourceDir>,
    pub(super) windows: Arc<WindowSet>,
    /// Held shared while bytes are copied or lent, exclusively while the file is resized or its windows are replaced. Lock
    /// order: after a writer's state, before `backing`, `times` and the window table.
    pub(super) gate: RwLock<()>,
    pub(super) backing: Mutex<Backing>,
    /// Held while an append looks up the end and writes there. The kernel sends appends one at a time, except for the parts of
    /// a long asynchronous one. Lock order: after `gate`.
    pub(super) appending: Mutex<()>,
    pub(super) times: Times,
    pub(super) cache: Arc<FileCache>,
    pub(super) losses: Losses,
    /// The change stamp at which the file had no security.capability. 0: unknown.
    pub(super) unprivileged: AtomicU64,
    /// The change stamp at which the file was not synchronous. 0: unknown.
    pub(super) asynchronous: AtomicU64,
    pub(super) unmappable: AtomicBool,
    /// Whether the length in its attributes says nothing about the bytes a read returns, as on procfs.
    pub(super) without_length: AtomicBool,
    /// Whether `without_length` was determined.
    pub(super) length_looked_for: AtomicBool,
    /// Whether the file was created through the view, so that it holds the bytes written.
    pub(super) created_here: AtomicBool,
    /// The attributes before and after a read, when they were equal. `None` before, and once they differ. Nothing else is taken
    /// with it locked.
    pub(super) settled: Mutex<Option<Attr>>,
    /// The length that the last read found, or 0 before the first read.
    pub(super) length: AtomicU64,
    /// Reads that mapped no window because it would not pay.
    pub(super) declined: AtomicU64,
    /// Keeps the file's mount busy. Its descriptions do not where they lie in a clone of the mount.
    place: OnceLock<(Arc<OwnedFd>, Slot)>,
    /// The backing file that the kernel uses for passthrough, once that is decided.
    passed_through: OnceLock<Option<Passthrough>>,
}

/// The backing file of a passthrough, of any type.
struct Passthrough(Box<dyn Any + Send + Sync>);

impl std::fmt::Debug for Passthrough {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passthrough")
    }
}

impl PendingTimes for Mapping {
    /// Applies times that wait, before attributes are shown.
    fn apply_times(&self) -> bool {
        if !self.times.wait_to_be_applied() {
            return false;
        }
        let Some(fd) = self.descriptor() else {
            return false;
        };
        // An error leaves the modification time milliseconds behind, and has no other effect.
        let apply = || self.times.apply(fd.as_fd(), &self.source);
        let (_, _) = self.with_own_change(fd.as_fd(), apply);
        true
    }
}

impl Mapping {
    /// A mapping of the file whose kernel cache is `cache`, on `source`.
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
            created_here: AtomicBool::new(false),
            settled: Mutex::default(),
            length: AtomicU64::new(0),
            declined: AtomicU64::new(0),
            place: OnceLock::new(),
            passed_through: OnceLock::new(),
            context,
        })
    }

    /// The kernel's cache of the file.
    pub fn cache(&self) -> &FileCache {
        &self.cache
    }

    /// A descriptor on the inode. It may be O_PATH, so it serves for attributes only.
    pub fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        self.backing.lock().any()
    }

    /// A descriptor on the inode that is not open for writing. `None` if there is none, or one is being opened.
    pub fn anchor(&self) -> Option<Arc<OwnedFd>> {
        self.backing.try_lock()?.anchor()
    }

    /// The description for readers, if there is one.
    pub fn reader(&self) -> Option<Arc<OwnedFd>> {
        self.backing.lock().reader()
    }

    /// Keeps `place`, a descriptor on the file, open for the life of this mapping.
    pub fn hold(&self, place: Arc<OwnedFd>, slot: Slot) {
        let _ = self.place.set((place, slot)); // It may have one already.
    }

    /// Whether reads must not move the access time.
    pub fn never_moves_atime(&self) -> bool {
        self.context.no_atime
    }

    /// Whether a page fault in a hole allocates its block.
    pub fn faults_allocate(&self) -> bool {
        self.source.faults_allocate
    }

    /// Whether the file is open for reading.
    pub fn is_read(&self) -> bool {
        self.backing.lock().is_read()
    }

    /// Gives the mapping a description for readers, opened O_RDONLY. Returns the slot if the mapping has one already.
    pub fn open_reader(&self, fd: Arc<OwnedFd>, slot: Slot) -> Option<Slot> {
        self.backing.lock().open_reader(fd, Some(slot))
    }

    /// The description that windows are mapped from.
    ///
    /// # Errors
    /// Those of open(2), if all writers have closed their descriptions.
    pub(super) fn readable(&self) -> Result<Arc<OwnedFd>> {
        let open = self.backing.lock().readable();
        open.map_or_else(|| self.shared(), Ok)
    }

    /// The description for readers. Opened if there is none. Lost writes that it reports count for all opens without a
    /// description of their own.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn shared(&self) -> Result<Arc<OwnedFd>> {
        let mut backing = self.backing.lock();
        if let Some(reader) = backing.reader() {
            return Ok(reader);
        }
        let held = backing.any().ok_or(Errno::BADF)?;
        let fd = open_noatime(OFlags::RDONLY, |flags| reopen(&*held, flags))?;
        let fd = Arc::new(fd);
        backing.open_reader(fd.clone(), None);
        Ok(fd)
    }

    /// The backing file for passthrough. `make` makes it at the first call; it is kept until the file is closed. If `make`
    /// returns `None`, so does every later call.
    pub fn pass_through<T: Any + Send + Sync>(
        &self,
        make: impl FnOnce() -> Option<T>,
    ) -> Option<&T> {
        let decide = || {
            let hold = make()?;
            self.cache.passed_through();
            Some(Passthrough(Box::new(hold)))
        };
        self.passed_through
            .get_or_init(decide)
            .as_ref()?
            .0
            .downcast_ref()
    }

    /// Whether the kernel reads and writes the file itself (passthrough).
    pub fn is_passed_through(&self) -> bool {
        matches!(self.passed_through.get(), Some(Some(_)))
    }

    /// Whether the file has the suid or the sgid bit. False if statx(2) fails.
    pub fn has_setid(&self) -> bool {
        let attr = self.descriptor().map(|fd| self.source.stat(fd.as_fd()));
        attr.is_some_and(|attr| attr.is_ok_and(|attr| attr.has_setid()))
    }

    /// Changes the length to `len` bytes. `truncate` does it at the source.
    ///
    /// # Errors
    /// Those of `truncate`.
    pub fn resize(&self, len: u64, truncate: impl FnOnce() -> Result<()>) -> Result<()> {
        let closed = self.gate.write();
        self.apply_times();
        let Some(fd) = self.descriptor() else {
            return truncate();
        };
        let (outcome, grown) = self.with_own_change(fd.as_fd(), || {
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

    /// Runs `change`, which changes the file by other means than writing. It is not taken for a change behind the mount.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn altering<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        self.altering_from(u64::MAX, change)
    }

    /// As `altering`, for a change that stores bytes at `offset`.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn altering_from<T>(&self, offset: u64, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let _open = self.gate.read();
        let Some(fd) = self.descriptor() else {
            return change();
        };
        let (outcome, grown) = self.with_own_change(fd.as_fd(), change);
        self.cache.show_zeros(grown.start..grown.end.min(offset));
        outcome
    }

    /// Runs a change made by mmfs. Also returns the range by which the file has grown.
    fn with_own_change<T>(
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

    /// Has the kernel drop the attributes if a change of the bytes has cleared suid or sgid. Otherwise the kernel would execute
    /// the file with these bits until the attributes expire.
    pub(super) fn compare_mode(&self, before: &Attr, after: &Attr) {
        if before.mode != after.mode {
            self.cache.attributes_changed();
        }
    }

    /// Drops times that wait to be applied: the caller is about to set others.
    pub fn cancel_times(&self) {
        self.times.cancel();
    }

    /// Has the housekeeping thread apply the times that wait.
    pub(super) fn times_wait(&self) {
        let this: Weak<Mapping> = self.this.clone();
        self.context.chores.add(Chore::ApplyTimes(this));
    }

    /// The attributes behind a descriptor on the file, for a reply to the kernel. A change behind the mount is noticed.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn attr(&self, fd: BorrowedFd<'_>) -> Result<Attr> {
        let check = self.cache.begin_length_check();
        let attr = self.look(fd)?;
        let read = |range| self.bytes(range);
        self.cache.end_length_check(check, attr.size, read);
        Ok(attr)
    }

    /// The source's bytes in this range. Fewer where the file ends, none where it cannot be read.
    fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = self.readable();
        let read = read.and_then(|fd| rustix::io::pread(&fd, &mut bytes, range.start));
        bytes.truncate(read.unwrap_or(0));
        bytes
    }

    /// As `attr`, for attributes that are not sent to the kernel.
    ///
    /// # Errors
    /// Those of statx(2).
    pub(super) fn look(&self, fd: BorrowedFd<'_>) -> Result<Attr> {
        let changes = self.cache.changes();
        let attr = self.source.stat(fd)?;
        self.cache.seen(attr.stamp(), changes);
        Ok(attr)
    }

    /// Checks whether the source changed behind the mount. If it did, the kernel drops what it has cached. Network filesystems
    /// are not asked: they may never answer.
    pub fn check(&self) {
        if let Some(fd) = self.descriptor().filter(|_| !self.source.remote) {
            // After an error the next read notices the change.
            let _ = self.look(fd.as_fd());
            // A description has to be open before a loss happens if it is to report the loss. The kernel begins to write back
            // seconds after a write (vm.dirty_expire_centisecs).
            if self.backing.lock().has_closed_writer() {
                let _ = self.shared();
            }
        }
        self.cache.drop_if_stale();
    }

    /// Which parts of its cache the kernel may keep at this open. If the first read of the open `moves_atime`, and the access
    /// time is due, the kernel keeps no pages: that read has to reach mmfs.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn may_keep(&self, moves_atime: bool) -> Result<MayKeep> {
        let fd = self.descriptor().ok_or(Errno::BADF)?;
        let attr = self.source.stat(fd.as_fd())?;
        self.look_for_length(fd.as_fd(), &attr);
        let must_reach_mmfs = moves_atime && self.is_access_time_due(&attr);
        let found = (attr.stamp(), attr.size);
        let look_again = || Some(self.source.stat(fd.as_fd()).ok()?.stamp());
        let cache = &self.cache;
        Ok(cache.before_open(found, must_reach_mmfs, look_again))
    }

    /// Whether the source is a network filesystem, whose server may never answer.
    pub fn is_remote(&self) -> bool {
        self.source.remote
    }

    /// Notes that the file was just created. It is empty, so its length can be trusted.
    pub fn mark_created(&self) {
        self.created_here.store(true, Relaxed);
    }

    /// Whether the length in the file's attributes says nothing about the bytes a read returns, as on procfs. Known after the
    /// first `may_keep`.
    pub fn is_without_length(&self) -> bool {
        self.without_length.load(Relaxed)
    }

    /// Borrows a range of the file, mapped from `fd`. `None` if it cannot be mapped.
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
