//! As of when the kernel's cache of a file is valid, and whether a change was ours.
//!
//! `Attr::stamp` moves with every change. A change of our own is bracketed by `change()` and ends by setting
//! the new stamp; a stamp that differs while no change of ours was under way was moved behind the mount.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

#[derive(Debug)]
pub struct Freshness {
    stamp: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    /// How often the kernel's cache was found out of date, and how often it was dropped since.
    doubts: AtomicU64,
    dropped: AtomicU64,
}

/// A change of our own under way.
#[derive(Debug)]
pub struct Changing<'a>(&'a Freshness);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, SeqCst);
    }
}

impl Freshness {
    pub fn new(stamp: u64) -> Self {
        Freshness {
            stamp: AtomicU64::new(stamp),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// The stamp as of which the kernel's cache is valid; 0 while it is in doubt.
    pub fn stamp(&self) -> u64 {
        if self.in_doubt() {
            0
        } else {
            self.stamp.load(SeqCst)
        }
    }

    /// The kernel's cache is out of date: no open may keep it until it was dropped.
    pub fn doubt(&self) {
        self.doubts.fetch_add(1, SeqCst);
    }

    /// The kernel's cache was dropped because of one doubt.
    pub fn dropped(&self) {
        self.dropped.fetch_add(1, SeqCst);
    }

    fn in_doubt(&self) -> bool {
        self.dropped.load(SeqCst) != self.doubts.load(SeqCst)
    }

    /// Sets the stamp that a change of our own has led to.
    pub fn set(&self, stamp: u64) {
        self.stamp.store(stamp, SeqCst);
    }

    /// Begins a change of our own.
    pub fn change(&self) -> Changing<'_> {
        self.begun.fetch_add(1, SeqCst);
        Changing(self)
    }

    /// Whether `now`, read from the source just before, was moved behind the mount; the new stamp is taken.
    /// While changes of our own are under way nothing can be told, and the answer is no.
    pub fn differs(&self, now: u64) -> bool {
        self.differs_while(now, 0)
    }

    /// As `differs`, from within a change of our own.
    pub fn differs_but_for_one(&self, now: u64) -> bool {
        self.differs_while(now, 1)
    }

    fn differs_while(&self, now: u64, own: u64) -> bool {
        let (begun, known) = (self.begun.load(SeqCst), self.stamp.load(SeqCst));
        if known == now
            || begun - self.ended.load(SeqCst).min(begun) != own
            || begun != self.begun.load(SeqCst)
        {
            return false;
        }
        self.stamp
            .compare_exchange(known, now, SeqCst, SeqCst)
            .is_ok()
            && known != 0
    }

    /// Takes `now` for the new stamp; true when it is the old one and that was never in doubt.
    pub fn renew(&self, now: u64) -> bool {
        self.stamp.swap(now, SeqCst) == now && !self.in_doubt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_change_is_told_once() {
        let fresh = Freshness::new(1);
        assert!(!fresh.differs(1));
        assert!(fresh.differs(2));
        assert!(!fresh.differs(2));
    }

    #[test]
    fn a_change_of_our_own_is_none() {
        let fresh = Freshness::new(1);
        let changing = fresh.change();
        assert!(!fresh.differs(2), "nothing can be told meanwhile");
        fresh.set(2);
        drop(changing);
        assert!(!fresh.differs(2));
        assert!(fresh.renew(2));
        assert!(!fresh.renew(3));
    }

    #[test]
    fn nothing_is_kept_while_it_is_in_doubt() {
        let fresh = Freshness::new(1);
        fresh.doubt();
        assert_eq!((fresh.stamp(), fresh.renew(1)), (0, false));
        fresh.dropped();
        assert_eq!((fresh.stamp(), fresh.renew(1)), (1, true));
    }

    #[test]
    fn a_foreign_change_before_our_own_is_seen_from_within() {
        let fresh = Freshness::new(1);
        let _changing = fresh.change();
        assert!(fresh.differs_but_for_one(2));
    }
}
