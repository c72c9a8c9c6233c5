//! The watch for tasks in uninterruptible sleep: named after five seconds in one and the same sleep, and the
//! connection is cut so that the test can end.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::{fuse, watchdog};

/// A task may sleep this long where no signal wakes it.
const LIMIT: Duration = Duration::from_secs(5);

const INTERVAL: Duration = Duration::from_millis(250);

/// Watches until dropped.
pub struct Sleepers {
    stop: Arc<AtomicBool>,
    found: Option<JoinHandle<Option<String>>>,
}

struct Mountpoint {
    point: PathBuf,
    daemon: u32,
}

impl Sleepers {
    /// Watches the threads of this process and of these daemons, given with their mount points.
    pub fn watch(mounts: impl IntoIterator<Item = (PathBuf, u32)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mounts = mounts
            .into_iter()
            .map(|(point, daemon)| Mountpoint { point, daemon });
        let (mounts, told) = (mounts.collect::<Vec<_>>(), stop.clone());
        let found = thread::spawn(move || patrol(&mounts, &told));
        Sleepers {
            stop,
            found: Some(found),
        }
    }

    /// Ends the watch: what it found, if anything.
    pub fn end(mut self) -> Option<String> {
        self.stop.store(true, Relaxed);
        self.found.take()?.join().expect("the watch does not panic")
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn patrol(mounts: &[Mountpoint], stop: &AtomicBool) -> Option<String> {
    let mut asleep: HashMap<(u32, u32), (String, Instant)> = HashMap::new();
    while !stop.load(Relaxed) {
        thread::sleep(INTERVAL);
        let pids = mounts.iter().map(|m| m.daemon).chain([std::process::id()]);
        let mut now = HashMap::new();
        for (task, switches) in pids.flat_map(sleeping_tasks) {
            let since = match asleep.get(&task) {
                Some((known, since)) if *known == switches => *since,
                _ => Instant::now(),
            };
            now.insert(task, (switches, since));
        }
        asleep = now;
        if let Some((task, (_, since))) = asleep
            .iter()
            .find(|(_, (_, since))| since.elapsed() > LIMIT)
        {
            let report = format!(
                "task {task:?} has been in D state for {:?}:\n{}",
                since.elapsed(),
                watchdog::stuck_tasks(None)
            );
            println!("{report}");
            mounts
                .iter()
                .for_each(|m| fuse::abort(&m.point, Some(m.daemon)));
            return Some(report);
        }
    }
    None
}

// Those in D state, with their count of voluntary switches: unchanged, it is the same sleep.
fn sleeping_tasks(pid: u32) -> Vec<((u32, u32), String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let tids = tasks.filter_map(|task| task.file_name().to_str()?.parse::<u32>().ok());
    tids.filter_map(|tid| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let sleeps = field("State:")?.trim_start().starts_with('D');
        let switches = field("voluntary_ctxt_switches:")?.trim().to_owned();
        sleeps.then_some(((pid, tid), switches))
    })
    .collect()
}
