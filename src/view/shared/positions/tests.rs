//! Tests of positions.

use super::*;
use crate::source::Kind;
use crate::view::shared::node::Key;
use rustix::fs::FileType;

/// A large position, as ext4 has them.
const HASH: u64 = 0x1234_5678_9abc_def0;

fn life(ino: u64) -> Life {
    Life {
        key: Key { source: 0, ino },
        life: 0,
        kind: Kind::Source(FileType::Directory),
    }
}

fn shown(positions: &Positions, of_source: &[u64]) -> Vec<u64> {
    let mut showing = positions.showing();
    of_source.iter().map(|p| showing.shown(*p)).collect()
}

fn kept(tables: &PositionTables) -> usize {
    tables.kept.lock().directories.len()
}

#[test]
fn small_positions_are_shown_as_they_are() {
    let positions = Positions::new(1);
    let small = [0, 1, 512, NUMBERS - 1];
    assert_eq!(shown(&positions, &small), small);
    assert_eq!((positions.mark(), positions.len()), (0, 0));
    assert!(small.iter().all(|p| positions.of_source(*p) == *p));
}

#[test]
fn large_positions_are_numbered_once_and_found_again_in_any_order() {
    let positions = Positions::new(1);
    let first: Vec<u64> = (0..1000).map(|n| HASH + 3 * n).collect();
    let numbers = shown(&positions, &first);
    assert!(numbers.iter().all(|n| (NUMBERS..TOO_LARGE).contains(n)));
    // More positions lie between them, as in a directory that changes. They are listed in descending order.
    let more: Vec<u64> = (0..1500).rev().map(|n| HASH + 2 * n).collect();
    let more_numbers = shown(&positions, &more);
    for (p, n) in first
        .iter()
        .chain(&more)
        .zip(numbers.iter().chain(&more_numbers))
    {
        assert_eq!(positions.of_source(*n), *p);
    }
    assert_eq!(shown(&positions, &first), numbers);
    assert_eq!(shown(&positions, &more), more_numbers);
    let all: std::collections::HashSet<_> = first.iter().chain(&more).collect();
    assert_eq!(positions.len(), all.len(), "each has one number");
    assert_ne!(positions.mark(), Positions::new(2).mark());
}

#[test]
fn what_is_not_too_large_is_numbered_even_when_there_are_too_many() {
    let positions = Positions::new(1);
    let full: Vec<u64> = (0..MAX_NUMBERED as u64).map(|n| HASH + n).collect();
    shown(&positions, &full);
    let more = [HASH - 1, NUMBERS + 7];
    let found = shown(&positions, &more);
    assert_eq!(found[0], HASH - 1, "as it is");
    assert!((NUMBERS..TOO_LARGE).contains(&found[1]));
    assert!(
        found
            .iter()
            .zip(more)
            .all(|(s, p)| positions.of_source(*s) == p)
    );
    assert_eq!(
        positions.of_source(TOO_LARGE - 1),
        TOO_LARGE - 1,
        "never shown"
    );
}

#[test]
fn the_streams_of_a_directory_share_positions_that_are_kept_until_it_is_forgotten() {
    let tables = Arc::new(PositionTables::default());
    let (first, closing) = tables.open(life(1));
    let (second, second_closing) = tables.open(life(1));
    let numbers = shown(&first, &[HASH]);
    assert_eq!(shown(&second, &[HASH]), numbers);
    drop((first, closing));
    tables.forget(&life(1));
    assert_eq!(kept(&tables), 1, "somebody has it open");
    drop((second, second_closing));
    let (again, closing) = tables.open(life(1));
    assert_eq!(again.of_source(numbers[0]), HASH);
    drop((again, closing));
    tables.forget(&life(1));
    let size = tables.kept.lock().size;
    assert_eq!((kept(&tables), size), (0, 0));
}

#[test]
fn of_directories_without_large_positions_nothing_is_kept() {
    let tables = Arc::new(PositionTables::default());
    let (positions, closing) = tables.open(life(1));
    shown(&positions, &[1, 2, 3]);
    drop((positions, closing));
    assert_eq!(kept(&tables), 0);
}

#[test]
fn the_number_of_kept_positions_is_bounded() {
    let tables = Arc::new(PositionTables::default());
    let (open, still_open) = tables.open(life(0));
    shown(&open, &[HASH]);
    let many: Vec<u64> = (0..MAX_KEPT as u64 / 4).map(|n| HASH + n).collect();
    for ino in 1..20 {
        let (positions, closing) = tables.open(life(ino));
        shown(&positions, &many);
        drop((positions, closing));
    }
    let size = tables.kept.lock().size;
    let open_still = tables.open(life(0));
    assert!(size <= MAX_KEPT && size > MAX_KEPT / 2, "{size}");
    assert_eq!(open_still.0.of_source(NUMBERS), HASH);
    drop((open_still, open, still_open));
    assert_eq!(kept(&tables), 4, "three, and the one that was open");
    tables.trim();
    assert!(tables.kept.lock().closed.len() <= 4);
}
