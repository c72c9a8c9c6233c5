//! `--passthrough` of a private view: the kernel serves files whose bytes are all in the store by itself.

mod common;
mod stage;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::user::{as_user, ordinary};
use common::{Builder, LoopFs, Mount, tools};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::Signal;

const KIB: usize = 1 << 10;

/// Bytes that differ from place to place.
fn noise(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at / 7) as u8 ^ (at >> 9) as u8 ^ seed | 1)
        .collect()
}

/// A source, a store and a mount that logs its requests.
struct Place {
    place: tempfile::TempDir,
    mount: Mount,
}

impl Place {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(options: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("source")).unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
        fs::write(place.path().join("source/below"), noise(200 * KIB, 9)).unwrap();
        let mount = builder(&place, options).option("--passthrough").mount();
        Self { place, mount }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount.mnt().join(name)
    }

    /// How many READ and WRITE requests the work takes.
    fn requests(&self, work: impl FnOnce()) -> usize {
        let before = self.mount.log().len();
        work();
        let log = self.mount.log();
        log[before..].matches(" READ ").count() + log[before..].matches(" WRITE ").count()
    }

    #[track_caller]
    fn is(&self, name: &str, wanted: &[u8]) {
        let path = self.path(name);
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            wanted.len() as u64,
            "{name}"
        );
        assert!(fs::read(&path).unwrap() == wanted, "the bytes of {name}");
    }

    /// Ends the mount, and checks the store.
    fn end(mut self) {
        assert!(self.mount.unmount().success(), "{}", self.mount.log());
        let check = Command::new(common::builder::binary())
            .arg("check")
            .arg(self.place.path().join("store"))
            .output()
            .unwrap();
        assert!(check.status.success(), "{check:?}");
    }
}

fn builder(place: &tempfile::TempDir, options: &[&str]) -> Builder {
    Mount::builder()
        .over(place.path().join("source"))
        .env("RUST_LOG", "warn,fuser=debug")
        .expect_log("FUSE_ABORT_ERROR")
        .options(["--allow-other"])
        .option("--private")
        .option(place.path().join("store"))
        .options(options.iter().copied())
}

fn open(path: &PathBuf) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

/// (proves: S67)
#[test]
fn as_root_the_kernel_serves_files_of_the_store_by_itself() {
    let place = Place::new();
    let mut bytes = noise(300 * KIB, 1);
    let count = place.requests(|| {
        fs::write(place.path("new"), &bytes).unwrap();
        place.is("new", &bytes);
        let file = open(&place.path("new"));
        file.write_all_at(b"middle", 1000).unwrap();
        let mut more = OpenOptions::new()
            .append(true)
            .open(place.path("new"))
            .unwrap();
        more.write_all(b"end").unwrap();
        // Who asks is told at once, while it is open.
        assert_eq!(file.metadata().unwrap().len(), 300 * KIB as u64 + 3);
        bytes[1000..1006].copy_from_slice(b"middle");
        bytes.extend(b"end");
        drop((file, more));
        place.is("new", &bytes);
        // Written anew, and renamed over.
        fs::write(place.path("new"), b"short").unwrap();
        place.is("new", b"short");
        fs::write(place.path("other"), &bytes).unwrap();
        fs::rename(place.path("other"), place.path("new")).unwrap();
        place.is("new", &bytes);
    });
    assert_eq!(count, 0, "requests for bytes");
    // A file of the source is not passed through, until it is written anew.
    assert!(place.requests(|| place.is("below", &noise(200 * KIB, 9))) > 0);
    assert!(place.requests(|| open(&place.path("below")).write_all_at(b"x", 9).unwrap()) > 0);
    // RELEASE comes a moment after close(2) has returned. Until then the file is served as it was opened.
    let again = || {
        place.requests(|| {
            fs::write(place.path("below"), &bytes).unwrap();
            place.is("below", &bytes);
        })
    };
    stage::eventually("a file that is written anew is passed through", || {
        again() == 0
    });
    place.end();
}

