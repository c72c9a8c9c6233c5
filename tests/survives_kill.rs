//! Rule 6: killed at any moment. Every write that was acknowledged to a client is in the source; every fsynced byte
//! is on the device; the dead mount is cleared by the next start at the same place, which says so.

mod common;
mod survive;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::{LoopFs, builder, fuse, subject, tools, within};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::process::Signal;
use survive::{Figures, Rng, length, soak};

const LIMIT: Duration = Duration::from_secs(10);
const SLOTS: u64 = 64;
const SLOT: u64 = 4096;

/// A daemon that is going to be killed, which the guard of other tests would not forgive.
struct Doomed {
    child: Child,
    point: PathBuf,
    log: PathBuf,
}

impl Doomed {
    #[track_caller]
    fn start(source: &Path, point: &Path, options: &[&str], scratch: &Path) -> Self {
        let log = scratch.join("log");
        let mut command = Command::new(builder::binary());
        let options: Vec<OsString> = options.iter().map(OsString::from).collect();
        command
            .arg("-f")
            .args(subject::arguments(&options, source, point))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.stderr(File::create(&log).expect("a log"));
        let mut this = Doomed {
            child: command.spawn().expect("mmfs starts"),
            point: point.to_owned(),
            log,
        };
        // The dead one would answer from the kernel's cache for a while.
        let sincerely = || {
            let (force, mask) = (AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS);
            rustix::fs::statx(rustix::fs::CWD, point, force, mask)
                .is_ok_and(|s| s.stx_dev_major == 0)
        };
        let answers =
            || fuse::mount_at(point).is_some_and(|m| m.fs_type.starts_with("fuse")) && sincerely();
        let up = tools::wait_until(LIMIT, || {
            answers() || this.child.try_wait().is_ok_and(|s| s.is_some())
        });
        assert!(
            up && answers(),
            "mmfs does not mount:\n{}",
            tools::text_of(&this.log)
        );
        this
    }

    fn kill(&mut self) {
        fuse::kill(self.child.id(), Signal::KILL);
        self.child.wait().expect("our own child");
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        tools::output_of(Command::new("umount").arg("-l").arg(&self.point));
    }
}

/// What clients were told, by the writes that returned.
struct Told {
    /// Records appended.
    appended: AtomicU64,
    /// Last number written to each slot.
    slots: [AtomicU64; SLOTS as usize],
    /// Files that were renamed into place.
    renamed: AtomicU64,
}

/// (proves: S45)
#[test]
fn no_acknowledged_write_is_lost() {
    let (figures, mut rng) = (
        Figures::of("survives_kill: acknowledged writes"),
        Rng::new(),
    );
    let scratch = tempfile::tempdir().expect("a directory");
    let (source, point) = (scratch.path().join("src"), scratch.path().join("mnt"));
    fs::create_dir(&source)
        .and_then(|()| fs::create_dir(&point))
        .expect("mkdir");
    let (rounds, deadline) = (
        if soak().is_some() { 100 } else { 25 },
        Instant::now() + length(25),
    );
    let ways: [&[&str]; 3] = [&[], &["--write-path", "region"], &["--direct-io"]];
    let mut round = 0;
    while round < rounds || (soak().is_some() && Instant::now() < deadline) {
        for name in ["appended", "slots"] {
            let _ = fs::remove_file(source.join(name));
        }
        let mut daemon = Doomed::start(&source, &point, ways[round % 3], scratch.path());
        if round > 0 && subject::peer().is_none() {
            let log = tools::text_of(&daemon.log);
            figures.expect(
                "the log tells of the dead mount",
                log.contains("dead") || log.contains("stale"),
                true,
            );
        }
        let told = Told {
            appended: AtomicU64::new(0),
            slots: std::array::from_fn(|_| AtomicU64::new(0)),
            renamed: AtomicU64::new(0),
        };
        let life = Duration::from_millis(20 + rng.below(400));
        within(LIMIT, &point, Some(daemon.child.id()), || {
            under_load(&point, &told, &mut daemon, life, &figures)
        });
        figures.fault();
        check(&source, &told, ways[round % 3], &figures);
        if subject::peer().is_none() {
            std::mem::forget(daemon); // The next one clears the mount, as peers do not.
        }
        round += 1;
    }
    figures.note(format!("kills={round}"));
    tools::output_of(Command::new("umount").arg("-l").arg(&point));
    figures.finish();
}

fn under_load(point: &Path, told: &Told, daemon: &mut Doomed, life: Duration, figures: &Figures) {
    thread::scope(|scope| {
        scope.spawn(|| append(point, told, figures));
        scope.spawn(|| overwrite(point, told, figures));
        scope.spawn(|| rename(point, told, figures));
        thread::sleep(life);
        daemon.kill();
    });
}

fn record(n: u64) -> [u8; 1000] {
    std::array::from_fn(|at| n.to_le_bytes()[at % 8])
}

fn append(point: &Path, told: &Told, figures: &Figures) {
    let Ok(file) = File::create_new(point.join("appended")) else {
        return;
    };
    for n in 0.. {
        match file.write_at(&record(n), n * 1000) {
            Ok(1000) => told.appended.store(n + 1, SeqCst),
            // The first page of two, before the end came.
            Ok(_) => return,
            Err(error) => return figures.error(&error),
        }
        figures.operation();
    }
}

