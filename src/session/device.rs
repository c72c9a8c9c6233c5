//! /dev/fuse: opened for a new mount, passed open by another program, or cloned for an event loop.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::refusal::StartError;
use crate::sys::process;

/// Device number of /dev/fuse: MISC_MAJOR, FUSE_MINOR.
const FUSE_DEVICE: (u32, u32) = (10, 229);

/// Opens /dev/fuse. The descriptor belongs to no connection yet.
///
/// # Errors
/// Those of open(2).
pub fn open() -> Result<OwnedFd, Errno> {
    rustix::fs::open(c"/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// The N of a mount point `/dev/fd/N`: the descriptor of a mounted /dev/fuse that another program has passed to mmfs.
pub fn passed_number(mount_point: &Path) -> Option<RawFd> {
    mount_point.to_str()?.strip_prefix("/dev/fd/")?.parse().ok()
}

/// A duplicate of the passed /dev/fuse with descriptor `number`. `mount_point` is the path on the command line.
///
/// # Errors
/// [`StartError::Descriptor`] if `number` is not open, or is not a /dev/fuse.
pub fn duplicate(mount_point: &Path, number: RawFd) -> Result<OwnedFd, StartError> {
    let refuse = |why: String| StartError::Descriptor(mount_point.into(), why);
    let device = process::duplicate(number).map_err(|error| refuse(error.to_string()))?;
    let status = rustix::fs::fstat(&device).map_err(|errno| refuse(errno.to_string()))?;
    let (major, minor) = FUSE_DEVICE;
    let is_fuse = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
        && status.st_rdev == rustix::fs::makedev(major, minor);
    match is_fuse {
        true => Ok(device),
        false => Err(refuse("the descriptor is another file".into())),
    }
}

/// Whether each event loop can have its own /dev/fuse on the connection of `session`. fuser clones it after the mount, when an
/// error ends the session. So this function tries it first.
pub fn can_clone(session: &OwnedFd) -> bool {
    open().is_ok_and(|fresh| process::clone_fuse_device(fresh, session).is_ok())
}

/// Whether this kernel shows in /proc/PID/fdinfo to which mount an open /dev/fuse belongs: Linux 6.17 and later. A /dev/fuse
/// without a mount has no such line.
pub fn fdinfo_has_mount() -> bool {
    is_at_least(
        &rustix::system::uname().release().to_string_lossy(),
        (6, 17),
    )
}

fn is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    next().zip(next()).is_some_and(|found| found >= wanted)
}

/// `st_dev` of the mount to which an open /dev/fuse belongs. `None` before Linux 6.17.
pub fn mount_device(session: impl AsFd) -> Option<u64> {
    let info = format!("/proc/self/fdinfo/{}", session.as_fd().as_raw_fd());
    device_in(&std::fs::read_to_string(info).ok()?)
}

/// As `mount_device`, from the text of /proc/PID/fdinfo/N.
pub fn device_in(info: &str) -> Option<u64> {
    let number = info
        .lines()
        .find_map(|line| line.strip_prefix("fuse_connection:"))?;
    // The kernel's own encoding of an anonymous device: major 0, 20 bits of minor.
    let number: u32 = number.trim().parse().ok()?;
    Some(rustix::fs::makedev(number >> 20, number & 0xf_ffff))
}

#[cfg(test)]
mod tests {
    use super::is_at_least;

    #[test]
    fn releases_are_compared_by_number() {
        for release in ["6.17.0", "6.18.2-foo", "7.0-rc1", "10.1"] {
            assert!(is_at_least(release, (6, 17)), "{release}");
        }
        for release in ["6.9.12", "6.16", "5.99.1", "", "unknown"] {
            assert!(!is_at_least(release, (6, 17)), "{release}");
        }
    }
}
