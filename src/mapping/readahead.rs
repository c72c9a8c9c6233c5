//! What a reader will want next.
//!
//! Windows are mapped without read-ahead of the kernel's own (see `Window::map`). A reader that goes through
//! the file in order is read ahead for, as far as it has come; one that jumps about gets what it asks for, in
//! one piece.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The farthest that is read ahead, in bytes.
const FARTHEST: u64 = 16 << 20;

/// How many of its requests a reader in order is read ahead for at least.
const REQUESTS: u64 = 4;

/// Requests of one sequential reader overtake each other by less than this, in bytes.
const DISORDER: u64 = 1 << 20;

/// How one handle has been read so far.
#[derive(Debug, Default)]
pub struct ReadPattern {
    started: AtomicBool,
    /// Where reading in order began.
    begin: AtomicU64,
    /// Where the last request ended.
    end: AtomicU64,
    /// How far reading ahead has got.
    ahead: AtomicU64,
}

impl ReadPattern {
    /// Whether this is the first read.
    pub fn is_first(&self) -> bool {
        !self.started.load(Relaxed) && !self.started.swap(true, Relaxed)
    }

    /// Whether a read at `offset` is far from where the last one ended.
    pub fn jumps_to(&self, offset: u64) -> bool {
        self.end.load(Relaxed).abs_diff(offset) > DISORDER
    }

    /// Notes a read of `len` bytes and says which range to fetch now.
    pub fn fetch(&self, offset: u64, len: usize) -> Option<Range<u64>> {
        let (len, end) = (len as u64, offset.saturating_add(len as u64));
        let before = self.end.swap(end, Relaxed);
        let page = rustix::param::page_size() as u64;
        if before.abs_diff(offset) > DISORDER {
            self.begin.store(offset, Relaxed);
            self.ahead.store(end, Relaxed);
            return (len > page).then_some(offset..end);
        }
        let come = end.saturating_sub(self.begin.load(Relaxed));
        let distance = come.max(REQUESTS * len).min(FARTHEST);
        let ahead = self.ahead.load(Relaxed).min(end.saturating_add(FARTHEST));
        if end.saturating_add(distance / 2) <= ahead {
            return None;
        }
        let goal = end.saturating_add(distance);
        self.ahead.store(goal, Relaxed);
        Some(ahead.max(offset)..goal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn a_sequential_reader_is_read_ahead_for_and_asked_seldom() {
        let pattern = ReadPattern::default();
        assert!(pattern.is_first() && !pattern.is_first());
        let fetched: Vec<_> = (0..64)
            .filter_map(|k| pattern.fetch(k * MB, MB as usize))
            .collect();
        assert_eq!(fetched[0], 0..5 * MB);
        assert!(fetched.len() <= 20, "{fetched:?}");
        assert!(
            fetched.last().is_some_and(|range| range.end >= 72 * MB),
            "{fetched:?}"
        );
        assert!(
            fetched.windows(2).all(|two| two[0].end == two[1].start),
            "no gap, nothing twice: {fetched:?}"
        );
    }

    #[test]
    fn a_random_reader_gets_what_it_asks_for() {
        let pattern = ReadPattern::default();
        pattern.fetch(0, 4096);
        assert_eq!(
            pattern.fetch(900 * MB, 65_536),
            Some(900 * MB..900 * MB + 65_536)
        );
        assert_eq!(
            pattern.fetch(100 * MB, 4096),
            None,
            "a single page is the fault's own business"
        );
    }

    #[test]
    fn the_end_of_the_address_space_is_no_trap() {
        let pattern = ReadPattern::default();
        assert!(
            pattern
                .fetch(u64::MAX - 5, 4096)
                .is_none_or(|range| range.start <= range.end)
        );
    }
}
