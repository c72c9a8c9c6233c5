//! Questions about a directory that its filesystem must answer. Each may hang as long as the filesystem does, so
//! [`ask`] puts it in a child process.

use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::refusal::{Role, StartError};
use crate::sys::process;

/// How long a filesystem may take to answer one question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks `question` about `path` in a child process.
///
/// # Errors
/// The outer error: no answer came within [`ANSWER_TIMEOUT`]. The inner one is the answer's.
pub fn ask(
    role: Role,
    path: &Path,
    question: fn(&Path) -> Result<(), Errno>,
) -> Result<Result<(), Errno>, StartError> {
    process::ask_in_child(ANSWER_TIMEOUT, path, question)
        .map_err(|error| StartError::System("start a child process", error))?
        .ok_or_else(|| StartError::NoAnswer(role, path.into()))
}

/// Whether `path` is a directory whose attributes can be had. Symbolic links are followed.
///
/// # Errors
/// Those of statx(2), ENOTDIR in particular.
pub fn reach(path: &Path) -> Result<(), Errno> {
    look(path).map(drop)
}

/// As `reach`, of a directory that was not removed.
///
/// # Errors
/// Those of `reach`, and EIDRM for one without a link.
pub fn is_linked(path: &Path) -> Result<(), Errno> {
    match look(path)?.stx_nlink {
        0 => Err(Errno::IDRM),
        _ => Ok(()),
    }
}

fn look(path: &Path) -> Result<Statx, Errno> {
    // Without it, the kernel's cache would answer for a dead or hung FUSE mount for a while.
    let flags = AtFlags::STATX_FORCE_SYNC;
    let status = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS)?;
    match FileType::from_raw_mode(status.stx_mode.into()) {
        FileType::Directory => Ok(status),
        _ => Err(Errno::NOTDIR),
    }
}

/// Whether the directory may be read and searched by us.
///
/// # Errors
/// Those of faccessat(2).
pub fn may_read(path: &Path) -> Result<(), Errno> {
    let access = Access::READ_OK | Access::EXEC_OK;
    rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS)
}

/// Whether the directory is empty.
///
/// # Errors
/// ENOTEMPTY if it is not; those of reading a directory.
pub fn is_empty(path: &Path) -> Result<(), Errno> {
    look_for_entries(path, OFlags::empty())
}

/// As `is_empty`, without moving the directory's access time.
///
/// # Errors
/// Those of `is_empty`, and EPERM for a directory of another user.
pub fn is_empty_unseen(path: &Path) -> Result<(), Errno> {
    look_for_entries(path, OFlags::NOATIME)
}

fn look_for_entries(path: &Path, flags: OFlags) -> Result<(), Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty())?;
    for entry in Dir::new(dir)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Err(Errno::NOTEMPTY);
        }
    }
    Ok(())
}

/// Whether fusermount3 lets an ordinary user mount there: on a directory that is writable, and owned where it is sticky.
///
/// # Errors
/// EPERM for a sticky directory of another user; those of faccessat(2) and stat(2).
pub fn is_mountable_for_user(path: &Path) -> Result<(), Errno> {
    rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?;
    let status = rustix::fs::stat(path)?;
    let sticky = status.st_mode & libc::S_ISVTX != 0;
    match sticky && status.st_uid != rustix::process::getuid().as_raw() {
        true => Err(Errno::PERM),
        false => Ok(()),
    }
}
