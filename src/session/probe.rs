//! Questions about a directory that its filesystem must answer. If the filesystem hangs, the question hangs. So [`ask`] asks it in
//! a child process.

use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::top_mount::open_path;
use crate::refusal::{Role, StartError};
use crate::report::Question;
use crate::source::proc_path;
use crate::sys::process;

/// How long a filesystem may take to answer one question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks `question` about `path` in a child process.
///
/// # Errors
/// The outer error means that no answer came within [`ANSWER_TIMEOUT`]. The inner error is the answer.
pub fn ask(
    role: Role,
    path: &Path,
    question: fn(&Path) -> Result<(), Errno>,
) -> Result<Result<(), Errno>, StartError> {
    process::ask_in_child(ANSWER_TIMEOUT, path, question)
        .map_err(|error| StartError::System("start a child process", error))?
        .ok_or_else(|| StartError::NoAnswer(role, path.into()))
}

/// Whether `path` is a directory whose attributes can be read. Follows symbolic links.
///
/// # Errors
/// Those of statx(2). ENOTDIR if it is no directory.
pub fn reach(path: &Path) -> Result<(), Errno> {
    status_of(path).map(drop)
}

/// As `reach`, for a directory that was not removed.
///
/// # Errors
/// Those of `reach`. EIDRM if its link count is 0.
pub fn is_linked(path: &Path) -> Result<(), Errno> {
    match status_of(path)?.stx_nlink {
        0 => Err(Errno::IDRM),
        _ => Ok(()),
    }
}

/// Whether the kernel answers like this for a FUSE mount whose daemon has ended. A request that was waiting then is aborted, later
/// ones find no connection. A living daemon may pass on the same error of its source: see [`is_served`].
pub fn is_dead(errno: Errno) -> bool {
    matches!(errno, Errno::NOTCONN | Errno::CONNABORTED)
}

/// Whether the mount at this mount point has a daemon of mmfs, which answers this without its source. So [`is_dead`] errors are the
/// kernel's own.
///
/// # Errors
/// Those of open(2) and of getxattr(2). EPERM if the daemon does not answer this user.
pub fn is_served(mount_point: &Path) -> Result<(), Errno> {
    let directory = open_path(mount_point)?;
    // fgetxattr(2) fails on O_PATH descriptors. getxattr(2) on their path in /proc does not.
    let mut nothing: [u8; 0] = [];
    let name = Question::Status.name();
    rustix::fs::getxattr(proc_path(&directory), name, &mut nothing[..]).map(drop)
}

fn status_of(path: &Path) -> Result<Statx, Errno> {
    // Without this flag, the kernel would answer from its cache for a dead or hung FUSE mount.
    let flags = AtFlags::STATX_FORCE_SYNC;
    let status = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS)?;
    match FileType::from_raw_mode(status.stx_mode.into()) {
        FileType::Directory => Ok(status),
        _ => Err(Errno::NOTDIR),
    }
}

/// Whether this user may read and search the directory.
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
/// ENOTEMPTY if it is not. Those of open(2) and getdents64(2).
pub fn is_empty(path: &Path) -> Result<(), Errno> {
    require_empty(path, OFlags::empty())
}

/// As `is_empty`, without changing the directory's access time.
///
/// # Errors
/// Those of `is_empty`. EPERM for a directory of another user.
pub fn is_empty_noatime(path: &Path) -> Result<(), Errno> {
    require_empty(path, OFlags::NOATIME)
}

fn require_empty(path: &Path, flags: OFlags) -> Result<(), Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty())?;
    for entry in Dir::new(dir)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Err(Errno::NOTEMPTY);
        }
    }
    Ok(())
}

/// Whether fusermount3 lets an ordinary user mount on the directory. It must be writable. If it is sticky, the user must own it.
///
/// # Errors
/// EPERM for a sticky directory of another user. Those of faccessat(2) and stat(2).
pub fn is_mountable_for_user(path: &Path) -> Result<(), Errno> {
    rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?;
    let status = rustix::fs::stat(path)?;
    let sticky = status.st_mode & libc::S_ISVTX != 0;
    match sticky && status.st_uid != rustix::process::getuid().as_raw() {
        true => Err(Errno::PERM),
        false => Ok(()),
    }
}
