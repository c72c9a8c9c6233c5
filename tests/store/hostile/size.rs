//! Counts, lengths and depths that are huge. What is a hole on disk takes no memory, and nothing takes long.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::encode::{
    self, Bytes, Content, Entry, FIRST, Node, Table, chunk, footer_of, key, long_key, record,
};
use super::good::Good;
use super::numbers::{number, one_table, skeleton};
use super::{Run, Trust, put, put_records, put_tables, stretch};

const GIB: u64 = 1 << 30;

pub fn cases(run: &mut Run) {
    tails(run);
    sparse_tables(run);
    many_tables(run);
    deep(run);
    wide(run);
    records(run);
    maps(run);
}

fn tails(run: &mut Run) {
    for len in [GIB, GIB + 1, 1 << 42] {
        run.case(&format!("a tail of {len}"), Trust::Anything, |good| {
            stretch(&good.path(&good.tail()), len);
        });
    }
    run.case(
        "many tails, each a hole of a gigabyte",
        Trust::Anything,
        |good| {
            let state = &good.state;
            for number in state.tail..state.tail + 20 {
                let name = format!("tails/{number:x}");
                put(
                    good,
                    &name,
                    &encode::tail(&state.uuid, number, state.first, &[]),
                );
                stretch(&good.path(&name), GIB);
            }
        },
    );
    run.case("syncs of millions of nodes", Trust::Anything, |good| {
        let first = FIRST + 10_000;
        let syncs: Vec<_> = (0..40)
            .map(|n| (first + n * 100_000..first + (n + 1) * 100_000).collect::<Vec<u64>>())
            .map(|nodes| record::sync(good.state.first - 1, nodes.len() as u32, &nodes))
            .collect();
        put_records(good, &syncs);
    });
    run.case("a record of a gigabyte", Trust::Anything, |good| {
        let state = &good.state;
        let mut tail = encode::tail(&state.uuid, state.tail, state.first, &[]);
        tail.extend(Bytes::default().u32(GIB as u32 - 60).u32(0).0);
        put(good, &good.tail(), &tail);
        stretch(&good.path(&good.tail()), GIB);
    });
}

/// A footer at the end of a hole.
fn hole(path: &Path, index_at: u64, index_len: u64, bloom_len: u64, index: &[u8]) {
    let at = index_at + index_len + bloom_len;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path);
    let file = file.expect("a table");
    file.write_all_at(index, index_at).expect("the index");
    let footer = footer_of(0x101, 1, [index_at, index_len, bloom_len, at + 60]);
    file.write_all_at(&footer, at).expect("a footer");
}

fn sparse_tables(run: &mut Run) {
    let index = Bytes::default().u16(1).raw(b"a").u32(100).checked();
    let len = index.len() as u64;
    for (what, index_at, index_len, bloom_len) in [
        ("index", 0, 3 * GIB, 12),
        ("filter", 100, len, 3 * GIB + 4),
        ("index and filter", 100, 100 * GIB, 400 * GIB),
    ] {
        run.case(
            &format!("a table with a hole for its {what}"),
            Trust::Anything,
            |good| {
                put_tables(good, &[Vec::new()]);
                hole(
                    &good.path("tables/101"),
                    index_at,
                    index_len,
                    bloom_len,
                    &index,
                );
            },
        );
    }
}

fn many_tables(run: &mut Run) {
    let large = |number: u64| {
        // Attributes of half a block each: what one listing takes from all tables adds up.
        let mut all: Vec<Entry> = if number == 0x101 {
            skeleton()
        } else {
            Vec::new()
        };
        all.extend((0..10u64).map(|n| {
            let name = (number << 8 | n).to_be_bytes().map(|byte| byte | 0x80);
            let value = Bytes(vec![1]).bytes(&[b'v'; 60_000]).0;
            (long_key(b'x', FIRST + 2, &name), Some(value))
        }));
        all.sort();
        Table::new(number, &all, 4092).file()
    };
    let small = |number: u64| {
        let all = if number == 0x101 {
            skeleton()
        } else {
            Vec::new()
        };
        Table::new(number, &all, 4092).file()
    };
    for count in [30u64, 64, 65, 1025] {
        run.case(&format!("{count} tables"), Trust::Anything, |good| {
            let tables: Vec<_> = (1..=count).map(|n| small(0x100 + n)).collect();
            put_tables(good, &tables);
        });
    }
    run.case("ten tables with large values", Trust::Anything, |good| {
        let tables: Vec<_> = (1..=10).map(|n| large(0x100 + n)).collect();
        put_tables(good, &tables);
    });
    run.case(
        "blocks of a mebibyte of small entries",
        Trust::Anything,
        |good| {
            let all: Vec<Entry> = (0..60_000u64)
                .map(|n| (long_key(b'p', FIRST + 2, &n.to_be_bytes()), None))
                .collect();
            let tables: Vec<_> = (1..=4)
                .map(|n| Table::new(0x100 + n, &all, (1 << 20) - 4).file())
                .collect();
            put_tables(good, &tables);
        },
    );
}

