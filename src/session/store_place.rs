//! Where the store of a private view may lie, and whether its suid bits and devices may have an effect.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatxFlags, fstat, fstatfs, lstat, openat,
    statat, statx,
};
use rustix::io::Errno;
use rustix::path::Arg;

use super::device;
use crate::config::{Access, Config, MountFlags, StoreConfig};
use crate::mount_table::{self, Mount};
use crate::refusal::StartError;
use crate::store::opening::OpenError;
use crate::store::{NAMES, Store};

/// Permission bits of a file that others than its owner may write.
const OTHERS_WRITE: u32 = 0o022;

/// Checks the place of a store. A named one must not lie in the source or the mount point, nor they in it. If others than root can have
/// written what is in the store, the mount becomes nosuid and nodev, and root does not let all users access it. All paths are absolute.
///
/// # Errors
/// The sentence for a store that cannot be there, for one of others that all users were to see, or for a mount that another program has
/// made with suid or dev, or may have.
pub fn check(
    store: &StoreConfig,
    (source, mount_point): (&Path, &Path),
    access: Access,
    flags: &mut MountFlags,
) -> Result<(), StartError> {
    let directory = store.directory.as_ref().unwrap_or(&store.temporary).clone();
    let failed = |error| StartError::Store(directory.clone(), error);
    let place = real_path(&directory).map_err(failed)?;
    let passed = Passed::at(mount_point)?;
    let mount_point = match &passed {
        Passed::Found(mount) => &mount.mount_point,
        _ => mount_point,
    };
    // A store that mmfs makes in its own directory may lie in the source: nobody has named it.
    let others = match store.directory {
        Some(_) => &[source, mount_point][..],
        None => &[mount_point],
    };
    for other in others {
        if place.starts_with(other) || store.directory.is_some() && other.starts_with(&place) {
            return Err(StartError::StoreInside(directory.clone(), (*other).into()));
        }
    }
    if store.directory.is_some() && is_bound_inside(&place, source).map_err(failed)? {
        return Err(StartError::StoreInside(directory, source.into()));
    }
    if only_root_writes(&place, store.directory.is_none()).map_err(failed)? {
        return Ok(());
    }
    (flags.no_suid, flags.no_dev) = (true, true);
    let why_not = passed.why_not(access, *flags, &directory);
    why_not.map_or(Ok(()), Err)
}

/// Whether the store lies in the source, or the source in it, although their paths do not: by a bind mount. Mounts below the source are
/// shown, too.
fn is_bound_inside(store: &Path, source: &Path) -> io::Result<bool> {
    let mounts = mount_table::read()?;
    let store = beyond_mounts(store, &mounts)?;
    let source_place = beyond_mounts(source, &mounts)?;
    let (Some((device, store)), Some((source_device, source_place))) = (store, source_place) else {
        return Ok(false);
    };
    let overlaps = |of: u64, root: &Path| {
        of == device && (store.starts_with(root) || root.starts_with(&store))
    };
    let mut below = mounts
        .iter()
        .filter(|mount| mount.mount_point.starts_with(source));
    Ok(overlaps(source_device, &source_place)
        || below.any(|mount| overlaps(mount.device, &mount.root) && !is_covered(mount)))
}

/// Whether a mount cannot be reached, because another one lies over it. One that cannot be asked counts as reached.
fn is_covered(mount: &Mount) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    match statx(CWD, &mount.mount_point, flags, StatxFlags::MNT_ID) {
        Ok(found) => found.stx_mnt_id != mount.id,
        Err(Errno::NOENT | Errno::NOTDIR) => true,
        Err(_) => false,
    }
}

/// Where a directory lies, whatever mount leads to it: its filesystem, and the path from the filesystem's own root. None: the kernel
/// does not tell (before Linux 5.8).
fn beyond_mounts(path: &Path, mounts: &[Mount]) -> io::Result<Option<(u64, PathBuf)>> {
    let (mask, flags) = (StatxFlags::MNT_ID, AtFlags::SYMLINK_NOFOLLOW);
    let (there, rest) = match statx(CWD, path, flags, mask) {
        // It is made there.
        Err(Errno::NOENT) => (path.parent().unwrap_or(path), path.file_name()),
        _ => (path, None),
    };
    let found = statx(CWD, there, flags, mask)?;
    let mount = mounts.iter().find(|mount| mount.id == found.stx_mnt_id);
    let place = mount.and_then(|mount| {
        let below = there.strip_prefix(&mount.mount_point).ok()?;
        Some((mount.device, mount.root.join(below)))
    });
    Ok(place.map(|(device, place)| (device, rest.map_or(place.clone(), |rest| place.join(rest)))))
}

