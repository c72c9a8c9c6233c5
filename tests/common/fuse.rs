//! What the kernel says about mounts, and how a FUSE connection is cut.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::stopped::stop;

/// One line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Minor device number; for FUSE also the number of the connection in /sys/fs/fuse/connections.
    pub minor: u32,
    pub point: PathBuf,
    pub fs_type: String,
    /// First column of /proc/mounts.
    pub source: String,
    /// The mount's own options and the filesystem's, joined by a comma.
    pub options: String,
}

/// Every mount, bottom first.
pub fn mounts() -> Vec<MountInfo> {
    let table = fs::read("/proc/self/mountinfo").expect("/proc/self/mountinfo is readable");
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// What is mounted at this very place, the topmost if there are several.
pub fn mount_at(point: &Path) -> Option<MountInfo> {
    mounts().into_iter().rfind(|mount| mount.point == point)
}

/// Every mount at or below this directory.
pub fn mounts_below(directory: &Path) -> Vec<MountInfo> {
    let mut found = mounts();
    found.retain(|mount| mount.point.starts_with(directory));
    found
}

// 36 35 98:0 /mnt1 /mnt/parent rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//       ^dev       ^point      ^options            ^ then type, source, options
fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let line = String::from_utf8_lossy(line);
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let right: Vec<&str> = right.split(' ').collect();
    Some(MountInfo {
        minor: left.get(2)?.split_once(':')?.1.parse().ok()?,
        point: unescape(left.get(4)?),
        fs_type: (*right.first()?).to_owned(),
        source: (*right.get(1)?).to_owned(),
        options: format!("{},{}", left.get(5)?, right.get(2)?),
    })
}

// Blanks and the like are written as a backslash and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = field
            .get(at + 1..at + 4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) if bytes[at] == b'\\' => {
                path.push(byte);
                at += 4;
            }
            _ => {
                path.push(bytes[at]);
                at += 1;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

/// Cuts the connection of the FUSE mount, so that every request waiting on it ends with an error: through
/// fusectl where that is mounted, by a forced unmount where we may, and by killing the daemon in any case. Who may not force it
/// detaches it.
pub fn abort(point: &Path, daemon: Option<u32>) {
    if let Some(mount) = mount_at(point).filter(|mount| mount.fs_type.starts_with("fuse")) {
        // Missing without fusectl, refused without privilege: the next two ways remain.
        let _ = fs::write(
            format!("/sys/fs/fuse/connections/{}/abort", mount.minor),
            "1",
        );
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if unmount(point, flags).is_err() {
            let mut detach = Command::new("fusermount3");
            let detach = detach.arg("-uzq").arg(point).stdin(Stdio::null());
            let _ = detach.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
    if let Some(pid) = daemon {
        kill(pid, Signal::KILL);
    }
}

/// Sends a signal to a process, which may have ended already.
pub fn kill(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        match signal {
            Signal::STOP => stop(pid),
            // ESRCH: it is gone, which is what a signal was to bring about.
            _ => _ = kill_process(pid, signal),
        }
    }
}

/// The device must be there: without it nothing of this project can be tested, so nothing passes.
#[track_caller]
pub fn require_device() {
    let device = Path::new("/dev/fuse");
    assert!(
        device.exists(),
        "/dev/fuse is missing: load the fuse module (`modprobe fuse`)"
    );
}
