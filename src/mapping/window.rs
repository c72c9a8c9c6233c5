//! One page-aligned `mmap`ed range of a source file.
#![allow(unsafe_code)] // Raw pointers into a mapping; a comment at each use says why it is sound.

use super::budget::Lease;
use super::guard::{self, Fault, Installed};
use memmap2::{Advice, MmapOptions, MmapRaw, RemapOptions};
use parking_lot::RwLock;
use rustix::mm::MprotectFlags;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Why a write through a window failed.
#[derive(Debug)]
pub enum WriteError {
    /// The kernel could not provide a page. pwrite(2) of the same bytes returns the reason.
    Fault(Fault),
    /// The window could not be made writable: EACCES if it was mapped from a read-only descriptor.
    Protect(io::Error),
}

impl WriteError {
    /// How many bytes at the front were written for certain.
    pub fn copied(&self) -> usize {
        match self {
            WriteError::Fault(fault) => fault.copied,
            WriteError::Protect(_) => 0,
        }
    }
}

/// One page-aligned `mmap`ed range of a source file: `MAP_SHARED`, and `PROT_READ` until it is written to.
///
/// Fields are dropped in order: the lease ends after the unmapping.
#[derive(Debug)]
pub struct Window {
    map: MmapRaw,
    lease: Lease,
    handler: Installed,
    /// Whether pages are `PROT_WRITE`. Read-locked during each write, so that pages stay writable until the copy has ended.
    /// Lock order: no lock is taken with it held.
    writable: RwLock<bool>,
    last_used: AtomicU64,
}