/// The mount that another program has made and passed to mmfs.
enum Passed {
    /// mmfs makes the mount.
    Nothing,
    Found(Mount),
    /// Before Linux 6.17, or it is in another mount namespace.
    Unknown,
}

impl Passed {
    fn at(mount_point: &Path) -> Result<Self, StartError> {
        let Some(number) = device::passed_number(mount_point) else {
            return Ok(Self::Nothing);
        };
        let device = device::mount_device(device::duplicate(mount_point, number)?);
        let mount =
            device.and_then(|device| mount_table::find(|mount| mount.device == device).ok()?);
        Ok(mount.map_or(Self::Unknown, Self::Found))
    }

    /// Why a store that others than root may have written cannot be mounted so.
    fn why_not(&self, access: Access, flags: MountFlags, store: &Path) -> Option<StartError> {
        let is_open = match self {
            Self::Found(mount) => mount.has_super_option("allow_other"),
            _ => false,
        };
        let gives_rights = match self {
            Self::Nothing => !(flags.no_suid && flags.no_dev),
            Self::Found(mount) => !(mount.has_flag("nosuid") && mount.has_flag("nodev")),
            Self::Unknown => false,
        };
        match (self, rustix::process::geteuid().is_root()) {
            (_, true) if is_open || access == Access::Everyone => {
                Some(StartError::StoreShared(store.into()))
            }
            (Self::Unknown, true) => Some(StartError::StoreUnseen(store.into())),
            _ if gives_rights => Some(StartError::StoreOwner(store.into())),
            _ => None,
        }
    }
}

/// Looks into the directory of a store before it is opened, and returns it. If it is root's, what lies in it must
/// be root's too: mmfs replaces these files, so later nobody could tell who had written them.
///
/// # Errors
/// The sentence for a store of root's with a file in it that others may have written. None for other users' stores.
pub fn look_into(path: &Path) -> Result<OwnedFd, StartError> {
    let failed = |error| StartError::Verb(OpenError::Failed("the directory", error).sentence(path));
    let directory = open_directory(CWD, path).map_err(|errno| failed(errno.into()))?;
    let found = fstat(&directory).map_err(|errno| failed(errno.into()))?;
    if rustix::process::geteuid().is_root() && is_roots(&found) {
        if let Some(name) = file_of_others(&directory).map_err(failed)? {
            return Err(StartError::StoreFiles(path.into(), path.join(name)));
        }
    }
    Ok(directory)
}

/// Checks that an open store that root trusts is the one at `path` and the one that was looked into, and that others could not have put it
/// there. `check` was before it was opened, and the path may have led elsewhere since.
///
/// # Errors
/// The sentence for a store that others may have written.
pub fn check_again(
    path: &Path,
    looked_into: &OwnedFd,
    store: &Store,
    config: &Config,
) -> Result<(), StartError> {
    let passed = Passed::at(&config.mount_point)?;
    let Some(why_not) = passed.why_not(config.access, config.flags, path) else {
        return Ok(());
    };
    match is_only_roots(path, looked_into, store) {
        Ok(true) => Ok(()),
        Ok(false) => Err(why_not),
        Err(error) => Err(StartError::Store(path.into(), error)),
    }
}

/// Whether an open store is the one that was looked into and the one at `path`, where only root can have put it.
fn is_only_roots(path: &Path, looked_into: &OwnedFd, store: &Store) -> io::Result<bool> {
    let Some(directory) = store.disk().directory() else {
        return Ok(false);
    };
    let place = real_path(path)?;
    let opened = fstat(directory)?;
    let is_it = |found: &Stat| (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino);
    // Once only root can change the path, it goes on to lead to the same directory.
    Ok(is_it(&fstat(looked_into)?) && only_root_writes(&place, false)? && is_it(&lstat(&place)?))
}

/// Whether a file belongs to root, and nobody else may write to it.
fn is_roots(file: &Stat) -> bool {
    file.st_uid == 0 && file.st_mode & OTHERS_WRITE == 0
}

