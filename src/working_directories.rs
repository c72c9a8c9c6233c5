//! Directories in which processes work.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread::Builder;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, makedev};

/// How long the search may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// So many threads search. The kernel lets nobody look at a process that is about to execute a program, and that may wait for a filesystem.
const SEARCHING: usize = 4;

/// With so many threads that wait for such a process, there is no search.
const MOST_WAITING: usize = 16;

/// Threads that search, or wait.
static BUSY: AtomicUsize = AtomicUsize::new(0);

/// The inode numbers of directories of a filesystem that are a process's working directory or root, as far as this user may see them, and as
/// far as they are found in a second. Sends no request to the filesystem. But it may wait for processes that wait for the filesystem.
pub fn on(device: u64) -> HashSet<u64> {
    let processes: Arc<Vec<PathBuf>> = Arc::new(processes());
    let next = Arc::new(AtomicUsize::new(0));
    let (found, inbox) = channel();
    for _ in 0..SEARCHING {
        let (processes, next, found) = (processes.clone(), next.clone(), found.clone());
        let Some(busy) = Busy::begin() else {
            break;
        };
        let search = move || {
            let _busy = busy;
            while let Some(process) = processes.get(next.fetch_add(1, SeqCst)) {
                // Fails after the timeout: then there is no receiver.
                if found.send(directories_of(process, device)).is_err() {
                    return;
                }
            }
        };
        // Without a thread, less is found.
        let _ = Builder::new().name("processes".into()).spawn(search);
    }
    drop(found);
    let deadline = Instant::now() + TIMEOUT;
    let mut all = HashSet::new();
    let left = || deadline.saturating_duration_since(Instant::now());
    while let Ok(some) = inbox.recv_timeout(left()) {
        all.extend(some);
    }
    all
}

/// A thread that searches.
struct Busy;

impl Busy {
    fn begin() -> Option<Self> {
        let is_free = BUSY.fetch_add(1, SeqCst) < MOST_WAITING;
        let busy = Self;
        is_free.then_some(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.fetch_sub(1, SeqCst);
    }
}

fn processes() -> Vec<PathBuf> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_number = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let processes = all.filter(|entry| is_number(&entry.file_name()));
    processes.map(|entry| entry.path()).collect()
}

fn directories_of(process: &Path, device: u64) -> Vec<u64> {
    // A thread may have a working directory of its own.
    let tasks = fs::read_dir(process.join("task")).into_iter().flatten();
    let tasks = tasks.flatten().map(|task| task.path());
    let links = tasks.flat_map(|task| ["cwd", "root"].map(|link| task.join(link)));
    links.filter_map(|link| number_on(&link, device)).collect()
}

/// The number of the inode to which a link of /proc leads, if it is on this filesystem.
fn number_on(link: &Path, device: u64) -> Option<u64> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let directory = rustix::fs::open(link, flags, Mode::empty()).ok()?;
    let without_request = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(directory, c"", without_request, StatxFlags::INO).ok()?;
    let is_on = makedev(found.stx_dev_major, found.stx_dev_minor) == device;
    is_on.then_some(found.stx_ino)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_own_working_directory_is_among_them() {
        let here = std::env::current_dir().unwrap();
        let here = fs::metadata(here).unwrap();
        assert!(on(here.dev()).contains(&here.ino()));
        assert!(on(u64::MAX).is_empty());
    }
}
