//! Appends.

mod common;
mod stage;
mod survive;

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use common::{Mount, user};
use rustix::fs::{Advice, fadvise};
use stage::{CLOCK_STEP, MIB, PAGE, assert_same_bytes, noise, on_mount, printed};
use survive::Rng;

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

/// The kernel's cache between clients and daemon, none, and one event loop.
const MODES: [&[&str]; 3] = [&[], &["--direct-io"], &["--threads", "1"]];

/// What always goes into one request, however a client's buffer lies in its pages.
const LONGEST: u64 = MIB - PAGE;

/// Lines of 10 to 6,000 bytes, one in 40 of them up to the longest there is. Each says who wrote it, its number, and its length.
fn lines(writer: char, rng: &mut Rng) -> impl Iterator<Item = Vec<u8>> + use<'_> {
    (0..RECORDS).map(move |number| {
        let most = if rng.below(40) == 0 { LONGEST } else { 6000 };
        let head = format!("{writer} {number} ");
        let fill = (10 + rng.below(most - 10)) as usize;
        let fill = fill.max(head.len() + 8) - head.len() - 8;
        let mut line = format!("{head}{fill:06} ").into_bytes();
        line.resize(line.len() + fill, writer as u8);
        line.push(b'\n');
        line
    })
}

/// Which writers' lines are whole, and how many there are of each; the first that is not.
fn whole_lines(log: &[u8]) -> Result<HashMap<char, usize>, String> {
    let mut next = HashMap::new();
    for line in log.split_inclusive(|&byte| byte == b'\n') {
        let shown = || {
            let start = String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned();
            format!("{} bytes: {start}", line.len())
        };
        let words: Vec<_> = line.splitn(4, |&byte| byte == b' ').collect();
        let [writer, number, fill, rest] = words[..] else {
            return Err(shown());
        };
        let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
        let next = next.entry(text(writer).chars().next().unwrap_or(' '));
        let next: &mut usize = next.or_default();
        let whole = text(number) == next.to_string()
            && text(fill).parse() == Ok(rest.len() - 1)
            && rest.ends_with(b"\n")
            && rest[..rest.len() - 1].iter().all(|byte| [*byte] == *writer);
        if !whole {
            return Err(shown());
        }
        *next += 1;
    }
    Ok(next)
}

/// Three on the mount and three on the source append lines to one log at once, and none comes out torn.
/// proves: S38
#[test]
fn no_line_is_torn() {
    for options in MODES {
        on_mount(options, |stage| {
            let (shown, source) = (stage.mount("log"), stage.source("log"));
            let places = [&shown, &source, &shown, &source, &shown, &source];
            append_lines(options, (&shown, &source), &places, |_, _| {});
        });
    }
}

/// Who reads a log that users of the mount append to, at random, in order as `tail -f` does, or through a descriptor that appends,
/// reads what is in the source, and nothing else where a line is to come.
/// proves: S17
#[test]
fn a_log_is_read_as_it_is_while_it_grows() {
    for options in MODES {
        on_mount(options, |stage| {
            let (shown, source) = (stage.mount("log"), stage.source("log"));
            append_lines(options, (&shown, &source), &[&shown; 3], |writing, rng| {
                thread::scope(|scope| {
                    for (mut rng, append) in [(rng.fork(), false), (rng.fork(), true)] {
                        let reader = OpenOptions::new().read(true).append(append).open(&shown);
                        let (reader, source) = (reader.unwrap(), fs::File::open(&source).unwrap());
                        scope.spawn(move || compare_while(writing, &mut rng, &reader, &source));
                    }
                    scope.spawn(|| follow_while(writing, &shown, &source));
                });
            });
        });
    }
}

/// Has a writer append its lines at each of these places of one log, while `meanwhile` runs. Each line is there in the end, whole.
fn append_lines(
    options: &[&str],
    (shown, source): (&Path, &Path),
    places: &[&PathBuf],
    meanwhile: impl FnOnce(&AtomicUsize, &mut Rng),
) {
    fs::write(source, "").expect("create");
    let mut rng = Rng::new();
    let writing = AtomicUsize::new(places.len());
    thread::scope(|scope| {
        for (writer, place) in ('a'..).zip(places) {
            let (mut rng, writing) = (rng.fork(), &writing);
            scope.spawn(move || {
                let _ended = Ended(writing);
                let mut file = appender(place);
                for line in lines(writer, &mut rng) {
                    file.write_all(&line).expect("append");
                }
            });
        }
        meanwhile(&writing, &mut rng);
    });
    let log = fs::read(source).expect("read");
    let whole = whole_lines(&log).unwrap_or_else(|torn| panic!("{options:?}: torn: {torn}"));
    let writers = ('a'..).take(places.len());
    let expected: HashMap<_, _> = writers.map(|writer| (writer, RECORDS)).collect();
    assert_eq!(whole, expected, "{options:?}");
    assert_same_bytes("the mount", &log, &fs::read(shown).expect("read"));
}

