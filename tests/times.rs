//! Modification, change and access times of the source, moved by what happens on the mount.

mod common;
mod stage;

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, Timespec, Timestamps};
use rustix::fs::{copy_file_range, openat, utimensat};
use stage::{
    CLOCK_STEP, KIB, MIB, PAGE, Stage, changed, command, noise, on, on_mount, printed, shared,
};

const FILE: &str = "file";
/// Both write paths, with and without the kernel's page cache.
const MODES: [&[&str]; 3] = [&[], &["--write-path", "region"], &["--direct-io"]];
/// A time record may wait this long before it is applied to the source.
const RECORD: Duration = Duration::from_millis(1500);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// A file of three pages, untouched for a day, open for writing on the mount.
fn open_old_file(stage: &Stage) -> File {
    fs::write(stage.source(FILE), noise(3 * PAGE, 1)).unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(stage.mount(FILE))
        .unwrap();
    file.set_modified(SystemTime::now() - DAY).unwrap();
    file
}

/// The source's mtime and ctime.
fn times(stage: &Stage) -> (SystemTime, SystemTime) {
    let meta = fs::metadata(stage.source(FILE)).unwrap();
    (meta.modified().unwrap(), changed(&meta))
}

/// Writes ten bytes and returns the earliest and latest moment that may be taken for it.
fn write_ten(file: &File, offset: u64) -> (SystemTime, SystemTime) {
    let begin = SystemTime::now() - CLOCK_STEP;
    file.write_all_at(b"ten bytes.", offset).unwrap();
    (begin, SystemTime::now())
}

/// "Two 10-byte writes to one page, 20 ms apart, move mtime and ctime in the source each time": through one open
/// file, with a look through the mount after each.
/// (proves: S19)
#[test]
fn each_of_two_writes_to_one_page_moves_the_times() {
    for mode in MODES {
        on_mount(mode, |stage| {
            let file = open_old_file(stage);
            let mut last = times(stage);
            for round in 0..4 {
                let (begin, end) = write_ten(&file, 10 * round);
                let shown = file.metadata().unwrap();
                let (mtime, ctime) = times(stage);
                assert!(
                    mtime > last.0 && ctime > last.1,
                    "{mode:?}, write {round}: {last:?} to {:?}",
                    (mtime, ctime)
                );
                assert!(
                    (begin..=end).contains(&mtime),
                    "{mode:?}, write {round}: {mtime:?} not in {begin:?}..{end:?}"
                );
                assert_eq!(
                    (shown.modified().unwrap(), changed(&shown)),
                    (mtime, ctime),
                    "{mode:?}: shown and true"
                );
                last = (mtime, ctime);
                sleep(2 * CLOCK_STEP);
            }
        });
    }
}

/// The same with nobody looking through the mount: within a second or so the source shows the second write's time,
/// not the first's, while the file stays open.
/// (proves: S19)
#[test]
fn the_times_arrive_without_anybody_asking() {
    for mode in MODES {
        on_mount(mode, |stage| {
            let file = open_old_file(stage);
            let (_, first) = write_ten(&file, 0);
            sleep(2 * CLOCK_STEP);
            let (begin, end) = write_ten(&file, 10);
            sleep(RECORD);
            let (mtime, ctime) = times(stage);
            assert!(
                mtime > first && ctime > first,
                "{mode:?}: the second write moved nothing"
            );
            assert!(
                (begin..=end).contains(&mtime),
                "{mode:?}: {mtime:?} not in {begin:?}..{end:?}"
            );
        });
    }
}

/// The time of a write is when it was written, not when the file was closed.
/// (proves: S19)
#[test]
fn closing_does_not_move_the_times() {
    for mode in MODES {
        on_mount(mode, |stage| {
            let file = open_old_file(stage);
            let (begin, end) = write_ten(&file, 0);
            sleep(Duration::from_millis(300));
            drop(file);
            sleep(RECORD);
            let mtime = times(stage).0;
            assert!(
                (begin..=end).contains(&mtime),
                "{mode:?}: {mtime:?} not in {begin:?}..{end:?}"
            );
        });
    }
}

