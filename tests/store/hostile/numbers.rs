//! Entries and records with right checksums, and numbers and names that no store gives.

use super::encode::{Bytes, Entry, FIRST, Node, Table, key, long_key, origin_key, record};
use super::good::Good;
use super::{Run, Trust, put, put_records, put_tables};

const IDS: [u64; 8] = [
    0,
    1,
    FIRST - 1,
    FIRST,
    FIRST + 2,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

fn names() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = ["", ".", "..", "a/b", "/", "../canary", "a\0b"]
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    all.extend([
        vec![b'n'; 255],
        vec![b'n'; 256],
        vec![0xff; 255],
        vec![b'n'; 60_000],
    ]);
    all
}

/// What the entries of a table stand beside: a root with a file.
pub fn skeleton() -> Vec<Entry> {
    let root = Node {
        kind: 2,
        ..Node::default()
    };
    vec![
        (key(b'n', FIRST), Some(root.value())),
        (key(b'n', FIRST + 2), Some(Node::default().value())),
        (long_key(b'd', FIRST, b"file"), Some(number(FIRST + 2))),
    ]
}

pub fn number(value: u64) -> Vec<u8> {
    Bytes::default().u64(value).0
}

/// A table of the skeleton and these entries, in order.
pub fn one_table(good: &Good, more: &[Entry]) {
    let mut entries = skeleton();
    entries.retain(|(key, _)| more.iter().all(|(other, _)| other != key));
    entries.extend_from_slice(more);
    entries.sort();
    put_tables(good, &[Table::new(0x101, &entries, 4092).file()]);
}

pub fn entries(run: &mut Run, name: &str, entries: Vec<Entry>) {
    run.case(name, Trust::Anything, |good| one_table(good, &entries));
}

pub fn records(run: &mut Run, name: &str, payloads: Vec<Vec<u8>>) {
    run.case(name, Trust::Anything, |good| put_records(good, &payloads));
}

pub fn cases(run: &mut Run) {
    state(run);
    for (n, name) in names().into_iter().enumerate() {
        strange_name(run, n, &name);
    }
    for id in IDS {
        strange_number(run, id);
    }
    trees(run);
}

type Set = fn(&mut super::encode::State, u64);

fn state(run: &mut Run) {
    // Just below a limit, a store opens for the last time: left out.
    let numbers = IDS.into_iter().filter(|number| *number != FIRST - 1);
    let numbers = numbers.chain([2, 1 << 61, (1 << 63) - 2, u64::MAX - 1]);
    for number in numbers {
        let set: [(&str, Set); 5] = [
            ("tail", |state, number| state.tail = number),
            ("first", |state, number| state.first = number),
            ("next", |state, number| state.next = number),
            ("used", |state, number| state.used = number),
            ("tables", |state, number| state.tables = vec![number]),
        ];
        for (what, set) in set {
            run.case(
                &format!("state: {what} is {number:x}"),
                Trust::Anything,
                |good| {
                    let mut state = good.state.clone();
                    set(&mut state, number);
                    // A tail that goes on from there, too.
                    let tail = super::encode::tail(&state.uuid, state.tail, state.first, &[]);
                    put(good, &format!("tails/{:x}", state.tail), &tail);
                    put(good, "state", &state.file());
                },
            );
        }
    }
    for count in [0, 2, 1 << 10, u32::MAX] {
        run.case(
            &format!("state: says {count} tables"),
            Trust::Anything,
            |good| {
                put(good, "state", &good.state.lying(count));
            },
        );
    }
    run.case("state: the same table twice", Trust::Anything, |good| {
        let mut state = good.state.clone();
        state.tables.extend(state.tables.clone());
        put(good, "state", &state.file());
    });
    run.case("state: closed, with tails", Trust::Anything, |good| {
        let state = super::encode::State {
            closed: 1,
            ..good.state.clone()
        };
        put(good, "state", &state.file());
    });
    run.case("state: neither closed nor open", Trust::Anything, |good| {
        let state = super::encode::State {
            closed: 2,
            ..good.state.clone()
        };
        put(good, "state", &state.file());
    });
}

fn strange_name(run: &mut Run, n: usize, name: &[u8]) {
    let file = Some(number(FIRST + 2));
    entries(
        run,
        &format!("name {n}"),
        vec![(long_key(b'd', FIRST, name), file)],
    );
    let attribute = Some(Bytes(vec![1]).bytes(b"value").0);
    entries(
        run,
        &format!("attribute {n}"),
        vec![(long_key(b'x', FIRST, name), attribute)],
    );
    let place = Node {
        kind: 2,
        place: Some((FIRST, name)),
        ..Node::default()
    };
    entries(
        run,
        &format!("place {n}"),
        vec![(key(b'n', FIRST + 3), Some(place.value()))],
    );
    let target = Node {
        kind: 3,
        target: name,
        ..Node::default()
    };
    entries(
        run,
        &format!("target {n}"),
        vec![(key(b'n', FIRST + 3), Some(target.value()))],
    );
    let change = record::name(FIRST, name, Some(FIRST + 2));
    records(
        run,
        &format!("record of name {n}"),
        vec![record::meta(&[change])],
    );
    let xattr = Bytes(vec![6])
        .u64(FIRST)
        .bytes(name)
        .u8(1)
        .u8(1)
        .bytes(b"value");
    records(
        run,
        &format!("record of attribute {n}"),
        vec![record::meta(&[xattr])],
    );
}

