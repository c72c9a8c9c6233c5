//! Programs that map files of the mount: what they see, what they store, and what they share.

mod common;
mod stage;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use common::tools;
use stage::{KIB, PAGE, Stage, assert_same_bytes, command, noise, on_mount, printed};

/// The kernel's page cache between programs and daemon, and none; the smallest windows, and the usual ones.
const MODES: [&[&str]; 4] = [
    &[],
    &["--direct-io"],
    &["--window-size", "64K"],
    &["--direct-io", "--window-size", "64K"],
];

/// "opens, fstats, mmaps, closes, prints byte by byte and unmaps a file on the mount, prints exactly the source's
/// bytes, for sizes 0, 1, page ± 1, window ± 1".
/// (proves: S16)
#[test]
fn a_mapping_program_prints_the_source_exactly() {
    let edges = [PAGE, 64 * KIB, 128 * KIB, 1024 * KIB];
    let sizes = edges
        .into_iter()
        .flat_map(|edge| [edge - 1, edge, edge + 1]);
    let sizes: Vec<u64> = [0, 1].into_iter().chain(sizes).collect();
    for mode in MODES {
        on_mount(mode, |stage| {
            for &size in &sizes {
                let (name, bytes) = (format!("{size}"), noise(size, size));
                fs::write(stage.source(&name), &bytes).unwrap();
                let mut print = Command::new(stage.program("print_mapped"));
                let output = tools::run(print.arg(stage.mount(&name)));
                assert_same_bytes(&format!("{mode:?}, {size} bytes"), &bytes, &output.stdout);
            }
        });
    }
}

/// "Two processes that map the same file of the mount shared and writable, with a process-shared mutex and a semaphore
/// inside it, count to 1,000,000 together without a lost update; a third process reading the file in the source
/// directory sees the result after msync."
/// (proves: S16)
#[test]
fn two_processes_count_to_a_million_together() {
    for mode in MODES {
        on_mount(mode, |stage| {
            let file = stage.mount("shared");
            printed(&mut count_together(stage, "init", &file, &[]));
            let mut counters: Vec<_> = (0..2)
                .map(|_| {
                    count_together(stage, "count", &file, &["500000", "2"])
                        .stdout(Stdio::null())
                        .spawn()
                        .unwrap()
                })
                .collect();
            for counter in &mut counters {
                assert!(counter.wait().unwrap().success(), "{mode:?}");
            }
            assert_eq!(
                counted(&stage.source("shared")),
                [1_000_000, 1_000_000],
                "{mode:?}, in the source"
            );
            assert_eq!(
                counted(&file),
                [1_000_000, 1_000_000],
                "{mode:?}, on the mount"
            );
        });
    }
}

/// The mutex inside the mapped file is robust: who dies holding it does not stop the other.
/// (proves: S16)
#[test]
fn a_mutex_survives_its_owner() {
    for mode in [&[][..], &["--direct-io"]] {
        on_mount(mode, |stage| {
            let file = stage.mount("shared");
            printed(&mut count_together(stage, "init", &file, &[]));
            printed(&mut count_together(stage, "abandon", &file, &[]));
            let counted = printed(&mut count_together(stage, "count", &file, &["1000", "1"]));
            assert_eq!(counted, "1000 1000", "{mode:?}");
        });
    }
}

fn count_together(stage: &Stage, what: &str, file: &Path, numbers: &[&str]) -> Command {
    let mut count = Command::new(stage.program("count_together"));
    count.arg(what).arg(file).args(numbers);
    count
}

/// The two counters, as another process reads them.
fn counted(file: &Path) -> [i64; 2] {
    // They follow the number of processes present, on the second page (tests/c/count_together.c).
    let skip = format!("skip={}", PAGE + 8);
    let mut dd = command(
        "dd",
        ["bs=1", "count=16", "status=none", "iflag=skip_bytes", &skip],
    );
    let bytes = tools::run(dd.arg(format!("if={}", file.display()))).stdout;
    [0, 8].map(|at| i64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()))
}

