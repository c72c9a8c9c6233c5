//! Where the store of a private view may lie, and whether its suid bits and devices may have an effect.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::device;
use crate::config::{Access, Config, MountFlags, StoreConfig};
use crate::mount_table;
use crate::refusal::StartError;

/// Checks the place of a store. A named one must not lie in the source or the mount point, nor they in it. If others than root can have
/// written what is in the store, the mount becomes nosuid and nodev, and root does not let all users access it. All paths are absolute.
///
/// # Errors
/// The sentence for a store that cannot be there, for one of others that all users were to see, or for a mount that another program has
/// made with suid or dev.
pub fn check(
    store: &StoreConfig,
    (source, mount_point): (&Path, &Path),
    access: Access,
    flags: &mut MountFlags,
) -> Result<(), StartError> {
    let directory = match &store.directory {
        Some(directory) => directory.clone(),
        None => std::env::temp_dir(),
    };
    let failed = |error| StartError::Store(directory.clone(), error);
    let place = real_path(&directory).map_err(failed)?;
    let passed = device::passed_number(mount_point)
        .and_then(|number| device::duplicate(mount_point, number).ok())
        .and_then(device::mount_device)
        .and_then(|device| mount_table::find(|mount| mount.device == device).ok()?);
    let mount_point = passed
        .as_ref()
        .map_or(mount_point, |mount| &mount.mount_point);
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
    if only_root_writes(&place, store.directory.is_none()).map_err(failed)? {
        return Ok(());
    }
    (flags.no_suid, flags.no_dev) = (true, true);
    let is_open = access == Access::Everyone
        || passed
            .as_ref()
            .is_some_and(|mount| mount.has_super_option("allow_other"));
    if is_open && rustix::process::geteuid().is_root() {
        return Err(StartError::StoreShared(directory));
    }
    match passed {
        Some(mount) if !(mount.has_flag("nosuid") && mount.has_flag("nodev")) => {
            Err(StartError::StoreOwner(directory.clone()))
        }
        _ => Ok(()),
    }
}

/// Checks that a store that is open now, and that root trusts, was not put there by others after `check`.
///
/// # Errors
/// The sentence for a store that others may have written.
pub fn check_again(directory: &Path, config: &Config) -> Result<(), StartError> {
    let trusts = config.access == Access::Everyone || !config.flags.no_suid || !config.flags.no_dev;
    if !trusts || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let failed = |error| StartError::Store(directory.into(), error);
    let place = real_path(directory).map_err(failed)?;
    match only_root_writes(&place, false).map_err(failed)? {
        true => Ok(()),
        false => Err(StartError::StoreShared(directory.into())),
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
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let mut is_last = true;
    for directory in path.ancestors() {
        match directory.metadata() {
            // Root makes it. Nobody else may be first.
            Err(error) if is_last && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(metadata) => {
                // In a sticky directory, what belongs to root stays in its place.
                let is_sticky = (!is_last || is_parent) && metadata.mode() & STICKY != 0;
                if metadata.uid() != 0 || metadata.mode() & OTHERS_WRITE != 0 && !is_sticky {
                    return Ok(false);
                }
                is_last = false;
            }
        }
    }
    Ok(true)
}