/// (proves: S67)
#[test]
fn as_root_a_mapping_is_of_the_stores_file() {
    let place = Place::new();
    let programs = tempfile::tempdir().unwrap();
    let program = programs.path().join("store");
    stage::compile("store", &program);
    fs::write(place.path("mapped"), noise(64 * KIB, 3)).unwrap();
    let mut bytes = noise(64 * KIB, 3);
    let count = place.requests(|| {
        let mut store = Command::new(&program);
        tools::run(
            store
                .arg("shared")
                .arg(place.path("mapped"))
                .args(["100", "33", "50"]),
        );
        bytes[100..150].fill(33);
        place.is("mapped", &bytes);
    });
    assert_eq!(count, 0, "requests for bytes");
    place.end();
}

/// All that changes the length goes on with the data file that the kernel has.
#[test]
fn as_root_an_open_file_is_cut_and_grows() {
    let place = Place::new();
    let path = place.path("file");
    fs::write(&path, noise(100 * KIB, 5)).unwrap();
    let (one, other) = (open(&path), open(&path));
    let mut wanted = noise(100 * KIB, 5);
    for size in [60_000, 10_001, 50_000, 0, 7000] {
        one.set_len(size).unwrap();
        wanted.resize(size as usize, 0);
        assert_eq!(other.metadata().unwrap().len(), size);
        place.is("file", &wanted);
        other.write_all_at(b"behind", size + 100).unwrap();
        wanted.resize(size as usize + 100, 0);
        wanted.extend(b"behind");
        place.is("file", &wanted);
    }
    // O_TRUNC while it is open.
    fs::write(&path, b"anew").unwrap();
    place.is("file", b"anew");
    let mut buffer = [0; 9];
    assert_eq!(one.read_at(&mut buffer, 0).unwrap(), 4);
    one.write_all_at(&noise(20_000, 6), 0).unwrap();
    let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&one, holes, 4000, 9000).unwrap();
    let mut wanted = noise(20_000, 6);
    wanted[4000..13_000].fill(0);
    place.is("file", &wanted);
    fallocate(&one, FallocateFlags::empty(), 0, 30_000).unwrap();
    wanted.resize(30_000, 0);
    place.is("file", &wanted);
    fallocate(&one, FallocateFlags::ZERO_RANGE, 29_000, 3000).unwrap();
    wanted.resize(32_000, 0);
    place.is("file", &wanted);
    drop((one, other));
    place.is("file", &wanted);
    place.end();
}

#[test]
fn as_root_a_file_without_a_name_is_served_until_it_is_closed() {
    let mut place = Place::new();
    let path = place.path("file");
    let mut file = open_new(&place, "file");
    file.write_all(&noise(9000, 1)).unwrap();
    fs::remove_file(&path).unwrap();
    file.write_all(b"more").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 9004);
    file.set_len(5000).unwrap();
    let mut bytes = vec![0; 6000];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 5000);
    assert!(bytes[..5000] == noise(9000, 1)[..5000]);
    // Replaced by a rename: who has the old one open keeps it.
    fs::write(&path, b"old").unwrap();
    let old = open(&path);
    fs::write(place.path("temporary"), b"new").unwrap();
    fs::rename(place.path("temporary"), &path).unwrap();
    old.write_all_at(b"more", 3).unwrap();
    let mut bytes = [0; 7];
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"oldmore");
    place.is("file", b"new");
    drop((file, old));
    place.mount.remount();
    place.is("file", b"new");
    place.end();
}

/// The daemon is killed while files are open and half written. What the kernel answered is there.
/// (proves: S61)
#[test]
fn as_root_a_kill_loses_nothing_that_the_kernel_has_written() {
    let mut place = Place::new();
    fs::write(place.path("cut"), noise(50_000, 2)).unwrap();
    fs::write(place.path("below"), b"").unwrap();
    let grown = open_new(&place, "grown");
    let (cut, below) = (open(&place.path("cut")), open(&place.path("below")));
    grown.write_all_at(&noise(100_000, 1), 0).unwrap();
    cut.set_len(20_000).unwrap();
    below.write_all_at(b"anew", 0).unwrap();
    let closed = open_new(&place, "closed");
    closed.write_all_at(&noise(3000, 4), 0).unwrap();
    drop(closed);
    place.mount.signal(Signal::KILL);
    place.mount.wait_end();
    // The kernel goes on without the daemon.
    grown.write_all_at(b"after", 100_000).unwrap();
    drop((grown, cut, below));
    place.mount.start_again();
    place.is("grown", &[&noise(100_000, 1)[..], b"after"].concat());
    place.is("cut", &noise(50_000, 2)[..20_000]);
    place.is("below", b"anew");
    place.is("closed", &noise(3000, 4));
    place.end();
}

