//! How much the files of a store may take.

use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use rustix::io::Errno;

/// What is left beyond the limit for changes that free space, in bytes.
const RESERVE: u64 = 1 << 20;

/// A limit, and what of it is used. A change that goes beyond it fails; one that is under way beside it may do so too.
#[derive(Debug)]
pub struct Room {
    /// u64::MAX: none.
    limit: AtomicU64,
    used: AtomicI64,
}

impl Room {
    /// Without a limit.
    pub fn new(used: u64) -> Self {
        Self {
            limit: AtomicU64::new(u64::MAX),
            used: AtomicI64::new(used.min(i64::MAX as u64) as i64),
        }
    }

    /// See [`super::Store::set_limit`].
    pub fn set_limit(&self, limit: Option<u64>) {
        self.limit
            .store(limit.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Checks that there is room for so many more bytes.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn check(&self, growth: i64, frees: bool) -> io::Result<()> {
        let limit =
            self.limit
                .load(Ordering::Relaxed)
                .saturating_add(if frees { RESERVE } else { 0 });
        let after = self.used().saturating_add_signed(growth);
        if growth > 0 && after > limit {
            Err(Errno::NOSPC.into())
        } else {
            Ok(())
        }
    }

    /// So many bytes more, or less, are used. Never less than none: a store may say of its files that they have more than it counts.
    pub fn add(&self, growth: i64) {
        let added = |used: i64| Some(used.saturating_add(growth).max(0));
        // Cannot fail: there is always a next value.
        let _ = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, added);
    }

    /// Bytes that are used.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed) as u64
    }

    /// Bytes up to the limit.
    pub fn left(&self) -> u64 {
        self.limit
            .load(Ordering::Relaxed)
            .saturating_sub(self.used())
    }
}
