//! One source file's view in our address space, and the only way to its bytes: read, write, resize, sync.

mod alarm;
mod backing;
pub mod budget;
mod freshness;
pub mod geometry;
pub mod guard;
mod losses;
mod readahead;
mod times;
pub mod window;
pub mod windows;
mod write;

pub use alarm::Alarm;
pub use readahead::ReadPattern;
pub use write::{Durability, WritePattern, WriteRequest};

use crate::attr::Attr;
use crate::config::WritePath;
use crate::source::{AtimeRule, SourceDir};
use crate::sys::writeback::writeback_error;
use backing::Backing;
use budget::AddressSpace;
use freshness::Freshness;
use losses::Losses;
use parking_lot::{Mutex, RwLock};
use rustix::io::{Errno, Result};
use std::any::Any;
use std::cell::RefCell;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock, Weak};
use times::Times;
use windows::WindowSet;

/// What a mapping asks the session's housekeeping thread to do.
#[derive(Debug)]
pub enum Chore {
    /// The kernel's cache of this node is out of date and must go; the mapping waits to hear of it.
    Invalidate(u64, Weak<Mapping>),
    /// Time stamps of this mapping wait to be applied.
    Settle(Weak<Mapping>),
    /// A file was opened while none was watched: watch open files from now on.
    Watch,
    /// Many inodes were forgotten: their memory can go back.
    Trim,
}

/// What all mappings of one session share.
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
    /// Where chores go.
    pub chores: Sender<Chore>,
    /// Raised for attributes that the kernel does not expect to have changed.
    pub attributes: Alarm,
}

/// One source file while somebody has it open, shared by all its handles.
#[derive(Debug)]
pub struct Mapping {
    /// Itself, for chores that outlive the request.
    me: Weak<Mapping>,
    id: u64,
    context: Arc<Context>,
    source: Arc<SourceDir>,
    windows: Arc<WindowSet>,
    /// Held shared while bytes are copied or lent, exclusively while the file is resized or its windows
    /// are replaced. Lock order: before `backing`, `times` and the window table.
    gate: RwLock<()>,
    backing: Mutex<Backing>,
    times: Times,
    freshness: Freshness,
    losses: Losses,
    /// The stamp as of which the file is known to carry no security.capability; 0 when unknown.
    unprivileged: AtomicU64,
    unmappable: AtomicBool,
    /// Reads that were not worth a window.
    declined: AtomicU64,
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

impl Mapping {
    /// The view of node `id`; `stamp` says as of when the kernel's cache of it is valid (0: it is not).
    pub fn new(id: u64, source: Arc<SourceDir>, stamp: u64, context: Arc<Context>) -> Arc<Self> {
        let windows = WindowSet::new(&context.space, context.handler, geometry::BaseOffset::ZERO);
        Arc::new_cyclic(|me| Mapping {
            me: me.clone(),
            id,
            source,
            windows,
            gate: RwLock::new(()),
            backing: Mutex::default(),
            times: Times::default(),
            freshness: Freshness::new(stamp),
            losses: Losses::default(),
            unprivileged: AtomicU64::new(0),
            unmappable: AtomicBool::new(false),
            declined: AtomicU64::new(0),
            handed_over: OnceLock::new(),
            context,
        })
    }

    /// A descriptor on the inode, for whatever does not touch its bytes.
    pub fn descriptor(&self) -> Option<Arc<OwnedFd>> {
        self.backing.lock().any()
    }

