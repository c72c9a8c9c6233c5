//! Tables with right checksums whose parts contradict each other.

use super::encode::{Bytes, Entry, FIRST, Node, Table, footer_of, key, long_key};
use super::numbers::{number, skeleton};
use super::{Run, Trust, put_tables};

/// The skeleton and two hundred names.
fn entries() -> Vec<Entry> {
    let mut all = skeleton();
    for n in 0..200u64 {
        all.push((key(b'n', FIRST + 10 + n), Some(Node::default().value())));
        let name = long_key(b'd', FIRST, format!("file-{n}").as_bytes());
        all.push((name, Some(number(FIRST + 10 + n))));
    }
    all.sort();
    all
}

fn lie(run: &mut Run, name: &str, lie: impl Fn(&mut Table)) {
    let mut table = Table::new(0x101, &entries(), 1000);
    lie(&mut table);
    let file = table.file();
    run.case(name, Trust::Anything, |good| {
        put_tables(good, std::slice::from_ref(&file))
    });
}

pub fn cases(run: &mut Run) {
    lie(run, "the truth", |_| {});
    index(run);
    filter(run);
    footer(run);
    blocks(run);
    order(run);
    several(run);
}

fn index(run: &mut Run) {
    lie(run, "index: none", |table| table.index.clear());
    lie(run, "index: one block less", |table| {
        drop(table.index.pop())
    });
    lie(run, "index: reversed", |table| table.index.reverse());
    lie(run, "index: two equal keys", |table| {
        table.index[1].0 = table.index[0].0.clone()
    });
    lie(run, "index: a first key that is too low", |table| {
        table.index[3].0 = table.index[2].0.iter().copied().chain([0]).collect()
    });
    lie(run, "index: a first key that is too high", |table| {
        table.index[3].0.extend([0xff; 40])
    });
    lie(run, "index: the last block ends all keys", |table| {
        table.index.last_mut().unwrap().0 = vec![0xff; 60_000]
    });
    for len in [0, 3, 4, 1 << 20, (1 << 20) + 1, u32::MAX] {
        lie(run, &format!("index: a block of {len}"), |table| {
            table.index[2].1 = len
        });
    }
    lie(run, "index: blocks that take from each other", |table| {
        table.index[2].1 += 10;
        table.index[3].1 -= 10;
    });
    lie(run, "no block at all", |table| {
        table.blocks.clear();
        table.index.clear();
    });
}

fn filter(run: &mut Run) {
    lie(run, "filter: nothing is there", |table| table.bloom.fill(0));
    lie(run, "filter: all is there", |table| table.bloom.fill(0xff));
    lie(run, "filter: some is there", |table| {
        table.bloom.iter_mut().for_each(|byte| *byte &= 0x5a)
    });
    lie(run, "filter: none", |table| table.bloom.clear());
    lie(run, "filter: one word", |table| table.bloom.truncate(8));
    lie(run, "filter: no whole word", |table| {
        table.bloom.truncate(13)
    });
}

fn footer(run: &mut Run) {
    let numbers = [
        0,
        1,
        59,
        60,
        61,
        1 << 40,
        1 << 62,
        i64::MAX as u64,
        1 << 63,
        u64::MAX - 3,
        u64::MAX,
    ];
    for (place, what) in ["index at", "index", "filter", "file"]
        .into_iter()
        .enumerate()
    {
        for number in numbers {
            lie(run, &format!("footer: {what} {number:x}"), |table| {
                table.footer[place] = Some(number)
            });
        }
    }
    for count in [0, 1, 402, 404, u64::MAX] {
        lie(run, &format!("footer: {count} keys"), |table| {
            table.count = count
        });
    }
    for number in [0, 0x102, u64::MAX] {
        lie(run, &format!("footer: number {number:x}"), |table| {
            table.number = number
        });
    }
    run.case("only a footer", Trust::Anything, |good| {
        put_tables(good, &[footer_of(0x101, 0, [0, 0, 0, 60])]);
    });
    let parts = [Bytes::default().checked(), Bytes(vec![0; 8]).checked()].concat();
    let empty = [parts, footer_of(0x101, 0, [0, 4, 12, 76])].concat();
    run.case("an empty table", Trust::Anything, |good| {
        put_tables(good, std::slice::from_ref(&empty))
    });
}

fn blocks(run: &mut Run) {
    let entry = |key: &[u8], len: u32| Bytes::default().u16(key.len() as u16).raw(key).u32(len).0;
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("a byte", vec![1]),
        ("a key that is longer", vec![0xff, 0xff, 1, 2]),
        ("a value that is longer", entry(&key(b'n', FIRST), 4096)),
        (
            "a value of almost 4 GiB",
            entry(&key(b'n', FIRST), u32::MAX - 1),
        ),
        ("zeros", vec![0; 996]),
    ] {
        lie(run, &format!("block: {what}"), |table| {
            table.index[1].1 = bytes.len() as u32 + 4;
            table.blocks[1].clone_from(&bytes);
        });
    }
    for len in [(1 << 20) - 4, (1 << 20) - 3] {
        run.case(
            &format!("block: one value, {len} in all"),
            Trust::Anything,
            |good| {
                let key = long_key(b'x', FIRST + 2, b"user.a");
                let value = vec![1; len - 6 - key.len()];
                let mut all = skeleton();
                all.push((key, Some(value)));
                all.sort();
                put_tables(good, &[Table::new(0x101, &all, 4092).file()]);
            },
        );
    }
    run.case("block: all entries in one", Trust::Anything, |good| {
        put_tables(good, &[Table::new(0x101, &entries(), 1 << 19).file()]);
    });
}

fn order(run: &mut Run) {
    type Order = fn(&mut Vec<Entry>);
    let orders: [(&str, Order); 5] = [
        ("reversed", |all| all.reverse()),
        ("each key twice", |all| {
            *all = all
                .iter()
                .flat_map(|entry| [entry.clone(), entry.clone()])
                .collect()
        }),
        ("two neighbours swapped", |all| all.swap(100, 101)),
        ("a low key at the end", |all| all.rotate_left(1)),
        ("one key over and over", |all| {
            *all = vec![all[0].clone(); 500]
        }),
    ];
    for (what, order) in orders {
        for block in [60, 1000, 1 << 19] {
            let mut all = entries();
            order(&mut all);
            let mut table = Table::new(0x101, &all, block);
            let file = table.file();
            run.case(
                &format!("order: {what}, {block}"),
                Trust::Anything,
                |good| put_tables(good, std::slice::from_ref(&file)),
            );
            table.index.sort();
            let file = table.file();
            run.case(
                &format!("order: {what}, {block}, sorted index"),
                Trust::Anything,
                |good| {
                    put_tables(good, std::slice::from_ref(&file));
                },
            );
        }
    }
}

/// Older tables that are larger, that are empty, that say the same.
fn several(run: &mut Run) {
    let (all, none): (Vec<Entry>, Vec<Entry>) = (entries(), Vec::new());
    let gone: Vec<Entry> = all.iter().map(|(key, _)| (key.clone(), None)).collect();
    let file = |number, entries: &[Entry]| Table::new(number, entries, 1000).file();
    for (what, newest, oldest) in [
        ("gone again", &gone, &all),
        ("gone before", &all, &gone),
        ("twice", &all, &all),
        ("nothing", &none, &none),
    ] {
        run.case(&format!("two tables: {what}"), Trust::Anything, |good| {
            put_tables(good, &[file(0x101, newest), file(0x102, oldest)]);
        });
    }
}
