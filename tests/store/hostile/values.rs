//! Values of nodes and attributes, and records, that no store writes.

use super::Run;
use super::encode::{Bytes, FIRST, MAX_SIZE, Node, key, long_key, record};
use super::numbers::{entries, records};

pub fn cases(run: &mut Run) {
    values(run);
    strange_records(run);
}

fn values(run: &mut Run) {
    let long = vec![b'i'; 4097];
    for (what, node) in [
        (
            "kind 0",
            Node {
                kind: 0,
                ..Node::default()
            },
        ),
        (
            "kind 8",
            Node {
                kind: 8,
                ..Node::default()
            },
        ),
        (
            "mode",
            Node {
                mode: 0o10000,
                ..Node::default()
            },
        ),
        (
            "time",
            Node {
                nanoseconds: 1_000_000_000,
                ..Node::default()
            },
        ),
        (
            "links",
            Node {
                links: i64::MAX as u64,
                ..Node::default()
            },
        ),
        (
            "links below",
            Node {
                links: 1 << 63,
                ..Node::default()
            },
        ),
        (
            "opaque file",
            Node {
                opaque: 1,
                ..Node::default()
            },
        ),
        (
            "opaque 2",
            Node {
                opaque: 2,
                kind: 2,
                ..Node::default()
            },
        ),
        (
            "long identity",
            Node {
                origin: Some((1, 1, &long)),
                ..Node::default()
            },
        ),
        (
            "long target",
            Node {
                kind: 3,
                target: &long,
                ..Node::default()
            },
        ),
        (
            "a file's place",
            Node {
                place: Some((FIRST, b"a")),
                ..Node::default()
            },
        ),
    ] {
        entries(
            run,
            &format!("node: {what}"),
            vec![(key(b'n', FIRST + 2), Some(node.value()))],
        );
        let made = record::make(FIRST + 901, &node);
        records(
            run,
            &format!("record of node: {what}"),
            vec![record::meta(&[made])],
        );
    }
    let mut cut = Node::default().value();
    cut.pop();
    entries(run, "node: cut", vec![(key(b'n', FIRST + 2), Some(cut))]);
    entries(
        run,
        "node: long",
        vec![(
            key(b'n', FIRST + 2),
            Some([Node::default().value(), vec![0]].concat()),
        )],
    );
    for kind in [0, b'a', b'n', b'z', 0xff] {
        entries(
            run,
            &format!("key {kind}"),
            vec![(vec![kind], Some(vec![1]))],
        );
    }
    entries(run, "an empty key", vec![(Vec::new(), Some(Vec::new()))]);
    let large = Bytes(vec![1]).bytes(&vec![b'x'; 65537]).0;
    entries(
        run,
        "a large attribute",
        vec![(long_key(b'x', FIRST + 2, b"user.a"), Some(large))],
    );
    entries(
        run,
        "attribute 2",
        vec![(long_key(b'x', FIRST + 2, b"user.a"), Some(vec![2]))],
    );
}

fn strange_records(run: &mut Run) {
    let links = |more: i64| record::meta(&[Bytes(vec![3]).u64(FIRST + 2).u64(more as u64)]);
    for more in [i64::MAX, i64::MIN, 1 << 40, -(1 << 40)] {
        records(
            run,
            &format!("links {more}"),
            vec![links(more), links(more), links(1)],
        );
    }
    records(run, "no record", vec![Vec::new()]);
    for kind in [0, 5, 255] {
        records(run, &format!("record {kind}"), vec![vec![kind; 40]]);
    }
    records(
        run,
        "change 11",
        vec![record::meta(&[Bytes(vec![11]).u64(FIRST)])],
    );
    let mut counted = record::meta(&[Bytes(vec![8]).u64(FIRST).u8(1)]);
    counted[1..3].copy_from_slice(&u16::MAX.to_le_bytes());
    records(run, "65535 changes that are not there", vec![counted]);
    let filesystem = Bytes(vec![10]).u32(7).bytes(&vec![b'f'; 1_048_560]);
    records(run, "a long identity", vec![record::meta(&[filesystem])]);
    let extremes = [0, 1, 1 << 14, (1 << 14) + 1, 1 << 51, MAX_SIZE, u64::MAX];
    for first in extremes {
        for count in extremes {
            let (file, data) = (FIRST + 900, FIRST + 900);
            let make = record::meta(&[record::make(file, &Node::default())]);
            let written = |stored, size| record::written(file, data, first, count, stored, size);
            let name = format!("written {first:x} {count:x}");
            records(
                run,
                &name,
                vec![
                    make,
                    written(1, MAX_SIZE),
                    written(0, 0),
                    record::whole(file, data),
                ],
            );
        }
    }
}
