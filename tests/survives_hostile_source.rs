//! Rule 1: the source is hostile. While clients read and write through every path, other programs truncate,
//! extend, punch, overwrite, replace, delete and chmod the files behind the mount at full speed. The daemon
//! lives, no process waits for long where no signal ends it, and every byte read belongs where it was read.

#![allow(unsafe_code)] // A client's own mapping is read by the guarded copy, as plain loads would end the test.

mod common;
mod survive;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::Mount;
use mmfs::mapping::guard;
use rustix::fs::FallocateFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use survive::{Figures, Rng, Seen, Sleepers, daemon, length, pattern};

/// Files under attack.
const FILES: u64 = 8;
/// No file gets longer than this.
const LONGEST: u64 = 3 << 20;
/// What a client may be told when the file it wants was changed under it.
const ALLOWED: [i32; 3] = [libc::EIO, libc::ESTALE, libc::ENOENT];

static TAGS: AtomicU64 = AtomicU64::new(1);
static STOP: AtomicBool = AtomicBool::new(false);

/// (proves: S39)
#[test]
fn a_hostile_source_is_survived() {
    guard::install().expect("a SIGBUS handler");
    let (figures, mut rng) = (Figures::of("survives_hostile_source"), Rng::new());
    let cached = Mount::builder().expect_log("reply").mount();
    let source = cached.src().to_owned();
    let over = |options: &[&str]| {
        let mount = Mount::builder()
            .over(&source)
            .options(options.iter().copied());
        mount.expect_log("reply").mount()
    };
    let direct = over(&["--direct-io"]);
    let tight = over(&[
        "--write-path",
        "region",
        "--window-size",
        "64K",
        "--map-budget",
        "8M",
    ]);
    let mounts = [&cached, &direct, &tight];
    let pids = mounts.map(Mount::daemon_pid);
    let sleepers = Sleepers::watch(mounts.map(|m| (m.mnt().to_owned(), m.daemon_pid())));
    let time = length(25);
    cached.within(time + Duration::from_secs(30), || {
        storm(&mounts, &figures, &mut rng, time)
    });
    if let Some(report) = sleepers.end() {
        figures.hang(report);
    }
    for (mount, pid) in mounts.iter().zip(pids) {
        if !daemon::lives(pid) {
            figures.exit();
            continue;
        }
        mount.within(Duration::from_secs(20), || aftermath(mount, &figures));
        let held = daemon::held_files(pid, &source);
        figures.expect("still held after the last close", held, Vec::new());
    }
    drop((tight, direct, cached));
    figures.finish();
}

fn storm(mounts: &[&Mount; 3], figures: &Figures, rng: &mut Rng, time: Duration) {
    let source = mounts[0].src();
    thread::scope(|scope| {
        for half in 0..2 {
            let mut rng = rng.fork();
            scope.spawn(move || attack(source, half, figures, &mut rng));
        }
        for mount in mounts {
            for client in [read_and_write, read_mapped, list_and_stat] {
                let mut rng = rng.fork();
                scope.spawn(move || {
                    let deadline = Instant::now() + time;
                    while Instant::now() < deadline {
                        client(mount.mnt(), figures, &mut rng);
                    }
                    STOP.store(true, Relaxed);
                });
            }
        }
    });
}

fn name(n: u64) -> String {
    format!("file{n}")
}

// ---- behind the mount

/// A new file of `len` bytes, an inode and a tag of its own.
fn make(path: &Path, len: u64) -> pattern::Tag {
    let tag = pattern::tag(TAGS.fetch_add(1, Relaxed));
    let file = File::create_new(path).expect("a name that is free");
    file.write_all_at(&pattern::bytes(tag, 0, len as usize), 0)
        .expect("the source can be written");
    tag
}

/// Does its worst to every second file. Nobody else replaces those, so their tags are known here.
fn attack(source: &Path, half: u64, figures: &Figures, rng: &mut Rng) {
    let mine: Vec<PathBuf> = (0..FILES)
        .filter(|n| n % 2 == half)
        .map(|n| source.join(name(n)))
        .collect();
    let mut tags: Vec<_> = mine.iter().map(|path| make(path, 1 << 20)).collect();
    while !STOP.load(Relaxed) {
        let at = rng.below(mine.len() as u64) as usize;
        let (path, kind) = (&mine[at], rng.below(8));
        figures.fault();
        match kind {
            0 | 1 => tags[at] = replace(path, kind == 0, rng),
            2 => {
                let mode = fs::Permissions::from_mode([0o644, 0o4755, 0][rng.below(3) as usize]);
                fs::set_permissions(path, mode).expect("chmod");
            }
            _ => deform(path, kind, tags[at], rng),
        }
    }
}

fn replace(path: &Path, by_rename: bool, rng: &mut Rng) -> pattern::Tag {
    let len = rng.below(LONGEST / 4);
    if by_rename {
        let other = path.with_extension("new");
        let tag = make(&other, len);
        fs::rename(&other, path).expect("rename");
        tag
    } else {
        fs::remove_file(path).expect("unlink");
        make(path, len)
    }
}

fn deform(path: &Path, kind: u64, tag: pattern::Tag, rng: &mut Rng) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    let (offset, len) = (rng.below(LONGEST - (256 << 10)), 1 + rng.below(256 << 10));
    match kind {
        3 => file.set_len(rng.below(64 << 10)),
        4 => file.set_len(offset),
        5 => {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, how, offset, len).map_err(Into::into)
        }
        _ => file.write_all_at(&pattern::bytes(tag, offset, len as usize), offset),
    }
    .expect("the source does as it is told");
}

// ---- through the mount

