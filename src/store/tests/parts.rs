//! The parts of a store, each alone.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use super::super::bloom::hash;
use super::super::codec::{Reader, Writer};
use super::super::content::{Chunk, From, MAX_SIZE};
use super::super::disk::{Directory, Disk, How};
use super::super::record::{Record, Written};
use super::super::state::{Puts, State, merge, to_merge};
use super::super::table::{Builder, Table};
use super::super::tail::{self, Found, Reserve, Tail};
use super::super::*;

/// A directory for tables and tails.
fn disk() -> (tempfile::TempDir, Directory) {
    let place = tempfile::tempdir().unwrap();
    let disk = Directory::open(place.path()).unwrap();
    disk.make_directory(Path::new("tables")).unwrap();
    disk.make_directory(Path::new("tails")).unwrap();
    (place, disk)
}

#[test]
fn a_reader_takes_what_a_writer_put_and_no_more() {
    let mut to = Writer::default();
    to.u8(1).u16(2).u32(3).u64(4).i64(-5).key(6).bytes(b"seven");
    to.option(Some(8), |to, value| _ = to.u8(value));
    to.option(None::<u8>, |_, _| panic!("there is no value"));
    let bytes = to.u8(1).done();
    let mut from = Reader(&bytes);
    assert_eq!((from.u8().unwrap(), from.u16().unwrap()), (1, 2));
    assert_eq!((from.u32().unwrap(), from.u64().unwrap()), (3, 4));
    assert_eq!((from.i64().unwrap(), from.key().unwrap()), (-5, 6));
    assert_eq!(from.bytes().unwrap(), b"seven");
    assert_eq!(from.option(Reader::u8).unwrap(), Some(8));
    assert_eq!(from.option(Reader::u8).unwrap(), None);
    assert!(from.end().is_err());
    assert!(from.bool().unwrap());
    assert!(from.end().is_ok() && from.u8().is_err());
    assert!(Reader(&[2]).bool().is_err());
    assert!(Reader(&[9, 0, 0, 0, 1]).bytes().is_err());
    assert!(Reader(&[0xff; 4]).bytes().is_err());
}

