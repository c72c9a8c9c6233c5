//! Which changes of a file are noticed, and which parts of its cache an open keeps.

use super::*;
use crate::cache::kernel_cache::Timeouts;

/// A cache that is valid for stamp 1.
fn cache() -> Arc<FileCache> {
    let (attr, entry) = (Duration::ZERO, Duration::ZERO);
    let mut cache_state = CacheState::default();
    cache_state.closed(1, 0);
    FileCache::new(7, cache_state, KernelCache::new(Timeouts { attr, entry }))
}

fn stale_marks(file: &FileCache) -> u64 {
    file.stale_marks.load(SeqCst)
}

#[test]
fn a_change_behind_the_mount_is_noticed_once() {
    let file = cache();
    file.seen(1, file.changes());
    assert_eq!(stale_marks(&file), 0);
    file.seen(2, file.changes());
    file.seen(2, file.changes());
    assert_eq!(stale_marks(&file), 1);
}

#[test]
fn a_change_by_mmfs_is_not_taken_for_one_behind_the_mount() {
    let file = cache();
    let changing = file.change();
    file.seen(2, file.changes());
    assert_eq!(stale_marks(&file), 0, "nothing can be told meanwhile");
    changing.led_to(2);
    drop(changing);
    file.seen(2, file.changes());
    assert_eq!(stale_marks(&file), 0);
    assert_eq!(file.before_open((2, 0), false, || None), MayKeep::All);
    assert_eq!(file.before_open((2, 0), true, || None), MayKeep::Attributes);
    assert_eq!(file.before_open((3, 0), true, || None), MayKeep::Nothing);
}

#[test]
fn a_change_by_mmfs_is_not_trusted_where_others_write() {
    let file = cache();
    file.seen(2, file.changes());
    file.dropped(1);
    file.change().led_to(3);
    assert_eq!(file.stamp(), 0);
    assert_eq!(file.before_open((3, 0), false, || None), MayKeep::Nothing);
    assert_eq!(file.stamp(), 3, "the cache is a new one since");
}

#[test]
fn nothing_is_kept_while_it_is_stale() {
    let file = cache();
    file.mark_stale();
    file.mark_stale();
    file.dropped(1);
    assert_eq!(file.stamp(), 0);
    file.dropped(2);
    file.dropped(1);
    assert_eq!(file.stamp(), 1);
    assert_eq!(file.before_open((1, 0), false, || None), MayKeep::All);
}

#[test]
fn an_open_ends_all_stale_marks() {
    let file = cache();
    file.seen(2, file.changes());
    file.mark_stale();
    assert_eq!(file.before_open((2, 0), false, || None), MayKeep::Nothing);
    assert_eq!(file.stamp(), 2);
    file.dropped(2);
    assert_eq!(file.stamp(), 2);
    file.seen(3, file.changes());
    assert_eq!(file.before_open((3, 0), false, || None), MayKeep::Nothing);
}

#[test]
fn an_open_while_pages_are_dropped_keeps_attributes_only() {
    let file = cache();
    assert_eq!(file.before_open((2, 0), false, || None), MayKeep::Nothing);
    assert_eq!(
        file.before_open((2, 0), false, || None),
        MayKeep::Attributes
    );
    let long_ago = file.kernel.now().wrapping_sub(2000);
    file.reopened.store(long_ago, SeqCst);
    assert_eq!(file.before_open((2, 0), false, || None), MayKeep::All);
}

#[test]
fn a_write_that_bypasses_the_cache_marks_it_stale_once() {
    let file = cache();
    file.bypassed();
    assert_eq!(stale_marks(&file), 0);
    file.reading(1, true);
    file.bypassed();
    assert_eq!(stale_marks(&file), 0);
    file.reading(1, false);
    file.bypassed();
    file.bypassed();
    assert_eq!(stale_marks(&file), 1);
}

#[test]
fn a_change_behind_the_mount_before_one_by_mmfs_is_noticed() {
    let file = cache();
    file.change().began_at(2);
    assert_eq!(stale_marks(&file), 1);
}

#[test]
fn a_passed_through_file_is_checked_at_open_only() {
    let file = cache();
    file.passed_through();
    file.seen(2, file.changes());
    assert_eq!((stale_marks(&file), file.stamp()), (0, 1));
    assert_eq!(file.before_open((2, 0), false, || None), MayKeep::Nothing);
    assert_eq!(file.stamp(), 2);
}

/// The range that is read from the source when the kernel is sent the length `size`.
fn shown(file: &FileCache, check: LengthCheck, size: u64) -> Option<Range<u64>> {
    let mut shown = None;
    file.end_length_check(check, size, |range| {
        shown = Some(range);
        Vec::new()
    });
    shown
}