fn strange_number(run: &mut Run, id: u64) {
    let file = Some(Node::default().value());
    let content = Some(super::encode::Content::default().value());
    let all = super::encode::chunk(Some(u64::MAX), None);
    let from = Node {
        origin: Some((u32::MAX, id, b"identity")),
        ..Node::default()
    };
    let place = Node {
        kind: 2,
        place: Some((id, b"name")),
        ..Node::default()
    };
    for (what, entry) in [
        ("node", (key(b'n', id), file)),
        (
            "name in",
            (long_key(b'd', id, b"name"), Some(number(FIRST + 2))),
        ),
        (
            "name to",
            (long_key(b'd', FIRST, b"name"), Some(number(id))),
        ),
        (
            "attribute of",
            (long_key(b'x', id, b"user.a"), Some(vec![0])),
        ),
        ("content of", (key(b'c', id), content)),
        ("page map of", (long_key(b'p', id, &[0; 8]), Some(all))),
        ("orphan", (key(b'u', id), Some(Vec::new()))),
        (
            "origin of",
            (origin_key(1, 5, b"identity"), Some(number(id))),
        ),
        ("filesystem", (key(b'f', id), Some(b"identity".to_vec()))),
        ("origin is", (key(b'n', FIRST + 3), Some(from.value()))),
        ("place in", (key(b'n', FIRST + 3), Some(place.value()))),
    ] {
        entries(run, &format!("{what} {id:x}"), vec![entry]);
    }
    let new = record::make(id, &Node::default());
    let bytes = [
        (
            "make",
            record::meta(&[new.clone(), record::name(FIRST, b"new", Some(id))]),
        ),
        ("make twice", record::meta(&[new.clone(), new])),
        ("links of", record::meta(&[Bytes(vec![3]).u64(id).u64(1)])),
        ("opaque", record::meta(&[Bytes(vec![4]).u64(id).u8(1)])),
        ("orphan", record::meta(&[Bytes(vec![8]).u64(id).u8(1)])),
        ("remove", record::meta(&[Bytes(vec![9]).u64(id)])),
        ("truncate", record::meta(&[record::truncate(id, id, 0)])),
        (
            "data file",
            record::meta(&[record::truncate(FIRST + 2, id, 0)]),
        ),
        ("written", record::written(id, FIRST + 900, 0, 1, 1, 4096)),
        ("written in", record::written(FIRST + 2, id, 0, 1, 1, 4096)),
        ("whole", record::whole(id, FIRST + 900)),
        ("whole in", record::whole(FIRST + 2, id)),
    ];
    for (what, payload) in bytes {
        records(run, &format!("record: {what} {id:x}"), vec![payload]);
    }
    for (upto, count, nodes) in [
        (id, 1, vec![FIRST]),
        (1, 1, vec![id]),
        (1, u32::MAX, vec![id; 3]),
    ] {
        run.case(
            &format!("sync of {id:x}: {upto:x}, {count}"),
            Trust::Anything,
            |good| {
                let state = &good.state;
                let payloads = [record::meta(&[]), record::sync(upto, count, &nodes)];
                let tail = super::encode::tail(&state.uuid, state.tail, state.first, &payloads);
                put(good, &good.tail(), &tail);
            },
        );
    }
}

fn trees(run: &mut Run) {
    let directory = |parent: u64, name| {
        let place = Some((parent, name));
        Some(
            Node {
                kind: 2,
                place,
                ..Node::default()
            }
            .value(),
        )
    };
    let (a, b) = (FIRST + 3, FIRST + 4);
    let name = |parent: u64, name: &[u8], to: u64| (long_key(b'd', parent, name), Some(number(to)));
    entries(
        run,
        "a directory in itself",
        vec![(key(b'n', a), directory(a, b"self")), name(a, b"self", a)],
    );
    entries(
        run,
        "the root in itself",
        vec![
            (key(b'n', FIRST), directory(FIRST, b"self")),
            name(FIRST, b"self", FIRST),
        ],
    );
    entries(
        run,
        "two directories in each other",
        vec![
            (key(b'n', a), directory(b, b"a")),
            (key(b'n', b), directory(a, b"b")),
            name(b, b"a", a),
            name(a, b"b", b),
            name(FIRST, b"in", a),
        ],
    );
    entries(
        run,
        "a directory with two names",
        vec![
            (key(b'n', a), directory(FIRST, b"one")),
            name(FIRST, b"one", a),
            name(FIRST, b"two", a),
        ],
    );
    entries(
        run,
        "a name in a file",
        vec![name(FIRST + 2, b"in", FIRST + 2)],
    );
    entries(run, "a name to no node", vec![name(FIRST, b"none", a)]);
    entries(
        run,
        "a name in no directory",
        vec![name(a, b"lost", FIRST + 2)],
    );
    let from = |number| {
        Some(
            Node {
                origin: Some((1, number, b"id")),
                ..Node::default()
            }
            .value(),
        )
    };
    let origin = |n, to| (origin_key(1, n, b"id"), Some(number(to)));
    entries(
        run,
        "two origins for one node",
        vec![(key(b'n', a), from(5)), origin(5, a), origin(6, a)],
    );
    entries(
        run,
        "one origin for two nodes",
        vec![
            (key(b'n', a), from(5)),
            (key(b'n', b), from(5)),
            origin(5, a),
        ],
    );
    entries(
        run,
        "an origin of another node",
        vec![(key(b'n', a), from(5)), origin(5, FIRST + 2)],
    );
    let moves = vec![
        record::meta(&[record::make(
            a,
            &Node {
                kind: 2,
                ..Node::default()
            },
        )]),
        record::meta(&[
            record::name(FIRST, b"a", Some(a)),
            record::name(a, b"up", Some(FIRST)),
        ]),
        record::meta(&[record::name(a, b"self", Some(a))]),
    ];
    records(run, "records: directories in circles", moves);
}
