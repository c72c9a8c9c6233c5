//! The daemon seen from outside: its descriptors, mappings and memory, as /proc has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{subject, tools::wait_until};

/// What its descriptors are on, below this directory, and directories themselves left out: those are cached.
pub fn files_below(pid: u32, directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let files = entries.filter(|entry| fs::metadata(entry.path()).is_ok_and(|m| !m.is_dir()));
    let targets = files.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets
        .filter(|target| target.starts_with(directory))
        .collect()
}

/// Descriptors of all kinds.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The kernel mappings (lines of /proc/PID/maps).
pub fn mappings(pid: u32) -> usize {
    fs::read_to_string(format!("/proc/{pid}/maps")).map_or(0, |maps| maps.lines().count())
}

/// Kernel mappings of files below this directory, and their bytes.
pub fn mapped_below(pid: u32, directory: &Path) -> (usize, u64) {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let directory = directory.to_string_lossy();
    let lines = maps.lines().filter(|line| line.contains(&*directory));
    lines.fold((0, 0), |(count, bytes), line| {
        (count + 1, bytes + extent(line))
    })
}

// "7f00-8f00 r--s ..."
fn extent(line: &str) -> u64 {
    let range = line.split(' ').next().unwrap_or_default();
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
    range
        .split_once('-')
        .map_or(0, |(from, to)| number(to) - number(from))
}

/// A field of /proc/PID/status that is in kB, such as `VmPTE`.
pub fn status_kb(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.split(':').next() == Some(field));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
}

/// Is it there and no zombie?
pub fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits for it to have let go of every regular file below this directory; what it still holds otherwise. A peer
/// may hold what it likes.
pub fn held_files(pid: u32, directory: &Path) -> Vec<String> {
    if subject::peer().is_some() {
        return Vec::new();
    }
    let held = || {
        let mut held: Vec<_> = files_below(pid, directory)
            .into_iter()
            .map(|path| format!("descriptor {}", path.display()))
            // What was removed is kept for as long as the kernel remembers it, which is the kernel's to say.
            .filter(|held| !held.ends_with(" (deleted)"))
            .collect();
        let (count, bytes) = mapped_below(pid, directory);
        if count > 0 {
            held.push(format!("{count} mappings of {bytes} bytes"));
        }
        held
    };
    wait_until(Duration::from_secs(5), || held().is_empty());
    held()
}