fn open_directory(parent: impl AsFd, name: impl Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// A file of a store, or in a directory of it, that is not root's. Data files lie deeper, in directories of root's then.
fn file_of_others(store: &OwnedFd) -> io::Result<Option<PathBuf>> {
    for name in NAMES {
        match file_at(store, name)? {
            Some(file) if !is_roots(&file) => return Ok(Some(name.into())),
            Some(file) if FileType::from_raw_mode(file.st_mode) == FileType::Directory => {}
            _ => continue,
        }
        let directory = open_directory(store, name)?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name_in = entry.file_name();
            let file = file_at(&directory, name_in)?;
            // `..` is the store.
            if file.is_some_and(|file| !is_roots(&file)) {
                return Ok(Some(
                    Path::new(name).join(OsStr::from_bytes(name_in.to_bytes())),
                ));
            }
        }
    }
    Ok(None)
}

/// None: there is none. The last mount of the store may go on to remove files.
fn file_at(directory: &OwnedFd, name: impl Arg) -> io::Result<Option<Stat>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// The path of a directory without symbolic links. It need not exist, its parent must.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or(path).canonicalize()?;
            Ok(parent.join(path.file_name().unwrap_or_default()))
        }
        Ok(found) if !found.is_dir() => Err(Errno::NOTDIR.into()),
        found => found,
    }
}

/// Whether only root can have written what is in the directory `path`, and only root can put another one in its place.
/// `is_parent`: the directory is made in `path`, under a name that nobody knows before.
fn only_root_writes(path: &Path, is_parent: bool) -> io::Result<bool> {
    if !rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    const STICKY: u32 = 0o1000;
    // From the root on: what comes next cannot be renamed any more, or be a symbolic link.
    for directory in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
        let is_last = directory == path;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match rustix::fs::open(directory, flags, Mode::empty()) {
            // Root makes it. Nobody else may be first.
            Err(Errno::NOENT) if is_last => break,
            opened => opened?,
        };
        let found = fstat(&opened)?;
        let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        // In a sticky directory, what belongs to root stays in its place.
        let is_sticky = (!is_last || is_parent) && found.st_mode & STICKY != 0;
        let is_closed = is_roots(&found) || found.st_uid == 0 && is_sticky;
        if !is_directory || !is_closed || is_users_mount(&opened, found.st_dev)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a file is on a FUSE mount of another user than root, or of one who is not known. The owners of its files are what that user says.
fn is_users_mount(file: &OwnedFd, device: u64) -> io::Result<bool> {
    const FUSE: u64 = 0x6573_5546;
    if fstatfs(file)?.f_type as u64 != FUSE {
        return Ok(false);
    }
    let mount = mount_table::find(|mount| mount.device == device)?;
    // virtiofs says what the host says.
    Ok(mount.is_none_or(|mount| {
        mount.fs_type != "virtiofs" && mount.owner().is_none_or(|(user, _)| user != 0)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Base;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn made(path: &Path) -> Store {
        fs::create_dir(path).unwrap();
        let base = Base {
            path: path.into(),
            filesystem: String::new(),
            root: 1,
            born: None,
        };
        Store::make_directory(path, &base).unwrap().0.store
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn as_root_a_path_with_a_symbolic_link_in_it_is_not_only_roots() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        fs::create_dir_all(place.join("a/b")).unwrap();
        symlink(place.join("a"), place.join("link")).unwrap();
        symlink(place.join("a/b"), place.join("a/end")).unwrap();
        let found = |name: &str| only_root_writes(&place.join(name), false).unwrap();
        assert_eq!(found("a/b"), is_root());
        assert!(!found("link/b"));
        assert!(!found("a/end"));
    }

    /// A link of the path led elsewhere while the store was opened.
    #[test]
    fn as_root_a_store_that_is_open_is_the_one_at_its_path() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        let (one, other) = (made(&path("one")), made(&path("other")));
        let looked_into = look_into(&path("one")).unwrap();
        assert!(!is_only_roots(&path("other"), &looked_into, &other).unwrap());
        symlink("one", path("link")).unwrap();
        let is_only_roots = || is_only_roots(&path("link"), &looked_into, &one).unwrap();
        assert_eq!(is_only_roots(), is_root());
        fs::remove_file(path("link")).unwrap();
        symlink("other", path("link")).unwrap();
        assert!(!is_only_roots());
    }
}
