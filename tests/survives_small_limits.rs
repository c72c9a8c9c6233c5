//! Rule 4: limits are small. Few descriptors for a large tree, little address space for huge files, a budget for
//! maps that is kept with throughput that is kept, too; and a listing that misses no name and repeats none.

mod common;
mod survive;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::builder::Builder;
use common::subject::is_in_mode;
use common::{Mount, user};
use survive::{Figures, Rng, daemon, length, soak};

const PER_DIRECTORY: usize = 300;
const TB: u64 = 1 << 40;

/// What one mount may be worked on altogether.
fn limit() -> Duration {
    Duration::from_secs(120 + 3 * soak().unwrap_or(0))
}

fn still_alive(mount: &Mount, figures: &Figures) {
    if !daemon::lives(mount.daemon_pid()) {
        figures.exit();
    }
}

// ---- descriptors

fn plant(source: &Path, files: usize) {
    for d in 0..files / PER_DIRECTORY {
        let directory = source.join(format!("d{d}"));
        fs::create_dir(&directory).expect("mkdir");
        (0..PER_DIRECTORY).for_each(|f| {
            fs::write(directory.join(format!("f{f}")), format!("{d}/{f}")).expect("write")
        });
    }
}

fn few_descriptors(builder: Builder, what: &str) {
    let uid = if what == "user" { user::ordinary() } else { 0 };
    let (figures, mut rng) = (
        Figures::of(&format!("survives_small_limits: 256 descriptors, {what}")),
        Rng::new(),
    );
    let files = if soak().is_some() { 300_000 } else { 24_000 };
    let source = tempfile::tempdir().expect("a directory");
    plant(source.path(), files);
    common::tools::sh(
        r#"chown -R "$1:$1" "$2""#,
        &[uid.to_string().as_ref(), source.path().as_ref()],
    );
    let mount = builder
        .over(source.path())
        .rlimit("nofile", 256)
        .options(["--allow-other"])
        .mount();
    figures.fault();
    mount.within(limit(), || {
        let open: Vec<File> = (0..100).map(|n| hold_open(mount.mnt(), n)).collect();
        let listed = count(mount.mnt(), &figures);
        figures.expect("files listed", listed, files);
        for _ in 0..5000 {
            let (d, f) = (
                rng.below((files / PER_DIRECTORY) as u64),
                rng.below(PER_DIRECTORY as u64),
            );
            let read = fs::read_to_string(mount.mnt().join(format!("d{d}/f{f}")));
            if let Some(text) = figures.outcome("read", &[], read) {
                figures.expect("text", text, format!("{d}/{f}"));
            }
        }
        refused_removals(mount.mnt(), &figures);
        for (n, file) in open.iter().enumerate() {
            let mut text = [0; 8];
            let len = figures
                .outcome("read what is open", &[], file.read_at(&mut text, 0))
                .unwrap_or(0);
            figures.expect(
                "text",
                String::from_utf8_lossy(&text[..len]).into_owned(),
                format!("{}/{}", n % 64, n),
            );
        }
    });
    figures.note(format!(
        "files={files} descriptors={}",
        daemon::descriptors(mount.daemon_pid())
    ));
    still_alive(&mount, &figures);
    drop(mount);
    figures.finish();
}

