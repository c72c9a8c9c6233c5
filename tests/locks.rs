//! "fcntl, OFD and flock locks among users of the mount (kept by the kernel, interruptible)".

mod common;
mod stage;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::fuse::kill;
use common::tools::wait_until;
use rustix::process::Signal;
use stage::{Stage, on_mount, printed};

const KINDS: [&str; 3] = ["flock", "posix", "ofd"];
/// Nobody may have to wait longer for something that does not depend on the lock.
const SOON: Duration = Duration::from_secs(2);

/// A process of tests/c/lock.c; killed when dropped.
struct Locker {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Locker {
    fn start(stage: &Stage, what: &str, kind: &str, file: &Path) -> Locker {
        let mut lock = Command::new(stage.program("lock"));
        lock.args([what, kind])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = lock.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Locker { process, output }
    }

    /// The next word it says.
    fn word(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ends_soon(&mut self) -> bool {
        wait_until(SOON, || self.process.try_wait().unwrap().is_some())
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A new file on the mount, and a process that holds a lock on it.
fn held(stage: &Stage, kind: &str) -> (std::path::PathBuf, Locker) {
    let file = stage.mount(kind);
    fs::write(&file, vec![0; 1000]).unwrap();
    let mut holder = Locker::start(stage, "hold", kind, &file);
    assert_eq!(holder.word(), "held", "{kind}");
    (file, holder)
}

fn attempt(stage: &Stage, kind: &str, file: &Path) -> String {
    printed(
        Command::new(stage.program("lock"))
            .args(["try", kind])
            .arg(file),
    )
}

/// A lock of each kind keeps other users of the mount out until its holder lets it go, or dies.
/// (proves: S30)
#[test]
fn locks_exclude_other_users_of_the_mount() {
    on_mount(&[], |stage| {
        for kind in KINDS {
            let (file, mut holder) = held(stage, kind);
            assert_eq!(attempt(stage, kind, &file), "taken", "{kind}");
            drop(holder.process.stdin.take());
            assert!(holder.ends_soon());
            assert_eq!(
                attempt(stage, kind, &file),
                "free",
                "{kind}, after its holder ended"
            );

            let (file, holder) = held(stage, kind);
            assert_eq!(attempt(stage, kind, &file), "taken", "{kind}");
            drop(holder);
            assert_eq!(
                attempt(stage, kind, &file),
                "free",
                "{kind}, after its holder was killed"
            );
        }
    });
}

/// A process waiting for a lock gets it when it is free.
/// (proves: S30)
#[test]
fn a_waiting_process_gets_the_lock() {
    on_mount(&[], |stage| {
        for kind in KINDS {
            let (file, holder) = held(stage, kind);
            let mut waiting = Locker::start(stage, "wait", kind, &file);
            assert_eq!(waiting.word(), "waiting");
            drop(holder);
            assert_eq!(waiting.word(), "held", "{kind}");
        }
    });
}

/// "both hang for half an hour when a client blocks in flock": here a process blocked in a lock is interrupted by a
/// signal with a handler, dies of one without, and delays no other client: not even on a mount of a single thread.
/// (proves: S30)
#[test]
fn a_waiting_process_is_interruptible_and_in_nobodys_way() {
    for threads in [&[][..], &["--threads", "1"]] {
        on_mount(threads, |stage| {
            for kind in KINDS {
                wait_and_work(stage, kind);
            }
        });
    }
}

fn wait_and_work(stage: &Stage, kind: &str) {
    let (file, _holder) = held(stage, kind);
    let mut waiting = [(); 3].map(|()| Locker::start(stage, "wait", kind, &file));
    for locker in &mut waiting {
        assert_eq!(locker.word(), "waiting");
    }
    std::thread::sleep(Duration::from_millis(50));

    let begin = Instant::now();
    fs::write(stage.mount("other"), "other").unwrap();
    fs::write(&file, "the locked file itself").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"the locked file itself");
    fs::rename(stage.mount("other"), stage.mount("renamed")).unwrap();
    assert!(
        begin.elapsed() < SOON,
        "{kind}: {:?} for others' work",
        begin.elapsed()
    );

    let [mut interrupted, mut killed, mut terminated] = waiting;
    kill(interrupted.process.id(), Signal::ALARM);
    assert!(interrupted.ends_soon(), "{kind}: not interruptible");
    assert_eq!(interrupted.word(), "interrupted", "{kind}");
    kill(terminated.process.id(), Signal::TERM);
    assert!(terminated.ends_soon(), "{kind}: not ended by SIGTERM");
    kill(killed.process.id(), Signal::KILL);
    assert!(killed.ends_soon(), "{kind}: not killable");
    assert_eq!(
        attempt(stage, kind, &file),
        "taken",
        "{kind}: the holder lost its lock"
    );
}

/// S30: "They are not shared with lock users on the source".
/// (proves: S30)
#[test]
fn locks_are_not_shared_with_the_source() {
    on_mount(&[], |stage| {
        for kind in KINDS {
            let (_file, _holder) = held(stage, kind);
            assert_eq!(attempt(stage, kind, &stage.source(kind)), "free", "{kind}");
        }
    });
}
