mod base;

use super::*;
use crate::mapping::geometry::Geometry;
use crate::mapping::guard;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

pub(in crate::mapping) const W: u64 = 64 << 10;
pub(in crate::mapping) const O: u64 = 16 << 10;
const FULL: u64 = W + O;
pub(in crate::mapping) const PAGE: u64 = 4096;

pub(in crate::mapping) fn space(windows: u64) -> Arc<AddressSpace> {
    AddressSpace::with_limits(
        windows * FULL,
        u64::MAX,
        Geometry {
            window: W,
            overlap: O,
        },
    )
}

pub(in crate::mapping) fn new_set(space: &Arc<AddressSpace>) -> Arc<WindowSet> {
    WindowSet::new(space, guard::install().unwrap(), BaseOffset::ZERO)
}

/// The byte that `patterned` files have at `offset`.
fn byte(offset: u64) -> u8 {
    (offset % 251) as u8
}

fn patterned(len: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..len).map(byte).collect();
    file.write_all_at(&bytes, 0).unwrap();
    file
}

pub(in crate::mapping) fn sparse(len: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file
}

fn read(set: &WindowSet, file: &File, offset: u64, len: u64) -> Vec<u8> {
    let file_len = file.metadata().unwrap().len();
    let loan = set
        .borrow(file.as_fd(), offset, len as usize, file_len)
        .unwrap();
    let mut bytes = vec![0; loan.len()];
    loan.read(&mut bytes).unwrap();
    bytes
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Errno {
    Errno::from_io_error(&result.unwrap_err()).unwrap()
}

#[test]
fn every_edge_reads_what_the_file_holds() {
    for len in [
        1,
        PAGE - 1,
        PAGE,
        PAGE + 1,
        W - 1,
        W,
        W + 1,
        FULL - 1,
        FULL,
        FULL + 1,
        3 * W + 5,
    ] {
        let (file, space) = (patterned(len), space(64));
        let set = new_set(&space);
        let edges = [0, PAGE, W, FULL, 2 * W, len]
            .into_iter()
            .flat_map(|edge| [edge.saturating_sub(1), edge, edge + 1]);
        for offset in edges.filter(|&offset| offset < len) {
            for size in [1, PAGE, O - 1, O] {
                let size = size.min(len - offset);
                let expected: Vec<u8> = (offset..offset + size).map(byte).collect();
                assert!(
                    read(&set, &file, offset, size) == expected,
                    "{len}: {offset}+{size}"
                );
                let loan = set
                    .borrow(file.as_fd(), offset, size as usize, len)
                    .unwrap();
                // The test loads the bytes itself: nobody truncates this file.
                assert!(loan.with_bytes(|bytes| bytes == expected));
            }
        }
        assert_eq!(set.window_count() as u64, len.div_ceil(W));
        assert_eq!(set.mapped_bytes(), space.used());
        drop(set);
        assert_eq!((space.used(), space.windows()), (0, 0));
    }
}

#[test]
fn ranges_outside_the_file_or_too_long_are_refused() {
    let (file, space) = (patterned(10), space(4));
    let set = new_set(&space);
    for (offset, len, file_len) in [
        (0, 0, 0),
        (0, 1, 0),
        (0, 0, 10),
        (10, 1, 10),
        (9, 2, 10),
        (u64::MAX, 1, 10),
        (0, O as usize + 1, W),
    ] {
        assert_eq!(
            errno(set.borrow(file.as_fd(), offset, len, file_len)),
            Errno::INVAL,
            "{offset} {len} {file_len}"
        );
    }
    assert_eq!(space.used(), 0);
}

#[test]
fn writes_reach_the_file_and_need_a_writable_descriptor() {
    let named = tempfile::NamedTempFile::new().unwrap();
    let file = named.as_file();
    file.set_len(W + PAGE).unwrap();
    let set = new_set(&space(4));
    for offset in [0, PAGE - 1, W - 2, W + PAGE - 3] {
        let loan = set.borrow(file.as_fd(), offset, 3, W + PAGE).unwrap();
        loan.write(b"abc").unwrap();
        let mut got = [0; 3];
        file.read_exact_at(&mut got, offset).unwrap();
        assert_eq!(&got, b"abc");
    }
    set.protect();
    assert_eq!(set.window_count(), 2);
    set.borrow(file.as_fd(), 0, 3, W)
        .unwrap()
        .write(b"xyz")
        .unwrap();
    assert_eq!(read(&set, file, 0, 3), b"xyz");

    set.clear();
    let read_only = File::open(named.path()).unwrap();
    let loan = set.borrow(read_only.as_fd(), 0, 3, W).unwrap();
    assert!(
        matches!(loan.write(b"abc"), Err(WriteError::Protect(e)) if Errno::from_io_error(&e) == Some(Errno::ACCESS))
    );
}

#[test]
fn a_file_truncated_behind_a_loan_is_a_fault() {
    let (file, set) = (patterned(2 * PAGE), new_set(&space(4)));
    let loan = set
        .borrow(file.as_fd(), 0, 2 * PAGE as usize, 2 * PAGE)
        .unwrap();
    file.set_len(PAGE).unwrap();
    let bytes = vec![9; 2 * PAGE as usize];
    let failed = loan.write(&bytes).unwrap_err();
    assert!(matches!(failed, WriteError::Fault(_)) && failed.copied() == PAGE as usize);
    assert_eq!(
        loan.read(&mut vec![0; bytes.len()]),
        Err(Fault {
            copied: PAGE as usize
        })
    );
    // As replies do: the kernel loads the bytes, and its call fails.
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 1 << 16).unwrap();
    assert_eq!(
        loan.with_bytes(|bytes| rustix::io::write(&writer, &bytes[PAGE as usize..])),
        Err(Errno::FAULT)
    );
}

