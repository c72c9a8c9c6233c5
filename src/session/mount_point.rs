//! A mount point whose path is walked once. Whoever owns a directory above it may exchange that for a link to elsewhere between
//! two walks, and have root unmount another mount than the one that was looked at.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::fusermount;
use super::top_mount::{Identity, open_path};

/// A name in a directory that is open. The kernel lets nobody rename a mount point in its own directory.
#[derive(Debug)]
pub struct MountPoint {
    path: PathBuf,
    /// It lies in the mount below, and keeps that one busy.
    parent: OwnedFd,
    name: OsString,
}

impl MountPoint {
    /// The one at this absolute path, free of symbolic links.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn hold(path: &Path) -> Result<Self, Errno> {
        // "/" has neither; nobody exchanges that.
        let parent = path.parent().unwrap_or(path);
        let name = path.file_name().unwrap_or(OsStr::new("."));
        Ok(Self {
            path: path.into(),
            parent: open_path(parent)?,
            name: name.into(),
        })
    }

    /// An O_PATH descriptor on what is on top there.
    ///
    /// # Errors
    /// Those of open(2), ENOTDIR for a symbolic link.
    pub fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.parent, &self.name, flags, Mode::empty())
    }

    /// Of the mount on top there.
    ///
    /// # Errors
    /// Those of open(2) and statx(2).
    pub fn identity(&self) -> Result<Identity, Errno> {
        Identity::of(self.open()?)
    }

    /// Unmounts what lies on top there, whatever it is; with `lazy` also if it is busy.
    ///
    /// # Errors
    /// Those of umount2(2), or fusermount3's refusal.
    pub fn unmount(&self, lazy: bool) -> io::Result<()> {
        let detach = match lazy {
            true => UnmountFlags::DETACH,
            false => UnmountFlags::empty(),
        };
        match rustix::mount::unmount(self.walk(), detach | UnmountFlags::NOFOLLOW) {
            // That checks by itself whose mount it is.
            Err(Errno::PERM) => fusermount::unmount(&self.path, lazy),
            result => Ok(result?),
        }
    }

    /// A path by way of the open directory. umount2(2) takes no descriptor.
    fn walk(&self) -> PathBuf {
        let directory = format!("/proc/self/fd/{}", self.parent.as_raw_fd());
        let link = rustix::fs::readlink(&directory, Vec::new());
        // Without /proc the path is walked once more.
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
    fn a_directory_above_that_is_exchanged_leads_nowhere_else() {
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
    fn the_root_is_one_too() {
        let root = MountPoint::hold(Path::new("/")).unwrap();
        assert_eq!(root.identity(), Identity::at(Path::new("/")));
        assert_eq!(root.walk(), Path::new("/"));
    }
}