    /// What the kernel serves the file with by itself: made by `make` the first time, kept until the file is
    /// closed. `None`, for as long, when `make` has nothing to give.
    pub fn hand_over<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Option<T>) -> Option<&T> {
        let decide = || make().map(|hold| Handover(Box::new(hold)));
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

    /// Lends `lend` up to `len` bytes from `offset` on, fewer at the end of the file. `pattern` is the handle's:
    /// its first read moves the access time, the later ones tell what to read ahead.
    pub fn read_at<R>(
        &self,
        offset: u64,
        len: usize,
        pattern: &ReadPattern,
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R {
        let _open = self.gate.read();
        let Some(fd) = self.backing.lock().readable() else {
            return lend(Err(Errno::BADF));
        };
        let attr = match self.source.stat(fd.as_fd()) {
            Ok(attr) => attr,
            Err(errno) => return lend(Err(errno)),
        };
        self.compare(&attr);
        if self.source.synthetic {
            return self.read_copied(fd.as_fd(), offset, len, lend);
        }
        let len = len.min(usize::try_from(attr.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        if len == 0 {
            return lend(Ok(&[]));
        }
        if pattern.is_first() {
            self.touch(fd.as_fd(), &attr);
        }
        let pin = match self.is_worth_a_window(offset, len, pattern) {
            true => self.pin(fd.as_fd(), offset, len, attr.size),
            false => None,
        };
        match pin {
            Some(pin) => {
                let uncached = |range: &Range<u64>| {
                    !readahead::is_cached(fd.as_fd(), range.start..range.end.min(attr.size))
                };
                if let Some(range) = pattern.fetch(offset, len).filter(uncached) {
                    // Advice that is not taken costs speed only.
                    let _ = pin.will_need(range);
                }
                pin.with_bytes(|bytes| lend(Ok(bytes)))
            }
            None => self.read_copied(fd.as_fd(), offset, len, lend),
        }
    }

    /// Changes the length to `len` bytes, which `truncate` does to the file.
    ///
    /// # Errors
    /// Those of `truncate`.
    pub fn resize(&self, len: u64, truncate: impl FnOnce() -> Result<()>) -> Result<()> {
        let _closed = self.gate.write();
        self.settle();
        let Some(fd) = self.descriptor() else {
            return truncate();
        };
        self.restamping(fd.as_fd(), || {
            truncate()?;
            self.windows.resize(len);
            Ok(())
        })
    }

    /// Makes durable what was written: the pages of the region, then the file; with `data_only` as fdatasync(2).
    ///
    /// # Errors
    /// Those of fsync(2): a write that was lost since `fd` was opened or last synced.
    pub fn sync(&self, fd: &OwnedFd, data_only: bool) -> Result<()> {
        self.settle();
        let size = self
            .source
            .stat(fd.as_fd())
            .map_or(u64::MAX, |attr| attr.size);
        let pages = self.windows.sync().map_err(|e| errno_of(&e));
        let shared = self.backing.lock().shared();
        let file = match pages {
            // msync(2) is fsync(2) for what it covers: a second one would flush the device once more. What is left
            // is to tell this handle of writes that were lost.
            Ok(durable) if durable > 0 && durable >= size && !shared => writeback_error(fd),
            _ if data_only => rustix::fs::fdatasync(fd),
            _ => rustix::fs::fsync(fd),
        };
        let pages = pages.map(drop);
        if let Err(errno) = if shared { pages.and(file) } else { pages } {
            self.losses.add(errno);
        }
        self.ask_for_losses();
        // What msync says of a description of our own is for every handle's own fsync to say again.
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

    /// Whether a write was lost since there were `known` losses. Asking takes the report from no handle.
    ///
    /// # Errors
    /// EIO, ENOSPC or EDQUOT when one was.
    pub fn lost_since(&self, known: u64) -> Result<()> {
        self.ask_for_losses();
        self.losses.since(known)
    }

    /// Runs an operation of ours that changes the file by other means than writing, so that it is not taken
    /// for a change behind the mount.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn altering<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let _open = self.gate.read();
        match self.descriptor() {
            Some(fd) => self.restamping(fd.as_fd(), change),
            None => change(),
        }
    }

    fn restamping<T>(&self, fd: BorrowedFd<'_>, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let changing = self.freshness.change();
        let before = self.source.stat(fd);
        if let Ok(before) = &before {
            self.compare_within(before);
        }
        let outcome = change();
        if let Ok(after) = self.source.stat(fd) {
            changing.led_to(after.stamp());
            if let Ok(before) = &before {
                self.compare_mode(before, &after);
            }
        }
        outcome
    }

    /// Notices that a change of the bytes has taken suid or sgid: the kernel would believe in them for as long as
    /// in any attribute, and execute the file under them.
    fn compare_mode(&self, before: &Attr, after: &Attr) {
        if before.mode != after.mode {
            self.context.attributes.raise(self.id);
        }
    }

    /// Forgets times that wait to be applied: the caller is about to set others.
    pub fn cancel_times(&self) {
        self.times.cancel();
    }

    /// Applies times that wait, so that attributes can be shown; says whether any did.
    pub fn settle(&self) -> bool {
        if !self.times.wait_to_be_applied() {
            return false;
        }
        let Some(fd) = self.descriptor() else {
            return false;
        };
        // Sole effect of an error here is a modification time that stays behind by milliseconds.
        let _ = self.restamping(fd.as_fd(), || self.times.apply(fd.as_fd(), &self.source));
        true
    }

    /// The attributes behind a descriptor on the file; a change behind the mount is noticed.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn stat(&self, fd: BorrowedFd<'_>) -> Result<Attr> {
        let attr = self.source.stat(fd)?;
        self.compare(&attr);
        Ok(attr)
    }

    /// Looks whether the source changed behind the mount; if so the kernel's cache goes. Sources that would
    /// have to be asked over a network are left alone: they may never answer.
    pub fn check(&self) {
        if let Some(fd) = self.descriptor().filter(|_| !self.source.remote) {
            // What cannot be looked at now is noticed by whoever reads next.
            let _ = self.stat(fd.as_fd());
            // A description that is to tell of lost writes has to be there before others are told.
            drop(self.backing.lock().probe());
        }
    }

    /// The stamp as of which the kernel's cache of the contents is valid.
    pub fn stamp(&self) -> u64 {
        match self.is_handed_over() {
            true => 0,
            false => self.freshness.stamp(),
        }
    }

    /// Whether the kernel may keep what it has cached, now that the file is opened once more. It may not when
    /// the handle `reads` and its first read is due to move the access time: that read has to reach us.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn may_keep_cache(&self, reads: bool) -> Result<bool> {
        let fd = self.descriptor().ok_or(Errno::BADF)?;
        let attr = self.source.stat(fd.as_fd())?;
        Ok(self.freshness.renew(attr.stamp()) && !(reads && self.is_access_time_due(&attr)))
    }

    /// Whether the source has to ask another machine, which may never answer.
    pub fn is_remote(&self) -> bool {
        self.source.remote
    }

    /// Whether the file's length says nothing of what a read returns, as on procfs.
    pub fn is_synthetic(&self) -> bool {
        self.source.synthetic
    }

    /// Notices a change behind the mount in attributes just read from the source.
    pub fn compare(&self, attr: &Attr) {
        // The kernel has no cache of its own of what it serves from the source.
        if !self.is_handed_over() && self.freshness.differs(attr.stamp()) {
            self.distrust_cache();
        }
    }

    /// As `compare`, from within a change of our own.
    fn compare_within(&self, attr: &Attr) {
        if !self.is_handed_over() && self.freshness.differs_but_for_one(attr.stamp()) {
            self.distrust_cache();
        }
    }

    /// Hears that what is read next is for the kernel's cache.
    pub fn cache_filling(&self) {
        self.freshness.fill();
    }

    /// Hears that a write has gone past the kernel's cache.
    pub fn cache_bypassed(&self) {
        if self.freshness.was_bypassed() {
            self.distrust_cache();
        }
    }

    fn distrust_cache(&self) {
        self.freshness.doubt();
        self.chore(Chore::Invalidate(self.id, self.me.clone()));
    }

    /// Hears that the kernel has dropped its cache of the file.
    pub fn cache_dropped(&self) {
        self.freshness.dropped();
    }

    fn chore(&self, chore: Chore) {
        // The session is ending when nobody listens any more.
        let _ = self.context.chores.send(chore);
    }

    /// Whether a read is to map its window: not when another one would have to go for a few bytes of a reader
    /// that jumps about, but for one time in so many, so that windows move to where the reading is.
    fn is_worth_a_window(&self, offset: u64, len: usize, pattern: &ReadPattern) -> bool {
        const FEW: usize = 512 << 10;
        const ONE_IN: u64 = 64;
        let space = &self.context.space;
        len > FEW
            || !pattern.jumps_to(offset, len)
            || self.windows.holds(offset)
            || space.has_room(space.geometry().full())
            || self.declined.fetch_add(1, Relaxed) % ONE_IN == 0
    }

    fn pin(
        &self,
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        file_len: u64,
    ) -> Option<windows::Pin> {
        if self.unmappable.load(Relaxed) || len as u64 > self.context.space.geometry().overlap {
            return None;
        }
        match self.windows.pin(fd, offset, len, file_len) {
            Ok(pin) => Some(pin),
            Err(error) => {
                if errno_of(&error) != Errno::NOMEM && !self.unmappable.swap(true, Relaxed) {
                    log::info!(
                        "node {} cannot be mapped ({error}): it is served by pread and pwrite",
                        self.id
                    );
                }
                None
            }
        }
    }

    fn read_copied<R>(
        &self,
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R {
        thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(len, 0);
            match pread_all(fd, buffer, offset) {
                Ok(n) => lend(Ok(&buffer[..n])),
                Err(errno) => lend(Err(errno)),
            }
        })
    }

    /// Moves the access time as a read(2) of the source would: mapping a page is what the source's kernel
    /// takes for one.
    fn touch(&self, fd: BorrowedFd<'_>, attr: &Attr) {
        if self.is_access_time_due(attr) {
            let page = rustix::param::page_size() as u64;
            let lease = self.context.space.reserve(page);
            let _ = lease.and_then(|lease| window::Window::map(fd, 0, lease, self.context.handler));
        }
    }

    fn is_access_time_due(&self, attr: &Attr) -> bool {
        const DAY: i64 = 24 * 60 * 60;
        !self.context.no_atime
            && match self.source.atime {
                AtimeRule::Never => false,
                AtimeRule::Strict => true,
                AtimeRule::Relative => {
                    attr.atime <= attr.mtime
                        || attr.atime <= attr.ctime
                        || times::now().sec - attr.atime.sec >= DAY
                }
            }
    }
}

/// Reads until `buffer` is full or the file ends.
fn pread_all(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(done)
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
