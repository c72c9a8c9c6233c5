//! Files of special sizes: nothing takes long, and nothing overflows.

use mmfs::store::{
    Attributes, Change, From, Kind, Node, NodeId, PAGE, Piece, SourceState, Store, Time,
};
use rustix::io::Errno;

use super::place::{Place, time};

/// The largest file.
const MOST: u64 = i64::MAX as u64;
/// More of one file does not count for a limit.
const COUNTS: u64 = 1 << 44;
const NOW: Time = Time {
    seconds: 1,
    nanoseconds: 0,
};

fn file(store: &Store) -> NodeId {
    let id = store.new_number();
    let node = Node {
        kind: Kind::File,
        origin: None,
        attributes: Attributes::default(),
        links: 1,
        opaque: false,
        device: 0,
        target: Vec::new(),
        reached: Vec::new(),
        known: Attributes::default(),
        known_size: 0,
        place: None,
    };
    store
        .change(vec![Change::Make(id, Box::new(node))])
        .unwrap();
    id
}

fn sevens(_: u64, to: &mut [u8]) -> std::io::Result<()> {
    to.fill(7);
    Ok(())
}

fn pieces(store: &Store, id: NodeId) -> Vec<Piece> {
    let content = store.content(id).unwrap().unwrap();
    store
        .pieces(id, &content, 0..u64::MAX)
        .collect::<std::io::Result<_>>()
        .unwrap()
}

fn piece(range: std::ops::Range<u64>, from: From) -> Piece {
    Piece { range, from }
}

fn byte(store: &Store, id: NodeId, at: u64) -> u8 {
    let mut byte = [0x55];
    assert_eq!(store.read(id, at, &mut byte, &mut sevens).unwrap(), 1);
    byte[0]
}

/// Closes the store, checks it, and opens it again.
fn reopened(place: &Place, store: std::sync::Arc<Store>) -> std::sync::Arc<Store> {
    let used = store.used();
    store.close().unwrap();
    drop(store);
    let report = place.check();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.bytes, used);
    let store = place.open().0;
    assert_eq!(store.used(), used);
    store
}

#[test]
fn a_new_file_of_the_largest_size_is_one_piece() {
    let place = Place::new();
    let mut store = place.open().0;
    let id = file(&store);
    store.truncate(id, MOST, None, NOW).unwrap();
    assert_eq!(store.used(), COUNTS);
    for round in 0..2 {
        assert_eq!(pieces(&store, id), [piece(0..MOST, From::Data)]);
        assert_eq!(byte(&store, id, MOST - 1), 0, "round {round}");
        store = reopened(&place, store);
    }
    store.write(id, 5, b"five", None, NOW, &mut sevens).unwrap();
    store
        .punch(id, 6..u64::MAX, None, NOW, &mut sevens)
        .unwrap();
    assert_eq!((byte(&store, id, 5), byte(&store, id, 6)), (b'f', 0));
    store.make_whole(id, None, NOW, &mut sevens).unwrap();
    let error = store
        .write(id, MOST, b"x", None, NOW, &mut sevens)
        .unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::FBIG.raw_os_error()));
    let error = store.truncate(id, MOST + 1, None, NOW).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::FBIG.raw_os_error()));
    store.truncate(id, 10, None, NOW).unwrap();
    assert_eq!(store.used(), PAGE);
    store.truncate(id, MOST, None, NOW).unwrap();
    assert_eq!(store.used(), PAGE);
    let wanted = [piece(0..PAGE, From::Data), piece(PAGE..MOST, From::Zero)];
    assert_eq!(pieces(&store, id), wanted);
    store.truncate(id, 0, None, NOW).unwrap();
    assert_eq!(store.used(), 0);
    reopened(&place, store);
}

#[test]
fn many_largest_files_do_not_overflow_what_is_used() {
    let place = Place::new();
    let mut store = place.open().0;
    for _ in 0..100 {
        let id = file(&store);
        store.truncate(id, MOST, None, NOW).unwrap();
    }
    assert_eq!(store.used(), 100 * COUNTS);
    store.set_limit(Some(100 * COUNTS));
    let id = file(&store);
    let error = store.truncate(id, MOST, None, NOW).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    store = reopened(&place, store);
    store.close().unwrap();
}

#[test]
fn a_sparse_source_of_2_to_the_60_bytes_is_written_and_punched() {
    let place = Place::new();
    let mut store = place.open().0;
    let id = file(&store);
    let size: u64 = 1 << 60;
    let now = Some(SourceState { size, mtime: NOW });
    let middle = size / 2 + 100;
    store
        .write(id, middle, b"middle", now, NOW, &mut sevens)
        .unwrap();
    let page = middle / PAGE * PAGE;
    let wanted = [
        piece(0..page, From::Source),
        piece(page..page + PAGE, From::Data),
        piece(page + PAGE..size, From::Source),
    ];
    assert_eq!(pieces(&store, id), wanted);
    assert_eq!(store.used(), PAGE);
    store = reopened(&place, store);
    assert_eq!(pieces(&store, id), wanted);
    // No more than 64 GiB out of the middle.
    let long = 0..(64 << 30) + 1 + PAGE;
    let error = store.punch(id, long, now, NOW, &mut sevens).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::OPNOTSUPP.raw_os_error()));
    assert_eq!(pieces(&store, id), wanted);
    store
        .punch(id, PAGE..64 << 30, now, time(5000), &mut sevens)
        .unwrap();
    assert_eq!(store.used(), PAGE);
    assert_eq!(pieces(&store, id)[1], piece(PAGE..64 << 30, From::Zero));
    // To the end it may be as long as it likes.
    store
        .punch(id, page..u64::MAX, now, time(9000), &mut sevens)
        .unwrap();
    for at in [page, middle, middle + PAGE, size - 1] {
        assert_eq!(byte(&store, id, at), 0);
    }
    assert_eq!(byte(&store, id, page - 1), 7);
    assert!(store.used() <= PAGE);
    store.set_limit(Some(1 << 20));
    let error = store.make_whole(id, now, NOW, &mut sevens).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    store.truncate(id, MOST, now, NOW).unwrap();
    assert_eq!(byte(&store, id, MOST - 1), 0);
    assert_eq!(byte(&store, id, 0), 7);
    store.truncate(id, 1, now, NOW).unwrap();
    assert_eq!(pieces(&store, id), [piece(0..1, From::Source)]);
    assert_eq!(store.used(), 0);
    store = reopened(&place, store);
    store.close().unwrap();
}

#[test]
fn a_punch_of_no_byte_of_the_file_changes_nothing() {
    let place = Place::new();
    let store = place.open().0;
    let id = file(&store);
    store
        .write(id, 0, &[1; 5000], None, NOW, &mut sevens)
        .unwrap();
    let before = store.content(id).unwrap();
    let ranges = [
        (5000, 5000),
        (5000, 6000),
        (4096, 4096),
        (9000, 100),
        (6000, u64::MAX),
        (MOST, u64::MAX),
        (u64::MAX - 1, u64::MAX),
        (u64::MAX, 0),
    ];
    for (start, end) in ranges {
        store
            .punch(id, start..end, None, time(9000), &mut sevens)
            .unwrap();
        assert_eq!(store.content(id).unwrap(), before, "{start}..{end}");
    }
    store.close().unwrap();
}
