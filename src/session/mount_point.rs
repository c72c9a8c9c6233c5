//! A mount point whose path is walked only once. The owner of a directory above it could replace that directory with a symbolic
//! link between two walks. Root would then unmount another mount than the one it has checked.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::fusermount;
use super::top_mount::{Identity, open_path};

/// A name in an open directory. The kernel does not let a mount point be renamed.
#[derive(Debug)]
pub struct MountPoint {
    path: PathBuf,
    /// The directory of the mount point. It is in the mount below, and keeps that mount busy.
    parent: OwnedFd,
    name: OsString,
}

impl MountPoint {
    /// The mount point at this absolute path without symbolic links.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn hold(path: &Path) -> Result<Self, Errno> {
        // "/" has neither a parent nor a name. It cannot be replaced.
        let parent = path.parent().unwrap_or(path);
        let name = path.file_name().unwrap_or(OsStr::new("."));
        Ok(Self {
            path: path.into(),
            parent: open_path(parent)?,
            name: name.into(),
        })
    }

    /// An O_PATH descriptor on the root of the mount on top.
    ///
    /// # Errors
    /// Those of open(2). ENOTDIR for a symbolic link.
    pub fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.parent, &self.name, flags, Mode::empty())
    }

    /// The identity of the mount on top.
    ///
    /// # Errors
    /// Those of open(2) and statx(2).
    pub fn identity(&self) -> Result<Identity, Errno> {
        Identity::of(self.open()?)
    }

    /// Unmounts the mount on top, without checking its identity. With `lazy`, a busy mount is detached.
    ///
    /// # Errors
    /// Those of umount2(2), or the message of fusermount3.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        let detach = match lazy {
            true => UnmountFlags::DETACH,
            false => UnmountFlags::empty(),
        };
        match rustix::mount::unmount(self.walk(), detach | UnmountFlags::NOFOLLOW) {
            // fusermount3 checks that the mount belongs to the user.
            Err(Errno::PERM) => fusermount::unmount(&self.path, lazy),
            result => Ok(result?),
        }
    }

    /// A path through the open directory, because umount2(2) takes no descriptor.
    fn walk(&self) -> PathBuf {
        let directory = format!("/proc/self/fd/{}", self.parent.as_raw_fd());
        let link = rustix::fs::readlink(&directory, Vec::new());
        // Without /proc the path is walked again.
        match link.is_ok() && self.path.file_name().is_some() {
            true => Path::new(&directory).join(&self.name),
            false => self.path.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::top_mount::is_same;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_replaced_directory_above_does_not_change_the_mount_point() {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name);
        fs::create_dir_all(path("user/point")).unwrap();
        fs::create_dir_all(path("other/point")).unwrap();
        let point = MountPoint::hold(&path("user/point")).unwrap();
        let before = point.open().unwrap();
        fs::rename(path("user"), path("moved")).unwrap();
        symlink("other", path("user")).unwrap();
        assert!(is_same(&before, point.open().unwrap()));
        assert!(is_same(&before, open_path(&point.walk()).unwrap()));
        fs::rename(path("moved/point"), path("moved/away")).unwrap();
        symlink("../other/point", path("moved/point")).unwrap();
        assert_eq!(point.open().unwrap_err(), Errno::NOTDIR);
    }

    #[test]
    fn the_root_is_a_mount_point() {
        let root = MountPoint::hold(Path::new("/")).unwrap();
        assert_eq!(root.identity(), Identity::at(Path::new("/")));
        assert_eq!(root.walk(), Path::new("/"));
    }
}