fn judge(figures: &Figures, what: &str, path: &Path, seen: &mut Seen, offset: u64, bytes: &[u8]) {
    if let Err(wrong) = seen.check(offset, bytes) {
        figures.divergence(format!("{what} {}: {wrong}", path.display()));
    }
}

/// One open of a file: a few reads and writes at random, now and then around the cache, with fsync and resize.
fn read_and_write(mount: &Path, figures: &Figures, rng: &mut Rng) {
    let path = mount.join(name(rng.below(FILES)));
    let mut options = OpenOptions::new();
    options.read(true).write(rng.below(2) == 0);
    // Files handed over to the kernel ask for the source's alignment.
    if rng.below(4) == 0 && std::env::var_os("MMFS_TEST_OPTIONS").is_none() {
        options.custom_flags(libc::O_DIRECT);
    }
    let Some(file) = figures.outcome("open", &ALLOWED, options.open(&path)) else {
        return;
    };
    let mut seen = Seen::default();
    let mut buffer = vec![0; 256 << 10];
    for _ in 0..8 {
        // Page by page: O_DIRECT asks for it on some filesystems.
        let (offset, len) = (
            rng.below(LONGEST) & !4095,
            (1 + rng.below(64) as usize) * 4096,
        );
        let read = file.read_at(&mut buffer[..len], offset);
        if let Some(n) = figures.outcome("read", &ALLOWED, read) {
            judge(figures, "read", &path, &mut seen, offset, &buffer[..n]);
        }
        change(&file, &seen, offset, len, figures, rng);
    }
}

/// Writes what belongs there. The file may be open read-only: that must be EBADF, and nothing else.
fn change(file: &File, seen: &Seen, offset: u64, len: usize, figures: &Figures, rng: &mut Rng) {
    let writable =
        rustix::fs::fcntl_getfl(file).is_ok_and(|f| f.contains(rustix::fs::OFlags::RDWR));
    let (Some(tag), true) = (seen.tag(), writable) else {
        return;
    };
    let outcome = match rng.below(8) {
        0 => file.sync_all(),
        1 => file.set_len(offset),
        _ => file.write_all_at(&pattern::bytes(tag, offset, len), offset),
    };
    figures.outcome("change", &ALLOWED, outcome);
}

/// Maps a file and reads, and sometimes stores, through the mapping. A lost page is SIGBUS, seen by the guard.
fn read_mapped(mount: &Path, figures: &Figures, rng: &mut Rng) {
    let path = mount.join(name(rng.below(FILES)));
    let opened = OpenOptions::new().read(true).write(true).open(&path);
    let Some(file) = figures.outcome("open", &ALLOWED, opened) else {
        return;
    };
    let (len, mut seen) = (LONGEST as usize, Seen::default());
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice; no reference into it is ever made.
    let mapped = unsafe {
        mmap(
            std::ptr::null_mut(),
            len,
            protection,
            MapFlags::SHARED,
            file.as_fd(),
            0,
        )
    };
    let mapped = mapped.map_err(io::Error::from);
    // ENODEV: a file of a mount that bypasses the cache on a kernel that cannot map those.
    let Some(map) = figures.outcome("mmap", &[libc::ENODEV], mapped) else {
        return;
    };
    let handler = guard::install().expect("installed by the test already");
    let mut page = vec![0; 4096];
    for _ in 0..16 {
        let offset = rng.below(LONGEST) & !4095;
        // SAFETY: the page lies within the mapping, `page` is as long.
        let copied = unsafe {
            guard::copy(
                handler,
                page.as_mut_ptr(),
                map.cast::<u8>().add(offset as usize),
                4096,
            )
        };
        figures.operation();
        match copied {
            Ok(()) => judge(figures, "mapping", &path, &mut seen, offset, &page),
            Err(_) => figures.error_named("SIGBUS"),
        }
        if let (Some(tag), 0) = (seen.tag(), rng.below(4)) {
            let bytes = pattern::bytes(tag, offset, 4096);
            // SAFETY: as above, the other way round.
            let _ = unsafe {
                guard::copy(
                    handler,
                    map.cast::<u8>().add(offset as usize),
                    bytes.as_ptr(),
                    4096,
                )
            };
        }
    }
    // SAFETY: the mapping made above, of which nothing is left.
    unsafe { munmap(map, len) }.expect("munmap");
}

fn list_and_stat(mount: &Path, figures: &Figures, rng: &mut Rng) {
    if let Some(entries) = figures.outcome("readdir", &[], fs::read_dir(mount)) {
        let names: Vec<_> = entries
            .filter_map(Result::ok)
            .map(|e| e.file_name())
            .collect();
        let twice = names
            .iter()
            .filter(|name| names.iter().filter(|n| n == name).count() > 1)
            .count();
        figures.expect("names listed twice", twice, 0);
    }
    for _ in 0..16 {
        let path = mount.join(name(rng.below(FILES)));
        figures.outcome("stat", &ALLOWED, fs::metadata(path));
    }
    thread::sleep(Duration::from_millis(1));
}

/// When all is quiet again, mount and source show the same.
fn aftermath(mount: &Mount, figures: &Figures) {
    thread::sleep(Duration::from_millis(1200));
    for n in 0..FILES {
        let (through, native) = (
            fs::read(mount.mnt().join(name(n))),
            fs::read(mount.src().join(name(n))),
        );
        let native = native.expect("the source is readable");
        if let Some(through) = figures.outcome("read in the end", &[], through) {
            let same = through == native;
            let at = through.iter().zip(&native).position(|(a, b)| a != b);
            let what = format!(
                "{}: {} bytes, the source has {}, first difference {at:?}",
                name(n),
                through.len(),
                native.len()
            );
            figures.expect(&what, same, true);
        }
    }
}