fn open_new(place: &Place, name: &str) -> File {
    let mut how = OpenOptions::new();
    how.read(true)
        .write(true)
        .create_new(true)
        .open(place.path(name))
        .unwrap()
}

/// The kernel takes no mixture: a file is passed through by all who have it open, or by nobody.
#[test]
fn as_root_who_opens_a_file_first_decides_for_all() {
    let place = Place::new();
    // Nothing of it is in the store, and so it is not passed through.
    let reader = File::open(place.path("below")).unwrap();
    fs::write(place.path("below"), b"anew").unwrap();
    let mut buffer = [0; 9];
    assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 4);
    let count = place.requests(|| {
        open(&place.path("below"))
            .write_all_at(b"mixed", 0)
            .unwrap()
    });
    assert!(count > 0, "it is open without passthrough");
    assert_eq!(reader.read_at(&mut buffer, 0).unwrap(), 5);
    drop(reader);
    // Now all is in the store. The release comes after close(2) has returned.
    tools::wait_until(Duration::from_secs(5), || {
        place.requests(|| place.is("below", b"mixed")) == 0
    });
    // A program of the store is executed, and cannot be written meanwhile.
    fs::copy("/bin/sleep", place.path("sleep")).unwrap();
    let mut child = Command::new(place.path("sleep")).arg("60").spawn().unwrap();
    let busy = OpenOptions::new()
        .write(true)
        .open(place.path("sleep"))
        .unwrap_err();
    assert_eq!(busy.raw_os_error(), Some(libc::ETXTBSY));
    // Found by pjdfstest: the program was cut, and the error came afterwards.
    let cut = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_TRUNC)
        .open(place.path("sleep"));
    assert_eq!(cut.unwrap_err().raw_os_error(), Some(libc::ETXTBSY));
    place.is("sleep", &fs::read("/bin/sleep").unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    place.end();
}

#[test]
fn as_root_direct_and_synced_writes_are_whole() {
    let mut place = Place::new();
    let path = place.path("synced");
    let (direct, synced) = (libc::O_DIRECT, libc::O_DSYNC);
    for flags in [direct, synced, direct | synced] {
        let mut how = OpenOptions::new();
        how.write(true)
            .create(true)
            .truncate(true)
            .custom_flags(flags);
        let file = how.open(&path).unwrap();
        let block = Aligned([7; 4096]);
        for at in 0..4 {
            file.write_all_at(&block.0, at * 4096).unwrap();
        }
        assert_eq!(file.metadata().unwrap().len(), 16384);
        drop(file);
        place.is("synced", &[7; 16384]);
    }
    place.mount.remount();
    place.is("synced", &[7; 16384]);
    place.end();
}

#[repr(align(4096))]
struct Aligned([u8; 4096]);

#[track_caller]
fn a_users_write_takes_suid_and_sgid(place: &Place, name: &str) {
    let path = place.path(name);
    tools::run(
        as_user(ordinary(), "dd")
            .args(["if=/dev/zero", "count=1", "conv=notrunc", "status=none"])
            .arg(format!("of={}", path.display())),
    );
    assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o777);
}

