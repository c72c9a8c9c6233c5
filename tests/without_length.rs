//! Files whose length says nothing of what a read returns, as on procfs.

mod common;
mod stage;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::tools::wait_until;
use stage::{Stage, eventually, on_mount};

/// Filesystems whose files do not say how long they are: those that this kernel has are tried.
const WITHOUT_LENGTHS: [&str; 10] = [
    "fusectl",
    "binfmt_misc",
    "configfs",
    "efivarfs",
    "selinuxfs",
    "debugfs",
    "tracefs",
    "proc",
    "sysfs",
    "cgroup2",
];

/// What reading a file gives, at once and in pieces of seven bytes.
fn contents(path: &Path) -> std::result::Result<[Vec<u8>; 2], Option<i32>> {
    let read = || -> std::io::Result<[Vec<u8>; 2]> {
        let (mut pieces, mut file) = (Vec::new(), File::open(path)?);
        let mut piece = [0; 7];
        while pieces.len() < 64 {
            match file.read(&mut piece)? {
                0 => break,
                n => pieces.extend_from_slice(&piece[..n]),
            }
        }
        Ok([fs::read(path)?, pieces])
    };
    read().map_err(|error| error.raw_os_error())
}

/// Up to `limit` files below a directory, none of which blocks, is consumed by reading, or changes all the time.
fn steady_files(dir: &Path, limit: usize) -> Vec<std::path::PathBuf> {
    // "loadavg" counts the processes that run: one more where a daemon is needed to read it.
    const UNSTEADY: [&str; 5] = ["pipe", "kmsg", "trace", "waiting", "loadavg"];
    let (mut dirs, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(dir) = dirs.pop().filter(|_| found.len() < limit) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let name = entry.file_name().into_string().unwrap_or_default();
            let is_process = path.join("oom_score").exists();
            if kind.is_dir() && !is_process {
                dirs.push(path);
            } else if kind.is_file() && !UNSTEADY.iter().any(|part| name.contains(part)) {
                let meta = entry.metadata().unwrap();
                let readable = meta.mode() & 0o444 != 0 && meta.len() < 1 << 20;
                found.extend(readable.then_some(path));
            }
        }
    }
    found.truncate(limit);
    found
}

/// What reading `path` gives; fails the test if reading `shown` never gives the same, unless it changes all the time.
fn contents_at_once(path: &Path, shown: &Path) -> std::result::Result<[Vec<u8>; 2], Option<i32>> {
    for _ in 0..20 {
        let (before, between, after) = (contents(path), contents(shown), contents(path));
        if between == before || between == after || before != after {
            return before;
        }
    }
    panic!(
        "{}: {:?}, not {:?}",
        shown.display(),
        contents(shown),
        contents(path)
    );
}

/// Unmounts when dropped.
struct Unmounted(std::path::PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        if let Err(errno) = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH) {
            eprintln!("umount {}: {errno}", self.0.display());
        }
    }
}

/// Files that say length 0, or a page, read what they hold; each is read by what it does, whatever its filesystem is
/// called. Empty files of an ordinary filesystem are empty.
/// (proves: S11)
#[test]
fn as_root_files_without_a_length_read_their_contents() {
    on_mount(&[], |stage| {
        fs::write(stage.source("empty"), "").unwrap();
        assert_eq!(contents(&stage.mount("empty")), Ok([vec![], vec![]]));
        let mut tried = Vec::new();
        for kind in WITHOUT_LENGTHS {
            let Some(Unmounted(below)) = &mounted(stage, kind) else {
                continue;
            };
            let mut files = 0;
            for path in steady_files(below, 200) {
                let shown = stage
                    .mount("")
                    .join(path.strip_prefix(stage.source("")).unwrap());
                let natively = contents_at_once(&path, &shown);
                files += usize::from(natively.is_ok_and(|[bytes, _]| !bytes.is_empty()));
            }
            tried.push((kind, files));
        }
        println!("files with contents: {tried:?}");
        assert!(tried.iter().any(|(_, files)| *files > 0), "{tried:?}");
    });
}

/// Mounts `kind` at a new directory of the source; `None` where the kernel has no such filesystem.
fn mounted(stage: &Stage, kind: &str) -> Option<Unmounted> {
    let below = stage.source(kind);
    fs::create_dir(&below).unwrap();
    let none = rustix::mount::MountFlags::empty();
    let mounted = rustix::mount::mount(kind, &below, kind, none, None);
    mounted.ok().map(|()| Unmounted(below))
}

/// Ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What such a file gives may depend on when it was opened: each open has a description of its own at the source.
/// (proves: S11)
#[test]
fn as_root_each_open_of_a_file_without_a_length_is_one_of_its_own() {
    on_mount(&[], |stage| {
        let _proc = mounted(stage, "proc").expect("procfs");
        // It executes another program when it has read a line.
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", "read -r line; exec sleep 60"]);
        let mut child = Ended(shell.stdin(Stdio::piped()).spawn().unwrap());
        let process = stage.mount("proc").join(child.0.id().to_string());
        let names = ["maps", "environ", "smaps"];
        let held: Vec<File> = names
            .map(|name| File::open(process.join(name)).unwrap())
            .into();
        drop(child.0.stdin.take());
        // Asleep: until then its loader maps libraries.
        let status = process.join("stat");
        eventually("another program, asleep", || {
            fs::read_to_string(&status).is_ok_and(|status| status.contains("(sleep) S "))
        });
        for name in names {
            let (shown, natively) = (
                fs::read(process.join(name)).unwrap(),
                fs::read(Path::new("/proc").join(child.0.id().to_string()).join(name)).unwrap(),
            );
            assert!(!natively.is_empty());
            assert_eq!(shown.len(), natively.len(), "{name}");
        }
        drop(held);
    });
}

/// Several readers of one file in pieces: each gets whole lines, while the file changes all the time.
#[test]
fn as_root_readers_of_a_file_without_a_length_do_not_disturb_each_other() {
    on_mount(&[], |stage| {
        let _proc = mounted(stage, "proc").expect("procfs");
        let me = std::process::id().to_string();
        let maps = stage.mount("proc").join(me).join("maps");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    drop((0..50).map(|_| some_maps()).collect::<Vec<_>>());
                }
            });
            let read = || {
                for _ in 0..100 {
                    let bytes = in_pieces(&maps, 1500);
                    let text = String::from_utf8(bytes).expect("text");
                    for line in text.lines() {
                        let range = line
                            .split(' ')
                            .next()
                            .and_then(|range| range.split_once('-'));
                        let (from, to) = range.unwrap_or_else(|| panic!("torn: {line:?}"));
                        assert!(is_address(from) && is_address(to), "torn: {line:?}");
                    }
                }
            };
            let readers: Vec<_> = (0..3).map(|_| scope.spawn(read)).collect();
            let outcomes: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            for outcome in outcomes {
                outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    });
}

fn is_address(text: &str) -> bool {
    (8..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A stack of its own for a thread: a mapping that comes and goes.
fn some_maps() -> std::thread::JoinHandle<()> {
    std::thread::spawn(|| std::thread::sleep(Duration::from_micros(50)))
}

fn in_pieces(path: &Path, size: usize) -> Vec<u8> {
    let (mut file, mut bytes, mut piece) = (File::open(path).unwrap(), Vec::new(), vec![0; size]);
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return bytes,
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
}

/// A file that may be open once, and is consumed by reading.
#[test]
fn as_root_a_trace_pipe_is_read() {
    on_mount(&[], |stage| {
        let Some(_tracing) = mounted(stage, "tracefs") else {
            return eprintln!("this kernel has no tracefs");
        };
        let instance = format!("instances/mmfs-{}", std::process::id());
        let natively = stage.source("tracefs").join(&instance);
        fs::create_dir(&natively).unwrap();
        let _gone = RemovedDirectory(natively.clone());
        fs::write(natively.join("trace_marker"), "hello").unwrap();
        let mut pipe =
            File::open(stage.mount("tracefs").join(&instance).join("trace_pipe")).unwrap();
        let mut bytes = vec![0; 4096];
        let count = pipe.read(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..count]);
        assert!(text.contains("hello"), "{text:?}");
    });
}

/// Removed when dropped.
struct RemovedDirectory(std::path::PathBuf);

impl Drop for RemovedDirectory {
    fn drop(&mut self) {
        // The view lets go of what was open in it some moments after its last close.
        let removed = || fs::remove_dir(&self.0).is_ok();
        if !wait_until(Duration::from_secs(10), removed) {
            eprintln!("{} stays", self.0.display());
        }
    }
}