/// Counts down also when its thread panics.
struct Ended<'a>(&'a AtomicUsize);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// As `assert_same_bytes`; but the kernel may show zeros in place of what is appended at that very moment (docs/semantics.md, Limits).
fn assert_same_or_zeros(what: &str, there: &[u8], found: &[u8]) {
    let shown = |(there, found): (&u8, &u8)| if *found == 0 { 0 } else { *there };
    let expected: Vec<u8> = there.iter().zip(found).map(shown).collect();
    assert_eq!(there.len(), found.len(), "{what}");
    assert_same_bytes(what, &expected, found);
}

/// Reads pieces near the end and elsewhere through one descriptor: what is read is in the source.
fn compare_while(writing: &AtomicUsize, rng: &mut Rng, shown: &fs::File, source: &fs::File) {
    let (mut found, mut there) = (vec![0; 20_000], vec![0; 20_000]);
    while writing.load(Relaxed) > 0 {
        let size = shown.metadata().unwrap().len();
        let back = if rng.below(4) == 0 { size } else { 3 * PAGE };
        let offset = size.saturating_sub(rng.below(back));
        let count = shown.read_at(&mut found, offset).expect("read");
        source
            .read_exact_at(&mut there[..count], offset)
            .expect("read");
        let what = format!("{count} bytes at {offset} of {size}");
        assert_same_or_zeros(&what, &there[..count], &found[..count]);
    }
}