/// The kernel does not ask mmfs for a write, so files with something that a write takes away are served by mmfs, and those that
/// get it while they are open lose it to the next write.
#[test]
fn as_root_a_write_takes_suid_and_sgid_away() {
    let place = Place::with(&["--attr-timeout", "0"]);
    let path = place.path("file");
    fs::write(&path, b"bytes").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
    a_users_write_takes_suid_and_sgid(&place, "file");
    let held = File::open(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
    a_users_write_takes_suid_and_sgid(&place, "file");
    drop(held);
    // As install(1) does it: written before the mode was set.
    let file = open_new(&place, "installed");
    file.write_all_at(b"#!/bin/sh\n", 0).unwrap();
    file.set_permissions(Permissions::from_mode(0o4755))
        .unwrap();
    drop(file);
    let mode = fs::metadata(place.path("installed")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o4755);
    place.end();
}

/// Times that were set stay, whatever was written before.
#[test]
fn as_root_times_that_are_set_stay() {
    let mut place = Place::new();
    let old = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = open_new(&place, "file");
    file.write_all_at(b"bytes", 0).unwrap();
    file.set_modified(old).unwrap();
    assert_eq!(file.metadata().unwrap().modified().unwrap(), old);
    drop(file);
    let modified = |place: &Place| {
        fs::metadata(place.path("file"))
            .unwrap()
            .modified()
            .unwrap()
    };
    assert_eq!(modified(&place), old);
    place.mount.remount();
    assert_eq!(modified(&place), old);
    open(&place.path("file")).write_all_at(b"x", 0).unwrap();
    assert!(modified(&place) > old);
    place.end();
}

/// What the kernel wrote is an ordinary store.
#[test]
fn as_root_a_store_is_read_without_passthrough() {
    let mut place = Place::new();
    let bytes = noise(123_457, 8);
    fs::write(place.path("file"), &bytes).unwrap();
    assert!(place.mount.unmount().success());
    let mount = builder(&place.place, &[]).mount();
    place.mount = mount;
    place.is("file", &bytes);
    assert!(place.requests(|| place.is("file", &bytes)) < 99);
    OpenOptions::new()
        .append(true)
        .open(place.path("file"))
        .unwrap()
        .write_all(b"x")
        .unwrap();
    place.is("file", &[&bytes[..], b"x"].concat());
    place.end();
}

/// Takes all room of a filesystem.
fn fill(filler: &File) {
    let end = filler.metadata().unwrap().len();
    let mut written = (0..).map(|at| filler.write_all_at(&[1; 4096], end + at * 4096));
    assert!(written.any(|done| done.is_err()));
}

/// Found by reading: the second open was EIO, and O_TRUNC had emptied the file before.
#[test]
fn as_root_a_second_open_for_which_there_is_no_room_leaves_the_file_as_it_is() {
    let disk = LoopFs::with_options("ext4", 32 << 20, &["-m", "0"], "loop");
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    fs::create_dir(&source).unwrap();
    let gone = |number: usize| format!("{number}{}", "-".repeat(200));
    for number in 0..4000 {
        File::create(source.join(gone(number))).unwrap();
    }
    let mount = Mount::builder()
        .over(&source)
        .expect_log("could not write its state")
        .options(["--passthrough", "--private"])
        .option(disk.path().join("store"))
        .mount();
    let path = |number: usize| mount.mnt().join(format!("kept{number}"));
    let bytes = noise(5000, 1);
    (0..80).for_each(|number| fs::write(path(number), &bytes).unwrap());
    let readers: Vec<File> = (0..80)
        .map(|number| File::open(path(number)).unwrap())
        .collect();
    let filler = File::create(disk.path().join("filler")).unwrap();
    let mut refused = 0;
    for (number, reader) in readers.iter().enumerate() {
        // Each of these records takes some of what is kept for a full disk.
        fill(&filler);
        for number in number * 50..number * 50 + 50 {
            fs::remove_file(mount.mnt().join(gone(number))).unwrap();
        }
        let mut how = OpenOptions::new();
        let opened = how.write(true).truncate(number % 2 == 0).open(path(number));
        if let Err(error) = opened {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{number}");
            let mut found = vec![0; 6000];
            let len = reader.read_at(&mut found, 0).unwrap();
            assert!(found[..len] == bytes, "{len} bytes of file {number}");
            refused += 1;
        }
    }
    assert!(refused > 0);
    drop(readers);
    filler.set_len(0).unwrap();
}

/// (proves: S67)
#[test]
fn without_the_privilege_mmfs_serves_all_files() {
    let place = tempfile::tempdir().unwrap();
    let (source, store) = (place.path().join("source"), place.path().join("store"));
    fs::create_dir(&source).unwrap();
    for path in [place.path(), &source] {
        common::user::give_to(ordinary(), path);
    }
    let mount = Mount::builder()
        .as_user(ordinary())
        .over(&source)
        .options([
            OsStr::new("--passthrough"),
            OsStr::new("--private"),
            store.as_os_str(),
        ])
        .mount();
    let path = mount.mnt().join("file");
    tools::run(
        as_user(ordinary(), "sh")
            .args(["-c", "echo bytes >$0"])
            .arg(&path),
    );
    let read = as_user(ordinary(), "cat").arg(&path).output().unwrap();
    assert_eq!(read.stdout, b"bytes\n");
    assert!(
        mount
            .log()
            .contains("passthrough needs CAP_SYS_ADMIN: files are served from maps")
    );
}
