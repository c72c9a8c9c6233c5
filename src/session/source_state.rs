//! Finds out whether the source of a mount still exists. After the source was removed, the mount shows an empty directory. A
//! directory that is created at the same path later is another one.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::probe::{ask, is_linked};
use super::unreachable::unreachable;
use crate::refusal::{Role, StartError};

/// The state of a mount's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceState {
    /// It exists.
    Exists,
    /// It was removed.
    Removed,
    /// It was removed, and another directory is at its path.
    Replaced,
}

/// Asks the mount at `mount_point` for the link count of its root. If that is 0, checks the path that `source` returns. If that
/// path is not known, the result is [`SourceState::Exists`], because some filesystems do not count links.
///
/// # Errors
/// The sentence for a mount point that cannot be reached.
pub fn source_state(
    mount_point: &Path,
    source: impl FnOnce() -> Option<PathBuf>,
) -> Result<SourceState, StartError> {
    match ask(Role::MountPoint, mount_point, is_linked)? {
        Ok(()) => return Ok(SourceState::Exists),
        Err(Errno::IDRM) => {}
        Err(errno) => return Err(unreachable(Role::MountPoint, mount_point, errno)),
    }
    let Some(source) = source() else {
        return Ok(SourceState::Exists);
    };
    Ok(match ask(Role::Source, &source, is_linked) {
        Ok(Ok(())) => SourceState::Replaced,
        // It has a path, so this filesystem does not count links.
        Ok(Err(Errno::IDRM)) => SourceState::Exists,
        Ok(Err(_)) | Err(_) => SourceState::Removed,
    })
}