fn hold_open(mnt: &Path, n: usize) -> File {
    let path = mnt.join(format!("d{}/f{n}", n % 64));
    OpenOptions::new()
        .read(true)
        .write(n % 2 == 1)
        .open(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn count(directory: &Path, figures: &Figures) -> usize {
    let Some(entries) = figures.outcome("readdir", &[], fs::read_dir(directory)) else {
        return 0;
    };
    let entries = entries.filter_map(|entry| figures.outcome("readdir", &[], entry));
    entries
        .map(
            |entry| match figures.outcome("stat", &[], entry.metadata()) {
                Some(m) if m.is_dir() => count(&entry.path(), figures),
                Some(_) => 1,
                None => 0,
            },
        )
        .sum()
}

/// Each of these looks closely at what it does not remove, and must let go of it again.
fn refused_removals(mnt: &Path, figures: &Figures) {
    for d in 0..64 {
        let outcome = fs::remove_dir(mnt.join(format!("d{d}")));
        figures.expect(
            "rmdir of a full directory",
            outcome.map_err(|e| e.raw_os_error()),
            Err(Some(libc::ENOTEMPTY)),
        );
        figures.operation();
    }
}

/// (proves: S43)
#[test]
fn as_root_256_descriptors_are_enough() {
    few_descriptors(Mount::builder(), "root");
}

#[test]
fn as_root_256_descriptors_are_enough_for_a_users_daemon() {
    user::let_users_mount();
    few_descriptors(Mount::builder().as_user(user::ordinary()), "user");
}

// ---- address space

/// (proves: S43)
#[test]
fn a_gibibyte_of_address_space_is_enough() {
    let (figures, mut rng) = (
        Figures::of("survives_small_limits: 1 GiB of address space, 200 files of 1 TiB"),
        Rng::new(),
    );
    let source = tempfile::tempdir().expect("a directory");
    for n in 0..200 {
        let file = File::create(source.path().join(n.to_string())).expect("create");
        file.set_len(TB).expect("truncate");
        // 16 marked places in each.
        (0..16).for_each(|at| {
            file.write_all_at(&mark(n, at), place(n, at))
                .expect("write")
        });
    }
    for options in [
        &["--direct-io"][..],
        &[],
        &["--direct-io", "--window-size", "64K"],
    ] {
        let mount = Mount::builder()
            .over(source.path())
            .rlimit("as", 1 << 30)
            .options(options.iter().copied())
            .mount();
        figures.fault();
        let most = fs::read_to_string("/proc/sys/vm/max_map_count").expect("a number");
        let most = most.trim().parse::<usize>().expect("a number");
        let (maps, bytes) = mount.within(limit(), || {
            let (maps, bytes, stop) =
                (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
            thread::scope(|scope| {
                scope.spawn(|| {
                    watch_windows(mount.daemon_pid(), source.path(), &maps, &bytes, &stop)
                });
                read_at_random(mount.mnt(), &figures, &mut rng, length(4));
                stop.store(true, Relaxed);
            });
            (maps.into_inner(), bytes.into_inner())
        });
        let is_mapped = options.contains(&"--direct-io")
            || !is_in_mode("--passthrough", "the kernel reads without windows");
        figures.expect("windows are used at all", maps > 0, is_mapped);
        figures.expect(
            "windows under half of vm.max_map_count",
            maps <= most as u64 / 2,
            true,
        );
        figures.note(format!("{options:?}: {maps} windows of {}M,", bytes >> 20));
        still_alive(&mount, &figures);
    }
    figures.finish();
}

/// The greatest numbers of windows and of bytes mapped by them, while it is let.
fn watch_windows(pid: u32, source: &Path, maps: &AtomicU64, bytes: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        let now = daemon::mapped_below(pid, source);
        maps.fetch_max(now.0 as u64, Relaxed);
        bytes.fetch_max(now.1, Relaxed);
        thread::sleep(Duration::from_millis(20));
    }
}

fn place(file: u64, at: u64) -> u64 {
    (file * 16 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) % (TB / 4096) * 4096
}

fn mark(file: u64, at: u64) -> Vec<u8> {
    (file * 16 + at + 1).to_le_bytes().repeat(512)
}

fn read_at_random(mnt: &Path, figures: &Figures, rng: &mut Rng, time: Duration) {
    let open: Vec<_> = (0..200)
        .filter_map(|n| figures.outcome("open", &[], File::open(mnt.join(n.to_string()))))
        .collect();
    let (mut page, deadline) = (vec![0; 4096], Instant::now() + time);
    while Instant::now() < deadline {
        let (n, at) = (rng.below(open.len() as u64), rng.below(16));
        let read = open[n as usize].read_exact_at(&mut page, place(n, at));
        if figures.outcome("read", &[], read).is_some() {
            figures.expect("marked page", page == mark(n, at), true);
        }
    }
}

// ---- the budget for maps

/// (proves: S43)
#[test]
fn the_map_budget_is_kept() {
    let (figures, mut rng) = (Figures::of("survives_small_limits: map budget"), Rng::new());
    let source = tempfile::tempdir().expect("a directory");
    let len: u64 = 20 << 30;
    File::create(source.path().join("file"))
        .and_then(|f| f.set_len(len))
        .expect("a sparse file");
    let over = |options: &[&str]| {
        Mount::builder()
            .over(source.path())
            .option("--direct-io")
            .options(options.iter().copied())
            .mount()
    };
    let (free, tight) = (over(&[]), over(&["--map-budget", "64M"]));
    let peaks = [&free, &tight].map(|mount| Peak::of(mount.daemon_pid()));
    let (mut best, mut rounds, end) = ([0, 0], 0, Instant::now() + length(0));
    // The best of some rounds, more of them where other programs disturb: noise only ever slows down.
    let slow = |best: [u64; 2]| best[1] * 100 < best[0] * 80;
    while rounds < 3 || Instant::now() < end || (soak().is_some() && rounds < 12 && slow(best)) {
        rounds += 1;
        for (at, mount) in [&free, &tight].into_iter().enumerate() {
            let seed = rng.fork();
            let work = || measured(mount, source.path(), seed, &peaks[at]);
            let reads = mount.within(limit(), work);
            best[at] = best[at].max(reads);
            figures.operation();
        }
    }
    let (budget, peak) = (64 << 20, &peaks[1]);
    figures.expect(
        "mapped bytes and page tables within budget + 5 %",
        peak.sum.load(Relaxed) <= budget + budget / 20,
        true,
    );
    // In the short form other programs may have all the time there is, and only a standstill says something.
    let percent = if soak().is_some() { 80 } else { 10 };
    figures.expect(
        &format!("{best:?} reads a second, at least {percent} % of an unlimited run"),
        best[1] * 100 >= best[0] * percent,
        true,
    );
    figures.note(format!(
        "reads/s free={} tight={} mapped and tables={}K of 65536K, tables={}K",
        best[0],
        best[1],
        peak.sum.load(Relaxed) >> 10,
        peak.tables.load(Relaxed) >> 10
    ));
    still_alive(&tight, &figures);
    figures.finish();
}

/// The most that was mapped of the source, together with the page tables it took.
struct Peak {
    pid: u32,
    /// Page tables of the idle daemon.
    idle: u64,
    tables: AtomicU64,
    sum: AtomicU64,
}

impl Peak {
    fn of(pid: u32) -> Self {
        Peak {
            pid,
            idle: daemon::status_kb(pid, "VmPTE") << 10,
            tables: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    fn look(&self, source: &Path) {
        let tables = (daemon::status_kb(self.pid, "VmPTE") << 10).saturating_sub(self.idle);
        // /proc/PID/maps is read in pieces: a window that moves meanwhile is seen twice, but not every time.
        let looks = (0..3).map(|_| daemon::mapped_below(self.pid, source).1);
        let mapped = looks.min().unwrap_or(0);
        self.tables.fetch_max(tables, Relaxed);
        self.sum.fetch_max(mapped + tables, Relaxed);
    }
}

/// Random reads of 64 KiB by two readers for a second, under observation; how many.
fn measured(mount: &Mount, source: &Path, rng: Rng, peak: &Peak) -> u64 {
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for n in 0..2 {
            let mut rng = rng.clone();
            let (stop, reads) = (&stop, &reads);
            scope.spawn(move || {
                let file = File::open(mount.mnt().join("file")).expect("open");
                let mut buffer = vec![0; 64 << 10];
                rng = if n == 0 { rng } else { rng.fork() };
                while !stop.load(Relaxed) {
                    // 2 GiB of it: the source's cache must hold what both kinds of mount read.
                    file.read_exact_at(
                        &mut buffer,
                        rng.below(16) * (1 << 30) + rng.below(2048) * (64 << 10),
                    )
                    .expect("read");
                    reads.fetch_add(1, Relaxed);
                }
            });
        }
        let deadline = Instant::now() + Duration::from_secs(1);
        while Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
            peak.look(source);
        }
        stop.store(true, Relaxed);
    });
    reads.load(Relaxed)
}

// ---- listings

#[test]
fn a_changing_directory_is_listed_without_gaps_or_repeats() {
    let figures = Figures::of("survives_small_limits: listings");
    let mount = Mount::new();
    let stable = |n: usize| format!("stable-{n:05}");
    (0..4000).for_each(|n| fs::write(mount.src().join(stable(n)), "").expect("write"));
    let stop = AtomicBool::new(false);
    mount.within(limit(), || {
        thread::scope(|scope| {
            for directory in [mount.src(), mount.mnt()] {
                let (stop, figures) = (&stop, &figures);
                scope.spawn(move || churn(directory, stop, figures));
            }
            let deadline = Instant::now() + length(6);
            while Instant::now() < deadline {
                list_once(mount.mnt(), &figures);
            }
            stop.store(true, Relaxed);
        });
    });
    still_alive(&mount, &figures);
    drop(mount);
    figures.finish();
}

fn churn(directory: &Path, stop: &AtomicBool, figures: &Figures) {
    let (mut n, who) = (
        0_u64,
        directory
            .file_name()
            .map(|n| n.to_string_lossy().into_owned()),
    );
    let path = |n: u64| directory.join(format!("passing-{who:?}-{}", n % 1500));
    while !stop.load(Relaxed) {
        n += 1;
        // Half of them are there at any time.
        let outcome = if n % 3000 < 1500 {
            fs::write(path(n), "")
        } else {
            fs::remove_file(path(n))
        };
        let _: io::Result<()> = outcome;
        figures.fault();
    }
}

fn list_once(directory: &Path, figures: &Figures) {
    let Some(entries) = figures.outcome("opendir", &[], fs::read_dir(directory)) else {
        return;
    };
    let mut seen: HashMap<String, usize> = HashMap::new();
    for entry in entries {
        if let Some(entry) = figures.outcome("readdir", &[], entry) {
            *seen
                .entry(entry.file_name().to_string_lossy().into_owned())
                .or_default() += 1;
        }
    }
    let stable: Vec<_> = seen
        .iter()
        .filter(|(name, _)| name.starts_with("stable-"))
        .collect();
    figures.expect("stable names listed", stable.len(), 4000);
    let twice: Vec<_> = stable.iter().filter(|(_, count)| **count != 1).collect();
    figures.expect("stable names listed twice", twice.len(), 0);
}
