//! What was opened is current: whatever has changed behind the mount before the open, and however it did.

mod common;
mod stage;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use common::tools;
use stage::{KIB, PAGE, Stage, assert_same_bytes, noise, on_mount};

/// The kernel believes names and attributes for longer than any of this takes.
const BELIEVED: [&str; 4] = ["--attr-timeout", "3600", "--entry-timeout", "3600"];

const MODES: [&[&str]; 5] = [
    &[],
    &["--direct-io"],
    &["--threads", "1"],
    &["--window-size", "64K"],
    // A private view shows what is unchanged as the mirror does.
    &["--ephemeral"],
];

/// Who has the file open while it changes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Holder {
    Nobody,
    Reader,
    Writer,
}

/// What the file becomes: longer, shorter, as long as before, in place, empty, and out of nothing.
const SIZES: [u64; 12] = [
    100,
    200,
    PAGE,
    PAGE + 1,
    PAGE + 1,
    3 * PAGE - 7,
    300 * KIB,
    300 * KIB,
    77 * KIB + 1,
    0,
    1,
    64 * KIB,
];

/// "Growth or rewriting behind the mount is seen by the next open, fstat and read", whatever the kernel believes.
/// (proves: S10)
#[test]
fn what_was_opened_is_current() {
    for mode in MODES {
        for holder in [Holder::Nobody, Holder::Reader, Holder::Writer] {
            on_mount(&[mode, &BELIEVED].concat(), |stage| {
                follow(stage, &format!("{mode:?}, {holder:?}"), holder, rewrite);
                follow(
                    stage,
                    &format!("{mode:?}, {holder:?}, in place"),
                    holder,
                    resize,
                );
            });
        }
    }
}

/// A whole file anew: truncated and written.
fn rewrite(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

/// The bytes first, the length then.
fn resize(path: &Path, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
}

fn follow(stage: &Stage, what: &str, holder: Holder, change: fn(&Path, &[u8])) {
    let name = "file";
    let (path, source) = (stage.mount(name), stage.source(name));
    fs::write(&source, noise(50, 1)).unwrap();
    let held = OpenOptions::new()
        .read(true)
        .write(holder == Holder::Writer)
        .open(&path);
    let _held = held.ok().filter(|_| holder != Holder::Nobody);
    for (round, size) in (2..).zip(SIZES) {
        // The kernel has attributes and bytes of what was.
        fs::metadata(&path).unwrap();
        fs::read(&path).unwrap();
        let bytes = noise(size, round);
        change(&source, &bytes);
        let what = format!("{what}, round {round}, {size} bytes");
        match round % 5 {
            0 => asks_and_reads(&what, &path, &bytes),
            1 => reads_without_asking(&what, &path, &bytes),
            2 => seeks_the_end(&what, &path, &bytes),
            3 => reads_past_the_cache(&what, &path, &bytes),
            _ => maps(stage, &what, &path, &bytes),
        }
        asks_and_reads(&what, &path, &bytes);
        let times = [&path, &source].map(|path| {
            let meta = File::open(path).unwrap().metadata().unwrap();
            (
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec(),
            )
        });
        assert_eq!(times[0], times[1], "{what}: the times");
    }
    fs::remove_file(&source).unwrap();
    // The name is believed in.
    drop(fs::remove_file(&path));
}

fn asks_and_reads(what: &str, path: &Path, bytes: &[u8]) {
    let mut file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    assert_eq!(size, bytes.len() as u64, "{what}: fstat");
    let mut found = Vec::new();
    file.read_to_end(&mut found).unwrap();
    assert_same_bytes(what, bytes, &found);
}

fn reads_without_asking(what: &str, path: &Path, bytes: &[u8]) {
    let file = File::open(path).unwrap();
    let mut found = vec![0; 1 << 20];
    let mut len = 0;
    while let n @ 1.. = file.read_at(&mut found[len..], len as u64).unwrap() {
        len += n;
    }
    assert_same_bytes(&format!("{what}: not asked"), bytes, &found[..len]);
}

fn seeks_the_end(what: &str, path: &Path, bytes: &[u8]) {
    let end = File::open(path).unwrap().seek(SeekFrom::End(0)).unwrap();
    assert_eq!(end, bytes.len() as u64, "{what}: the end");
}

fn reads_past_the_cache(what: &str, path: &Path, bytes: &[u8]) {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .unwrap();
    let mut buffer = vec![0; (1 << 20) + PAGE as usize];
    let aligned = buffer.as_ptr().align_offset(PAGE as usize);
    let found = &mut buffer[aligned..][..1 << 20];
    let len = file.read_at(found, 0).unwrap();
    assert_same_bytes(&format!("{what}: O_DIRECT"), bytes, &found[..len]);
}

fn maps(stage: &Stage, what: &str, path: &Path, bytes: &[u8]) {
    let mut print = Command::new(stage.program("print_mapped"));
    let output = tools::run(print.arg(path));
    assert_same_bytes(&format!("{what}: mapped"), bytes, &output.stdout);
}

/// The timeouts that ship, and a file that is looked at by others all the time.
/// (proves: S10)
#[test]
fn a_growing_file_is_never_shown_shorter_than_it_was_when_it_was_opened() {
    on_mount(&[], |stage| {
        let (path, source) = (stage.mount("log"), stage.source("log"));
        let log = File::create(&source).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Relaxed) {
                        drop(fs::metadata(&path));
                        drop(fs::read(&path));
                    }
                });
            }
            let line = [b'x'; 61];
            let failed = (1..=3000u64).find_map(|n| {
                log.write_all_at(&line, (n - 1) * 61).unwrap();
                let opened = File::open(&path).unwrap();
                let (size, mut last) = (opened.metadata().unwrap().len(), [0; 61]);
                let read = opened.read_at(&mut last, (n - 1) * 61).unwrap();
                let same = size == n * 61 && read == 61 && last == line;
                (!same).then(|| format!("{n} lines: {size} bytes, the last line {read} bytes"))
            });
            done.store(true, Relaxed);
            assert_eq!(failed, None);
        });
    });
}