/// A program that writes and then sets the time, as cp -p, tar and rsync do, keeps the time it has set.
/// (proves: S21)
#[test]
fn a_time_set_after_a_write_stays() {
    for mode in MODES {
        on_mount(mode, |stage| {
            let file = open_old_file(stage);
            let wanted = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
            write_ten(&file, 0);
            file.set_times(FileTimes::new().set_modified(wanted).set_accessed(wanted))
                .unwrap();
            assert_eq!(times(stage).0, wanted, "{mode:?}, at once");
            sleep(RECORD);
            assert_eq!(times(stage).0, wanted, "{mode:?}, after the record's time");
            drop(file);
            sleep(Duration::from_millis(100));
            assert_eq!(times(stage).0, wanted, "{mode:?}, after the close");
            assert_eq!(
                fs::metadata(stage.mount(FILE)).unwrap().modified().unwrap(),
                wanted,
                "{mode:?}, on the mount"
            );
        });
    }
}

/// Ways of writing through the mount that leave stores of a client in the kernel's pages, one event loop among them.
const MAPPED: [&[&str]; 4] = [
    &[],
    &["--threads", "1"],
    &["--write-path", "region"],
    &["--direct-io"],
];

/// Runs tests/c/steps.c on a file of two pages, untouched for a day, and returns what it printed; then both times.
fn after_steps(stage: &Stage, file: &Path, steps: &str) -> (String, SystemTime, SystemTime) {
    fs::write(file, noise(2 * PAGE, 1)).unwrap();
    let old = SystemTime::now() - DAY;
    let times = FileTimes::new().set_modified(old).set_accessed(old);
    File::open(file).unwrap().set_times(times).unwrap();
    let mut run = Command::new(stage.program("steps"));
    let printed = printed(run.arg(file).args(steps.split(' ')));
    let meta = fs::metadata(file).unwrap();
    (printed, meta.modified().unwrap(), meta.accessed().unwrap())
}

/// What a client has stored through a mapping before it sets the modification time is written back later, and leaves the
/// time alone: set by any user, by descriptor or by name, however the client ends what it does, and with others mapping
/// the file.
/// (proves: S21)
#[test]
fn a_time_set_after_a_store_stays() {
    let set = SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 123_456_789);
    let stores = [
        "map:8192 store:0:10:s",
        "map:8192 store:0:8192:s",
        "write:0:9000:w map:9000 store:8999:1:s",
    ];
    let setting = [
        "mtime:1000000",
        "path:1000000",
        "now mtime:1000000",
        "mtime:1000000 atime:5",
    ];
    let ends = [
        "msync",
        "fsync",
        "unmap",
        "close unmap",
        "fsync unmap close open fsync",
        "modified",
    ];
    for mode in MAPPED {
        on_mount(mode, |stage| {
            let all = stores
                .iter()
                .flat_map(|store| setting.map(|set| (store, set)));
            let all = all.flat_map(|(store, set)| ends.map(|end| format!("{store} {set} {end}")));
            for (number, steps) in all.enumerate() {
                let name = number.to_string();
                let (_, mtime, _) = after_steps(stage, &stage.mount(&name), &steps);
                assert_eq!(mtime, set, "{mode:?}: {steps}, on the mount");
                let there = fs::metadata(stage.source(&name))
                    .unwrap()
                    .modified()
                    .unwrap();
                assert_eq!(there, set, "{mode:?}: {steps}, in the source");
            }
            // Nothing waits to be written any more, and no time to be applied.
            sleep(RECORD);
            for number in 0..stores.len() * setting.len() * ends.len() {
                let there = fs::metadata(stage.source(number.to_string())).unwrap();
                assert_eq!(there.modified().unwrap(), set, "{mode:?}: {number}, later");
            }
        });
    }
}

