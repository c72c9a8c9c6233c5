//! Appends.

mod common;

use common::Mount;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

const RECORDS: usize = 300;

fn appender(path: &Path) -> fs::File {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .expect("open for appending")
}

/// Several clients and somebody behind the mount append to one file: every record is there, whole, and in its
/// writer's order.
/// proves: S38
#[test]
fn appends_go_to_the_real_end() {
    let mount = Mount::new();
    let (shown, source) = (mount.mnt().join("log"), mount.src().join("log"));
    fs::write(&shown, "").expect("create");
    let writers = [("a", &shown), ("b", &shown), ("c", &source), ("d", &source)];
    std::thread::scope(|scope| {
        for (name, path) in writers {
            scope.spawn(move || {
                let mut file = appender(path);
                for record in 0..RECORDS {
                    file.write_all(format!("{name}{record:06}\n").as_bytes())
                        .expect("append");
                }
            });
        }
    });
    for path in [&source, &shown] {
        let text = fs::read_to_string(path).expect("read");
        assert_eq!(text.lines().count(), writers.len() * RECORDS, "{path:?}");
        for (name, _) in writers {
            let own: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
            let expected: Vec<_> = (0..RECORDS)
                .map(|record| format!("{name}{record:06}"))
                .collect();
            assert_eq!(own, expected, "{path:?}");
        }
    }
}

/// What the kernel cached of an append goes to where the append went: a client that appends after somebody behind
/// the mount has, reads both.
/// proves: S38
#[test]
fn an_append_after_one_behind_the_mount_is_read_where_it_is() {
    let mount = Mount::new();
    let (shown, source) = (mount.mnt().join("log"), mount.src().join("log"));
    let mut client = appender(&shown);
    client.write_all(b"first ").expect("append");
    appender(&source).write_all(b"behind ").expect("append");
    client.write_all(b"third").expect("append");
    drop(client);
    assert_eq!(
        fs::read_to_string(&source).expect("read"),
        "first behind third"
    );
    assert_eq!(
        fs::read_to_string(&shown).expect("read"),
        "first behind third"
    );
}