impl Window {
    /// Maps `lease.bytes()` bytes from `offset`, a multiple of the page size.
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        offset: u64,
        lease: Lease,
        handler: Installed,
    ) -> io::Result<Window> {
        let len = usize::try_from(lease.bytes()).map_err(|_| rustix::io::Errno::NOMEM)?;
        let map = MmapOptions::new()
            .offset(offset)
            .len(len)
            .map_raw_read_only(fd.as_raw_fd())?;
        // With this advice a page fault reads only the page that it needs, and `will_need` reads ahead. Without it, the kernel
        // reads the device's whole read-ahead at each page fault, which is megabytes on some devices.
        map.advise(Advice::Random)?;
        let (writable, last_used) = (RwLock::new(false), AtomicU64::new(0));
        Ok(Window {
            map,
            lease,
            handler,
            writable,
            last_used,
        })
    }

    /// Grows or shrinks to `len` bytes, and may move. Protection and advice stay. After an error the window is unchanged.
    pub(super) fn remap(&mut self, len: u64) -> io::Result<()> {
        let new_len = usize::try_from(len).map_err(|_| rustix::io::Errno::NOMEM)?;
        if len > self.lease.bytes() {
            self.lease.resize(len)?;
        }
        // SAFETY:
        // - `&mut self`: no pointer into the mapping is in use;
        // - bytes beyond the end of file are touched by the kernel and the guarded copy only.
        let remapped = unsafe { self.map.remap(new_len, RemapOptions::new().may_move(true)) };
        self.lease.resize(self.map.len() as u64)?;
        remapped
    }

    /// How many bytes are mapped: a multiple of the page size.
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Always false: an empty window cannot be mapped.
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// The tick of the last use.
    pub(super) fn last_used(&self) -> u64 {
        self.last_used.load(Relaxed)
    }

    /// Notes a use at the tick `now`. Readers of a window share its cache line, so the tick is stored only if it is new.
    pub(super) fn mark_used(&self, now: u64) {
        if self.last_used() != now {
            self.last_used.store(now, Relaxed);
        }
    }

    /// Allows stores; EACCES if the window was mapped from a read-only descriptor.
    pub fn make_writable(&self) -> io::Result<()> {
        self.protect(true)
    }

    /// Forbids stores, after the writes under way have ended.
    pub fn make_read_only(&self) -> io::Result<()> {
        self.protect(false)
    }

    fn protect(&self, writable: bool) -> io::Result<()> {
        let mut current = self.writable.write();
        if *current != writable {
            let flags = if writable {
                MprotectFlags::READ | MprotectFlags::WRITE
            } else {
                MprotectFlags::READ
            };
            // SAFETY:
            // - the range is exactly our own mapping, page-aligned and still mapped;
            // - reading stays allowed; stores are made under `writable` read-locked only, which excludes us.
            unsafe { rustix::mm::mprotect(self.map.as_mut_ptr().cast(), self.map.len(), flags) }?;
            *current = writable;
        }
        Ok(())
    }

    /// Starts reading `range`, cut to the window: madvise(2), MADV_WILLNEED.
    pub fn will_need(&self, range: Range<u64>) -> io::Result<()> {
        /// In bytes. For one advice the kernel reads at most the device's read-ahead, by default 128 KiB, and reports success.
        const MAX_ADVICE: usize = 128 << 10;
        let end = range.end.min(self.len()) as usize;
        (range.start as usize..end)
            .step_by(MAX_ADVICE)
            .try_for_each(|at| {
                self.map
                    .advise_range(Advice::WillNeed, at, MAX_ADVICE.min(end - at))
            })
    }

    /// The address of `len` bytes at `start`.
    ///
    /// # Panics
    /// If they are not within the window.
    fn address(&self, start: usize, len: usize) -> *mut u8 {
        let end = start.checked_add(len).expect("range overflows");
        assert!(
            end <= self.map.len(),
            "{start}+{len} is beyond a window of {}",
            self.map.len()
        );
        self.map.as_mut_ptr().wrapping_add(start)
    }

    /// Lends bytes to `f` for exactly one writev(2): `f` must pass the slice to the kernel, and do nothing else with it. If the
    /// kernel cannot provide a page, that call fails with EFAULT. A load in the daemon would raise SIGBUS. The kernel reads
    /// each byte once, so a concurrent change is harmless.
    ///
    /// # Panics
    /// If the range is not within the window.
    pub fn with_bytes<R>(&self, start: usize, len: usize, f: impl FnOnce(&[u8]) -> R) -> R {
        let data = self.address(start, len);
        // SAFETY: of from_raw_parts' conditions
        // - non-null, aligned, one allocation of `len` bytes: `address` checked it against the mapping, which
        //   lives and stays in place as long as `&self`, which outlives the slice;
        // - `len` is no more than the mapping's length, which fits isize;
        // - immutable while lent: not so, as the file can change; but no code of ours loads from the slice,
        //   `f` passes its address and length to a system call and must do nothing else.
        f(unsafe { std::slice::from_raw_parts(data, len) })
    }

    /// Guarded copy out of the window.
    ///
    /// # Panics
    /// If the range is not within the window.
    pub fn read(&self, start: usize, into: &mut [u8]) -> Result<(), Fault> {
        let from = self.address(start, into.len());
        // SAFETY:
        // - `from` was checked against the mapping, readable throughout its life; `into` is a live slice;
        // - they do not overlap: a slice of ours is never in a mapping;
        // - `into` is borrowed by us alone, and references to mapped bytes are never loaded from.
        unsafe { guard::copy(self.handler, into.as_mut_ptr(), from, into.len()) }
    }

    /// Guarded copy into the window. Makes it writable first.
    ///
    /// # Panics
    /// If the range is not within the window.
    pub fn write(&self, start: usize, bytes: &[u8]) -> Result<(), WriteError> {
        let to = self.address(start, bytes.len());
        let mut writable = self.writable.read();
        while !*writable {
            drop(writable);
            self.make_writable().map_err(WriteError::Protect)?;
            writable = self.writable.read();
        }
        // SAFETY:
        // - `to` was checked against the mapping, writable as long as `writable` is read-locked: until the end;
        // - `bytes` is a live slice; they do not overlap: a slice of ours is never in a mapping;
        // - references to mapped bytes are never loaded from, so none is contradicted.
        let result = unsafe { guard::copy(self.handler, to, bytes.as_ptr(), bytes.len()) };
        result.map_err(WriteError::Fault)
    }
}
