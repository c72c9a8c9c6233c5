//! Why a path of the command line cannot be reached.

use std::path::Path;

use rustix::io::Errno;

use super::probe::{ask, is_dead, is_served, reach};
use super::top_mount::{mount_of, open_path, path_of};
use super::unmount;
use crate::mount_table::Mount;
use crate::refusal::{DeadMount, Role, StartError};

/// The refusal for a path that answers `errno`. A dead mount is named, if it is found.
pub fn unreachable(role: Role, path: &Path, errno: Errno) -> StartError {
    if !is_dead(errno) {
        return StartError::Unreachable(role, path.into(), errno);
    }
    let Some(mount) = mount_on_the_way(role, path) else {
        return StartError::Dead(role, path.into(), None);
    };
    match has_died(role, &mount) {
        Err(refusal) => refusal,
        Ok(false) => StartError::SourceDead(role, path.into(), mount.mount_point),
        Ok(true) => {
            let here = open_path(path).ok().and_then(|open| path_of(open).ok());
            let mount = DeadMount {
                is_ours: unmount::is_ours(&mount),
                is_at_path: here.as_ref() == Some(&mount.mount_point),
                mount_point: mount.mount_point,
            };
            StartError::Dead(role, path.into(), Some(mount))
        }
    }
}

/// The mount that `path` leads into, if its root answers as a dead one: the one of the last directory on the way that can be opened,
/// unless a symbolic link leads somewhere else from there.
fn mount_on_the_way(role: Role, path: &Path) -> Option<Mount> {
    let path = std::path::absolute(path).ok()?;
    let directory = path.ancestors().find_map(|above| open_path(above).ok())?;
    let mount = mount_of(&directory).filter(Mount::is_fuse)?;
    let answer = ask(role, &mount.mount_point, reach);
    matches!(answer, Ok(Err(errno)) if is_dead(errno)).then_some(mount)
}

/// Whether a mount whose root answers as a dead one has no daemon. Otherwise its daemon passes on the error of its source. Of a
/// foreign daemon this is not known, and it counts as dead.
///
/// # Errors
/// No answer came in time.
pub fn has_died(role: Role, mount: &Mount) -> Result<bool, StartError> {
    Ok(match ask(role, &mount.mount_point, is_served)? {
        Ok(()) | Err(Errno::PERM) => false,
        Err(errno) => is_dead(errno) || !mount.is_mmfs(),
    })
}