/// Runs tests/c/store.c on a file: 50 bytes `!` across the border of the first two pages.
fn store(stage: &Stage, kind: &str, file: &PathBuf) {
    printed(
        Command::new(stage.program("store"))
            .arg(kind)
            .arg(file)
            .args(["4070", "33", "50"]),
    );
}

/// Stores through a shared mapping are in the source after msync; stores through a private one stay private.
/// (proves: S16)
#[test]
fn shared_stores_reach_the_source_and_private_ones_do_not() {
    for mode in MODES {
        on_mount(mode, |stage| {
            let mut bytes = noise(3 * PAGE + 100, 7);
            fs::write(stage.source("file"), &bytes).unwrap();
            store(stage, "private", &stage.mount("file"));
            assert_same_bytes(
                &format!("{mode:?}, private"),
                &bytes,
                &fs::read(stage.source("file")).unwrap(),
            );
            assert_same_bytes(
                &format!("{mode:?}, private"),
                &bytes,
                &fs::read(stage.mount("file")).unwrap(),
            );

            store(stage, "shared", &stage.mount("file"));
            bytes[4070..4120].fill(b'!');
            assert_same_bytes(
                &format!("{mode:?}, shared"),
                &bytes,
                &fs::read(stage.source("file")).unwrap(),
            );
            assert_same_bytes(
                &format!("{mode:?}, shared"),
                &bytes,
                &fs::read(stage.mount("file")).unwrap(),
            );
        });
    }
}

/// "mtime and ctime move with every write as on the source (a store alone would not move them)": a store through a
/// client's mapping moves both in the source, once msync has returned, and to a time not before the store.
/// (proves: S19)
#[test]
fn stores_move_the_times_in_the_source() {
    for mode in MODES {
        on_mount(mode, |stage| {
            let file = stage.source("file");
            fs::write(&file, noise(3 * PAGE, 8)).unwrap();
            for round in 0..3 {
                let before = SystemTime::now() - stage::CLOCK_STEP;
                store(stage, "shared", &stage.mount("file"));
                let meta = fs::metadata(&file).unwrap();
                assert!(
                    meta.modified().unwrap() >= before,
                    "{mode:?}, round {round}: mtime did not move"
                );
                assert!(
                    stage::changed(&meta) >= before,
                    "{mode:?}, round {round}: ctime did not move"
                );
                std::thread::sleep(2 * stage::CLOCK_STEP);
            }
        });
    }
}

/// "Reads and writes of one file agree": what an asynchronous O_DIRECT write has replaced is not read from the kernel's
/// cache, where others who read all the while put it.
/// (proves: S17)
#[test]
fn reads_find_what_was_written_past_the_cache() {
    for mode in MODES {
        on_mount(mode, |stage| {
            let mut cycle = Command::new(stage.program("direct_cycle"));
            tools::run(cycle.arg(stage.mount("file")).arg("500"));
        });
    }
}

/// A store while another client reads and a third writes: all see one page cache, at the source's bytes.
/// (proves: S17)
#[test]
fn mappings_reads_and_writes_agree() {
    for mode in MODES {
        on_mount(mode, |stage| {
            let mut bytes = noise(3 * PAGE, 9);
            fs::write(stage.source("file"), &bytes).unwrap();
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open(stage.mount("file"))
                .unwrap();
            for round in 0..10u8 {
                store(stage, "shared", &stage.mount("file"));
                bytes[4070..4120].fill(b'!');
                file.write_all_at(&[round; 20], 4090).unwrap();
                bytes[4090..4110].fill(round);
                let mapped = tools::run(
                    Command::new(stage.program("print_mapped")).arg(stage.mount("file")),
                )
                .stdout;
                assert_same_bytes(&format!("{mode:?}, mapped"), &bytes, &mapped);
                let mut read = vec![0; bytes.len()];
                file.read_exact_at(&mut read, 0).unwrap();
                assert_same_bytes(&format!("{mode:?}, read"), &bytes, &read);
            }
            assert_eq!(file.metadata().unwrap().size(), 3 * PAGE);
            assert_same_bytes("source", &bytes, &fs::read(stage.source("file")).unwrap());
        });
    }
}
