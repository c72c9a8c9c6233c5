//! Callers whose request was answered ESTALE. The kernel walks their path a second time.
//!
//! A system call on a path takes two requests: LOOKUP, then one by node id. If the inode loses its last name in between, it
//! cannot be found any more, and the second request is answered ESTALE. The kernel then looks up every name of the path once
//! more for the same caller. The caller gets a second ESTALE. So mmfs holds the inodes of this second walk for a moment.
//!
//! CREATE is also answered ESTALE if another process has just created the file, because the kernel must check the caller's
//! permissions on it. The second walk must find that file, even if its name has been removed again.

use crate::view::Found;
use parking_lot::Mutex;
use rustix::io::{Errno, Result};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long after ESTALE a LOOKUP may belong to the second walk. The walk starts immediately, but is slow on a busy machine.
const WALK_TIMEOUT: Duration = Duration::from_secs(3);

/// With this many callers, those whose time is over are dropped.
const MAX_WALKS: usize = 64;

/// The callers that are on their second walk, by process id. 0 stands for all callers in pid namespaces that the daemon does
/// not see.
#[derive(Debug)]
pub struct Retries<P> {
    created: Instant,
    /// When the last walk times out, in milliseconds since `created`. 0 before the first walk.
    until: AtomicU64,
    walking: Mutex<HashMap<u32, Walk<P>>>,
}

#[derive(Debug)]
struct Walk<P> {
    until: Instant,
    /// The file that existed when CREATE came: directory, name, inode.
    existing: Option<(u64, OsString, Found<P>)>,
}

impl<P: Clone> Retries<P> {
    /// No callers.
    pub fn new() -> Self {
        Retries {
            created: Instant::now(),
            until: AtomicU64::new(0),
            walking: Mutex::default(),
        }
    }

    /// Notes that a request of `caller` is answered ESTALE.
    pub fn begin(&self, caller: u32) {
        self.walk(caller, |_| ());
    }

    /// As `begin`, for a CREATE of a file that already exists. `found` is that file.
    pub fn begin_with(&self, caller: u32, parent: u64, name: &OsStr, found: Found<P>) {
        let existing = (parent, name.to_owned(), found);
        self.walk(caller, |walk| walk.existing = Some(existing));
    }

    fn walk(&self, caller: u32, change: impl FnOnce(&mut Walk<P>)) {
        let until = Instant::now() + WALK_TIMEOUT;
        let mut walking = self.walking.lock();
        if walking.len() >= MAX_WALKS {
            expire(&mut walking);
        }
        let walk = walking.entry(caller).or_insert(Walk {
            until,
            existing: None,
        });
        walk.until = until;
        change(walk);
        let until = until.duration_since(self.created).as_millis() as u64;
        self.until.fetch_max(until, Relaxed);
    }

    /// Whether a LOOKUP by `caller` may belong to its second walk.
    pub fn is_walking(&self, caller: u32) -> bool {
        if self.all_over() {
            return false;
        }
        let walking = self.walking.lock();
        walking
            .get(&caller)
            .is_some_and(|walk| walk.until > Instant::now())
    }

    /// The file that existed under this name when CREATE came. LOOKUP does not find the name any more.
    ///
    /// # Errors
    /// ENOENT if there was none.
    pub fn existing(&self, caller: u32, parent: u64, name: &OsStr) -> Result<Found<P>> {
        let walking = self.walking.lock();
        let existing = walking.get(&caller).and_then(|walk| walk.existing.as_ref());
        let same = existing.filter(|(dir, known, _)| *dir == parent && known == name);
        same.map(|(_, _, found)| found.clone()).ok_or(Errno::NOENT)
    }

    /// Ends the walk of `caller`, which has opened a file.
    pub fn end(&self, caller: u32) {
        if !self.all_over() {
            self.walking.lock().remove(&caller);
        }
    }

    /// Drops the walks that are over. Returns whether any are left.
    pub fn expire(&self) -> bool {
        let mut walking = self.walking.lock();
        expire(&mut walking);
        !walking.is_empty()
    }

    /// Whether all walks are over. Takes no lock.
    fn all_over(&self) -> bool {
        match self.until.load(Relaxed) {
            0 => true,
            until => self.created.elapsed().as_millis() as u64 > until,
        }
    }
}

fn expire<P>(walking: &mut HashMap<u32, Walk<P>>) {
    let now = Instant::now();
    walking.retain(|_, walk| walk.until > now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_caller_that_got_estale_is_walking() {
        let retries = Retries::<()>::new();
        assert!(!retries.is_walking(7));
        retries.begin(7);
        assert!(retries.is_walking(7) && !retries.is_walking(8));
        retries.end(7);
        assert!(!retries.is_walking(7));
    }

    #[test]
    fn walks_that_are_over_are_dropped() {
        let retries = Retries::<()>::new();
        for caller in 0..MAX_WALKS as u32 {
            retries.begin(caller);
        }
        let over = Instant::now() - Duration::from_millis(1);
        retries
            .walking
            .lock()
            .values_mut()
            .for_each(|walk| walk.until = over);
        assert!(!retries.is_walking(7));
        retries.begin(7);
        assert_eq!(retries.walking.lock().len(), 1);
    }
}
