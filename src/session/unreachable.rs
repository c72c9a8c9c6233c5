//! Why a path of the command line cannot be reached.

use std::path::Path;

use rustix::io::Errno;

use super::probe::{ask, is_dead, reach};
use super::top_mount::{mount_of, open_path, path_of};
use super::unmount;
use crate::mount_table::Mount;
use crate::refusal::{DeadMount, Role, StartError};

/// The refusal for a path that answers `errno`. A dead mount is named, if it is found.
pub fn unreachable(role: Role, path: &Path, errno: Errno) -> StartError {
    match errno {
        errno if is_dead(errno) => StartError::Dead(role, path.into(), dead_mount(role, path)),
        _ => StartError::Unreachable(role, path.into(), errno),
    }
}

/// The dead mount that `path` leads into: the one of the last directory on the way that can be opened, unless a symbolic link
/// leads somewhere else from there.
fn dead_mount(role: Role, path: &Path) -> Option<DeadMount> {
    let path = std::path::absolute(path).ok()?;
    let directory = path.ancestors().find_map(|above| open_path(above).ok())?;
    let mount = mount_of(&directory).filter(Mount::is_fuse)?;
    let answer = ask(role, &mount.mount_point, reach);
    let has_died = matches!(answer, Ok(Err(errno)) if is_dead(errno));
    let here = open_path(&path).ok().and_then(|open| path_of(open).ok());
    has_died.then(|| DeadMount {
        is_ours: unmount::is_ours(&mount),
        is_at_path: here.as_ref() == Some(&mount.mount_point),
        mount_point: mount.mount_point,
    })
}
