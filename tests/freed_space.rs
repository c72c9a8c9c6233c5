//! Space that was freed can be used at once: what the kernel has not yet said to have forgotten or closed is given back
//! before a client gets ENOSPC.

mod common;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::{LoopFs, Mount, tools};
use rustix::fs::{CWD, FallocateFlags, FileType, Mode, XattrFlags};

const LIMIT: Duration = Duration::from_secs(120);
const ROUNDS: usize = 10;
const LARGE: usize = 20 << 20;
const PIECE: usize = 1 << 20;

const MODES: [&[&str]; 4] = [
    &["--allow-other"],
    &["--allow-other", "--direct-io"],
    &["--allow-other", "--threads", "1"],
    &["--allow-other", "--write-path", "region"],
];

struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(options: &str) -> Self {
        let at = tempfile::tempdir().expect("a directory");
        let mut mount = Command::new("mount");
        tools::run(
            mount
                .args(["-t", "tmpfs", "-o", options, "tmpfs"])
                .arg(at.path()),
        );
        Tmpfs(at)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        tools::output_of(Command::new("umount").arg("-l").arg(self.0.path()));
    }
}

/// Runs `test` on mounts of a small ext4 and of a small tmpfs, in every mode.
fn on_small_disks(test: impl Fn(&str, &Path)) {
    for options in MODES {
        let ext4 = LoopFs::with_options("ext4", 32 << 20, &["-m", "0"], "loop");
        let tmpfs = Tmpfs::new("size=28M");
        for source in [ext4.path(), tmpfs.0.path()] {
            let mount = Mount::builder()
                .over(source)
                .options(options.iter().copied())
                .mount();
            let what = format!("{} {options:?}", source.display());
            mount.within(LIMIT, || test(&what, mount.mnt()));
        }
    }
}

/// Writes a large file in pieces, as cp does.
fn write_large(path: &Path) -> io::Result<()> {
    fill(&mut File::create(path)?)
}

fn fill(file: &mut File) -> io::Result<()> {
    let piece = vec![7; PIECE];
    (0..LARGE / PIECE).try_for_each(|_| file.write_all(&piece))
}

fn expect(what: &str, failures: &[String]) {
    assert!(
        failures.is_empty(),
        "{what}: {} of {ROUNDS}: {failures:#?}",
        failures.len()
    );
}

/// Does `free`, then writes the large file at once, again and again.
fn freed_by(what: &str, mnt: &Path, free: impl Fn(&Path)) {
    let (large, other) = (mnt.join("large"), mnt.join("other"));
    let mut failures = Vec::new();
    for _ in 0..ROUNDS {
        write_large(&large).expect("there is room");
        free(&large);
        failures.extend(write_large(&other).err().map(|error| error.to_string()));
        fs::remove_file(&other).expect("rm");
        let _ = fs::remove_file(&large);
        // So that rounds do not depend on each other.
        let empty =
            || rustix::fs::statvfs(mnt).is_ok_and(|s| s.f_bavail * s.f_frsize > LARGE as u64);
        assert!(tools::wait_until(Duration::from_secs(10), empty), "{what}");
    }
    expect(what, &failures);
}

/// (proves: S40)
#[test]
fn as_root_what_is_removed_makes_room_at_once() {
    on_small_disks(|what, mnt| freed_by(what, mnt, |large| fs::remove_file(large).expect("rm")));
}

/// (proves: S40)
#[test]
fn as_root_what_is_removed_while_it_is_open_makes_room_when_it_is_closed() {
    on_small_disks(|what, mnt| {
        freed_by(what, mnt, |large| {
            let open = File::open(large).expect("open");
            fs::remove_file(large).expect("rm");
            drop(open);
        })
    });
}

/// (proves: S40)
#[test]
fn as_root_what_is_renamed_over_or_truncated_makes_room_at_once() {
    on_small_disks(|what, mnt| {
        freed_by(what, mnt, |large| {
            let small = large.with_file_name("small");
            File::create(&small).expect("create");
            fs::rename(&small, large).expect("rename");
        });
        freed_by(what, mnt, |large| {
            drop(File::create(large).expect("O_TRUNC"))
        });
        // Into a file that was open all along, in one piece.
        let mut failures = Vec::new();
        for _ in 0..ROUNDS {
            let (large, other) = (
                mnt.join("large"),
                File::create(mnt.join("other")).expect("create"),
            );
            write_large(&large).expect("there is room");
            fs::remove_file(&large).expect("rm");
            match other.write_at(&vec![1; 14 << 20], 0) {
                Ok(n) if n == 14 << 20 => {}
                outcome => failures.push(format!("{outcome:?}")),
            }
            other.set_len(0).expect("truncate");
        }
        expect(&format!("{what}: one write"), &failures);
    });
}

/// Blocks for everything but write(2).
/// (proves: S40)
#[test]
fn as_root_what_is_removed_makes_room_for_fallocate_and_copies() {
    on_small_disks(|what, mnt| {
        let (large, other) = (mnt.join("large"), mnt.join("other"));
        let from = File::create_new(mnt.join("from")).expect("create");
        from.write_at(&vec![3; 4 << 20], 0).expect("write");
        let from = File::open(mnt.join("from")).expect("open");
        let mut failures = Vec::new();
        for n in 0..ROUNDS {
            write_large(&large).expect("there is room");
            let other = File::create(&other).expect("create");
            fs::remove_file(&large).expect("rm");
            let done = match n % 2 {
                0 => rustix::fs::fallocate(&other, FallocateFlags::empty(), 0, 14 << 20)
                    .map_err(|e| e.to_string()),
                _ => copied(&from, &other, 14 << 20),
            };
            failures.extend(done.err());
            other.set_len(0).expect("truncate");
        }
        expect(what, &failures);
    });
}

