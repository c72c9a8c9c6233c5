//! The node table, with inodes made of a number and a life.

use super::*;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Life {
    number: u64,
    life: u32,
}

impl Place for Life {
    type Key = u64;

    fn key(&self) -> u64 {
        self.number
    }

    fn generation(&self) -> u32 {
        self.life
    }
}

const FIRST: Life = Life { number: 7, life: 1 };
const SECOND: Life = Life { number: 7, life: 2 };

fn table() -> NodeTable<Life> {
    let root = Life {
        number: ROOT,
        life: 0,
    };
    NodeTable::new(root, Numbers::new(Some))
}

fn remember(table: &NodeTable<Life>, life: Life, seen: Seen) -> Option<u64> {
    table.remember(life, seen, 0)
}

#[test]
fn an_inode_is_forgotten_with_its_last_lookup() {
    let table = table();
    assert_eq!(remember(&table, FIRST, Seen::Held), Some(7));
    assert_eq!(remember(&table, FIRST, Seen::Held), Some(7));
    table.count(7);
    assert!(table.forget(7, 2).is_none());
    assert_eq!(table.get(7), Ok(FIRST));
    let gone = table.forget(7, 1).expect("the last one");
    assert_eq!((gone.place, gone.trim), (FIRST, false));
    assert_eq!(table.get(7), Err(Errno::STALE));
    assert!(table.forget(7, 1).is_none(), "it is not known any more");
}

/// The kernel may have come to know another inode of its number.
#[test]
fn an_inode_is_let_go_in_its_own_life_and_unless_it_is_needed() {
    let table = table();
    remember(&table, SECOND, Seen::Held);
    remember(&table, SECOND, Seen::Held);
    assert!(!table.forget_unless(&FIRST, || false));
    assert!(!table.forget_unless(&SECOND, || true));
    assert_eq!(table.remembered(&SECOND), Some(SECOND));
    assert!(table.forget_unless(&SECOND, || false));
    assert_eq!((table.remembered(&SECOND), table.population()), (None, 1));
}

#[test]
fn another_life_of_a_number_that_is_known_has_a_node_of_its_own() {
    let table = table();
    remember(&table, FIRST, Seen::Held);
    table.update_cache_state(7, |cache_state| cache_state.closed(5, 0));
    let second = remember(&table, SECOND, Seen::Held).expect("it is held");
    assert_ne!(second, 7);
    assert_eq!((table.get(7), table.get(second)), (Ok(FIRST), Ok(SECOND)));
    assert_eq!((table.number(7), table.shown_number(second)), (second, 7));
    assert_eq!(table.listed_number(7), 7);
    assert_eq!(table.cache_state_of(&SECOND).stamp(), 0);
    assert_eq!(table.remembered(&SECOND), Some(SECOND));
    assert_eq!(remember(&table, SECOND, Seen::NotHeld), Some(second));
    assert!(table.forget(7, 1).is_some(), "the first life");
    assert_eq!(remember(&table, SECOND, Seen::NotHeld), Some(second));
    assert!(table.forget(second, 3).is_some());
    assert_eq!(remember(&table, SECOND, Seen::NotHeld), Some(7));
}

/// The first may be found again after the second: a thread that found it before it lost its last name holds it open.
#[test]
fn an_inode_keeps_its_node_when_its_number_means_another() {
    let table = table();
    remember(&table, FIRST, Seen::Held);
    let second = remember(&table, SECOND, Seen::Held).expect("it is held");
    assert_eq!(remember(&table, FIRST, Seen::Held), Some(7));
    assert_eq!(remember(&table, SECOND, Seen::Held), Some(second));
    assert_eq!(
        (table.number_of(&FIRST), table.number_of(&SECOND)),
        (7, second)
    );
    table.update_cache_state_of(&FIRST, |cache_state| cache_state.closed(5, 0));
    assert_eq!(
        table.cache_state(7).map(|cache_state| cache_state.stamp()),
        Some(5)
    );
    assert_eq!(table.cache_state_of(&FIRST).stamp(), 5);
    assert!(table.forget(7, 1).is_none(), "found twice");
    assert_eq!(table.remembered(&FIRST), Some(FIRST));
    assert!(table.forget(7, 1).is_some());
    assert_eq!(table.remembered(&FIRST), None);
    assert_eq!(remember(&table, FIRST, Seen::Recognized), None);
    assert_eq!(table.number_of(&FIRST), second);
}

#[test]
fn a_life_that_is_over_changes_nothing() {
    let table = table();
    remember(&table, SECOND, Seen::Held);
    table.update(&FIRST, |place| place.life = 9);
    table.update_cache_state_of(&FIRST, |cache_state| cache_state.closed(5, 0));
    assert_eq!(table.get(7), Ok(SECOND));
    assert_eq!(table.cache_state_of(&SECOND).stamp(), 0);
    table.update_cache_state_of(&SECOND, |cache_state| cache_state.closed(5, 0));
    assert_eq!(table.cache_state_of(&SECOND).stamp(), 5);
}

#[test]
fn the_root_is_never_forgotten() {
    let table = table();
    assert!(table.forget(ROOT, u64::MAX).is_none());
    assert!(table.get(ROOT).is_ok());
}

#[test]
fn many_forgotten_inodes_are_worth_a_trim() {
    let table = table();
    let numbers = 2..2 + TRIM_AFTER as u64;
    let trims = numbers.filter(|&number| {
        remember(&table, Life { number, life: 0 }, Seen::Held);
        table.forget(number, 1).expect("one lookup").trim
    });
    assert_eq!(trims.count(), 1);
    table.trim();
}

#[test]
fn an_inode_that_is_not_held_replaces_no_other_life() {
    let table = table();
    assert_eq!(remember(&table, FIRST, Seen::Recognized), None, "forgotten");
    assert_eq!(remember(&table, FIRST, Seen::NotHeld), Some(7));
    assert_eq!(remember(&table, SECOND, Seen::NotHeld), None);
    assert_eq!(remember(&table, SECOND, Seen::Recognized), None);
    assert_eq!(table.remembered(&FIRST), Some(FIRST));
    assert_eq!(table.remembered(&SECOND), None);
    assert_eq!(remember(&table, FIRST, Seen::Recognized), Some(7));
    assert!(table.forget(7, 1).is_none());
    assert!(table.forget(7, 1).is_some(), "two lookups were counted");
}
