//! Callers that were told ESTALE, and look every name up once more.
//!
//! The kernel opens a file, or does something to it, in two requests: LOOKUP, then one by node id. Where what LOOKUP found loses
//! its last name in between, nothing leads to it any more, and the second request is answered ESTALE. The kernel then looks up
//! every name of the path anew, for the same caller, and hands a second ESTALE on. So what this second walk finds is held for a moment.
//!
//! CREATE is answered ESTALE where somebody else has just made the file, for the kernel has to check the caller's permissions on
//! it. The second walk is to find that file, even where its name has gone again.

use crate::view::Found;
use parking_lot::Mutex;
use rustix::io::{Errno, Result};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long after ESTALE a LOOKUP may belong to the second walk. It follows at once, but on a
/// machine that is busy a walk takes its time.
const WALK_TIMEOUT: Duration = Duration::from_secs(3);

/// Callers to remember before those whose time is over are dropped.
const MANY: usize = 64;

/// The callers that are on their second walk, by process id; 0 stands for all of other process id namespaces.
#[derive(Debug)]
pub struct Retries<P> {
    made: Instant,
    /// The last of them may be on its way until then, in milliseconds since `made`. 0 until there was one.
    until: AtomicU64,
    walking: Mutex<HashMap<u32, Walk<P>>>,
}

#[derive(Debug)]
struct Walk<P> {
    until: Instant,
    /// The file that CREATE met: its directory, its name and itself.
    met: Option<(u64, OsString, Found<P>)>,
}

impl<P: Clone> Retries<P> {
    /// None yet.
    pub fn new() -> Self {
        Retries {
            made: Instant::now(),
            until: AtomicU64::new(0),
            walking: Mutex::default(),
        }
    }

    /// `caller` is about to be told ESTALE.
    pub fn begin(&self, caller: u32) {
        self.walk(caller, |_| ());
    }

    /// As `begin`, for CREATE has met the file `found`.
    pub fn begin_to(&self, caller: u32, parent: u64, name: &OsStr, found: Found<P>) {
        let met = (parent, name.to_owned(), found);
        self.walk(caller, |walk| walk.met = Some(met));
    }

    fn walk(&self, caller: u32, change: impl FnOnce(&mut Walk<P>)) {
        let until = Instant::now() + WALK_TIMEOUT;
        let mut walking = self.walking.lock();
        if walking.len() >= MANY {
            expire(&mut walking);
        }
        let walk = walking.entry(caller).or_insert(Walk { until, met: None });
        walk.until = until;
        change(walk);
        let until = until.duration_since(self.made).as_millis() as u64;
        self.until.fetch_max(until, Relaxed);
    }

    /// Whether a LOOKUP by `caller` may belong to its second walk.
    pub fn is_walking(&self, caller: u32) -> bool {
        if self.is_quiet() {
            return false;
        }
        let walking = self.walking.lock();
        walking
            .get(&caller)
            .is_some_and(|walk| walk.until > Instant::now())
    }

    /// What CREATE has met under a name that LOOKUP does not find any more.
    ///
    /// # Errors
    /// ENOENT where it has met none.
    pub fn met(&self, caller: u32, parent: u64, name: &OsStr) -> Result<Found<P>> {
        let walking = self.walking.lock();
        let met = walking.get(&caller).and_then(|walk| walk.met.as_ref());
        let same = met.filter(|(dir, met, _)| *dir == parent && met == name);
        same.map(|(_, _, found)| found.clone()).ok_or(Errno::NOENT)
    }

    /// `caller` has opened something: its walk is over.
    pub fn end(&self, caller: u32) {
        if !self.is_quiet() {
            self.walking.lock().remove(&caller);
        }
    }

    /// Drops the walks that are over. Says whether any is not.
    pub fn expire(&self) -> bool {
        let mut walking = self.walking.lock();
        expire(&mut walking);
        !walking.is_empty()
    }

    fn is_quiet(&self) -> bool {
        match self.until.load(Relaxed) {
            0 => true,
            until => self.made.elapsed().as_millis() as u64 > until,
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
    fn the_second_walk_is_that_of_who_was_told() {
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
        for caller in 0..MANY as u32 {
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