/// The same where the time is set by another program, while the client has the file mapped: by name, by touch(1), which opens
/// it, and by `cp -p`, which writes the bytes, too.
/// (proves: S21)
#[test]
fn a_time_that_others_set_after_a_store_stays() {
    let wanted = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for mode in MAPPED {
        on_mount(mode, |stage| {
            let other = stage.plain("other");
            fs::write(&other, noise(2 * PAGE, 2)).unwrap();
            File::open(&other).unwrap().set_modified(wanted).unwrap();
            let setters = ["by name", "touch -r OTHER FILE", "cp -p OTHER FILE"];
            let files = setters.map(|setter| {
                let (file, there) = (stage.mount(setter), stage.source(setter));
                fs::write(&file, noise(2 * PAGE, 1)).unwrap();
                let mut client = Command::new(stage.program("steps"))
                    .arg(&file)
                    .args("map:8192 store:0:8192:s pause fsync unmap close".split(' '))
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut line = String::new();
                let mut lines = BufReader::new(client.stdout.take().unwrap());
                lines.read_line(&mut line).unwrap();
                assert_eq!(line, "paused\n");
                match setter == "by name" {
                    true => {
                        let time = |tv_sec| Timespec { tv_sec, tv_nsec: 0 };
                        let last_access = time(1);
                        let last_modification = time(1_000_000);
                        let both = Timestamps {
                            last_access,
                            last_modification,
                        };
                        utimensat(CWD, &file, &both, AtFlags::empty()).unwrap();
                    }
                    false => {
                        let words = setter.split(' ').map(|word| match word {
                            "OTHER" => other.as_os_str(),
                            "FILE" => file.as_os_str(),
                            word => word.as_ref(),
                        });
                        let words: Vec<&OsStr> = words.collect();
                        printed(&mut command(words[0], &words[1..]));
                    }
                }
                client.stdin.take().unwrap().write_all(b"\n").unwrap();
                assert!(client.wait().unwrap().success());
                there
            });
            let check = |when: &str| {
                for there in &files {
                    let time = fs::metadata(there).unwrap().modified().unwrap();
                    assert_eq!(time, wanted, "{mode:?}: {there:?}, {when}");
                }
            };
            check("at once");
            sleep(RECORD);
            check("later");
        });
    }
}

/// A store after the time was set moves it, unless what it is stored into was dirty before: natively, that may be more than a
/// page. Setting only the access time keeps no store from moving the other.
/// (proves: S19, S21)
#[test]
fn a_store_after_a_time_was_set_moves_it() {
    for mode in MAPPED {
        on_mount(mode, |stage| {
            for (number, steps) in [
                "map:8192 store:0:10:s mtime:1000000 msync store:20:10:t msync",
                "map:8192 store:0:10:s mtime:1000000 msync store:5000:10:t unmap",
                "map:8192 mtime:1000000 store:5000:10:t unmap close",
                "map:8192 store:0:10:s atime:5 unmap",
                "map:8192 seen atime:5 store:0:10:s fsync",
                "map:8192 store:0:10:s mtime:1000000 write:0:10:w",
            ]
            .into_iter()
            .enumerate()
            {
                let before = SystemTime::now() - CLOCK_STEP;
                let name = number.to_string();
                let (_, mtime, atime) = after_steps(stage, &stage.mount(&name), steps);
                let there = fs::metadata(stage.source(&name)).unwrap();
                assert!(mtime >= before, "{mode:?}: {steps}, {mtime:?}");
                assert_eq!(there.modified().unwrap(), mtime, "{mode:?}: {steps}");
                let set = SystemTime::UNIX_EPOCH + Duration::new(5, 123_456_789);
                let sets = steps.contains("atime");
                assert_eq!(atime == set, sets, "{mode:?}: {steps}, {atime:?}");
            }
        });
    }
}

/// Times have nanoseconds, and exist before 1970 and after 2038: set on the mount, they are in the source to the last
/// digit, and shown as they are.
/// (proves: S21)
#[test]
fn times_are_exact_in_any_century() {
    let seconds = [-2_000_000_000, -149_551_140, -1, 0, 1, 1 << 31, 1 << 33];
    on_mount(&[], |stage| {
        stage.twins("utimensat", |dir| {
            fs::write(dir.join(FILE), "x").unwrap();
            seconds.map(|tv_sec| {
                let time = |tv_nsec| Timespec { tv_sec, tv_nsec };
                let both = Timestamps {
                    last_access: time(1),
                    last_modification: time(999_999_999),
                };
                let set = utimensat(CWD, dir.join(FILE), &both, AtFlags::empty());
                let meta = fs::metadata(dir.join(FILE)).unwrap();
                (
                    set,
                    meta.atime(),
                    meta.atime_nsec(),
                    meta.mtime(),
                    meta.mtime_nsec(),
                )
            })
        });
        let [shown, there] =
            [stage.mount(FILE), stage.source(FILE)].map(|path| fs::metadata(path).unwrap());
        assert_eq!(
            (shown.mtime(), shown.mtime_nsec()),
            (there.mtime(), there.mtime_nsec())
        );
    });
}

