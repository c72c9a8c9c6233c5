//! Programs that map files of the mount: what they see, what they store, and what they share.

mod common;
mod stage;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::tools;
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
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

/// The modes in which a file may grow, one event loop among them: the kernel asks for pages while a request that it waits
/// for is being served.
const GROWING: [&[&str]; 3] = [&[], &["--threads", "1"], &["--direct-io"]];

/// Runs tests/c/steps.c on a file of 100 bytes `a`, which is made in one place and changed in another, and returns what
/// it printed and which bytes the file has then.
fn grown(stage: &Stage, made: &Path, file: &Path, steps: &str) -> (String, Vec<u8>) {
    fs::write(made, [b'a'; 100]).unwrap();
    let mut run = Command::new(stage.program("steps"));
    let printed = printed(run.arg(file).args(steps.split(' ')));
    (printed, fs::read(made).unwrap())
}

/// Bytes stored through a mapping behind the end of the file, in its last page, are zeros when the file grows: in the
/// mapping, for read(2), and in the source; however it grows, and whether they have been written back by then or not.
/// (proves: S14)
#[test]
fn what_was_stored_beyond_the_end_is_zeros_when_the_file_grows() {
    let stores = [
        "map:4096 store:100:3996:g",
        "map:4096 store:0:4096:g msync",
        "map:4096 store:50:2000:g unmap map:4096",
        "map:4096 store:0:4096:g unmap close open map:4096",
        "write:0:8192:w ftruncate:100 map:4096 store:90:4000:g",
        "map:4096 seen put:100:50:p store:150:3000:g",
    ];
    let growths = [
        "ftruncate:4000",
        "ftruncate:200 ftruncate:300",
        "ftruncate:10000",
        "truncate:5000",
        "write:300:10:w",
        "write:5000:10:w",
        "put:300:10:p",
        "put:4096:10:p",
        "fallocate:0:3000",
        "fallocate:2000:5000",
        "append:20:p ftruncate:3000",
        "append:20:p append:30:q write:2000:10:w",
        "copy:0:300:50",
        "copy:0:5000:50",
        "copy:0:100:50 ftruncate:3000",
        "ftruncate:50 store:60:500:h ftruncate:1000",
        "write:300:10:w store:500:20:h ftruncate:1000",
    ];
    let closed = [
        "truncate:5000",
        "put:300:10:p",
        "put:5000:10:p",
        "append:20:p truncate:3000",
    ];
    let grows = |store: &str| {
        let open = growths.map(|growth| format!("{store} {growth} seen read msync read"));
        let closed =
            closed.map(|growth| format!("{store} unmap close {growth} open map:4096 seen read"));
        open.into_iter().chain(closed).collect::<Vec<_>>()
    };
    for mode in GROWING {
        on_mount(mode, |stage| {
            for (number, steps) in stores.into_iter().flat_map(grows).enumerate() {
                // Another name each time: the one before is remembered for a second.
                let name = number.to_string();
                let (plain, source) = (stage.plain(&name), stage.source(&name));
                let natively = grown(stage, &plain, &plain, &steps);
                let mounted = grown(stage, &source, &stage.mount(&name), &steps);
                stage.expect_same(&format!("{mode:?}: {steps}"), &natively, &mounted);
            }
        });
    }
}

/// A client at tests/c/steps.c that has paused.
struct Paused {
    client: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Paused {
    #[track_caller]
    fn begin(stage: &Stage, file: &Path, steps: &str) -> Paused {
        let mut client = Command::new(stage.program("steps"))
            .arg(file)
            .args(steps.split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(client.stdout.take().unwrap()).lines();
        let mut paused = Paused { client, lines };
        paused.wait();
        paused
    }

    /// Waits until it pauses.
    #[track_caller]
    fn wait(&mut self) {
        assert_eq!(self.lines.next().unwrap().unwrap(), "paused");
    }

    fn go_on(&mut self) {
        self.client
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"\n")
            .unwrap();
    }

    /// Goes on to the end, and returns what is printed until then.
    #[track_caller]
    fn end(mut self) -> Vec<String> {
        self.go_on();
        let lines = self.lines.map(Result::unwrap).collect();
        assert!(self.client.wait().unwrap().success());
        lines
    }
}

/// The same where it grows behind the mount: what was stored beyond the end neither shows nor replaces what is there now.
/// Attributes by the open file, by name and by a listing tell programs of the growth, and so does reading.
/// (proves: S14)
#[test]
fn what_was_stored_beyond_the_end_does_not_replace_growth_behind_the_mount() {
    let looks = ["stat", "ls -l", "cat"];
    let growths = [
        "append:50:p",
        "put:300:50:p",
        "ftruncate:1000",
        "put:4096:50:p",
        "append:60:q",
    ];
    for mode in GROWING {
        let options = [mode, &["--attr-timeout", "0", "--entry-timeout", "0"]].concat();
        on_mount(&options, |stage| {
            let all = looks
                .into_iter()
                .flat_map(|look| growths.map(|growth| (look, growth)));
            for (number, (look, growth)) in all.enumerate() {
                let name = format!("{number}/file");
                let at = |made: &Path, file: &Path| {
                    fs::create_dir(made.parent().unwrap()).unwrap();
                    fs::write(made, [b'a'; 100]).unwrap();
                    // The mapping alone keeps the file, every other time.
                    let steps = match number % 2 {
                        0 => "map:4096 store:50:3000:g pause seen msync seen read",
                        _ => "map:4096 store:50:3000:g close pause open seen msync seen read",
                    };
                    let client = Paused::begin(stage, file, steps);
                    printed(Command::new(stage.program("steps")).arg(made).arg(growth));
                    match look {
                        "ls -l" => printed(command("ls", ["-l"]).arg(file.parent().unwrap())),
                        program => printed(&mut command(program, [file])),
                    };
                    let seen = client.end();
                    (seen, fs::read(made).unwrap())
                };
                let natively = at(&stage.plain(&name), &stage.plain(&name));
                let mounted = at(&stage.source(&name), &stage.mount(&name));
                stage.expect_same(
                    &format!("{mode:?}: {look} after {growth}"),
                    &natively,
                    &mounted,
                );
            }
        });
    }
}

/// Growth is answered while others wait for bytes of the page that the file ends in, with one event loop, too: the kernel
/// keeps that page locked for them.
/// (proves: S14)
#[test]
fn growth_waits_for_no_reader_of_the_last_page() {
    for mode in GROWING {
        on_mount(mode, |stage| {
            fs::write(stage.source("file"), [b'a'; 100]).unwrap();
            let path = stage.mount("file");
            let done = AtomicBool::new(false);
            const LIMIT: Duration = Duration::from_secs(60);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let mut bytes = [0; 4096];
                        let file = fs::File::open(&path).unwrap();
                        let begin = Instant::now();
                        while !done.load(Relaxed) && begin.elapsed() < LIMIT {
                            let end = file.metadata().unwrap().size();
                            file.read_at(&mut bytes, end - end % PAGE).unwrap();
                            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
                        }
                    });
                }
                let file = fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&path)
                    .unwrap();
                for round in 0..200 {
                    let end = file.metadata().unwrap().size();
                    match round % 3 {
                        0 => file.set_len(end + 333).unwrap(),
                        1 => file.write_all_at(b"x", end + 333).unwrap(),
                        _ => fallocate(&file, FallocateFlags::empty(), end, 333).unwrap(),
                    }
                }
                done.store(true, Relaxed);
            });
        });
    }
}
