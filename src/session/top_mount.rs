//! Finds the mount on top at a path. Nothing here sends a request to the filesystem that is mounted there: it may be the caller's
//! own mount, or dead, or hang.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::mount_table::{self, Mount};

/// Mount ids that are never reused (Linux 6.8).
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// Identifies a mount. Device numbers are reused as soon as they are free. From Linux 6.8 on, mount ids are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// `st_dev` of all files in the mount.
    pub device: u64,
    mount_id: u64,
}

impl Identity {
    /// The identity of the mount on top at `path`.
    ///
    /// # Errors
    /// Those of open(2) with O_PATH and of statx(2).
    pub fn at(path: &Path) -> Result<Self, Errno> {
        Self::of(open_path(path)?)
    }

    /// The identity of the mount of an open directory.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn of(directory: impl AsFd) -> Result<Self, Errno> {
        let status = statx(directory, StatxFlags::MNT_ID | MNT_ID_UNIQUE)?;
        Ok(Self {
            device: rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor),
            mount_id: status.stx_mnt_id,
        })
    }
}

/// The entry of the mount table for the mount of an open directory.
pub fn mount_of(directory: impl AsFd) -> Option<Mount> {
    let status = statx(directory, StatxFlags::MNT_ID).ok()?;
    let known = StatxFlags::from_bits_retain(status.stx_mask).contains(StatxFlags::MNT_ID);
    let found = known.then(|| mount_table::find(|mount| mount.id == status.stx_mnt_id))?;
    found.ok()?
}

/// The mount id of an open directory, from /proc/self/fdinfo. The filesystem is not asked, so it cannot refuse.
pub fn mount_id_of(directory: impl AsFd) -> Option<u64> {
    let info = format!("/proc/self/fdinfo/{}", directory.as_fd().as_raw_fd());
    mount_id_in(&std::fs::read_to_string(info).ok()?)
}

/// The mount id in the text of /proc/PID/fdinfo/N.
pub fn mount_id_in(info: &str) -> Option<u64> {
    let mut lines = info.lines();
    let number = lines.find_map(|line| line.strip_prefix("mnt_id:"))?;
    number.trim().parse().ok()
}

/// The mount on top whose root is at this absolute path.
pub fn mount_at(path: &Path) -> Option<Mount> {
    let mount = open_path(path).ok().and_then(mount_of);
    mount.filter(|mount| mount.mount_point == path)
}

/// An O_PATH descriptor on a directory. Opening it sends no request to a FUSE root.
///
/// # Errors
/// Those of open(2). ENOTDIR if it is no directory.
pub fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// The absolute path of an open directory, without symbolic links.
///
/// # Errors
/// Those of reading /proc/self/fd.
pub fn path_of(directory: impl AsFd) -> Result<PathBuf, Errno> {
    let link = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new())?;
    Ok(OsStr::from_bytes(path.as_bytes()).into())
}

/// Whether two open directories are the same directory of the same mount.
pub fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
    let identify = |fd: BorrowedFd<'_>| {
        let status = statx(fd, StatxFlags::INO | StatxFlags::MNT_ID).ok()?;
        let device = (status.stx_dev_major, status.stx_dev_minor);
        Some((device, status.stx_ino, status.stx_mnt_id))
    };
    let found = identify(one.as_fd());
    found.is_some() && found == identify(other.as_fd())
}

fn statx(fd: impl AsFd, mask: StatxFlags) -> Result<rustix::fs::Statx, Errno> {
    let without_request = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(fd, c"", without_request, mask | StatxFlags::TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_mount_at_its_path() {
        let root = open_path(Path::new("/")).unwrap();
        assert_eq!(mount_of(&root).unwrap().mount_point, Path::new("/"));
        assert_eq!(path_of(&root).unwrap(), Path::new("/"));
        assert_eq!(mount_at(Path::new("/")), mount_of(&root));
    }
}