/// Truncation, growth and fallocate move the times where the source's filesystem moves them.
/// (proves: S19)
#[test]
fn resizing_moves_the_times_as_natively() {
    let calls = [
        "truncate",
        "truncate_same",
        "ftruncate",
        "grow",
        "fallocate",
        "keep_size",
        "punch",
        "zero",
        "copy",
    ];
    on_mount(&[], |stage| {
        for call in calls {
            stage.twins(call, |dir| {
                let file = dir.join(call);
                fs::write(&file, noise(2 * PAGE, 1)).unwrap();
                File::open(&file)
                    .unwrap()
                    .set_modified(SystemTime::now() - DAY)
                    .unwrap();
                let before = fs::metadata(&file).unwrap();
                sleep(2 * CLOCK_STEP);
                let answer = printed(Command::new(stage.program("one_call")).arg(call).arg(&file));
                let after = fs::metadata(&file).unwrap();
                let moved = after.modified().unwrap() > before.modified().unwrap();
                (
                    answer,
                    moved,
                    changed(&after) > changed(&before),
                    after.size(),
                )
            });
            let (mount, source) = (
                fs::metadata(stage.mount(call)).unwrap(),
                fs::metadata(stage.source(call)).unwrap(),
            );
            assert_eq!(
                mount.modified().unwrap(),
                source.modified().unwrap(),
                "{call}"
            );
        }
    });
}