#[test]
fn resize_cuts_drops_and_lengthens() {
    let (file, space) = (patterned(4 * W), space(64));
    let set = new_set(&space);
    for index in 0..4 {
        read(&set, &file, index * W, 1);
    }
    for (len, mapped) in [
        (4 * W - 1, 3 * FULL + W),
        (3 * W + 1, 2 * FULL + (W + PAGE) + PAGE),
        (3 * W, 2 * FULL + W),
        (2 * W + O, 2 * FULL + O),
        (W + 1, W + 2 * PAGE),
        (W, W),
        (5, PAGE),
        (0, 0),
    ] {
        file.set_len(len).unwrap();
        set.resize(len);
        assert_eq!(
            (set.mapped_bytes(), space.used()),
            (mapped, mapped),
            "{len}"
        );
    }
    file.set_len(PAGE).unwrap();
    assert_eq!(read(&set, &file, 0, PAGE), vec![0; PAGE as usize]);
    file.set_len(2 * W).unwrap();
    set.resize(2 * W);
    assert_eq!((set.mapped_bytes(), set.window_count()), (FULL, 1));
    assert_eq!(read(&set, &file, W - 1, O), vec![0; O as usize]);
    assert_eq!(set.window_count(), 1);
}

#[test]
fn resize_keeps_what_was_written_and_may_be_written_again() {
    let (file, set) = (sparse(PAGE), new_set(&space(4)));
    set.borrow(file.as_fd(), 0, 1, PAGE)
        .unwrap()
        .write(b"a")
        .unwrap();
    for len in [3 * PAGE, 2 * PAGE, FULL] {
        file.set_len(len).unwrap();
        set.resize(len);
        assert_eq!(read(&set, &file, 0, 1), b"a");
        set.borrow(file.as_fd(), 1, 1, len)
            .unwrap()
            .write(b"b")
            .unwrap();
    }
}

#[test]
fn a_file_growing_by_small_appends_is_remapped_seldom() {
    let (file, space) = (sparse(1), space(4));
    let set = new_set(&space);
    for resized in [false, true] {
        set.clear();
        let mut lengths = Vec::new();
        for len in (1..=W).step_by(512) {
            file.set_len(len).unwrap();
            if resized {
                set.resize(len);
            }
            read(&set, &file, len - 1, 1);
            lengths.push(set.mapped_bytes());
        }
        lengths.dedup();
        assert!(lengths.len() <= 5, "{lengths:?}"); // Pages: 1, 2, 4, 8, 16.
        assert_eq!(set.window_count(), 1);
    }
}

#[test]
fn a_short_window_that_is_borrowed_is_replaced() {
    let (file, space) = (sparse(PAGE), space(4));
    let set = new_set(&space);
    let old = set.borrow(file.as_fd(), 0, 1, PAGE).unwrap();
    old.write(b"a").unwrap();
    file.set_len(W).unwrap();
    assert_eq!(read(&set, &file, W - 1, 1), [0]);
    assert_eq!(
        (set.mapped_bytes(), space.used(), space.windows()),
        (W, W + PAGE, 2)
    );
    old.read(&mut [0]).unwrap();
    drop(old);
    assert_eq!((space.used(), space.windows()), (W, 1));
}

