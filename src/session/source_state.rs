//! What has become of the directory that a mount shows. The mount goes on to show it after it was removed: everything in
//! it is gone then, and what is made at its path later is another directory.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::probe::{ask, is_linked};
use super::unreachable::unreachable;
use crate::refusal::{Role, StartError};

/// Where the directory is that a mount shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceState {
    /// At some path.
    There,
    /// It was removed.
    Removed,
    /// It was removed, and there is another directory at its path.
    MadeAnew,
}

/// Asks the mount at `mount_point`, and where its root has no link any more, also what is at the path that `source` tells.
/// Where that is not known the answer is [`SourceState::There`]: there are filesystems that count no links.
///
/// # Errors
/// The sentence for a mount point that cannot be reached.
pub fn source_state(
    mount_point: &Path,
    source: impl FnOnce() -> Option<PathBuf>,
) -> Result<SourceState, StartError> {
    match ask(Role::MountPoint, mount_point, is_linked)? {
        Ok(()) => return Ok(SourceState::There),
        Err(Errno::IDRM) => {}
        Err(errno) => return Err(unreachable(Role::MountPoint, mount_point, errno)),
    }
    let Some(source) = source() else {
        return Ok(SourceState::There);
    };
    Ok(match ask(Role::Source, &source, is_linked) {
        Ok(Ok(())) => SourceState::MadeAnew,
        // It has a path, so the number of links says nothing.
        Ok(Err(Errno::IDRM)) => SourceState::There,
        Ok(Err(_)) | Err(_) => SourceState::Removed,
    })
}