#[test]
fn growth_exposes_the_rest_of_a_page_that_the_kernel_may_have() {
    let (file, page) = (cache(), page_size() as u64);
    assert!(
        file.exposed(&(100..200)).is_empty(),
        "nobody has asked for it"
    );
    file.reading(page, true);
    assert_eq!(file.exposed(&(100..200)), 100..200);
    assert_eq!(file.exposed(&(100..10 * page)), 100..page);
    assert!(file.exposed(&(page..2 * page)).is_empty());
    assert!(file.exposed(&(page + 100..2 * page)).is_empty());
    file.resized(2 * page, page + 100);
    assert_eq!(file.exposed(&(page + 100..2 * page)), page + 100..2 * page);
}

#[test]
fn growth_behind_the_mount_is_shown_once() {
    let file = cache();
    assert_eq!(file.before_open((2, 100), false, || None), MayKeep::Nothing);
    file.reading(page_size() as u64, false);
    assert_eq!(
        shown(&file, file.begin_length_check(), 150),
        None,
        "nobody can store"
    );
    let _storing = file.kernel.opened_to_store(7);
    assert_eq!(shown(&file, file.begin_length_check(), 200), Some(150..200));
    assert_eq!(shown(&file, file.begin_length_check(), 200), None);
    assert_eq!(shown(&file, file.begin_length_check(), 50), None);
    assert_eq!(shown(&file, file.begin_length_check(), 60), Some(50..60));
}

#[test]
fn growth_by_mmfs_is_not_taken_for_growth_behind_the_mount() {
    let file = cache();
    file.before_open((1, 100), false, || None);
    file.reading(page_size() as u64, false);
    let _storing = file.kernel.opened_to_store(7);
    let before = file.begin_length_check();
    let changing = file.change();
    let meanwhile = file.begin_length_check();
    file.resized(100, 200);
    drop(changing);
    assert_eq!(shown(&file, before, 150), None);
    assert_eq!(shown(&file, meanwhile, 150), None);
    assert_eq!(shown(&file, file.begin_length_check(), 200), None);
}

#[test]
fn a_write_is_known_to_be_no_append_while_nobody_else_changes_the_length() {
    let file = cache();
    assert!(file.is_append(3, 10), "not yet known");
    file.before_open((1, 10), false, || None);
    assert!(file.is_append(10, 10) && !file.is_append(3, 10) && !file.is_append(11, 10));
    file.wrote(true, 20, (10, 20));
    file.wrote(false, 30, (20, 30));
    file.altered(30, 30);
    assert!(file.is_append(30, 30) && !file.is_append(3, 30));
    file.altered(30, 40);
    assert!(file.is_append(30, 40), "somebody else may have written");
    file.set_length(25);
    assert!(file.is_append(25, 25) && !file.is_append(3, 25));
    file.wrote(true, 35, (26, 36));
    assert!(file.is_append(3, 36), "somebody else has written");
    file.wrote(true, 46, (36, 46));
    assert!(!file.is_append(3, 46));
    file.seen(2, file.changes());
    assert!(file.is_append(3, 46));
    file.before_open((2, 46), false, || None);
    assert!(file.is_append(3, 46), "it may have sent a write before");
}

/// Dropping the attributes again would make the kernel ignore those that the client of the later open asks for.
#[test]
fn an_open_with_an_older_stamp_keeps_that_of_a_later_one() {
    let file = cache();
    let changes = file.changes();
    assert_eq!(file.before_open((3, 0), false, || None), MayKeep::Nothing);
    let later = || Some(3);
    assert_eq!(file.before_open((2, 0), false, later), MayKeep::Attributes);
    assert_eq!(file.stamp(), 3);
    file.seen(2, changes);
    assert_eq!((stale_marks(&file), file.stamp()), (0, 3));
}

#[test]
fn a_stamp_seen_before_a_change_by_mmfs_is_ignored_after_it() {
    let file = cache();
    let changing = file.change();
    let changes = file.changes(); // A read begins, and finds the old stamp.
    changing.led_to(2);
    drop(changing);
    file.seen(1, changes);
    assert_eq!((stale_marks(&file), file.stamp()), (0, 2));
}

/// The reply to the read may reach the kernel after the open had its page dropped.
#[test]
fn a_shorter_file_has_its_pages_dropped_after_an_open_too() {
    let file = cache();
    let changes = file.changes();
    file.before_open((3, 0), false, || None);
    file.seen_before(2, changes, true);
    assert_eq!(stale_marks(&file), 1);
}

#[test]
fn a_change_by_mmfs_during_an_open_is_not_trusted() {
    let file = cache();
    let changing = file.change();
    file.before_open((3, 0), false, || None);
    changing.began_at(4);
    changing.led_to(5);
    drop(changing);
    assert_eq!(file.stamp(), 0);
}

#[test]
fn an_open_ends_the_request_to_drop_pages() {
    let file = cache();
    file.seen(2, file.changes());
    assert!(file.is_waiting(1));
    file.before_open((2, 0), false, || None);
    assert!(!file.is_waiting(1));
    file.mark_stale();
    assert!(file.is_waiting(2));
}