fn overwrite(point: &Path, told: &Told, figures: &Figures) {
    let Ok(file) = File::create_new(point.join("slots")) else {
        return;
    };
    if file.write_all_at(&[0; (SLOTS * SLOT) as usize], 0).is_err() {
        return;
    }
    for n in 1.. {
        let slot = n % SLOTS;
        let bytes: Vec<u8> = n.to_le_bytes().repeat(SLOT as usize / 8);
        match file.write_all_at(&bytes, slot * SLOT) {
            Ok(()) => told.slots[slot as usize].store(n, SeqCst),
            Err(error) => return figures.error(&error),
        }
        figures.operation();
    }
}

/// Written, then renamed over the old one: a reader of the source never sees less than what was renamed.
fn rename(point: &Path, told: &Told, figures: &Figures) {
    for n in told.renamed.load(SeqCst) + 1.. {
        let new = point.join("new");
        let outcome =
            fs::write(&new, record(n)).and_then(|()| fs::rename(&new, point.join("current")));
        match outcome {
            Ok(()) => told.renamed.store(n, SeqCst),
            Err(error) => return figures.error(&error),
        }
        figures.operation();
    }
}

fn check(source: &Path, told: &Told, way: &[&str], figures: &Figures) {
    let appended = fs::read(source.join("appended")).unwrap_or_default();
    let count = told.appended.load(SeqCst);
    figures.expect(
        &format!("{way:?}: records acknowledged and there"),
        appended.len() as u64 >= count * 1000,
        true,
    );
    let wrong = (0..count)
        .find(|&n| appended.get(n as usize * 1000..n as usize * 1000 + 1000) != Some(&record(n)));
    figures.expect(&format!("{way:?}: a wrong record"), wrong, None);
    let slots = fs::read(source.join("slots")).unwrap_or_default();
    let last = told.slots.iter().map(|s| s.load(SeqCst)).max().unwrap_or(0);
    for (at, slot) in told.slots.iter().enumerate() {
        let wanted = slot.load(SeqCst);
        let in_flight = (last + 1) % SLOTS == at as u64;
        let held = slots.chunks(SLOT as usize).nth(at).unwrap_or_default();
        let holds = |n: u64| held.chunks(8).all(|word| word == n.to_le_bytes());
        if wanted > 0 && !holds(wanted) && !in_flight {
            figures.divergence(format!("{way:?}: slot {at} does not hold {wanted}"));
        }
    }
    let (renamed, current) = (
        told.renamed.load(SeqCst),
        fs::read(source.join("current")).unwrap_or_default(),
    );
    let right = renamed == 0 || current == record(renamed) || current == record(renamed + 1);
    figures.expect(
        &format!("{way:?}: the file renamed into place"),
        right,
        true,
    );
}

/// What fsync(2) acknowledged is on the medium the moment it returns.
/// (proves: S45)
#[test]
fn no_fsynced_byte_is_lost() {
    let figures = Figures::of("survives_kill: fsynced bytes");
    for (kind, size) in [("ext4", 64 << 20), ("xfs", 320 << 20), ("btrfs", 128 << 20)] {
        for way in [&[][..], &["--write-path", "region"], &["--direct-io"]] {
            let scratch = tempfile::tempdir().expect("a directory");
            let disk = LoopFs::new(kind, size);
            let point = scratch.path().join("mnt");
            fs::create_dir(&point).expect("mkdir");
            let mut daemon = Doomed::start(disk.path(), &point, way, scratch.path());
            let copy = scratch.path().join("copy");
            let wanted = within(LIMIT, &point, Some(daemon.child.id()), || {
                write_and_sync(&point)
            });
            tools::run(
                Command::new("cp")
                    .arg("--sparse=always")
                    .arg(disk.path().with_file_name("image"))
                    .arg(&copy),
            );
            daemon.kill();
            figures.fault();
            drop(daemon);
            drop(disk); // btrfs knows two of the same kind apart only by one of them being gone.
            look_at_copy(
                &copy,
                scratch.path(),
                &wanted,
                &format!("{kind} {way:?}"),
                &figures,
            );
        }
    }
    figures.finish();
}

/// A new file, extended and overwritten in part through both kinds of write, its directory synced as well.
fn write_and_sync(point: &Path) -> Vec<u8> {
    let path = point.join("file");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .expect("create");
    let mut wanted = vec![b'a'; 1 << 20];
    file.write_all_at(&wanted, 0).expect("write");
    file.sync_all().expect("fsync");
    for (n, at) in [5000, 300_000, 700_001].into_iter().enumerate() {
        wanted[at..at + 3000].fill(b'b' + n as u8);
        file.write_all_at(&wanted[at..at + 3000], at as u64)
            .expect("write");
    }
    file.sync_data().expect("fdatasync");
    File::open(point)
        .and_then(|d| d.sync_all())
        .expect("fsync of the directory");
    wanted
}

fn look_at_copy(copy: &Path, scratch: &Path, wanted: &[u8], what: &str, figures: &Figures) {
    let at = scratch.join("at");
    fs::create_dir(&at).expect("mkdir");
    tools::run(
        Command::new("mount")
            .args(["-o", "loop"])
            .arg(copy)
            .arg(&at),
    );
    let held = fs::read(at.join("file"));
    tools::unmount_idle(&at).expect("umount");
    figures.operation();
    figures.expect(
        &format!("{what}: fsynced bytes on the copy"),
        held.is_ok_and(|held| held == wanted),
        true,
    );
}
