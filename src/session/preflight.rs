//! The checks of both paths of the command line before anything is mounted. What another filesystem must answer is
//! asked in a child process, so that no check hangs.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::probe::{ask, is_empty, is_empty_unseen, is_mountable_for_user, may_read, reach};
use super::top_mount::{Identity, is_same, mount_at, mount_of, open_path, path_of};
use super::unreachable::unreachable;
use super::{SourceState, device, mount, source_state, unmount};
use crate::descriptors::least_limit;
use crate::mount_table::Mount;
use crate::refusal::{DeadMount, Role, StartError};

/// How many dead mounts of ours, one on top of the other, are cleared off a mount point.
const MAX_DEAD_MOUNTS: usize = 32;

/// The source as an absolute path: a directory that may be read and searched.
///
/// # Errors
/// The sentence for what is wrong with it.
pub fn source(path: &Path) -> Result<PathBuf, StartError> {
    ask(Role::Source, path, reach)?.map_err(|errno| unreachable(Role::Source, path, errno))?;
    ask(Role::Source, path, may_read)?.map_err(|_| StartError::SourceForbidden(path.into()))?;
    canonical(Role::Source, path)
}

/// The mount point as an absolute path: a directory we may mount on. A dead mount of ours on it is
/// cleared away; `/dev/fd/N` is left as it is.
///
/// # Errors
/// The sentence for what is wrong with it.
pub fn mount_point(path: &Path) -> Result<PathBuf, StartError> {
    if let Some(number) = device::passed_number(path) {
        return device::duplicate(path, number).map(|_| path.into());
    }
    for _ in 0..MAX_DEAD_MOUNTS {
        match ask(Role::MountPoint, path, reach)? {
            Ok(()) => break,
            Err(Errno::NOTCONN) => clear_dead(path)?,
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

/// Whether a FUSE mount is at `path` and answers now, and if it is one of mmfs, shows a directory that still exists. `told` asks a
/// mount where that was: the mount table has whatever name was wanted for it. That serves whoever may not ask, and is not
/// named.
///
/// # Errors
/// The sentence for what is wrong with it.
pub fn check(path: &Path, told: impl Fn(&Path) -> Option<PathBuf>) -> Result<(), StartError> {
    let is_absolute = |source: &PathBuf| source.is_absolute();
    let of_table = |mount: Mount| Some(PathBuf::from(mount.source)).filter(is_absolute);
    let mut source = None;
    let find = || {
        let here = canonical(Role::MountPoint, path).ok()?;
        let mount = mount_at(&here).filter(Mount::is_mmfs)?;
        source = told(path);
        // A mount that does not say so, and has another name, shows a directory without a path.
        let probable = source.clone().or_else(|| of_table(mount));
        Some(probable.unwrap_or_default())
    };
    let state = source_state(path, find)?;
    let here = canonical(Role::MountPoint, path)?;
    let mount = mount_at(&here).filter(Mount::is_fuse);
    mount.ok_or_else(|| StartError::NotMounted(path.into()))?;
    let made_anew = match state {
        SourceState::There => return Ok(()),
        SourceState::Removed => false,
        SourceState::MadeAnew => true,
    };
    let source = source.unwrap_or_default();
    Err(StartError::SourceRemoved(source, path.into(), made_anew))
}

/// Warns of an empty source over a mount point that is not empty, both as absolute paths: with the two swapped, all
/// files seem to vanish. With `leaves_atime` a source that cannot be looked at without moving its access time is taken for
/// one that is not empty.
///
/// # Errors
/// The sentence for a path that does not answer.
pub fn order(source: &Path, mount_point: &Path, leaves_atime: bool) -> Result<(), StartError> {
    if device::passed_number(mount_point).is_some() {
        return Ok(()); // the mount covers it already
    }
    let empty = match ask(Role::Source, source, is_empty_unseen)? {
        Err(Errno::PERM) if !leaves_atime => ask(Role::Source, source, is_empty)?,
        answer => answer,
    };
    if ask(Role::MountPoint, mount_point, is_empty)? == Err(Errno::NOTEMPTY) && empty.is_ok() {
        log::warn!(
            "source {source:?} is empty and hides what is in mount point {mount_point:?}; \
             if that is not what you want: the order is mmfs SRC MNT"
        );
    }
    Ok(())
}

/// Whether `threads` can serve requests where `limit` files may be open.
///
/// # Errors
/// [`StartError::FewDescriptors`] if they cannot.
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
    // From here on it is the path that counts. One that was removed has none, one of another mount namespace none here.
    match open_path(&found) {
        Ok(again) if is_same(&directory, &again) => Ok(found),
        _ => Err(StartError::NoPath(role, path.into())),
    }
}

/// Unmounts a mount that answers ENOTCONN, if it is provably ours: with our mark, on exactly this
/// path, on top.
fn clear_dead(path: &Path) -> Result<(), StartError> {
    let below = |errno| unreachable(Role::MountPoint, path, errno);
    let directory = open_path(path).map_err(below)?;
    let (place, mount) = (path_of(&directory).map_err(below)?, mount_of(&directory));
    let identity = Identity::of(&directory);
    drop(directory); // it would keep the mount busy
    let Some(found) = mount.filter(|mount| mount.mount_point == place) else {
        return Err(below(Errno::NOTCONN));
    };
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
    // Of the same descriptor: the path may lead to another one by now.
    let dead = identity.map_err(|errno| stays(errno.into()))?;
    mount::unmount(&place, dead, true).map_err(stays)?;
    log::warn!("cleared a dead mount of mmfs off {place:?}");
    Ok(())
}
