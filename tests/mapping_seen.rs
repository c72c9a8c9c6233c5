//! What the mission rests on, seen happening in the daemon's system calls (by strace) and in its address space.

mod common;
mod stage;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{collections::BTreeSet, io::Read};

use common::tools;
use common::user::{as_user, ordinary};
use stage::trace::{
    Area, Call, Trace, areas_now, areas_of, maps_of, moved_by_descriptor, on_windows, shown,
};
use stage::{GIB, KIB, MIB, Stage, assert_same_bytes, eventually, noise, on, on_mount, shared};

const FILE: &str = "file";

/// A file of noise in the source; returns its bytes.
fn fill(stage: &Stage, length: u64) -> Vec<u8> {
    let bytes = noise(length, length);
    fs::write(stage.source(FILE), &bytes).unwrap();
    bytes
}

fn open_to_write(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

/// Has a call of this name on a window of the file an argument with this text, at this place?
fn seen(calls: &[Call], file: &Path, name: &str, place: usize, argument: &str) -> bool {
    on_windows(calls, file, name)
        .iter()
        .any(|call| call.argument(place) == argument)
}

/// "mmap of the source on first read and no pread of file data in a plain cat": every byte of a cat comes from
/// windows that are mapped for reading only and shared.
/// (proves: S11)
#[test]
fn cat_is_served_from_mappings_alone() {
    on_mount(&[], |stage| {
        let bytes = fill(stage, 3 * MIB + 5);
        let trace = Trace::attach(stage.pid());
        let output = tools::run(Command::new("cat").arg(stage.mount(FILE)));
        assert_same_bytes("cat", &bytes, &output.stdout);

        let calls = trace.finish();
        let file = stage.source(FILE);
        let maps = maps_of(&calls, &file);
        assert!(
            !maps.is_empty(),
            "no mmap of the source:\n{}",
            shown(&calls)
        );
        for map in maps {
            assert_eq!(
                (map.argument(2), map.argument(3)),
                ("PROT_READ", "MAP_SHARED")
            );
        }
        let moved = moved_by_descriptor(&calls, &file);
        assert!(
            moved.is_empty(),
            "bytes went around the mapping: {moved:#?}"
        );
    });
}

/// "mprotect on first write and back after the last writer", with somebody reading all the while, by default and
/// with every in-place write sent through the region.
/// (proves: S13)
#[test]
fn windows_are_writable_only_while_written() {
    for options in [&[][..], &["--write-path", "region"]] {
        on_mount(options, write_beside_a_reader);
    }
}

fn write_beside_a_reader(stage: &Stage) {
    fill(stage, MIB);
    let file = stage.source(FILE);
    let reader = File::open(stage.mount(FILE)).unwrap();
    reader.read_exact_at(&mut [0; 100], 0).unwrap();
    let trace = Trace::attach(stage.pid());
    let writers = [
        open_to_write(&stage.mount(FILE)),
        open_to_write(&stage.mount(FILE)),
    ];
    reader.read_exact_at(&mut [0; 100], 512 * KIB).unwrap();
    assert!(
        !is_writable(stage, &file),
        "writable before the first write"
    );

    // More than one write where another test starts a process meanwhile, whose copies of the descriptors are closed.
    eventually("writable after a write", || {
        writers[0].write_all_at(b"in place, ", 1000).unwrap();
        is_writable(stage, &file)
    });
    trace.until("mprotect up", |calls| {
        seen(calls, &file, "mprotect", 2, "PROT_READ|PROT_WRITE")
    });

    let [first, last] = writers;
    drop(first);
    last.write_all_at(b"in place, ", 2000).unwrap();
    drop(last);
    trace.until("mprotect down after the last writer", |calls| {
        seen(calls, &file, "mprotect", 2, "PROT_READ")
    });
    eventually("no writable window after the last writer", || {
        !is_writable(stage, &file)
    });

    let mut bytes = [0; 10];
    reader.read_exact_at(&mut bytes, 2000).unwrap();
    assert_eq!(&bytes, b"in place, ");
}

fn is_writable(stage: &Stage, file: &Path) -> bool {
    areas_of(stage.pid(), &[file])
        .iter()
        .any(|area| area.protection.starts_with("rw"))
}

/// The calls so far that flush the device for the source's file.
fn flushes(calls: &[Call], file: &Path) -> Vec<String> {
    let of_file = |call: &&Call| call.argument(0).contains(&*file.to_string_lossy());
    let flushing = |call: &&Call| match &*call.name {
        "fsync" | "fdatasync" => of_file(call),
        "msync" => call.argument(2) == "MS_SYNC",
        _ => false,
    };
    let flushing = calls.iter().filter(flushing);
    flushing.map(|call| call.name.clone()).collect()
}

/// What is made durable, by fsync(2), fdatasync(2) or a write that is synchronous, is so by one call for the device, also
/// where the bytes were stored through a window.
/// (proves: S26)
#[test]
fn what_is_made_durable_is_so_once() {
    let direct = libc::O_DIRECT;
    for (options, flags, wanted) in [
        (&[][..], libc::O_DSYNC, "fdatasync"),
        (&[], libc::O_SYNC, "fsync"),
        (&["--write-path", "region"], libc::O_DSYNC, "fdatasync"),
        (&["--direct-io"], libc::O_DSYNC, "fdatasync"),
        (&["--direct-io"], libc::O_SYNC, "fsync"),
        (&[], libc::O_DSYNC | direct, "fdatasync"),
        (&["-o", "sync"], 0, "fdatasync"),
        (&["-o", "sync"], direct, "fsync"),
        (&["-o", "sync", "--direct-io"], libc::O_DSYNC, "fsync"),
    ] {
        on_mount(options, |stage| {
            fill(stage, MIB);
            let file = stage.source(FILE);
            let mut opening = OpenOptions::new();
            let opening = opening.read(true).write(true).custom_flags(flags);
            let writer = opening.open(stage.mount(FILE)).unwrap();
            let bytes = Aligned([7; 4096]);
            let trace = Trace::attach(stage.pid());
            writer.write_all_at(&bytes.0, 8192).unwrap();
            // Nothing comes after it that belongs to the write.
            drop(fs::read(stage.mount(FILE)).unwrap());
            let calls = trace.finish();
            let what = format!("{options:?} {flags:o}:\n{}", shown(&calls));
            assert_eq!(flushes(&calls, &file), [wanted], "{what}");
        });
    }
}

#[repr(align(4096))]
struct Aligned([u8; 4096]);

/// fsync(2) and fdatasync(2) wait for the device; the last close does not.
/// (proves: S26)
#[test]
fn fsync_waits_and_close_does_not() {
    on_mount(&[], |stage| {
        fill(stage, MIB);
        let file = stage.source(FILE);
        let trace = Trace::attach(stage.pid());
        let writer = open_to_write(&stage.mount(FILE));
        writer.write_all_at(b"0123456789", 5000).unwrap();
        writer.sync_all().unwrap();
        writer.write_all_at(b"9876543210", 5000).unwrap();
        writer.sync_data().unwrap();
        writer.write_all_at(b"0123456789", 5000).unwrap();
        drop(writer);
        drop(fs::read(stage.mount(FILE)).unwrap());
        let calls = trace.finish();
        assert_eq!(flushes(&calls, &file), ["fsync", "fdatasync"]);
    });
}

/// `--sync-on-close`: the last close of a written file waits for the device.
/// (proves: S26)
#[test]
fn sync_on_close_waits() {
    on_mount(&["--sync-on-close"], |stage| {
        fill(stage, MIB);
        let file = stage.source(FILE);
        let trace = Trace::attach(stage.pid());
        open_to_write(&stage.mount(FILE))
            .write_all_at(b"0123456789", 5000)
            .unwrap();
        let calls = trace.finish();
        let flushes = flushes(&calls, &file);
        // More than one where another test has started a process meanwhile, whose copy of the descriptor is closed, too.
        let right = !flushes.is_empty() && flushes.iter().all(|name| name == "fsync");
        assert!(right, "{}", shown(&calls));
    });
}

/// "mremap on truncate and on growth": of a file that is open and mapped, by truncation and by appending.
/// (proves: S14)
#[test]
fn resizing_remaps_the_window() {
    on_mount(&[], |stage| {
        let mut bytes = fill(stage, MIB);
        let file = stage.source(FILE);
        let trace = Trace::attach(stage.pid());
        let writer = open_to_write(&stage.mount(FILE));
        let remaps = |calls: &[Call]| on_windows(calls, &file, "mremap").len();

        // A window that another request is still being answered from, as reading ahead is, gives way to a new one.
        let remapped = |from, to| {
            writer.set_len(from).unwrap();
            writer.read_exact_at(&mut [0; 100], from - 100).unwrap();
            let before = remaps(&trace.calls());
            writer.set_len(to).unwrap();
            writer.read_exact_at(&mut [0; 100], to - 100).unwrap();
            tools::wait_until(Duration::from_secs(1), || remaps(&trace.calls()) > before)
        };
        let seen = (0..20).any(|_| remapped(MIB, 300 * KIB + 7));
        assert!(seen, "no mremap on truncate: {}", shown(&trace.calls()));
        eventually("the mapping is no longer than needed", || {
            bytes_in(&areas_of(stage.pid(), &[&file])) <= 304 * KIB
        });
        let seen = (0..20).any(|_| remapped(300 * KIB + 7, 700 * KIB));
        assert!(seen, "no mremap on growth: {}", shown(&trace.calls()));
        let windows = |calls: &[Call]| remaps(calls) + maps_of(calls, &file).len();
        let before = windows(&trace.calls());
        writer.write_all_at(b"appended", 900 * KIB).unwrap();
        writer.read_exact_at(&mut [0; 8], 900 * KIB).unwrap();
        // A window that another request is still being answered from is replaced by a longer one.
        trace.until("mremap or mmap after a write beyond the end", |calls| {
            windows(calls) > before
        });

        bytes.truncate(300 * KIB as usize + 7);
        bytes.resize(900 * KIB as usize, 0);
        bytes.extend_from_slice(b"appended");
        assert_same_bytes(
            "on the mount",
            &bytes,
            &fs::read(stage.mount(FILE)).unwrap(),
        );
        assert_same_bytes("in the source", &bytes, &fs::read(&file).unwrap());
    });
}

/// A read of what was there before, as one that was sent ahead of a truncation is, maps no more than the file has.
/// (proves: S14)
#[test]
fn a_read_beyond_a_new_end_maps_no_more_than_is_left() {
    on_mount(&["--direct-io"], |stage| {
        fill(stage, MIB);
        let file = open_to_write(&stage.mount(FILE));
        for at in [0, 4096, MIB - 4096] {
            file.read_exact_at(&mut [0; 4096], at).unwrap();
        }
        file.set_len(300 * KIB).unwrap();
        assert_eq!(file.read_at(&mut [0; 4096], MIB - 4096).unwrap(), 0);
        let mapped = bytes_in(&areas_of(stage.pid(), &[&stage.source(FILE)]));
        assert!(mapped <= 304 * KIB, "{mapped} bytes are mapped");
    });
}

fn bytes_in(areas: &[Area]) -> u64 {
    areas
        .iter()
        .map(|area| area.range.end - area.range.start)
        .sum()
}

/// "several windows for a file larger than one": each begins at a multiple of the window size.
/// (proves: S15)
#[test]
fn a_large_file_has_several_windows() {
    on_mount(&["--window-size", "64K"], |stage| {
        let bytes = fill(stage, 8 * MIB + 1);
        let trace = Trace::attach(stage.pid());
        assert_same_bytes("read", &bytes, &fs::read(stage.mount(FILE)).unwrap());
        let calls = trace.finish();
        let maps = maps_of(&calls, &stage.source(FILE));
        let offsets: BTreeSet<u64> = maps.iter().map(|call| call.number(5)).collect();
        assert!(offsets.len() >= 8, "windows at {offsets:?} only");
        assert!(
            offsets.iter().all(|offset| offset % (64 * KIB) == 0),
            "windows at {offsets:?}"
        );
        assert!(moved_by_descriptor(&calls, &stage.source(FILE)).is_empty());
    });
}

/// `--map-budget` holds while several processes read a file sixteen times as large, and another one is written.
/// (proves: S15)
#[test]
fn windows_stay_within_the_map_budget() {
    let options = [
        "--window-size",
        "1M",
        "--map-budget",
        "64M",
        "--threads",
        "2",
    ];
    on_mount(&options, |stage| {
        fill(stage, 20 * MIB);
        File::create(stage.source("large"))
            .unwrap()
            .set_len(GIB)
            .unwrap();
        let mut sample = Command::new(stage.program("sample"));
        sample
            .arg(stage.mount("large"))
            .arg("1048576")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut readers: Vec<Child> = (0..4).map(|_| sample.spawn().unwrap()).collect();
        let writer = open_to_write(&stage.mount(FILE));
        let files = [FILE, "large"].map(|name| stage.source(name));
        let files = files.each_ref().map(PathBuf::as_path);
        let (mut most, mut at) = (0, 0);
        while readers
            .iter_mut()
            .any(|reader| reader.try_wait().unwrap().is_none())
        {
            writer.write_all_at(b"in place", at).unwrap();
            at = (at + 700 * KIB) % (19 * MIB);
            most = most.max(bytes_in(&areas_now(stage.pid(), &files)));
        }
        assert!(
            most > 4 * MIB,
            "at most {most} bytes were seen mapped: this proves nothing"
        );
        assert!(
            // maps is read piece by piece: a window that goes meanwhile may be counted beside its successor.
            most <= 72 * MIB,
            "{most} bytes mapped with a budget of 64 MiB"
        );
    });
}

/// What cannot be mapped is served nevertheless: sysfs refuses mmap, and knows nothing of ACLs, which must keep nobody
/// from reading what all may read.
/// (proves: S11)
#[test]
fn what_cannot_be_mapped_is_read() {
    on(shared().over("/sys/kernel"), |stage| {
        for name in ["notes", "mm/transparent_hugepage/enabled", "fscaps"] {
            let there = fs::read(stage.source(name)).unwrap();
            assert!(!there.is_empty(), "{name}");
            assert_same_bytes(name, &there, &fs::read(stage.mount(name)).unwrap());
            let output = tools::run(as_user(ordinary(), "cat").arg(stage.mount(name)));
            assert_same_bytes(&format!("{name}, ordinary user"), &there, &output.stdout);
        }
    });
}

/// "munmap when the last handle goes", and not before.
/// (proves: S12)
#[test]
fn the_last_close_unmaps() {
    on_mount(&[], |stage| {
        fill(stage, MIB);
        let file = stage.source(FILE);
        let trace = Trace::attach(stage.pid());
        let mut handles = [(); 3]
            .map(|()| File::open(stage.mount(FILE)).unwrap())
            .into_iter();
        let last = handles.next().unwrap();
        last.read_exact_at(&mut [0; 100], 0).unwrap();
        for handle in handles {
            drop(handle);
            assert!(
                !areas_of(stage.pid(), &[&file]).is_empty(),
                "unmapped under an open handle"
            );
        }
        drop(last);
        trace.until("munmap", |calls| {
            !on_windows(calls, &file, "munmap").is_empty()
        });
        eventually("nothing of the file is mapped", || {
            areas_of(stage.pid(), &[&file]).is_empty()
        });
    });
}

/// 64 processes that have all read a file and keep it open; dropped, they end.
struct Readers(Vec<Child>);

impl Readers {
    fn start(stage: &Stage, stride: u64) -> Readers {
        let mut sample = Command::new(stage.program("sample"));
        sample
            .arg(stage.mount(FILE))
            .arg(stride.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Readers((0..64).map(|_| sample.spawn().unwrap()).collect())
    }

    /// What each has read, once all have.
    fn sums(&mut self) -> BTreeSet<String> {
        let line = |reader: &mut Child| {
            let mut sum = String::new();
            let mut byte = [0];
            let output = reader.stdout.as_mut().unwrap();
            while output.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
                sum.push(char::from(byte[0]));
            }
            sum
        };
        self.0.iter_mut().map(line).collect()
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for reader in &mut self.0 {
            // The end of its input tells it to go.
            drop(reader.stdin.take());
            let _ = reader.wait();
        }
    }
}

/// "64 processes read one 1 GiB file at once: the daemon holds one mapping of it, not 64", counted in its maps: no
/// byte of the file is mapped by two windows, but for their overlap; with one window as large as the file there is
/// exactly one line.
/// (proves: S12)
#[test]
fn many_readers_share_one_mapping() {
    for (options, stride) in [
        (&[][..], MIB),
        (&["--window-size", "1G", "--map-budget", "16G"], MIB),
        (
            &["--window-size", "1G", "--map-budget", "16G", "--direct-io"],
            8 * MIB,
        ),
    ] {
        on_mount(options, |stage| {
            let areas = mapped_for_64_readers(stage, stride);
            let starts: BTreeSet<u64> = areas.iter().map(|area| area.offset).collect();
            assert!(!areas.is_empty(), "{options:?}: nothing is mapped");
            assert_eq!(
                starts.len(),
                areas.len(),
                "{options:?}: a window is mapped twice: {areas:#?}"
            );
            let total = bytes_in(&areas);
            assert!(
                total < 2 * GIB,
                "{options:?}: {total} bytes mapped of a file of {GIB}"
            );
            if options.contains(&"1G") {
                assert_eq!(areas.len(), 1, "{options:?}: {areas:#?}");
            }
        });
    }
}

/// What the daemon has mapped while 64 processes have read, and hold open, a file of 1 GiB.
fn mapped_for_64_readers(stage: &Stage, stride: u64) -> Vec<Area> {
    let file = stage.source(FILE);
    let sparse = File::create(&file).unwrap();
    sparse.set_len(GIB).unwrap();
    for at in (0..GIB).step_by(64 * MIB as usize) {
        sparse.write_all_at(&noise(64 * KIB, at), at).unwrap();
    }
    let mut readers = Readers::start(stage, stride);
    let sums = readers.sums();
    let areas = areas_of(stage.pid(), &[&file]);
    drop(readers);
    let natively = Command::new(stage.program("sample"))
        .arg(&file)
        .arg(stride.to_string())
        .output()
        .unwrap();
    let natively = String::from_utf8(natively.stdout)
        .unwrap()
        .trim_end()
        .to_owned();
    assert_eq!(sums, BTreeSet::from([natively]), "what the readers read");
    areas
}
