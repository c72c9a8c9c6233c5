//! As of when the kernel's cache of a file is valid, and whether a change was ours.
//!
//! `Attr::stamp` moves with every change. A change of our own is bracketed by `change()` and ends by setting
//! the new stamp; a stamp that differs while no change of ours was under way was moved behind the mount.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Freshness {
    stamp: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    /// How often the kernel's cache was found out of date, and how often it was dropped since.
    doubts: AtomicU64,
    dropped: AtomicU64,
    /// Somebody changes the file behind the mount.
    contended: AtomicBool,
    /// A change behind the mount may hide in a stamp that was set after one of our own.
    mixed: AtomicBool,
    /// The kernel has asked for bytes for its cache since the last write past it.
    filled: AtomicBool,
}

/// A change of our own that takes longer than this may have had company.
const BRIEF: Duration = Duration::from_millis(2);

/// A change of our own under way.
#[derive(Debug)]
pub struct Changing<'a> {
    freshness: &'a Freshness,
    since: Instant,
}

impl Changing<'_> {
    /// Sets the stamp that the change has led to. A change behind the mount at the same moment is in it,
    /// unseen: where that is likely, the kernel's cache is trusted no further than the next open.
    pub fn led_to(&self, stamp: u64) {
        let fresh = self.freshness;
        if fresh.contended.load(SeqCst) || self.since.elapsed() > BRIEF {
            fresh.mixed.store(true, SeqCst);
        }
        fresh.stamp.store(stamp, SeqCst);
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.freshness.ended.fetch_add(1, SeqCst);
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
            contended: AtomicBool::new(false),
            mixed: AtomicBool::new(false),
            filled: AtomicBool::new(false),
        }
    }

    /// The stamp as of which the kernel's cache is valid; 0 while it is in doubt.
    pub fn stamp(&self) -> u64 {
        if self.in_doubt() || self.mixed.load(SeqCst) {
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

    /// The kernel is about to get bytes for its cache.
    pub fn fill(&self) {
        // Readers of one file share this: store only what is new.
        if !self.filled.load(SeqCst) {
            self.filled.store(true, SeqCst);
        }
    }

    /// Whether the kernel may have put into its cache what a write past it, just done, has replaced. It drops what
    /// it has when such a write begins, and of an asynchronous one it does not look again at the end (Linux 6.18).
    pub fn was_bypassed(&self) -> bool {
        self.filled.swap(false, SeqCst)
    }

    fn in_doubt(&self) -> bool {
        self.dropped.load(SeqCst) != self.doubts.load(SeqCst)
    }

    /// Begins a change of our own.
    pub fn change(&self) -> Changing<'_> {
        self.begun.fetch_add(1, SeqCst);
        let since = Instant::now();
        Changing {
            freshness: self,
            since,
        }
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
        let taken = self.stamp.compare_exchange(known, now, SeqCst, SeqCst);
        let moved = taken.is_ok() && known != 0;
        if moved {
            self.contended.store(true, SeqCst);
        }
        moved
    }

    /// Takes `now` for the new stamp; true when it is the old one and that was never in doubt.
    pub fn renew(&self, now: u64) -> bool {
        let mixed = self.mixed.swap(false, SeqCst);
        self.stamp.swap(now, SeqCst) == now && !mixed && !self.in_doubt()
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
        changing.led_to(2);
        drop(changing);
        assert!(!fresh.differs(2));
        assert!(fresh.renew(2));
        assert!(!fresh.renew(3));
    }

    #[test]
    fn where_others_write_too_our_own_changes_are_not_trusted() {
        let fresh = Freshness::new(1);
        assert!(fresh.differs(2));
        fresh.change().led_to(3);
        assert_eq!((fresh.stamp(), fresh.renew(3)), (0, false));
        assert!(fresh.renew(3), "the cache is a new one since");
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
    fn a_write_past_the_cache_finds_what_was_filled_before_it_once() {
        let fresh = Freshness::new(1);
        assert!(!fresh.was_bypassed());
        fresh.fill();
        assert!(fresh.was_bypassed());
        assert!(!fresh.was_bypassed());
    }

    #[test]
    fn a_foreign_change_before_our_own_is_seen_from_within() {
        let fresh = Freshness::new(1);
        let _changing = fresh.change();
        assert!(fresh.differs_but_for_one(2));
    }
}
