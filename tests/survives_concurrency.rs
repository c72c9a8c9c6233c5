//! Rule 9: 64 clients do everything at once on the same files, stress-ng's filesystem stressors beside them. No
//! deadlock, no leak, and no divergence from a plain directory where an order is defined.

mod common;
mod survive;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use common::{Mount, tools};
use rustix::fs::FallocateFlags;
use survive::{Figures, Rng, Seen, Sleepers, daemon, length, pattern};

const CLIENTS: u64 = 64;
const SHARED: u64 = 12;
/// Answers a client gets from any filesystem when others remove and replace what it names.
const ALLOWED: [i32; 8] = [
    libc::ENOENT,
    libc::EEXIST,
    libc::ENOTEMPTY,
    libc::EISDIR,
    libc::ENOTDIR,
    libc::ESTALE,
    libc::ELOOP,
    libc::EINVAL,
];

static TAGS: AtomicU64 = AtomicU64::new(1);

/// (proves: S48)
#[test]
fn sixty_four_clients_at_once() {
    let (figures, mut rng) = (Figures::of("survives_concurrency"), Rng::new());
    for options in [
        &["--allow-other"][..],
        &[
            "--allow-other",
            "--write-path",
            "region",
            "--map-budget",
            "16M",
            "--window-size",
            "64K",
        ],
    ] {
        let mount = Mount::builder()
            .options(options.iter().copied())
            .expect_log("reply")
            .mount();
        let pid = mount.daemon_pid();
        let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        let before = threads();
        let sleepers = Sleepers::watch([(mount.mnt().to_owned(), pid)]);
        let time = length(16) / 2;
        mount.within(time + Duration::from_secs(60), || {
            everybody(&mount, time, &figures, &mut rng)
        });
        if let Some(report) = sleepers.end() {
            figures.hang(report);
        }
        if !daemon::lives(pid) {
            figures.exit();
            continue;
        }
        figures.expect(
            "held after the last close",
            daemon::held_files(pid, mount.src()),
            Vec::new(),
        );
        // Those that stood in for busy event loops wait some seconds for more to do.
        tools::wait_until(Duration::from_secs(15), || threads() <= before);
        figures.expect_of_ours("threads", threads(), before);
        mount.within(Duration::from_secs(30), || same_trees(&mount, &figures));
        figures.note(format!(
            "descriptors={} maps={}",
            daemon::descriptors(pid),
            daemon::mappings(pid)
        ));
    }
    figures.finish();
}

fn everybody(mount: &Mount, time: Duration, figures: &Figures, rng: &mut Rng) {
    let mnt = mount.mnt();
    fs::create_dir(mnt.join("stress")).expect("mkdir");
    fs::create_dir(mnt.join("shared")).expect("mkdir");
    let mut stress = stressors(&mnt.join("stress"), time);
    thread::scope(|scope| {
        for n in 0..CLIENTS {
            let mut rng = rng.fork();
            scope.spawn(move || {
                let deadline = Instant::now() + time;
                let mut own = Own::new(mnt, n);
                while Instant::now() < deadline {
                    shared_files(&mnt.join("shared"), figures, &mut rng);
                    own.step(figures, &mut rng);
                }
            });
        }
    });
    let ended = tools::wait_until(Duration::from_secs(30), || {
        stress.try_wait().is_ok_and(|s| s.is_some())
    });
    figures.expect("stress-ng ended", ended, true);
    let status = stress.try_wait().ok().flatten().map(|s| s.code());
    figures.expect("stress-ng's status", status, Some(Some(0)));
}

fn stressors(directory: &Path, time: Duration) -> Child {
    let mut command = Command::new(tools::tool("stress-ng"));
    for stressor in [
        "dentry",
        "rename",
        "link",
        "seek",
        "utime",
        "chmod",
        "fallocate",
        "filename",
    ] {
        command.args([&format!("--{stressor}"), "1"]);
    }
    command
        .args([
            "--verify",
            "--timeout",
            &format!("{}s", time.as_secs().max(1)),
            "--temp-path",
        ])
        .arg(directory);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("stress-ng starts")
}

