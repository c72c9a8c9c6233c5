//! What the kernel says about mounts, and how a FUSE connection is cut.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::stopped::stop;

/// One line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    pub id: u64,
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
// ^id   ^dev       ^point      ^options            ^ then type, source, options
fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let columns: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = columns.iter().position(|column| *column == b"-")?;
    let (left, right) = (&columns[..dash], &columns[dash + 1..]);
    let text = |column: &&[u8]| String::from_utf8_lossy(column).into_owned();
    let device = text(left.get(2)?);
    Some(MountInfo {
        id: text(left.first()?).parse().ok()?,
        minor: device.split_once(':')?.1.parse().ok()?,
        point: unescape(left.get(4)?),
        fs_type: text(right.first()?),
        source: text(right.get(1)?),
        options: format!("{},{}", text(left.get(5)?), text(right.get(2)?)),
    })
}

// Blanks and the like are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let digits = field.get(at + 1..at + 4);
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if field[at] == b'\\' => {
                path.push(byte);
                at += 4;
            }
            _ => {
                path.push(field[at]);
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
    // While this is open the mount is there, if only detached, so its number is given to no other. Opening it sends no request.
    let root = open(point, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    if let Some(mount) = mount_at(point).filter(|mount| mount.fs_type.starts_with("fuse")) {
        if root.as_ref().ok().and_then(mount_id_of) == Some(mount.id) {
            // Missing without fusectl, refused without privilege: the next two ways remain.
            let connection = format!("/sys/fs/fuse/connections/{}/abort", mount.minor);
            let _ = fs::write(connection, "1");
        }
        drop(root);
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

fn mount_id_of(directory: &OwnedFd) -> Option<u64> {
    let info = format!("/proc/self/fdinfo/{}", directory.as_raw_fd());
    let info = fs::read_to_string(info).ok()?;
    let mut lines = info.lines();
    let id = lines.find_map(|line| line.strip_prefix("mnt_id:"))?;
    id.trim().parse().ok()
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