#[test]
fn the_least_recently_used_goes_first_and_borrowed_ones_stay() {
    let (file, other, space) = (patterned(8 * W), sparse(8 * W), space(4));
    let (set, second) = (new_set(&space), new_set(&space));
    let loan = |index: u64| set.borrow(file.as_fd(), index * W, 1, 8 * W);
    let present = || set.table.read().slots.keys().copied().collect::<Vec<_>>();
    for index in 0..4 {
        loan(index).unwrap();
    }
    loan(0).unwrap();
    let held = loan(1).unwrap();
    loan(4).unwrap();
    assert_eq!(present(), [0, 1, 3, 4]);
    // Also over files: windows of another file take the rest, but not a borrowed one.
    for index in 0..7 {
        read(&second, &other, index * W, 1);
    }
    assert_eq!((present(), second.window_count()), (vec![1], 3));
    held.read(&mut [0]).unwrap();
    assert!(held.with_bytes(|bytes| bytes == [byte(W)]));

    let loans: Vec<_> = [0, 2, 3].map(|index| loan(index).unwrap()).into();
    assert_eq!(errno(loan(4)), Errno::NOMEM);
    assert_eq!(errno(second.borrow(other.as_fd(), 0, 1, W)), Errno::NOMEM);
    drop((loans, held));
    loan(4).unwrap();
    assert_eq!(space.used(), 4 * FULL);
    set.clear();
    assert_eq!((space.used(), space.windows()), (0, 0));
}

#[test]
fn a_borrowed_window_does_not_hide_the_ones_behind_it() {
    let (file, space) = (patterned(8 * W), space(2));
    let set = new_set(&space);
    let loan = |index: u64| set.borrow(file.as_fd(), index * W, 1, 8 * W);
    let _held = loan(0).unwrap();
    for index in 1..8 {
        loan(index).unwrap();
    }
}

#[test]
fn a_loan_outlives_its_window_in_the_table() {
    let (file, space) = (patterned(W), space(4));
    let set = new_set(&space);
    let loan = set.borrow(file.as_fd(), 3, 1, W).unwrap();
    set.clear();
    assert_eq!((set.mapped_bytes(), space.used()), (0, W));
    assert!(loan.with_bytes(|bytes| bytes == [3]));
    drop(set);
    assert!(loan.with_bytes(|bytes| bytes == [3]));
    drop(loan);
    assert_eq!(space.used(), 0);
}

#[test]
fn advice_leaves_a_window_in_one_piece() {
    let (file, set) = (sparse(PAGE * 4), new_set(&space(4)));
    let loan = set.borrow(file.as_fd(), PAGE, 1, 4 * PAGE).unwrap();
    for range in [
        0..1,
        0..u64::MAX,
        PAGE..2 * PAGE,
        5 * PAGE..9 * PAGE,
        1..PAGE + 1,
    ] {
        loan.will_need(range).unwrap();
    }
    drop(loan);
    let before = set.present(0).unwrap().len();
    file.set_len(W).unwrap();
    let grown = set
        .take_short(0, W)
        .and_then(|window| set.remapped(window, W))
        .unwrap(); // EFAULT if split.
    assert_eq!((before, grown.len()), (4 * PAGE, W));
}

#[test]
fn writers_and_protection_do_not_collide() {
    let (file, set) = (sparse(2 * W), new_set(&space(4)));
    std::thread::scope(|scope| {
        for thread in 1..=3u8 {
            let (file, set) = (&file, &set);
            scope.spawn(move || {
                for round in 0..2_000 {
                    let offset = (round * 977 + u64::from(thread)) % W;
                    set.borrow(file.as_fd(), offset, 3000, 2 * W)
                        .unwrap()
                        .write(&[thread; 3000])
                        .unwrap();
                }
            });
        }
        for _ in 0..500 {
            set.protect();
        }
    });
}

#[test]
fn resize_reaches_every_window_that_overlaps_the_end() {
    let geometry = Geometry {
        window: W,
        overlap: 4 * W,
    };
    let space = AddressSpace::with_limits(1 << 30, 100, geometry);
    let (file, set) = (sparse(0), new_set(&space));
    for len in [
        20 * W,
        9 * W + 1,
        17 * W,
        17 * W + 5,
        8 * W - 1,
        8 * W - 1,
        12 * W,
        1,
        3 * W,
    ] {
        let shrunk = len < file.metadata().unwrap().len();
        file.set_len(len).unwrap();
        set.resize(len);
        for (&index, slot) in &set.table.read().slots {
            let (got, extent) = (slot.window.len(), geometry.extent(index, len));
            assert!(
                got == extent || !shrunk && got > extent,
                "{len}: {index}: {got} {extent}"
            );
        }
        (0..len.div_ceil(W)).for_each(|index| drop(read(&set, &file, index * W, 1)));
    }
}

#[test]
fn a_budget_below_one_window_is_enomem() {
    let (file, space) = (sparse(FULL), space(0));
    let set = new_set(&space);
    assert_eq!(errno(set.borrow(file.as_fd(), 0, 1, FULL)), Errno::NOMEM);
    assert_eq!((space.used(), space.windows()), (0, 0));
}
