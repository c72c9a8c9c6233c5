//! The state of the kernel's cache of one node, kept until the kernel forgets the node.

use rustix::param::page_size;
use std::time::Duration;

/// The state of the kernel's cache of one node. The node table keeps one for each node.
#[derive(Debug, Clone, Copy, Default)]
pub struct CacheState {
    /// The change stamp for which the kernel's pages and attributes of a file, or its listing of a directory, are valid. 0:
    /// they are not valid. Attributes that were sent later may be newer.
    stamp: u64,
    /// How many of a file's first pages the kernel may have.
    pages: u32,
    /// When a directory was last listed to its end, in milliseconds of the cache's clock.
    listed: u32,
}

impl CacheState {
    /// The state of a node that the kernel learns of now. `stamp` is the file's, or 0 for other inodes. The kernel has no pages
    /// of it yet, so its pages are valid for any stamp.
    pub fn of_new(stamp: u64) -> Self {
        CacheState {
            stamp,
            ..CacheState::default()
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
    pub fn stamp_moved(&mut self, before: u64, after: u64) {
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
        let mut cache_state = CacheState::default();
        cache_state.listed(7, 1000);
        let second = Duration::from_secs(1);
        assert!(cache_state.is_listing_valid(7, 1999, second));
        assert!(!cache_state.is_listing_valid(7, 2000, second), "too old");
        assert!(!cache_state.is_listing_valid(8, 1500, second), "changed");
    }

    #[test]
    fn pages_count_whole() {
        let mut cache_state = CacheState::default();
        cache_state.closed(1, page_size() as u64 + 1);
        assert_eq!(cache_state.reach(), 2 * page_size() as u64);
    }

    #[test]
    fn attributes_sent_with_two_stamps_make_the_state_unknown() {
        let mut cache_state = CacheState::of_new(7);
        cache_state.told(7);
        assert_eq!(cache_state.stamp(), 7);
        cache_state.told(8);
        assert_eq!(cache_state.stamp(), 0);
        let mut directory = CacheState::of_new(0);
        directory.listed(7, 1000);
        directory.told(0);
        assert_eq!(directory.stamp(), 7, "its listing");
    }

    #[test]
    fn only_a_change_by_mmfs_moves_a_valid_stamp() {
        let mut cache_state = CacheState::default();
        cache_state.closed(1, 0);
        cache_state.stamp_moved(1, 2);
        assert_eq!(cache_state.stamp(), 2);
        cache_state.stamp_moved(1, 3);
        assert_eq!(
            cache_state.stamp(),
            2,
            "somebody else has changed it before"
        );
    }
}
