//! The checks of both paths of the command line, before the mount. A question that another filesystem must answer is asked in a
//! child process, so that no check hangs.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::probe::{
    ask, is_dead, is_empty, is_empty_noatime, is_mountable_for_user, may_read, reach,
};
use super::top_mount::{Identity, is_same, mount_at, mount_of, open_path, path_of};
use super::unreachable::{has_died, unreachable};
use super::{SourceState, device, mount, source_state, unmount};
use crate::descriptors::least_limit;
use crate::mount_table::Mount;
use crate::refusal::{DeadMount, Role, StartError};

/// How many dead mounts of mmfs, one on top of the other, are cleared at a mount point.
const MAX_DEAD_MOUNTS: usize = 32;

/// The absolute path of the source: a directory that this user may read and search.
///
/// # Errors
/// The sentence that says why the source cannot be used.
pub fn source(path: &Path) -> Result<PathBuf, StartError> {
    ask(Role::Source, path, reach)?.map_err(|errno| unreachable(Role::Source, path, errno))?;
    ask(Role::Source, path, may_read)?.map_err(|_| StartError::SourceForbidden(path.into()))?;
    canonical(Role::Source, path)
}

/// The absolute path of the mount point: a directory on which this user may mount. A dead mount of mmfs on it is unmounted.
/// `/dev/fd/N` is returned unchanged.
///
/// # Errors
/// The sentence that says why the mount point cannot be used.
pub fn mount_point(path: &Path) -> Result<PathBuf, StartError> {
    if let Some(number) = device::passed_number(path) {
        return device::duplicate(path, number).map(|_| path.into());
    }
    for _ in 0..MAX_DEAD_MOUNTS {
        match ask(Role::MountPoint, path, reach)? {
            Ok(()) => break,
            Err(errno) if is_dead(errno) => clear_dead(path).or_else(|refusal| {
                match ask(Role::MountPoint, path, reach)? {
                    Err(errno) if is_dead(errno) => Err(refusal),
                    // Somebody else has unmounted it meanwhile.
                    _ => Ok(()),
                }
            })?,
            Err(errno) => return Err(unreachable(Role::MountPoint, path, errno)),
        }
    }
    let path = canonical(Role::MountPoint, path)?;
    if mount_at(&path).is_some_and(|mount| mount.is_mmfs()) {
        return Err(StartError::Occupied(path));
    }
    if !rustix::process::geteuid().is_root() {
        ask(Role::MountPoint, &path, is_mountable_for_user)?
            .map_err(|_| StartError::MountPointForbidden(path.clone()))?;
    }
    Ok(path)
}

/// Checks that a FUSE mount is at `path` and answers. For a mount of mmfs it also checks that the source still exists. `ask_source`
/// asks the mount for the path of its source. If it may not be asked, the name in the mount table is used, but not printed:
/// `--fsname` can set any name.
///
/// # Errors
/// The sentence that says what is wrong with the mount.
pub fn check(path: &Path, ask_source: impl Fn(&Path) -> Option<PathBuf>) -> Result<(), StartError> {
    let is_absolute = |source: &PathBuf| source.is_absolute();
    let of_table = |mount: Mount| Some(PathBuf::from(mount.source)).filter(is_absolute);
    let mut source = None;
    let find = || {
        let here = canonical(Role::MountPoint, path).ok()?;
        let mount = mount_at(&here).filter(Mount::is_mmfs)?;
        source = ask_source(path);
        // If both are unknown, the empty path stands for a source without a path.
        let probable = source.clone().or_else(|| of_table(mount));
        Some(probable.unwrap_or_default())
    };
    let state = source_state(path, find)?;
    let here = canonical(Role::MountPoint, path)?;
    let mount = mount_at(&here).filter(Mount::is_fuse);
    mount.ok_or_else(|| StartError::NotMounted(path.into()))?;
    let is_replaced = match state {
        SourceState::Exists => return Ok(()),
        SourceState::Removed => false,
        SourceState::Replaced => true,
    };
    let source = source.unwrap_or_default();
    Err(StartError::SourceRemoved(source, path.into(), is_replaced))
}

/// Warns if the source is empty and the mount point is not: the two may be swapped. Both paths are absolute. With `leaves_atime`
/// the source must be read without changing its access time. If that is not possible, there is no warning.
///
/// # Errors
/// The sentence for a path that does not answer.
pub fn order(source: &Path, mount_point: &Path, leaves_atime: bool) -> Result<(), StartError> {
    if device::passed_number(mount_point).is_some() {
        return Ok(()); // the mount covers it already
    }
    let empty = match ask(Role::Source, source, is_empty_noatime)? {
        Err(Errno::PERM) if !leaves_atime => ask(Role::Source, source, is_empty)?,
        answer => answer,
    };
    if ask(Role::MountPoint, mount_point, is_empty)? == Err(Errno::NOTEMPTY) && empty.is_ok() {
        log::warn!(
            "source {source:?} is empty and hides the files of mount point {mount_point:?}; \
             if the two are swapped: the order is mmfs SRC MNT"
        );
    }
    Ok(())
}

/// Checks that a limit of `limit` open files is enough for `threads` worker threads.
///
/// # Errors
/// [`StartError::FewDescriptors`] if it is not.
pub fn descriptors(limit: usize, threads: usize) -> Result<(), StartError> {
    match least_limit(threads) {
        needed if needed > limit => Err(StartError::FewDescriptors {
            limit,
            threads,
            needed,
        }),
        _ => Ok(()),
    }
}

fn canonical(role: Role, path: &Path) -> Result<PathBuf, StartError> {
    let directory = open_path(path).map_err(|errno| unreachable(role, path, errno))?;
    let found = path_of(&directory).map_err(|errno| unreachable(role, path, errno))?;
    // From here on the path is used. A removed directory has no path, and one in another mount namespace has none here.
    match open_path(&found) {
        Ok(again) if is_same(&directory, &again) => Ok(found),
        _ => Err(StartError::NoPath(role, path.into())),
    }
}

/// Unmounts a dead mount, if it has the mark of mmfs, is mounted at exactly this path, and is on top. A mount is not dead if its daemon
/// passes on the error of its own source.
fn clear_dead(path: &Path) -> Result<(), StartError> {
    let below = |errno| unreachable(Role::MountPoint, path, errno);
    let directory = open_path(path).map_err(below)?;
    let (place, mount) = (path_of(&directory).map_err(below)?, mount_of(&directory));
    let identity = Identity::of(&directory);
    drop(directory); // it would keep the mount busy
    let Some(found) = mount.filter(|mount| mount.mount_point == place) else {
        return Err(below(Errno::NOTCONN));
    };
    if !has_died(Role::MountPoint, &found)? {
        return Err(StartError::OccupiedSourceDead(place));
    }
    let stays = |_| {
        let mount = DeadMount {
            mount_point: place.clone(),
            is_ours: unmount::is_ours(&found),
            is_at_path: true,
        };
        StartError::Dead(Role::MountPoint, place.clone(), Some(mount))
    };
    if !found.is_mmfs() {
        return Err(stays(io::Error::from(Errno::NOTCONN)));
    }
    // The identity is that of the same descriptor, because the path may lead to another mount now.
    let dead = identity.map_err(|errno| stays(errno.into()))?;
    mount::unmount(&place, dead, true).map_err(stays)?;
    log::warn!("cleared a dead mount of mmfs at {place:?}");
    Ok(())
}
