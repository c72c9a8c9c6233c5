//! Which mount lies on top at a path, told without asking the filesystem that is mounted there: that
//! one may be ourselves, dead, or hung.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

/// Mount ids that are never used again (Linux 6.8).
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// What tells one mount from every other: device numbers are reused as soon as they are free, the
/// mount id (where the kernel has unique ones) never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// `st_dev` of everything in the mount.
    pub device: u64,
    mount_id: u64,
}

impl Identity {
    /// Of the mount on top at `path`.
    ///
    /// # Errors
    /// What open(2) with O_PATH and statx(2) say.
    pub fn at(path: &Path) -> Result<Self, Errno> {
        let status = statx(open_path(path)?, StatxFlags::MNT_ID | MNT_ID_UNIQUE)?;
        Ok(Self {
            device: rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor),
            mount_id: status.stx_mnt_id,
        })
    }
}

/// A directory as a place in the tree of names; opening it sends no request to a FUSE root.
///
/// # Errors
/// What open(2) says, ENOTDIR in particular.
pub fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// The absolute path of an open directory, free of symbolic links.
///
/// # Errors
/// What reading /proc/self/fd says.
pub fn path_of(directory: impl AsFd) -> Result<PathBuf, Errno> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
    let path = rustix::fs::readlink(link, Vec::new())?;
    Ok(OsStr::from_bytes(path.as_bytes()).into())
}

fn statx(fd: impl AsFd, mask: StatxFlags) -> Result<rustix::fs::Statx, Errno> {
    let silently = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(fd, c"", silently, mask | StatxFlags::TYPE)
}

/// One line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// `fuse.mmfs`.
    pub kind: String,
    /// The filesystem's own options: `rw,user_id=0,default_permissions`.
    pub options: String,
}

impl Entry {
    /// The mount that `directory` lies in.
    pub fn of(directory: impl AsFd) -> Option<Self> {
        let status = statx(directory, StatxFlags::MNT_ID).ok()?;
        let known = StatxFlags::from_bits_retain(status.stx_mask).contains(StatxFlags::MNT_ID);
        let id = status.stx_mnt_id.to_string();
        known.then(|| Self::find(|line| line.split(' ').next() == Some(&id)))?
    }

    /// A mount of the device `device`.
    pub fn of_device(device: u64) -> Option<Self> {
        use rustix::fs::{major, minor};
        let device = format!("{}:{}", major(device), minor(device));
        Self::find(|line| line.split(' ').nth(2) == Some(&device))
    }

    fn find(wanted: impl Fn(&str) -> bool) -> Option<Self> {
        let table = std::fs::read("/proc/self/mountinfo").ok()?;
        let mut lines = table
            .split(|&byte| byte == b'\n')
            .map(String::from_utf8_lossy);
        Self::parse(&lines.find(|line| wanted(line))?)
    }

    /// `42 27 0:39 / /mnt rw,relatime shared:7 - fuse.mmfs /src rw,user_id=0,group_id=0`
    fn parse(line: &str) -> Option<Self> {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        Some(Self {
            mount_point: unescape(mount.split(' ').nth(4)?),
            kind: filesystem.next()?.into(),
            options: filesystem.nth(1)?.into(),
        })
    }
}

/// Blanks, tabs, newlines and backslashes stand in the table as `\040` and so on.
fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut path = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(3).unwrap_or(("", part));
        path.extend(u8::from_str_radix(code, 8));
        path.extend_from_slice(rest.as_bytes());
    }
    OsStr::from_bytes(&path).into()
}

/// `st_dev` of the connection that an open, mounted /dev/fuse belongs to (Linux 6.17 tells).
pub fn device_of_connection(device: impl AsFd) -> Option<u64> {
    use std::os::fd::AsRawFd;
    let info = format!("/proc/self/fdinfo/{}", device.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(info).ok()?;
    let number = info
        .lines()
        .find_map(|line| line.strip_prefix("fuse_connection:"))?;
    // The kernel's own encoding of an anonymous device: major 0, 20 bits of minor.
    number
        .trim()
        .parse::<u32>()
        .ok()
        .map(|minor| rustix::fs::makedev(minor >> 20, minor & 0xf_ffff))
}

/// Whether anything can be asked of `path`: following links, as a person would.
///
/// # Errors
/// What statx(2) says. It may hang where the filesystem does.
pub fn reach(path: &Path) -> Result<(), Errno> {
    // A dead or hung FUSE mount would answer from the kernel's cache for a while.
    let sincerely = AtFlags::STATX_FORCE_SYNC;
    let status = rustix::fs::statx(CWD, path, sincerely, StatxFlags::BASIC_STATS)?;
    match rustix::fs::FileType::from_raw_mode(status.stx_mode.into()) {
        rustix::fs::FileType::Directory => Ok(()),
        _ => Err(Errno::NOTDIR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_read_with_their_escapes() {
        let line =
            r"42 27 0:39 / /tmp/a\040b\134 rw,relatime shared:7 - fuse.mmfs /src rw,user_id=0";
        let entry = Entry::parse(line).unwrap();
        assert_eq!(entry.mount_point, Path::new("/tmp/a b\\"));
        assert_eq!(
            (entry.kind.as_str(), entry.options.as_str()),
            ("fuse.mmfs", "rw,user_id=0")
        );
        assert_eq!(Entry::parse("42 27 0:39"), None);
    }

    #[test]
    fn the_root_is_in_the_table() {
        let root = open_path(Path::new("/")).unwrap();
        assert_eq!(Entry::of(&root).unwrap().mount_point, Path::new("/"));
        assert_eq!(path_of(&root).unwrap(), Path::new("/"));
    }
}