/// Sets both times of a path, symbolic links not followed, `atime` and `mtime` before now.
fn set_back(path: &Path, atime: Duration, mtime: Duration) {
    let ago = |age: Duration| {
        let time = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            - age;
        Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: time.subsec_nanos().into(),
        }
    };
    let both = Timestamps {
        last_access: ago(atime),
        last_modification: ago(mtime),
    };
    utimensat(CWD, path, &both, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Ways of reading: what is read, and the command that reads it.
const READERS: [(&str, &str); 4] = [
    ("file", "cat"),
    ("mapped", ""),
    ("directory", "ls"),
    ("link", "readlink"),
];

/// Ages of access and modification times, so that relatime (the usual rule) moves the first for one reason, for
/// another, for both, and for none.
const AGES: [(Duration, Duration); 4] = [
    (DAY.saturating_mul(5), DAY.saturating_mul(6)),
    (HOUR.saturating_mul(2), HOUR),
    (DAY.saturating_mul(5), DAY.saturating_mul(4)),
    (HOUR, HOUR.saturating_mul(2)),
];

/// Makes a file, a directory and a link in one place, reads them in another, and tells which access times moved.
fn accessed(
    stage: &Stage,
    made: &Path,
    read: &Path,
    (atime, mtime): (Duration, Duration),
) -> [String; 4] {
    fs::write(made.join("file"), noise(200 * KIB, 1)).unwrap();
    fs::write(made.join("mapped"), noise(200 * KIB, 2)).unwrap();
    fs::create_dir_all(made.join("directory/below")).unwrap();
    std::os::unix::fs::symlink("file", made.join("link")).unwrap();
    let moved = READERS.map(|(name, program)| {
        set_back(&made.join(name), atime, mtime);
        let time = || {
            fs::symlink_metadata(read.join(name))
                .unwrap()
                .accessed()
                .unwrap()
        };
        let before = time();
        let mapped = stage.program("print_mapped");
        let program = if program.is_empty() {
            mapped.as_os_str()
        } else {
            program.as_ref()
        };
        printed(Command::new(program).arg(read.join(name)));
        let moved = if time() > before { "moved" } else { "stayed" };
        format!("atime of {name} {moved}")
    });
    for name in ["file", "mapped", "link"] {
        fs::remove_file(made.join(name)).unwrap();
    }
    fs::remove_dir_all(made.join("directory")).unwrap();
    moved
}

/// "atime by the source's rule": it moves where it moves natively, for a file read, a file mapped, a directory and
/// a symbolic link.
/// (proves: S20)
#[test]
fn access_times_follow_the_sources_rule() {
    for mode in MODES {
        // A place for each age: names removed behind the mount are remembered for a second.
        for ages in AGES {
            on_mount(mode, |stage| {
                let natively = accessed(stage, &stage.plain(""), &stage.plain(""), ages);
                let mounted = accessed(stage, &stage.source(""), &stage.mount(""), ages);
                stage.expect_same(
                    &format!("{mode:?}, atime and mtime {ages:?} old"),
                    &natively,
                    &mounted,
                );
            });
        }
    }
}

/// The same for bytes that the kernel's page cache still has from their writing on the mount.
/// (proves: S20)
#[test]
fn access_times_of_cached_files_follow_the_sources_rule() {
    for mode in MODES {
        on_mount(mode, |stage| {
            for ages in AGES {
                stage.twins(&format!("{mode:?}, atime and mtime {ages:?} old"), |dir| {
                    accessed(stage, dir, dir, ages)
                });
            }
        });
    }
}

/// The kernel keeps what it has of a file whose access time is due to move when somebody opens it only to write, and
/// not when somebody opens it to read: then a read has to reach the source.
/// (proves: S20)
#[test]
fn opening_only_to_write_keeps_what_the_kernel_has_cached() {
    // The name of a capability, not an error.
    let logging = shared()
        .env("RUST_LOG", "fuser=debug")
        .expect_log("FUSE_ABORT_ERROR");
    on(logging, |stage| {
        fs::write(stage.source(FILE), noise(3 * PAGE, 1)).unwrap();
        let open = File::open(stage.mount(FILE)).unwrap();
        let reads_after = |options: &OpenOptions| {
            let mut page = [0; PAGE as usize];
            open.read_exact_at(&mut page, 0).unwrap();
            open.set_modified(SystemTime::now() + HOUR).unwrap();
            drop(options.open(stage.mount(FILE)).unwrap());
            let before = stage.log().len();
            open.read_exact_at(&mut page, 0).unwrap();
            stage.log()[before..].matches(" READ ").count()
        };
        assert_eq!(reads_after(OpenOptions::new().write(true)), 0, "O_WRONLY");
        assert_eq!(reads_after(OpenOptions::new().append(true)), 0, "O_APPEND");
        assert_eq!(reads_after(OpenOptions::new().read(true)), 1, "O_RDONLY");
        let reads = reads_after(OpenOptions::new().read(true).write(true));
        assert_eq!(reads, 1, "O_RDWR");
    });
}

/// `noatime` reads the source without moving its access times.
/// (proves: S20)
#[test]
fn noatime_leaves_the_source_alone() {
    for options in [&["-o", "noatime"][..], &["-o", "noatime", "--direct-io"]] {
        on_mount(options, |stage| {
            let moved = accessed(stage, &stage.source(""), &stage.mount(""), AGES[0]);
            // Nothing opens a symbolic link O_NOATIME: readlink(2) has no such flag.
            assert!(
                moved[..3].iter().all(|answer| answer.ends_with("stayed")),
                "{options:?}: {moved:?}"
            );
        });
    }
}

/// A file whose access time is due to move, as it is seen in `made` and read in `read`.
struct Due<'a> {
    made: &'a Path,
    read: &'a Path,
    answers: Vec<String>,
}

impl Due<'_> {
    /// Opens the file with O_NOATIME.
    fn quiet(&self, options: &mut OpenOptions) -> File {
        let options = options.read(true).custom_flags(libc::O_NOATIME);
        options.open(self.read.join(FILE)).unwrap()
    }

    /// Opens the file without.
    fn plain(&self) -> File {
        File::open(self.read.join(FILE)).unwrap()
    }

    /// Notes whether `reading` moves an access time that was due to move.
    fn note(&mut self, what: &str, name: &str, reading: impl FnOnce(&Self)) {
        let path = self.made.join(name);
        let before = fs::symlink_metadata(&path).unwrap().accessed().unwrap();
        reading(self);
        let after = fs::symlink_metadata(&path).unwrap().accessed().unwrap();
        let moved = if after == before { "stayed" } else { "moved" };
        self.answers.push(format!("{what}: {moved}"));
    }

    fn set_back(&self, name: &str) {
        set_back(&self.made.join(name), AGES[0].0, AGES[0].1);
    }
}