/// Files that everybody makes, replaces, reads and writes: only bytes of the very inode may be seen.
fn shared_files(shared: &Path, figures: &Figures, rng: &mut Rng) {
    let path = shared.join(format!("f{}", rng.below(SHARED)));
    let outcome: io::Result<()> = match rng.below(12) {
        0 => replace(&path, rng),
        1 => fs::remove_file(&path),
        2 => fs::hard_link(&path, shared.join(format!("l{}", rng.below(SHARED)))),
        3 => fs::rename(shared.join(format!("l{}", rng.below(SHARED))), &path),
        4 => symlink("f0", shared.join(format!("s{}", rng.below(SHARED)))),
        5 => fs::create_dir(shared.join(format!("d{}", rng.below(SHARED)))),
        6 => fs::remove_dir(shared.join(format!("d{}", rng.below(SHARED)))),
        7 => fs::read_dir(shared).map(|entries| entries.for_each(drop)),
        _ => read_and_write(&path, figures, rng),
    };
    figures.outcome("shared", &ALLOWED, outcome);
}

fn replace(path: &Path, rng: &mut Rng) -> io::Result<()> {
    let n = TAGS.fetch_add(1, SeqCst);
    let new = path.with_extension(format!("new{n}"));
    let len = 8 * rng.below(20_000) as usize;
    File::create_new(&new)?.write_all(&pattern::bytes(pattern::tag(n), 0, len))?;
    fs::rename(new, path)
}

fn read_and_write(path: &Path, figures: &Figures, rng: &mut Rng) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let (mut seen, mut buffer) = (Seen::default(), vec![0; 32 << 10]);
    for _ in 0..4 {
        let offset = rng.below(160_000) & !7;
        let n = file.read_at(&mut buffer, offset)?;
        if let Err(wrong) = seen.check(offset, &buffer[..n]) {
            figures.divergence(format!("{}: {wrong}", path.display()));
        }
        let Some(tag) = seen.tag() else { continue };
        match rng.below(8) {
            0 => file.set_len(rng.below(160_000))?,
            1 => rustix::fs::fallocate(
                &file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                offset,
                10_000,
            )?,
            2 => file.sync_data()?,
            _ => file.write_all_at(
                &pattern::bytes(tag, offset, 8 * (1 + rng.below(2000) as usize)),
                offset,
            )?,
        }
    }
    Ok(())
}

/// What belongs to one client alone: there every order is defined, so every answer is known.
struct Own {
    file: File,
    path: std::path::PathBuf,
    model: Vec<u8>,
}

impl Own {
    fn new(mnt: &Path, n: u64) -> Self {
        let path = mnt.join(format!("own{n}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .expect("create");
        Own {
            file,
            path,
            model: Vec::new(),
        }
    }

    fn step(&mut self, figures: &Figures, rng: &mut Rng) {
        let (at, len) = (rng.below(100_000) as usize, 1 + rng.below(9000) as usize);
        let outcome = match rng.below(6) {
            0 => {
                self.model.resize(at, 0);
                self.file.set_len(at as u64)
            }
            1 | 2 => {
                let bytes = vec![rng.below(256) as u8; len];
                self.model.resize(self.model.len().max(at + len), 0);
                self.model[at..at + len].copy_from_slice(&bytes);
                self.file.write_all_at(&bytes, at as u64)
            }
            3 => {
                let bytes = vec![rng.below(256) as u8; len];
                self.model.extend(&bytes);
                OpenOptions::new()
                    .append(true)
                    .open(&self.path)
                    .and_then(|mut f| f.write_all(&bytes))
            }
            4 => {
                let length = self.file.metadata().map(|m| m.len());
                length.map(|n| figures.expect("own length", n, self.model.len() as u64))
            }
            _ => fs::read(&self.path)
                .map(|bytes| figures.expect("own bytes", bytes == self.model, true)),
        };
        figures.outcome("own", &[], outcome);
    }
}

/// In the end both sides show the same.
fn same_trees(mount: &Mount, figures: &Figures) {
    thread::sleep(Duration::from_millis(1200));
    let difference = tools::output_of(
        Command::new("diff")
            .args(["-r", "--no-dereference"])
            .arg(mount.src())
            .arg(mount.mnt()),
    );
    let text = String::from_utf8_lossy(&difference.stdout).into_owned();
    figures.expect(
        "diff -r",
        (difference.status.code(), text.lines().next().unwrap_or("")),
        (Some(0), ""),
    );
}
