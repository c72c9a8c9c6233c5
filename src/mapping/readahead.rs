//! Read-ahead.
//!
//! Windows are mapped without the kernel's own read-ahead (see `Window::map`). For a reader in order, mmfs reads ahead, farther
//! the farther it has read. For a reader that jumps, mmfs fetches each request in one piece.

use super::sequence::InSequence;
use crate::sys::page_cache::cached_pages;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The maximum distance to read ahead, in bytes.
const MAX_READ_AHEAD: u64 = 16 << 20;

/// The minimum distance to read ahead for a reader in order, in requests.
const MIN_REQUESTS_AHEAD: u64 = 4;

/// How far apart the requests of one reader in order may arrive, in lengths of the request,
const DISORDER_REQUESTS: u64 = 8;

/// and the limits of that in bytes.
const MIN_DISORDER: u64 = 128 << 10;
const MAX_DISORDER: u64 = 1 << 20;

/// Whether all of `range` is in the page cache. Asking costs a tenth of the advice, which looks up every page. Without an
/// answer from the kernel, mmfs gives the advice.
pub fn is_cached(fd: BorrowedFd<'_>, range: Range<u64>) -> bool {
    if range.is_empty() {
        return true;
    }
    let page = rustix::param::page_size() as u64;
    let pages = range.end.div_ceil(page) - range.start / page;
    cached_pages(fd, &range).is_ok_and(|cached| cached >= pages)
}

/// Whether a request of `len` bytes at `offset` does not follow one that ended at `end`.
fn is_jump(end: u64, offset: u64, len: u64) -> bool {
    let disorder = len.saturating_mul(DISORDER_REQUESTS);
    end.abs_diff(offset) > disorder.clamp(MIN_DISORDER, MAX_DISORDER)
}

/// The pattern of reads through one handle.
#[derive(Debug, Default)]
pub struct ReadPattern {
    started: AtomicBool,
    /// Where the reader in order began.
    begin: AtomicU64,
    /// Where the last request ended.
    end: AtomicU64,
    /// Where the range already read ahead ends.
    ahead: AtomicU64,
    /// For a file without positions.
    pub(super) in_sequence: InSequence,
}

impl ReadPattern {
    /// Whether this is the first read.
    pub fn is_first(&self) -> bool {
        !self.started.load(Relaxed) && !self.started.swap(true, Relaxed)
    }

    /// Whether there was a read before.
    pub fn has_begun(&self) -> bool {
        self.started.load(Relaxed)
    }

    /// Whether a read of `len` bytes at `offset` is far from where the last one ended.
    pub fn jumps_to(&self, offset: u64, len: usize) -> bool {
        is_jump(self.end.load(Relaxed), offset, len as u64)
    }

    /// Notes a read of `len` bytes. Returns the range to fetch now.
    pub fn fetch(&self, offset: u64, len: usize) -> Option<Range<u64>> {
        let (len, end) = (len as u64, offset.saturating_add(len as u64));
        let before = self.end.swap(end, Relaxed);
        let page = rustix::param::page_size() as u64;
        if is_jump(before, offset, len) {
            self.begin.store(offset, Relaxed);
            self.ahead.store(end, Relaxed);
            return (len > page).then_some(offset..end);
        }
        let come = end.saturating_sub(self.begin.load(Relaxed));
        let distance = come.max(MIN_REQUESTS_AHEAD * len).min(MAX_READ_AHEAD);
        let ahead = self
            .ahead
            .load(Relaxed)
            .min(end.saturating_add(MAX_READ_AHEAD));
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
    use std::os::fd::AsFd;

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
    fn a_reader_of_single_pages_in_a_small_file_is_not_taken_for_one_in_order() {
        let pattern = ReadPattern::default();
        pattern.fetch(8 * MB, 4096);
        assert_eq!(pattern.fetch(8 * MB + 512 * 1024, 4096), None);
        assert!(pattern.fetch(8 * MB + 520 * 1024, 4096).is_some());
    }

    #[test]
    fn a_file_is_cached_once_it_was_written_and_not_beyond_its_end() {
        let file = tempfile::tempfile_in(std::env::current_dir().unwrap()).unwrap();
        let end = 10_000;
        rustix::io::pwrite(&file, &vec![1; end as usize], 0).unwrap();
        const WITHOUT_A_DEVICE: [u64; 2] = [0x0102_1994, 0x794c_7630]; // tmpfs, overlayfs
        let kind = rustix::fs::fstatfs(&file).unwrap().f_type as u64;
        match cached_pages(&file, &(0..1)) {
            // Before Linux 6.5, or forbidden by a seccomp filter.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => return,
            _ if WITHOUT_A_DEVICE.contains(&kind) => return,
            outcome => assert_eq!(outcome, Ok(1)),
        }
        assert!(is_cached(file.as_fd(), 4096..end));
        assert!(is_cached(file.as_fd(), 20_000..end), "an empty range");
        assert!(!is_cached(file.as_fd(), 4096..40_000));
        rustix::fs::fsync(&file).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert!(!is_cached(file.as_fd(), 4096..end));
    }

    #[test]
    fn offsets_near_the_maximum_do_not_overflow() {
        let pattern = ReadPattern::default();
        assert!(
            pattern
                .fetch(u64::MAX - 5, 4096)
                .is_none_or(|range| range.start <= range.end)
        );
    }
}
