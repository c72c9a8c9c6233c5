//! Sizes, limits and page maps at their extremes.

use std::fs;

use super::encode::{Content, Entry, FIRST, MAX_SIZE, Node, chunk, key, long_key, record};
use super::numbers::{one_table, records};
use super::random::Rng;
use super::{Run, Trust};

const FILE: u64 = FIRST + 2;
const WHOLE: u64 = u64::MAX;

fn file(run: &mut Run, name: &str, content: Content, map: &[(u64, Vec<u8>)]) {
    let mut entries: Vec<Entry> = vec![(key(b'c', FILE), Some(content.value()))];
    for (number, value) in map {
        let key = long_key(b'p', FILE, &number.to_be_bytes());
        entries.push((key, Some(value.clone())));
    }
    run.case(name, Trust::Anything, |good| {
        one_table(good, &entries);
        let data = format!("data/{:02x}/{FILE:x}-{:x}", FILE % 256, content.data);
        if content.filed == 1 && content.data != 0 {
            fs::write(good.path(&data), [b'd'; 9000]).expect("a data file");
        }
    });
}

pub fn cases(run: &mut Run) {
    extremes(run);
    page_maps(run);
    for data in [0, 1, FIRST - 1, 1 << 63, u64::MAX] {
        for filed in [0, 1, 2] {
            let content = Content {
                data,
                filed,
                ..Content::default()
            };
            file(run, &format!("data file {data:x}, {filed}"), content, &[]);
        }
    }
    let missing = Content {
        filed: 1,
        dense: 2,
        data: 0,
        ..Content::default()
    };
    file(run, "a data file that is not there", missing, &[]);
    for size in [0, 1, 4095, MAX_SIZE - 1, MAX_SIZE, MAX_SIZE + 1, u64::MAX] {
        let cut = record::meta(&[record::truncate(FILE, FIRST + 990, size)]);
        let empty = record::meta(&[record::truncate(FILE, FIRST + 990, 0)]);
        records(
            run,
            &format!("truncate to {size:x}"),
            vec![empty, cut.clone(), cut],
        );
    }
    not_files(run);
}

fn extremes(run: &mut Run) {
    let sizes = [
        0,
        1,
        4095,
        4096,
        40_960,
        1 << 44,
        MAX_SIZE - 4095,
        MAX_SIZE,
        MAX_SIZE + 1,
        u64::MAX,
    ];
    let counts = [
        0,
        1,
        2,
        10,
        1 << 32,
        1 << 51,
        (1 << 51) + 1,
        u64::MAX - 1,
        WHOLE,
    ];
    let mut rng = Rng::new();
    // One at a time, and then some of all together.
    let base = Content::default();
    let mut all: Vec<Content> = Vec::new();
    for size in sizes {
        all.push(Content { size, ..base });
        all.push(Content {
            limit: size,
            ..base
        });
        all.push(Content {
            size,
            limit: size,
            source: Some(size),
            ..base
        });
        all.push(Content {
            size,
            limit: 0,
            source: None,
            dense: WHOLE,
            filed: 1,
            ..base
        });
        all.push(Content {
            size,
            limit: 0,
            source: None,
            ..base
        });
    }
    for count in counts {
        all.push(Content {
            dense: count,
            filed: 1,
            ..base
        });
        all.push(Content {
            stored: count,
            filed: 1,
            ..base
        });
        all.push(Content {
            size: MAX_SIZE,
            dense: count,
            filed: 1,
            ..base
        });
    }
    for _ in 0..60 {
        let mut of = |all: &[u64]| all[rng.below(all.len() as u64) as usize];
        let (size, limit, source) = (of(&sizes[..8]), of(&sizes[..8]), Some(of(&sizes)));
        let (dense, stored, filed) = (of(&counts), of(&counts), of(&[0, 1]) as u8);
        all.push(Content {
            size,
            limit,
            source,
            dense,
            stored,
            filed,
            ..base
        });
    }
    // These say that they have all of their pages, and have none: copying them needs all the room there is.
    for size in [1 << 44, MAX_SIZE] {
        all.push(Content {
            size,
            limit: size,
            source: Some(size),
            stored: 1 << 32,
            filed: 1,
            ..base
        });
    }
    for content in all {
        let Content {
            size,
            limit,
            dense,
            stored,
            filed,
            source,
            ..
        } = content;
        let name = format!("content {size:x} {limit:x} {dense:x} {stored:x} {filed} {source:x?}");
        file(run, &name, content, &[]);
    }
}

fn page_maps(run: &mut Run) {
    let full = chunk(Some(u64::MAX), None);
    let half = chunk(Some(0x5555_5555_5555_5555), Some(0x2222_2222_2222_2222));
    let filed = Content {
        filed: 1,
        stored: 1024,
        ..Content::default()
    };
    let long = Content {
        size: MAX_SIZE,
        limit: MAX_SIZE,
        source: Some(MAX_SIZE),
        ..filed
    };
    let numbers = [
        0,
        1,
        1 << 40,
        (1 << 41) - 1,
        1 << 41,
        1 << 52,
        (1 << 54) - 1,
        1 << 54,
        u64::MAX,
    ];
    for number in numbers {
        for (what, map) in [("full", &full), ("half", &half)] {
            for (of, content) in [("short", filed), ("long", long)] {
                file(
                    run,
                    &format!("{what} chunk {number:x}, {of}"),
                    content,
                    &[(number, map.clone())],
                );
            }
        }
    }
    for (what, map) in [
        ("nothing", Vec::new()),
        ("empty", vec![0, 0]),
        ("both", vec![1, 1]),
        ("tag 3", vec![3, 0]),
        ("cut", vec![2, 5, 5]),
        ("long", [full.clone(), vec![0]].concat()),
    ] {
        file(run, &format!("chunk: {what}"), filed, &[(0, map)]);
    }
    for stored in [0, 1, 1023, 1025, 1 << 51] {
        let content = Content { stored, ..filed };
        file(
            run,
            &format!("{stored} of 1024 stored"),
            content,
            &[(0, full.clone())],
        );
    }
    let dense = Content {
        dense: 3,
        stored: 1024,
        ..filed
    };
    file(
        run,
        "a map below the dense pages",
        dense,
        &[(0, full.clone())],
    );
    let whole = Content {
        dense: WHOLE,
        stored: 0,
        limit: 0,
        ..filed
    };
    file(run, "a whole file with a map", whole, &[(0, full.clone())]);
    let unfiled = Content {
        filed: 0,
        stored: 0,
        ..filed
    };
    file(run, "a map without a data file", unfiled, &[(0, full)]);
}

/// Bytes of what is no file.
fn not_files(run: &mut Run) {
    for kind in 2..=7 {
        let entries: Vec<Entry> = vec![
            (
                key(b'n', FILE),
                Some(
                    Node {
                        kind,
                        ..Node::default()
                    }
                    .value(),
                ),
            ),
            (key(b'c', FILE), Some(Content::default().value())),
        ];
        run.case(&format!("bytes of kind {kind}"), Trust::Anything, |good| {
            one_table(good, &entries)
        });
    }
    let entries: Vec<Entry> = vec![(key(b'c', FIRST + 5), Some(Content::default().value()))];
    run.case("bytes of no node", Trust::Anything, |good| {
        one_table(good, &entries)
    });
}
