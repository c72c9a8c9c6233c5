//! A file that is truncated and written again and again behind the mount while it is read: every byte that a read
//! returns was in some version of it. No version has a zero, and none is ever extended by a hole.

mod common;
mod stage;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use stage::{KIB, PAGE, on_mount};

/// Ends in the middle of a page.
const SIZE: u64 = 300 * KIB + 993;

/// How long each way of rewriting is tried on each mount.
const TIME: Duration = Duration::from_millis(700);

/// What a read of a file that is being rewritten may fail with.
const ALLOWED: [i32; 2] = [libc::EIO, libc::ESTALE];

/// Numbers that differ from call to call and run to run alike; the seed is the time. And until when to rewrite: truncating
/// may wait for a slow disk.
struct Dice(u64, Instant);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// How one version gives way to the next.
type Rewriting = fn(&Path, &File, &[u8], &mut Dice);

const WAYS: [(&str, Rewriting); 6] = [
    ("ftruncate to 0, one write", |_, file, bytes, _| {
        file.set_len(0).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    }),
    ("ftruncate to 0, small writes", |_, file, bytes, dice| {
        file.set_len(0).unwrap();
        write_in(file, bytes, 0, 1000, dice);
    }),
    (
        "O_TRUNC, writes of less than a page",
        |path, _, bytes, dice| {
            let new = OpenOptions::new().write(true).truncate(true).open(path);
            write_in(&new.unwrap(), bytes, 0, 3000, dice);
        },
    ),
    ("cut within the last page", |_, file, bytes, dice| {
        let from = SIZE - 1 - dice.below(SIZE % PAGE - 1);
        cut(file, bytes, from, SIZE as usize, dice);
    }),
    ("cut anywhere, small writes", |_, file, bytes, dice| {
        let from = dice.below(SIZE);
        cut(file, bytes, from, 3000, dice);
    }),
    (
        "cut anywhere, and left for a moment",
        |_, file, bytes, dice| {
            let from = dice.below(SIZE);
            file.set_len(from).unwrap();
            thread::sleep(Duration::from_micros(dice.below(200)));
            write_in(file, bytes, from, SIZE as usize, dice);
        },
    ),
];

fn cut(file: &File, bytes: &[u8], from: u64, piece: usize, dice: &Dice) {
    file.set_len(from).unwrap();
    write_in(file, bytes, from, piece, dice);
}

fn write_in(file: &File, bytes: &[u8], from: u64, piece: usize, dice: &Dice) {
    let mut at = from as usize;
    while at < bytes.len() && Instant::now() < dice.1 {
        let end = (at + piece).min(bytes.len());
        file.write_all_at(&bytes[at..end], at as u64).unwrap();
        at = end;
    }
}

/// (proves: S39)
#[test]
fn bytes_read_past_the_cache_were_in_some_version_of_the_file() {
    for mode in [&[][..], &["--threads", "1"], &["--window-size", "64K"]] {
        no_zeros(mode, libc::O_DIRECT);
    }
}

/// (proves: S39)
#[test]
fn bytes_read_on_a_mount_without_a_cache_were_in_some_version_of_the_file() {
    for mode in [&["--direct-io"][..], &["--direct-io", "--threads", "1"]] {
        no_zeros(mode, 0);
    }
}

fn no_zeros(mode: &[&str], flags: i32) {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1;
    println!("{mode:?}: seed {seed}");
    for (way, rewrite) in WAYS {
        on_mount(mode, |stage| {
            let (path, source) = (stage.mount("file"), stage.source("file"));
            for len in [4 * KIB, 128 * KIB] {
                let (found, reads) = storm(&path, &source, rewrite, (len, flags), seed);
                println!("{mode:?}, {way}, reads of {len}: {reads} reads");
                assert_eq!(found, None, "{mode:?}, {way}, reads of {len}");
            }
        });
    }
}

/// Rewrites and reads for a while; the first invented byte, if there was one, and how many reads there were.
fn storm(
    path: &Path,
    source: &Path,
    rewrite: Rewriting,
    (len, flags): (u64, i32),
    seed: u64,
) -> (Option<String>, u64) {
    fs::write(source, vec![b'a'; SIZE as usize]).unwrap();
    let (done, reads, found) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(None));
    let deadline = Instant::now() + TIME;
    thread::scope(|scope| {
        for reader in 1..3 {
            let (done, reads, found) = (&done, &reads, &found);
            scope.spawn(move || {
                let mut dice = Dice(seed.rotate_left(reader), deadline);
                while !done.load(Relaxed) {
                    reads.fetch_add(1, Relaxed);
                    if let Some(wrong) = read_somewhere(path, (len, flags), &mut dice) {
                        found.lock().unwrap().get_or_insert(wrong);
                    }
                }
            });
        }
        let (file, mut dice) = (
            OpenOptions::new().write(true).open(source).unwrap(),
            Dice(seed, deadline),
        );
        for version in (0..26).cycle() {
            rewrite(
                source,
                &file,
                &vec![b'a' + version; SIZE as usize],
                &mut dice,
            );
            if Instant::now() > deadline || found.lock().unwrap().is_some() {
                break;
            }
        }
        done.store(true, Relaxed);
    });
    (found.into_inner().unwrap(), reads.into_inner())
}

/// Opens the file, reads some pieces of it, the last one above all, and looks for zeros.
fn read_somewhere(path: &Path, (len, flags): (u64, i32), dice: &mut Dice) -> Option<String> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(flags).open(path).unwrap();
    let mut buffer = vec![1; (len + PAGE) as usize];
    let aligned = buffer.as_ptr().align_offset(PAGE as usize);
    let buffer = &mut buffer[aligned..][..len as usize];
    let pieces = SIZE.div_ceil(len);
    (0..32).find_map(|_| {
        let piece = dice.below(2 * pieces).min(pieces - 1);
        match file.read_at(buffer, piece * len) {
            Ok(count) => {
                let zero = buffer[..count].iter().position(|&byte| byte == 0)?;
                let at = piece * len;
                Some(format!(
                    "byte {zero} of {count} that were read at {at} is zero"
                ))
            }
            Err(error) if error.raw_os_error().is_some_and(|e| ALLOWED.contains(&e)) => None,
            Err(error) => Some(format!("a read failed: {error}")),
        }
    })
}
