//! Both paths of the command line, looked at before anything is mounted. Whatever might have to wait
//! for another filesystem's server is asked in a child process first: we never hang.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;

use super::mount;
use super::mount_table::{Entry, Identity, open_path, path_of, reach};
use crate::refusal::{Role, StartError};
use crate::sys::process;

/// How long a filesystem may take to say something about a directory.
const PATIENCE: Duration = Duration::from_secs(10);

/// Dead mounts of ours that may lie on top of each other.
const MOST_DEAD: usize = 32;

/// The source as an absolute path: a directory that may be read and searched.
///
/// # Errors
/// The sentence for what is wrong with it.
pub fn source(path: &Path) -> Result<PathBuf, StartError> {
    ask(Role::Source, path, reach)?.map_err(|errno| unreachable(Role::Source, path, errno))?;
    let may_read = |path: &Path| {
        rustix::fs::accessat(
            CWD,
            path,
            Access::READ_OK | Access::EXEC_OK,
            AtFlags::EACCESS,
        )
    };
    ask(Role::Source, path, may_read)?.map_err(|_| StartError::SourceForbidden(path.into()))?;
    canonical(Role::Source, path)
}

/// The mount point as an absolute path: a directory we may mount on. A dead mount of ours on it is
/// cleared away; `/dev/fd/N` is left as it is.
///
/// # Errors
/// The sentence for what is wrong with it.
pub fn mount_point(path: &Path) -> Result<PathBuf, StartError> {
    if let Some(number) = passed_descriptor(path) {
        return check_descriptor(path, number);
    }
    for _ in 0..MOST_DEAD {
        match ask(Role::MountPoint, path, reach)? {
            Ok(()) => break,
            Err(Errno::NOTCONN) => clear_dead(path)?,
            Err(errno) => return Err(unreachable(Role::MountPoint, path, errno)),
        }
    }
    let path = canonical(Role::MountPoint, path)?;
    if mount_at(&path).is_some_and(|entry| entry.kind == "fuse.mmfs") {
        return Err(StartError::Occupied(path));
    }
    if !rustix::process::geteuid().is_root() {
        ask(Role::MountPoint, &path, helper_accepts)?
            .map_err(|_| StartError::MountPointForbidden(path.clone()))?;
    }
    Ok(path)
}

/// Whether a FUSE mount is at `path` and answers now.
///
/// # Errors
/// The sentence for what is wrong with it.
pub fn check(path: &Path) -> Result<(), StartError> {
    ask(Role::MountPoint, path, reach)?
        .map_err(|errno| unreachable(Role::MountPoint, path, errno))?;
    let here = canonical(Role::MountPoint, path)?;
    match mount_at(&here) {
        Some(entry) if entry.kind.starts_with("fuse") => Ok(()),
        _ => Err(StartError::NotMounted(path.into())),
    }
}

/// Warns of an empty source over a mount point that is not empty, both as absolute paths: whoever has them the wrong
/// way round sees all files vanish.
///
/// # Errors
/// The sentence for a path that cannot be asked.
pub fn order(source: &Path, mount_point: &Path) -> Result<(), StartError> {
    if passed_descriptor(mount_point).is_some() {
        return Ok(()); // it is covered already
    }
    let empty = ask(Role::Source, source, is_empty)?.is_ok();
    if ask(Role::MountPoint, mount_point, is_empty)? == Err(Errno::NOTEMPTY) && empty {
        log::warn!(
            "source {source:?} is empty and hides what is in mount point {mount_point:?}; \
             if that is not what you want: the order is mmfs SRC MNT"
        );
    }
    Ok(())
}

fn is_empty(path: &Path) -> Result<(), Errno> {
    let entries = std::fs::read_dir(path).map_err(|error| errno_of(&error))?;
    match entries.map(|entry| entry.map(drop)).next() {
        None => Ok(()),
        Some(Ok(())) => Err(Errno::NOTEMPTY),
        Some(Err(error)) => Err(errno_of(&error)),
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// The mount whose root is at this absolute path.
fn mount_at(path: &Path) -> Option<Entry> {
    let entry = open_path(path).ok().and_then(Entry::of);
    entry.filter(|entry| entry.mount_point == path)
}

/// The N of a mount point `/dev/fd/N`.
pub fn passed_descriptor(path: &Path) -> Option<RawFd> {
    path.to_str()?.strip_prefix("/dev/fd/")?.parse().ok()
}

fn check_descriptor(path: &Path, number: RawFd) -> Result<PathBuf, StartError> {
    let refuse = |why: String| StartError::Descriptor(path.into(), why);
    let device = process::duplicate(number).map_err(|error| refuse(error.to_string()))?;
    let status = rustix::fs::fstat(&device).map_err(|errno| refuse(errno.to_string()))?;
    let is_fuse = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
        && status.st_rdev == rustix::fs::makedev(10, 229);
    if !is_fuse {
        return Err(refuse("it is open on something else".into()));
    }
    Ok(path.into())
}

/// Asks about `path` in a child process. The outer error: no answer came.
fn ask(
    role: Role,
    path: &Path,
    question: fn(&Path) -> Result<(), Errno>,
) -> Result<Result<(), Errno>, StartError> {
    process::ask_in_child(PATIENCE, path, question)
        .map_err(|error| StartError::System("start a child process", error))?
        .ok_or_else(|| StartError::Silent(role, path.into()))
}

fn canonical(role: Role, path: &Path) -> Result<PathBuf, StartError> {
    open_path(path)
        .and_then(path_of)
        .map_err(|errno| unreachable(role, path, errno))
}

fn unreachable(role: Role, path: &Path, errno: Errno) -> StartError {
    StartError::Unreachable(role, path.into(), errno)
}

/// fusermount3's rule for ordinary users: writable, and owned where it is sticky.
fn helper_accepts(path: &Path) -> Result<(), Errno> {
    rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?;
    let status = rustix::fs::stat(path)?;
    let sticky = status.st_mode & libc::S_ISVTX != 0;
    match sticky && status.st_uid != rustix::process::getuid().as_raw() {
        true => Err(Errno::PERM),
        false => Ok(()),
    }
}

/// Takes a mount off that answers ENOTCONN, if it is provably ours: of our type, on exactly this
/// path, on top.
fn clear_dead(path: &Path) -> Result<(), StartError> {
    let refuse = |_| StartError::DeadMount(path.into());
    let below = |errno| unreachable(Role::MountPoint, path, errno);
    let directory = open_path(path).map_err(below)?;
    let (place, entry) = (path_of(&directory).map_err(below)?, Entry::of(&directory));
    drop(directory); // it would keep the mount busy
    let Some(entry) = entry.filter(|entry| entry.mount_point == place) else {
        return Err(below(Errno::NOTCONN));
    };
    if entry.kind != "fuse.mmfs" {
        return Err(StartError::DeadMount(place));
    }
    let dead = Identity::at(&place).map_err(refuse)?;
    mount::take_off(&place, dead, true).map_err(|_| StartError::DeadMount(place.clone()))?;
    log::warn!("cleared a dead mount of mmfs off {place:?}");
    Ok(())
}
