//! The state of the kernel's cache of one node, kept until the kernel forgets the node.

use rustix::param::page_size;
use std::time::Duration;

/// The state of the kernel's cache of one node. The node table keeps one for each node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Belief {
    /// The change stamp for which the kernel's pages and attributes of a file, or its listing of a directory, are valid. 0:
    /// they are not valid. Attributes that were sent later may be newer.
    stamp: u64,
    /// How many of a file's first pages the kernel may have.
    pages: u32,
    /// When a directory was last listed to its end, in milliseconds of the cache's clock.
    listed: u32,
}

impl Belief {
    /// The state of a node that the kernel learns of now. `stamp` is the file's, or 0 for other inodes. The kernel has no pages
    /// of it yet, so its pages are valid for any stamp.
    pub fn of_new(stamp: u64) -> Self {
        Belief {
            stamp,
            ..Belief::default()
        }
    }

    /// The kernel is sent attributes of a file it knows, with `stamp` (0 for other inodes). If it was sent another stamp
    /// before, the state is unknown, because replies may overtake each other.
    pub fn told(&mut self, stamp: u64) {
        if stamp != 0 && self.stamp != stamp {
            self.stamp = 0;
        }
    }

    /// The stamp for which the kernel's pages and attributes are valid. 0: they are not valid.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// How many of the file's first bytes the kernel may have.
    pub(super) fn reach(&self) -> u64 {
        u64::from(self.pages) * page_size() as u64
    }

    /// The file was closed. The kernel's pages are valid for `stamp` (0: not valid), and it may have those of the first `reach`
    /// bytes.
    pub fn closed(&mut self, stamp: u64, reach: u64) {
        self.stamp = stamp;
        let pages = reach.div_ceil(page_size() as u64);
        self.pages = u32::try_from(pages).unwrap_or(u32::MAX);
    }

    /// mmfs changed a file that is not open, but not its bytes. The change moved the stamp.
    pub fn moved_by_us(&mut self, before: u64, after: u64) {
        if self.stamp == before {
            self.stamp = after;
        }
    }

    pub(super) fn listed(&mut self, stamp: u64, now: u32) {
        (self.stamp, self.listed) = (stamp, now);
    }

    pub(super) fn is_listing_valid(&self, stamp: u64, now: u32, timeout: Duration) -> bool {
        let age = Duration::from_millis(now.wrapping_sub(self.listed).into());
        self.stamp == stamp && age < timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_valid_for_a_while_and_as_long_as_nothing_changes() {
        let mut belief = Belief::default();
        belief.listed(7, 1000);
        let second = Duration::from_secs(1);
        assert!(belief.is_listing_valid(7, 1999, second));
        assert!(!belief.is_listing_valid(7, 2000, second), "too old");
        assert!(!belief.is_listing_valid(8, 1500, second), "changed");
    }

    #[test]
    fn pages_count_whole() {
        let mut belief = Belief::default();
        belief.closed(1, page_size() as u64 + 1);
        assert_eq!(belief.reach(), 2 * page_size() as u64);
    }

    #[test]
    fn what_was_told_differently_is_not_known() {
        let mut belief = Belief::of_new(7);
        belief.told(7);
        assert_eq!(belief.stamp(), 7);
        belief.told(8);
        assert_eq!(belief.stamp(), 0);
        let mut directory = Belief::of_new(0);
        directory.listed(7, 1000);
        directory.told(0);
        assert_eq!(directory.stamp(), 7, "its listing");
    }

    #[test]
    fn only_our_own_change_moves_a_valid_stamp() {
        let mut belief = Belief::default();
        belief.closed(1, 0);
        belief.moved_by_us(1, 2);
        assert_eq!(belief.stamp(), 2);
        belief.moved_by_us(1, 3);
        assert_eq!(belief.stamp(), 2, "somebody else has changed it before");
    }
}
