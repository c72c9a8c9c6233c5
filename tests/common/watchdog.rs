//! A time limit for code that may hang in a system call on a FUSE mount.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use super::{fuse, subject};

/// After the connection is cut, everything waiting on it must come back within this time.
const AFTERMATH: Duration = Duration::from_secs(10);

/// Runs `work`, which uses the mount at `point` served by `daemon`. When it takes longer than `limit`: names
/// the tasks that are stuck in the kernel, cuts the FUSE connection so that `work` can end, and fails.
#[track_caller]
pub fn within<T>(
    limit: Duration,
    point: &Path,
    daemon: Option<u32>,
    work: impl FnOnce() -> T,
) -> T {
    let (done, finished) = channel::<()>();
    let (result, timed_out) = thread::scope(|scope| {
        let watchdog = scope.spawn(move || watch(limit, point, daemon, &finished));
        let result = work();
        drop(done);
        (
            result,
            watchdog.join().expect("the watchdog does not panic"),
        )
    });
    if timed_out {
        subject::HANGS.fetch_add(1, Relaxed);
        assert!(
            subject::peer().is_some(),
            "took longer than {limit:?} on {}",
            point.display()
        );
    }
    result
}

// True when the limit passed before the sender was dropped.
fn watch(
    limit: Duration,
    point: &Path,
    daemon: Option<u32>,
    finished: &std::sync::mpsc::Receiver<()>,
) -> bool {
    if finished.recv_timeout(limit) != Err(RecvTimeoutError::Timeout) {
        return false;
    }
    eprintln!(
        "watchdog: {limit:?} are over on {}; tasks in the kernel:\n{}",
        point.display(),
        stuck_tasks(daemon)
    );
    fuse::abort(point, daemon);
    if finished.recv_timeout(AFTERMATH) == Err(RecvTimeoutError::Timeout) {
        eprintln!(
            "watchdog: still stuck {AFTERMATH:?} after the connection was cut; giving up\n{}",
            stuck_tasks(None)
        );
        process::exit(101);
    }
    true
}

/// One line for every thread of the machine in uninterruptible sleep, and for every thread of this process and
/// of the daemon: name, state, where in the kernel, and its kernel stack where that may be read.
pub fn stuck_tasks(daemon: Option<u32>) -> String {
    let ours = [Some(process::id()), daemon];
    let mut report = String::new();
    for pid in numbered(Path::new("/proc")) {
        let tasks = format!("/proc/{pid}/task");
        for tid in numbered(Path::new(&tasks)) {
            let state = state_of(&format!("{tasks}/{tid}/stat"));
            if state == 'D' || ours.contains(&Some(pid)) {
                describe(&format!("{tasks}/{tid}"), pid, tid, state, &mut report);
            }
        }
    }
    report
}

fn describe(task: &str, pid: u32, tid: u32, state: char, report: &mut String) {
    let text = |name: &str| fs::read_to_string(format!("{task}/{name}")).unwrap_or_default();
    let (name, place, stack) = (text("comm"), text("wchan"), text("stack"));
    // Writing to a String cannot fail.
    let _ = writeln!(report, "  {pid}/{tid} {} {state} {place}", name.trim_end());
    for frame in stack.lines().take(12) {
        let _ = writeln!(report, "      {frame}");
    }
}

// The names in a directory of /proc that are numbers.
fn numbered(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

// "12 (a name) with blanks) S 1 ...": the state follows the last parenthesis.
fn state_of(stat: &str) -> char {
    let line = fs::read_to_string(stat).unwrap_or_default();
    line.rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next())
        .unwrap_or('?')
}