/// Copies a file over and over, until `len` bytes are copied.
fn copied(from: &File, to: &File, len: u64) -> Result<(), String> {
    let mut at = 0;
    while at < len {
        let mut begin = 0;
        let size = 4 << 20;
        match rustix::fs::copy_file_range(from, Some(&mut begin), to, Some(&mut at), size) {
            Ok(0) => return Err("nothing was copied".into()),
            Ok(_) => {}
            Err(errno) => return Err(errno.to_string()),
        }
    }
    Ok(())
}

/// Inodes run out, too.
/// (proves: S40)
#[test]
fn as_root_what_is_removed_makes_room_for_names() {
    for options in MODES {
        let ext4 = LoopFs::with_options("ext4", 32 << 20, &["-N", "256"], "loop");
        let tmpfs = Tmpfs::new("size=60M,nr_inodes=256");
        for source in [ext4.path(), tmpfs.0.path()] {
            let mount = Mount::builder()
                .over(source)
                .options(options.iter().copied())
                .mount();
            let what = format!("{} {options:?}", source.display());
            mount.within(LIMIT, || names_again(&what, mount.mnt()));
        }
    }
}

fn names_again(what: &str, mnt: &Path) {
    type Make = fn(&Path) -> io::Result<()>;
    let ways: [(&str, Make); 4] = [
        ("create", |path| File::create_new(path).map(drop)),
        ("mkdir", |path| fs::create_dir(path)),
        ("symlink", |path| symlink("target", path)),
        ("mknod", |path| {
            let mode = Mode::from_raw_mode(0o600);
            Ok(rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0)?)
        }),
    ];
    let mut made: Vec<PathBuf> = Vec::new();
    while let Ok(()) = fs::create_dir(mnt.join(format!("first-{}", made.len()))) {
        made.push(mnt.join(format!("first-{}", made.len())));
    }
    assert!(made.len() > 50, "{what}: {}", made.len());
    let mut failures = Vec::new();
    for round in 0..ROUNDS {
        for (name, make) in ways {
            for n in 0..8 {
                let old = made.pop().expect("one");
                let removed = fs::remove_dir(&old).or_else(|_| fs::remove_file(&old));
                removed.expect("rm");
                let new = mnt.join(format!("{name}-{round}-{n}"));
                failures.extend(make(&new).err().map(|error| format!("{name}: {error}")));
                made.insert(0, new);
            }
        }
        made.retain(|path| fs::symlink_metadata(path).is_ok());
    }
    expect(what, &failures);
}

/// Where nothing is about to be freed, ENOSPC is not waited for, although clients keep removed files open.
/// (proves: S40)
#[test]
fn as_root_a_disk_that_is_full_says_so_without_delay() {
    on_small_disks(|what, mnt| {
        let open = File::create_new(mnt.join("open")).expect("create");
        open.write_at(&vec![1; PIECE], 0).expect("write");
        fs::remove_file(mnt.join("open")).expect("rm");
        let mut ballast = File::create_new(mnt.join("ballast")).expect("create");
        while ballast.write_all(&[2; PIECE]).is_ok() {}
        while ballast.write_all(&[2; 4096]).is_ok() {}
        let began = Instant::now();
        let value = [b'v'; 3000];
        for n in 0..1000 {
            let written = ballast.write_all(&[2; 4096]);
            assert_eq!(
                written.map_err(|e| e.raw_os_error()),
                Err(Some(libc::ENOSPC)),
                "{what}"
            );
            // tmpfs keeps them elsewhere.
            let _ = rustix::fs::setxattr(mnt, format!("user.{n}"), &value, XattrFlags::empty());
        }
        // Natively it takes well under one.
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "{what}: {:?}",
            began.elapsed()
        );
        drop(open);
    });
}

/// Removed files that are empty free no room: no client waits for them, however many there are.
/// (proves: S40)
#[test]
fn as_root_a_full_disk_says_so_without_delay_while_others_make_and_remove_empty_files() {
    on_small_disks(|what, mnt| {
        let mut ballast = File::create_new(mnt.join("ballast")).expect("create");
        fs::create_dir(mnt.join("dir")).expect("mkdir");
        while ballast.write_all(&[2; PIECE]).is_ok() {}
        while ballast.write_all(&[2; 4096]).is_ok() {}
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let ended = Ended(&stop);
            for n in 0..8 {
                let (stop, path) = (&stop, mnt.join(format!("dir/{n}")));
                scope.spawn(move || {
                    while !stop.load(Relaxed) {
                        let open = File::create(&path);
                        let _ = fs::remove_file(&path);
                        thread::sleep(Duration::from_millis(20));
                        drop(open);
                    }
                });
            }
            for n in 0..50 {
                thread::sleep(Duration::from_millis(5)); // they are at work
                let began = Instant::now();
                let written = ballast.write_all(&[2; 4096]);
                let (errno, took) = (written.map_err(|e| e.raw_os_error()), began.elapsed());
                assert_eq!(errno, Err(Some(libc::ENOSPC)), "{what}");
                // One took over 1 s. Natively it takes microseconds.
                assert!(took < Duration::from_secs(1), "{what}: {took:?}, the {n}th");
            }
            drop(ended);
        });
    });
}

/// Says that it is over when dropped.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