fn deep(run: &mut Run) {
    const DEEP: u64 = 8_000;
    let chain = |last: Option<u64>| -> Vec<Entry> {
        let mut all = Vec::new();
        for n in 0..DEEP {
            let (id, parent) = (FIRST + 10 + n, if n == 0 { FIRST } else { FIRST + 9 + n });
            let parent = if n == 0 {
                last.unwrap_or(parent)
            } else {
                parent
            };
            let place = Some((parent, &b"d"[..]));
            all.push((
                key(b'n', id),
                Some(
                    Node {
                        kind: 2,
                        place,
                        ..Node::default()
                    }
                    .value(),
                ),
            ));
            all.push((long_key(b'd', parent, b"d"), Some(number(id))));
        }
        all
    };
    for (what, last) in [("a chain", None), ("a circle", Some(FIRST + 9 + DEEP))] {
        let entries = chain(last);
        run.case(
            &format!("{what} of {DEEP} directories"),
            Trust::Anything,
            |good| one_table(good, &entries),
        );
    }
    let hanging: Vec<Entry> = (0..3000)
        .map(|n| {
            let place = Some((
                if n == 0 {
                    FIRST + 10
                } else {
                    FIRST + 10 + n % 2
                },
                &b"d"[..],
            ));
            (
                key(b'n', FIRST + 10 + n),
                Some(
                    Node {
                        kind: 2,
                        place,
                        ..Node::default()
                    }
                    .value(),
                ),
            )
        })
        .collect();
    run.case(
        "three thousand directories below a circle",
        Trust::Anything,
        |good| one_table(good, &hanging),
    );
}

fn wide(run: &mut Run) {
    let orphans: Vec<Entry> = (10..500)
        .flat_map(|n| {
            let node = (key(b'n', FIRST + n), Some(Node::default().value()));
            [node, (key(b'u', FIRST + n), Some(Vec::new()))]
        })
        .collect();
    run.case("five hundred orphans", Trust::Anything, |good| {
        one_table(good, &orphans)
    });
    let names: Vec<Entry> = (0..5_000u64)
        .map(|n| {
            (
                long_key(b'd', FIRST + 3, &n.to_be_bytes().map(|byte| byte | 0x80)),
                Some(number(0)),
            )
        })
        .chain([
            (
                key(b'n', FIRST + 3),
                Some(
                    Node {
                        kind: 2,
                        ..Node::default()
                    }
                    .value(),
                ),
            ),
            (key(b'u', FIRST + 3), Some(Vec::new())),
        ])
        .collect::<std::collections::BTreeMap<_, _>>()
        .into_iter()
        .collect();
    run.case(
        "a large directory that was deleted while open",
        Trust::Anything,
        |good| one_table(good, &names),
    );
}

fn records(run: &mut Run) {
    let nodes: Vec<u64> = (0..130_000).map(|n| FIRST + n).collect();
    run.case("syncs with 130,000 nodes each", Trust::Anything, |good| {
        let sync = record::sync(good.state.first - 1, nodes.len() as u32, &nodes);
        put_records(good, &vec![sync; 2]);
    });
    run.case(
        "pages far apart, again and again",
        Trust::Anything,
        |good| {
            let make = record::meta(&[record::make(FIRST + 900, &Node::default())]);
            let far = |n: u64| {
                record::written(
                    FIRST + 900,
                    FIRST + 900,
                    n << 30,
                    1 << 14,
                    (n % 2) as u8,
                    1 << 62,
                )
            };
            let all: Vec<_> = [make].into_iter().chain((0..500).map(far)).collect();
            put_records(good, &all);
        },
    );
    run.case(
        "removing a file with a long page map",
        Trust::Anything,
        |good| {
            one_table(good, &long_map(5_000));
            let state = &good.state;
            let payloads = [
                record::meta(&[record::truncate(FIRST + 2, FIRST + 901, 0)]),
                record::sync(state.first, 0, &[]),
            ];
            put(
                good,
                &good.tail(),
                &encode::tail(&state.uuid, state.tail, state.first, &payloads),
            );
        },
    );
}

fn long_map(chunks: u64) -> Vec<Entry> {
    let size = 1 << 50;
    let content = Content {
        size,
        limit: size,
        source: Some(size),
        stored: chunks * 1024,
        filed: 1,
        ..Content::default()
    };
    let full = chunk(Some(u64::MAX), None);
    let map = (0..chunks).map(|n| {
        (
            long_key(b'p', FIRST + 2, &(n * 7).to_be_bytes()),
            Some(full.clone()),
        )
    });
    [(key(b'c', FIRST + 2), Some(content.value()))]
        .into_iter()
        .chain(map)
        .collect()
}

fn data_file(good: &Good) {
    let name = format!("data/02/{:x}-{:x}", FIRST + 2, FIRST + 900);
    fs::write(good.path(&name), b"data").expect("a data file");
    stretch(&good.path(&name), 1 << 42);
}

fn maps(run: &mut Run) {
    run.case("a long page map", Trust::Anything, |good| {
        one_table(good, &long_map(4_000));
        data_file(good);
    });
    run.case(
        "a page map of which nothing is left",
        Trust::Anything,
        |good| {
            let size = 1 << 50;
            let content = Content {
                size,
                limit: size,
                source: Some(size),
                ..Content::default()
            };
            let gone = (0..40_000u64).map(|n| (long_key(b'p', FIRST + 2, &n.to_be_bytes()), None));
            let mut all: Vec<Entry> = skeleton();
            all.push((key(b'c', FIRST + 2), Some(content.value())));
            all.extend(gone);
            all.sort();
            put_tables(good, &[Table::new(0x101, &all, (1 << 20) - 4).file()]);
        },
    );
}