/// Reads with O_NOATIME and without, alone and beside each other, and tells which access times moved.
fn quietly_accessed(stage: &Stage, made: &Path, read: &Path) -> Vec<String> {
    let page_at =
        |file: &File, offset| file.read_exact_at(&mut [0; PAGE as usize], offset).unwrap();
    let size = 4 * MIB;
    fs::write(made.join(FILE), noise(size, 1)).unwrap();
    fs::write(made.join("copy"), b"").unwrap();
    fs::create_dir_all(made.join("directory/below")).unwrap();
    let mut due = Due {
        made,
        read,
        answers: Vec::new(),
    };
    due.set_back(FILE);
    let mut only_read = OpenOptions::new();
    due.note("alone", FILE, |due| page_at(&due.quiet(&mut only_read), 0));
    let mut both = OpenOptions::new();
    both.write(true);
    due.note("to write, too", FILE, |due| {
        page_at(&due.quiet(&mut both), 0)
    });
    let (plain, quiet) = (due.plain(), due.quiet(&mut only_read));
    due.note("beside another", FILE, |_| page_at(&quiet, 0));
    due.note("that other", FILE, |_| page_at(&plain, 3 * MIB));
    due.set_back(FILE);
    due.note("after that other", FILE, |_| page_at(&quiet, 2 * MIB));
    due.note("a later other", FILE, |due| page_at(&due.plain(), MIB));
    drop((plain, quiet));
    due.set_back(FILE);
    let writer = OpenOptions::new()
        .read(true)
        .write(true)
        .open(read.join(FILE))
        .unwrap();
    due.note("beside a writer", FILE, |due| {
        page_at(&due.quiet(&mut only_read), 0)
    });
    due.note("that writer", FILE, |_| page_at(&writer, 3 * MIB));
    drop(writer);
    due.set_back(FILE);
    let mapped = |due: &Due<'_>, with: &[&str]| {
        let mut command = Command::new(stage.program("print_mapped"));
        printed(command.arg(due.read.join(FILE)).args(with));
    };
    due.note("mapped", FILE, |due| mapped(due, &["noatime"]));
    due.note("mapped without", FILE, |due| mapped(due, &[]));
    due.set_back(FILE);
    let copy = |from: &File| {
        let to = OpenOptions::new()
            .write(true)
            .open(read.join("copy"))
            .unwrap();
        copy_file_range(from, None, &to, None, 64 << 10).unwrap();
    };
    due.note("copied", FILE, |due| copy(&due.quiet(&mut only_read)));
    due.note("copied without", FILE, |due| copy(&due.plain()));
    let new = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_NOATIME)
        .open(read.join("new"))
        .unwrap();
    new.write_all_at(&noise(size, 2), 0).unwrap();
    due.set_back("new");
    due.note("made", "new", |_| page_at(&new, 0));
    due.set_back("directory");
    let list = |flags| {
        let dir = openat(CWD, read.join("directory"), flags, Mode::empty()).unwrap();
        assert_eq!(Dir::new(dir).unwrap().count(), 3);
    };
    due.note("directory", "directory", |_| {
        list(OFlags::DIRECTORY | OFlags::NOATIME)
    });
    due.note("directory without", "directory", |_| {
        list(OFlags::DIRECTORY)
    });
    due.answers
}

/// A client that opens with O_NOATIME moves no access time, also if others have the file open; and it keeps nobody else
/// from moving it.
/// (proves: S20)
#[test]
fn a_client_that_opens_with_o_noatime_moves_no_access_time() {
    for mode in MODES.iter().chain([&["--threads", "1"][..]].iter()) {
        on_mount(mode, |stage| {
            let natively = quietly_accessed(stage, &stage.plain(""), &stage.plain(""));
            let mounted = quietly_accessed(stage, &stage.source(""), &stage.mount(""));
            stage.expect_same(&format!("{mode:?}"), &natively, &mounted);
        });
    }
}

/// A read past the kernel's cache that meets the end counts, too, as that of an empty file does.
/// (proves: S20)
#[test]
fn a_read_at_the_end_moves_the_access_time() {
    on_mount(&["--direct-io"], |stage| {
        let path = stage.source("empty");
        fs::write(&path, "").unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let set = FileTimes::new().set_accessed(long_ago);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_times(set)
            .unwrap();
        assert_eq!(fs::read(stage.mount("empty")).unwrap(), b"");
        let after = fs::metadata(&path).unwrap().accessed().unwrap();
        assert!(after > long_ago, "{after:?}");
    });
}