#[test]
fn a_chunk_keeps_where_its_pages_come_from() {
    let mut chunk = Chunk::default();
    assert!(chunk.is_empty() && chunk.run(0) == Chunk::PAGES);
    chunk.set(60..70, Some(From::Data));
    chunk.set(65..1024, Some(From::Zero));
    chunk.set(1000..1010, None);
    let found: Vec<_> = [0, 59, 60, 64, 65, 999, 1000, 1009, 1010, 1023]
        .map(|page| chunk.get(page))
        .into();
    let (data, zero) = (Some(From::Data), Some(From::Zero));
    let wanted = [None, None, data, data, zero, zero, None, None, zero, zero];
    assert_eq!(found, wanted);
    assert_eq!(chunk.stored(), 5);
    let ends = [0, 60, 61, 65, 1000, 1010].map(|page| chunk.run(page));
    assert_eq!(ends, [60, 65, 65, 1000, 1010, 1024]);
    let mut full = Chunk::default();
    full.set(0..1024, Some(From::Data));
    for chunk in [chunk, full] {
        let bytes = chunk.encode();
        assert_eq!(Chunk::decode(&bytes).unwrap(), chunk);
        assert!(Chunk::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(Chunk::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
    // Nothing, both at once, and a kind that is not there.
    for bytes in [[0, 0], [1, 1], [3, 0]] {
        assert!(Chunk::decode(&bytes).is_err(), "{bytes:?}");
    }
}

/// Entry `number` of a table: each fifth is gone, each hundredth is long.
fn entry(number: u32) -> (Vec<u8>, Option<Vec<u8>>) {
    let len = if number % 100 == 7 {
        65536
    } else {
        number as usize % 90
    };
    let value = (number % 5 != 0).then(|| vec![number as u8; len]);
    (format!("k{number:06}").into_bytes(), value)
}

fn table(disk: &dyn Disk, number: u64, entries: impl Iterator<Item = u32>) -> Table {
    let mut builder = Builder::new(disk, number).unwrap();
    for number in entries {
        let (key, value) = entry(number);
        builder.add(&key, value.as_deref()).unwrap();
    }
    builder.finish().unwrap()
}

#[test]
fn a_table_has_its_keys_in_order_and_no_others() {
    let (_place, disk) = disk();
    drop(table(&disk, 5, (0..2000).map(|number| 2 * number)));
    let table = Arc::new(Table::open(&disk, 5).unwrap());
    let wanted: Vec<_> = (0..2000).map(|number| entry(2 * number)).collect();
    assert_eq!((table.count(), table.number()), (2000, 5));
    let all: Vec<_> = table.entries().map(Result::unwrap).collect();
    assert!(all == wanted);
    for (key, value) in &wanted {
        assert_eq!(table.get(key, hash(key)).unwrap().as_ref(), Some(value));
    }
    for key in ["", "k", "k000001", "k003999", "k009999", "z"] {
        let key = key.as_bytes();
        assert_eq!(table.get(key, hash(key)).unwrap(), None, "{key:?}");
    }
    let at = |number: u32| entry(number).0;
    let range = |prefix: &str, after, limit| table.range(prefix.as_bytes(), &after, limit).unwrap();
    assert!(range("", Bound::Unbounded, usize::MAX) == (wanted.clone(), false));
    assert!(range("", Bound::Unbounded, 7) == (wanted[..7].to_vec(), true));
    assert!(range("k", Bound::Excluded(at(10)), 3) == (wanted[6..9].to_vec(), true));
    assert!(range("k", Bound::Excluded(at(11)), 3) == (wanted[6..9].to_vec(), true));
    assert!(range("k", Bound::Included(at(10)), 3) == (wanted[5..8].to_vec(), true));
    assert!(range("k0001", Bound::Unbounded, 99) == (wanted[50..100].to_vec(), false));
    assert!(range("k0001", Bound::Unbounded, 50) == (wanted[50..100].to_vec(), false));
    assert!(range("k0001", Bound::Unbounded, 49) == (wanted[50..99].to_vec(), true));
    assert!(range("k", Bound::Excluded(at(3998)), 9) == (Vec::new(), false));
    assert!(range("a", Bound::Unbounded, 9) == (Vec::new(), false));
    assert!(range("z", Bound::Unbounded, 9) == (Vec::new(), false));
}

#[test]
fn a_table_with_a_changed_byte_is_damaged() {
    let (_place, disk) = disk();
    let len = table(&disk, 1, 1..7).len();
    let file = disk.open(&table::path(1), How::Write).unwrap();
    for at in 0..len {
        let mut byte = [0];
        file.read_full_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        let read = Table::open(&disk, 1).and_then(|table| {
            Arc::new(table)
                .entries()
                .collect::<std::io::Result<Vec<_>>>()
        });
        assert!(read.is_err(), "byte {at} of {len}");
        file.write_all_at(&byte, at).unwrap();
    }
    assert_eq!(Table::open(&disk, 1).unwrap().count(), 6);
    assert!(Table::open(&disk, 2).is_err());
}

fn puts(entries: &[(&str, Option<&str>)]) -> Puts {
    let entry = |(key, value): &(&str, Option<&str>)| {
        (
            key.as_bytes().to_vec(),
            value.map(|value| value.as_bytes().to_vec()),
        )
    };
    entries.iter().map(entry).collect()
}

#[test]
fn the_newest_layer_of_a_state_counts() {
    let (_place, disk) = disk();
    let build = |number, entries: &[(&str, Option<&str>)]| {
        let builder = Builder::new(&disk, number).unwrap();
        Arc::new(merge(builder, &puts(entries), &[], false).unwrap())
    };
    let oldest = build(
        1,
        &[
            ("a1", Some("1")),
            ("a2", Some("1")),
            ("a3", Some("1")),
            ("b", Some("1")),
        ],
    );
    let newer = build(2, &[("a2", None), ("a4", Some("2")), ("a5", Some("2"))]);
    let state = State::new(vec![Arc::clone(&newer), Arc::clone(&oldest)]);
    state.put(puts(&[("a3", None), ("a4", None), ("a5", Some("3"))]));
    state.freeze();
    state.put(puts(&[("a4", Some("4")), ("a6", None), ("a7", Some("4"))]));
    let wanted = [("a1", "1"), ("a4", "4"), ("a5", "3"), ("a7", "4")];
    let wanted: Vec<(Vec<u8>, Vec<u8>)> =
        wanted.map(|(key, value)| (key.into(), value.into())).into();
    for limit in [1, 2, 3, 100] {
        let (mut found, mut last) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let next = state.scan(b"a", last.as_deref(), limit).unwrap();
            let Some((key, _)) = next.last() else { break };
            last = Some(key.clone());
            found.extend(next);
        }
        assert_eq!(found, wanted, "limit {limit}");
    }
    let get = |key: &str| state.get(key.as_bytes()).unwrap();
    assert_eq!(
        [get("a2"), get("a3"), get("a6"), get("c")],
        [None, None, None, None]
    );
    assert_eq!(
        (get("a5"), get("b")),
        (Some(b"3".to_vec()), Some(b"1".to_vec()))
    );
    // What is frozen goes into a table, and then the next can be frozen.
    let mut frozen = (*state.frozen()).clone();
    state.freeze();
    frozen.extend((*state.frozen()).clone());
    assert_eq!(frozen.len(), 5);
    let tables = [newer, oldest];
    let kept = merge(
        Builder::new(&disk, 3).unwrap(),
        &frozen,
        &tables[..1],
        false,
    )
    .unwrap();
    assert_eq!(kept.count(), 6);
    let all = Arc::new(merge(Builder::new(&disk, 4).unwrap(), &frozen, &tables, true).unwrap());
    assert_eq!(all.count(), 5);
    state.set_tables(vec![all]);
    assert!(state.frozen().is_empty());
    assert_eq!(state.scan(b"a", None, 100).unwrap(), wanted);
}

#[test]
fn a_table_is_merged_with_those_that_are_not_much_longer() {
    let (_place, disk) = disk();
    let tables: Vec<_> = [(1, 40), (2, 80), (3, 5000)]
        .map(|(number, count)| {
            Arc::new(table(
                &disk,
                number,
                (1..).filter(|n| n % 100 != 7).take(count),
            ))
        })
        .into();
    let len = |table: usize| tables[table].len();
    assert!(len(1) < 3 * len(0) && len(2) > 3 * (len(0) + len(1) + 1));
    assert_eq!(to_merge(&tables, 1), 2);
    assert_eq!(to_merge(&tables[..1], len(0) / 3), 0);
    assert_eq!(to_merge(&tables[..1], len(0) / 3 + 1), 1);
    assert_eq!(to_merge(&tables, len(2)), 3);
    assert_eq!(to_merge(&[], 1), 0);
}

const UUID: [u8; 16] = [9; 16];

fn payloads(found: &Found) -> Vec<(u64, Vec<u8>)> {
    found
        .records()
        .map(|(number, payload)| (number, payload.to_vec()))
        .collect()
}

#[test]
fn a_tail_counts_up_to_its_first_record_that_is_not_whole() {
    let (_place, disk) = disk();
    let mut tail = Tail::make(&disk, 3, 77, true).unwrap();
    tail.begin(&UUID, 100).unwrap();
    for payload in [&b"first"[..], b"second", b"third"] {
        tail.append(payload, Reserve::None).unwrap();
    }
    let read = || Found::read(&disk, &UUID, 3).unwrap();
    let wanted = [
        (100, b"first".to_vec()),
        (101, b"second".to_vec()),
        (102, b"third".to_vec()),
    ];
    assert_eq!(payloads(&read()), wanted);
    assert_eq!(
        (read().torn(), read().first, tail.next()),
        (0, Some(100), 103)
    );
    let file = disk.open(&tail::path(3), How::Write).unwrap();
    // A header and three frames. The file may be longer, for what comes later.
    let len = 52 + (8 + 5) + (8 + 6) + (8 + 5);
    for cut in 1..=13 {
        file.set_len(len - cut).unwrap();
        assert_eq!(payloads(&read()), wanted[..2], "{cut}");
        // Zeros at the end may be bytes that were allocated and not used.
        let torn = read().torn();
        assert!(torn <= 13 - cut && (torn > 0 || cut == 13), "{cut}: {torn}");
    }
    file.set_len(len - 14).unwrap();
    assert_eq!(payloads(&read()), wanted[..1]);
    file.set_len(20).unwrap();
    assert_eq!((read().first, read().torn()), (None, 0));
    assert_eq!(Found::read(&disk, &UUID, 4).unwrap().first, None);
}

#[test]
fn records_of_another_tail_do_not_count() {
    let (_place, disk) = disk();
    let write = |salt, first, count| {
        let mut tail = Tail::make(&disk, 3, salt, true).unwrap();
        tail.begin(&UUID, first).unwrap();
        (0..count).for_each(|_| _ = tail.append(b"the same", Reserve::None).unwrap());
        disk.open(&tail::path(3), How::Write).unwrap()
    };
    let file = write(1, 100, 2);
    let mut old = vec![0; file.size().unwrap() as usize];
    file.read_full_at(&mut old, 0).unwrap();
    // Behind one record of a new tail lies the second of the old one: of another salt, or of another number.
    for (salt, first, counts) in [(2, 100, 1), (1, 101, 1), (1, 100, 2)] {
        let file = write(salt, first, 1);
        // A header, and a frame with eight bytes.
        let end = 52 + 8 + 8;
        file.write_all_at(&old[end as usize..], end).unwrap();
        let found = Found::read(&disk, &UUID, 3).unwrap();
        assert_eq!(
            found.records().count(),
            counts,
            "salt {salt}, first {first}"
        );
    }
    assert_eq!(Found::read(&disk, &[8; 16], 3).unwrap().first, None);
}

fn some_changes() -> Vec<Change> {
    let id = NodeId(NodeId::FIRST + 5);
    let time = Time {
        seconds: -3,
        nanoseconds: 999_999_999,
    };
    let attributes = Attributes {
        mode: Some(0o7777),
        uid: Some(u32::MAX),
        atime: Some(time),
        btime: Some(time),
        ..Attributes::default()
    };
    let origin = Origin {
        filesystem: 3,
        number: u64::MAX,
        identity: vec![0, 1, 255],
    };
    let node = Node {
        kind: Kind::Symlink,
        origin: Some(origin),
        attributes,
        links: -7,
        opaque: false,
        device: 1 << 40,
        target: b"../x".to_vec(),
        reached: Vec::new(),
        known: Attributes::default(),
        known_size: 0,
        place: None,
    };
    let name = |to, replaces| Change::Name {
        directory: id,
        name: vec![255; 255],
        to,
        replaces,
        since: replaces.then_some(time),
    };
    let xattr = |value| Change::Xattr(id, b"user.x".to_vec(), value);
    let source = Some(SourceState {
        size: MAX_SIZE,
        mtime: time,
    });
    let truncate = |source, size| Change::Truncate {
        node: id,
        data: 7,
        size,
        source,
        time,
        lent: size == 0,
    };
    vec![
        Change::Make(id, Box::new(node)),
        Change::Attributes(id, attributes),
        Change::Links(id, i64::MIN),
        Change::Opaque(id, true),
        name(None, false),
        name(Some(Name::Hidden), true),
        name(Some(Name::Node(id)), true),
        xattr(None),
        xattr(Some(Xattr::Hidden)),
        xattr(Some(Xattr::Set(Vec::new()))),
        xattr(Some(Xattr::Set(vec![1; 65536]))),
        truncate(source, MAX_SIZE),
        truncate(None, 0),
        Change::Orphan(id, true),
        Change::Remove(id),
        Change::Reset(id),
        Change::Filesystem(4, b"uuid".to_vec()),
    ]
}

#[test]
fn each_record_is_read_as_it_was_written() {
    let node = NodeId(NodeId::FIRST);
    let written = |from, count| {
        Record::Written(Written {
            node,
            data: 1 << 62,
            first: 17,
            count,
            from,
            size: MAX_SIZE,
            source: None,
            time: Time::default(),
        })
    };
    let mut records: Vec<_> = some_changes()
        .into_iter()
        .map(|change| Record::Meta(vec![change]))
        .collect();
    records.extend([
        Record::Meta(Vec::new()),
        Record::Meta(some_changes()),
        written(From::Data, Written::MAX_PAGES),
        written(From::Zero, 0),
        written(From::Zero, Written::SOURCE_ENDS),
        Record::Whole { node, data: 3 },
        Record::Sync {
            upto: 9,
            nodes: vec![node, NodeId(node.0 + 1)],
        },
    ]);
    for record in records {
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes).unwrap(), record);
        assert!(Record::decode(&[&bytes[..], &[0]].concat()).is_err());
        for len in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            assert!(
                Record::decode(&bytes[..len]).is_err(),
                "{len} bytes of {record:?}"
            );
        }
    }
    assert!(Record::decode(&written(From::Data, Written::MAX_PAGES + 1).encode()).is_err());
    assert!(Record::decode(&written(From::Data, Written::SOURCE_ENDS).encode()).is_err());
}

/// A tail without a reserve gets one later, when there is room: behind its records.
#[test]
fn what_is_allocated_later_leaves_the_records_alone() {
    let (_place, disk) = disk();
    let file = disk.open(&tail::path(7), How::Empty).unwrap();
    drop(Tail::make(&disk, 7, 5, true).unwrap());
    let mut tail = Tail::make(&disk, 7, 5, true).unwrap();
    tail.begin(&UUID, 1).unwrap();
    // As after records that used the reserve: the end is beyond what was allocated.
    tail.forget_allocated();
    for payload in [&b"one"[..], b"two", b"three"] {
        tail.append(payload, Reserve::All).unwrap();
    }
    let found = Found::read(&disk, &UUID, 7).unwrap();
    assert_eq!(found.records().count(), 3);
    assert!(file.size().unwrap() > 0);
}