/// Reads in order until everything is written and read.
fn follow_while(writing: &AtomicUsize, shown: &Path, source: &Path) {
    let (mut followed, mut file) = (Vec::new(), fs::File::open(shown).unwrap());
    loop {
        let over = writing.load(Relaxed) == 0;
        let size = fs::metadata(source).unwrap().len();
        file.read_to_end(&mut followed).expect("read");
        if over && followed.len() as u64 >= size {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert_same_or_zeros("followed", &fs::read(source).unwrap(), &followed);
    // Not for longer than a moment.
    let again = fs::read(shown).unwrap();
    assert_same_bytes("read again", &fs::read(source).unwrap(), &again);
}

/// O_APPEND that is set or cleared by fcntl(2), and RWF_APPEND and RWF_NOAPPEND of one write, decide where that write goes, in a file
/// made on the mount as in one made in the source.
/// proves: S38
#[test]
fn each_write_goes_where_its_own_flags_say() {
    let kinds = [
        "append",
        "plain-set",
        "plain-append",
        "append-clear",
        "append-noappend",
    ];
    // The kernel goes on appending to what it serves by itself (docs/semantics.md, Limits).
    let given = std::env::var("MMFS_TEST_OPTIONS").unwrap_or_default();
    let passed = given.contains("--passthrough") && user::is_root();
    let kinds = &kinds[..if passed { 3 } else { 5 }];
    for options in MODES {
        on_mount(options, |stage| {
            let program = stage.program("append_offsets");
            for (kind, behind) in kinds.iter().flat_map(|kind| [(kind, false), (kind, true)]) {
                let name = format!("{kind}-{behind}");
                for plain in [true, false] {
                    let (seen, real) = match plain {
                        true => (stage.plain(&name), stage.plain(&name)),
                        false => (stage.mount(&name), stage.source(&name)),
                    };
                    let made = if behind { &real } else { &seen };
                    fs::write(made, noise(5000, 1)).unwrap();
                }
                let what = format!(
                    "{options:?}: {kind}, {}",
                    if behind { "made behind" } else { "made here" }
                );
                let positions = |path| printed(Command::new(&program).arg(path).arg(kind));
                let (natively, mounted) =
                    (positions(stage.plain(&name)), positions(stage.mount(&name)));
                stage.expect_same(&format!("{what}: positions"), &natively, &mounted);
                let bytes = |path| fs::read(path).unwrap();
                assert_same_bytes(
                    &what,
                    &bytes(stage.plain(&name)),
                    &bytes(stage.source(&name)),
                );
                assert_same_bytes(
                    &what,
                    &bytes(stage.plain(&name)),
                    &bytes(stage.mount(&name)),
                );
            }
        });
    }
}

/// A file that is opened to append can be mapped and stored to; appends, stores and reads agree.
/// proves: S16, S17
#[test]
fn a_file_opened_to_append_can_be_mapped() {
    for options in MODES {
        on_mount(options, |stage| {
            fs::write(stage.source("log"), noise(10_100, 1)).unwrap();
            let mut program = Command::new(stage.program("append_mapped"));
            assert_eq!(
                printed(program.arg(stage.mount("log"))),
                "ok",
                "{options:?}"
            );
            assert_same_bytes(
                "the source",
                &fs::read(stage.source("log")).unwrap(),
                &fs::read(stage.mount("log")).unwrap(),
            );
        });
    }
}

/// One asynchronous append that takes several requests arrives in order.
#[test]
fn a_long_asynchronous_append_is_in_order() {
    const SIZE: u32 = 8 << 20;
    let expected: Vec<u8> = (0..SIZE / 4).flat_map(u32::to_ne_bytes).collect();
    for options in MODES {
        on_mount(options, |stage| {
            for round in 0..6 {
                let log = format!("log-{round}");
                match round % 2 {
                    0 => fs::write(stage.source(&log), "first").unwrap(),
                    _ => fs::write(stage.mount(&log), "first").unwrap(),
                }
                let mut program = Command::new(stage.program("append_async"));
                program.arg(stage.mount(&log)).arg(SIZE.to_string());
                assert_eq!(printed(&mut program), SIZE.to_string(), "{options:?}");
                let log = fs::read(stage.source(&log)).unwrap();
                assert_same_bytes(&format!("{options:?}, round {round}"), &expected, &log[5..]);
            }
        });
    }
}

/// Size and modification time show an append at once, to every client.
#[test]
fn size_and_time_show_an_append_at_once() {
    for options in MODES {
        on_mount(options, |stage| {
            let path = stage.mount("log");
            fs::write(&path, "first").unwrap();
            let other = fs::File::open(&path).unwrap();
            let mut file = appender(&path);
            for round in 1..50u64 {
                let before = other.metadata().unwrap().modified().unwrap();
                thread::sleep(CLOCK_STEP);
                file.write_all(b"more").unwrap();
                for seen in [fs::metadata(&path), other.metadata(), file.metadata()] {
                    let seen = seen.unwrap();
                    assert_eq!(seen.len(), 5 + 4 * round, "{options:?}");
                    assert!(seen.modified().unwrap() > before, "{options:?}");
                }
            }
        });
    }
}

/// Once an append has returned, others read it, also where the kernel was reading that page meanwhile: not the zeros behind the old end.
/// proves: S17
#[test]
fn an_append_that_has_returned_is_read() {
    const APPENDS: u64 = 300;
    const LENGTH: u64 = 200_001;
    for options in MODES {
        on_mount(options, |stage| {
            let path = stage.mount("log");
            fs::write(&path, "").unwrap();
            let (mut file, written) = (appender(&path), AtomicU64::new(0));
            thread::scope(|scope| {
                for _ in 0..2 {
                    let (reader, written) = (fs::File::open(&path).unwrap(), &written);
                    let reads = move |offset, expected: u64| {
                        let mut byte = [0];
                        reader.read_exact_at(&mut byte, offset).unwrap();
                        assert_eq!(
                            u64::from(byte[0]),
                            1 + expected % 255,
                            "{options:?}: {offset}"
                        );
                        // So that the kernel reads the page again and again.
                        fadvise(&reader, offset, None, Advice::DontNeed).unwrap();
                    };
                    scope.spawn(move || {
                        let mut last = 0;
                        while last < APPENDS {
                            last = written.load(SeqCst);
                            if last > 0 {
                                reads((last - 1) * LENGTH, last);
                                reads(last * LENGTH - 1, last);
                            }
                        }
                    });
                }
                for number in 1..=APPENDS {
                    let line = vec![1 + (number % 255) as u8; LENGTH as usize];
                    file.write_all(&line).unwrap();
                    written.store(number, SeqCst);
                }
            });
        });
    }
}
