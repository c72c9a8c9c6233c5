//! Asking a mount what it does ([`crate::report`]), from any process that can reach its root.

use std::fmt::{Display, Formatter};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use serde::de::DeserializeOwned;

use crate::mount_table::{self, Mount};
use crate::report::{MAX_ANSWER, Question, Status, Trace};
use crate::session::top_mount::{mount_of, open_path, path_of};

/// How long an answer may take. The daemon needs no source for it, but a processor.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no answer. `Display` is a sentence, without the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// It is not the root of a mount of mmfs, or of one that is too old.
    NotOurs,
    /// Only root and the mounting user are answered.
    Forbidden,
    /// The daemon has ended.
    Dead,
    /// Nothing came in time: the daemon is stopped, or the mount was never served.
    TimedOut,
    /// The answer could not be read.
    Garbled,
    /// The path cannot be reached, or something else went wrong.
    Failed(Errno),
}

impl std::error::Error for NoAnswer {}

impl Display for NoAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotOurs => f.write_str("no mount of mmfs that can be asked"),
            Self::Forbidden => f.write_str("only root and the user who mounted it may ask it"),
            Self::Dead => f.write_str("its daemon has ended"),
            Self::TimedOut => write!(
                f,
                "its daemon did not answer within {} s",
                ANSWER_TIMEOUT.as_secs()
            ),
            Self::Garbled => f.write_str("its answer cannot be read"),
            Self::Failed(errno) => write!(f, "{errno}"),
        }
    }
}

impl From<Errno> for NoAnswer {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::OPNOTSUPP | Errno::NODATA | Errno::NOTDIR => Self::NotOurs,
            Errno::PERM | Errno::ACCESS => Self::Forbidden,
            Errno::NOTCONN => Self::Dead,
            errno => Self::Failed(errno),
        }
    }
}

/// What the mount at this path does.
///
/// # Errors
/// Why it does not say so.
pub fn status(mount_point: &Path) -> Result<Status, NoAnswer> {
    ask(mount_point, Question::Status)
}

/// The requests from number `from` on, as many as fit into one answer.
///
/// # Errors
/// Why it does not say so.
pub fn trace(mount_point: &Path, from: u64) -> Result<Trace, NoAnswer> {
    ask(mount_point, Question::Trace(from))
}

/// The requests that are not answered yet, the oldest first, as many as fit into one answer.
///
/// # Errors
/// Why it does not say so.
pub fn waiting(mount_point: &Path) -> Result<Trace, NoAnswer> {
    ask(mount_point, Question::Waiting)
}

/// All mounts of mmfs that this process sees, each once: the topmost at its mount point.
///
/// # Errors
/// Those of reading /proc/self/mountinfo.
pub fn mounts() -> std::io::Result<Vec<Mount>> {
    let mut mounts = mount_table::read()?;
    mounts.retain(Mount::is_mmfs);
    Ok(mounts)
}

fn ask<T: DeserializeOwned>(mount_point: &Path, question: Question) -> Result<T, NoAnswer> {
    let answer = answer(mount_point, question)?;
    serde_json::from_slice(&answer).map_err(|_| NoAnswer::Garbled)
}

/// Asks on a thread of its own: nothing is waited for longer than [`ANSWER_TIMEOUT`].
fn answer(mount_point: &Path, question: Question) -> Result<Vec<u8>, NoAnswer> {
    let path = mount_point.to_owned();
    within_limit(move || {
        let directory = open_path(&path)?;
        let first = get(&directory, question);
        match first {
            // The mount is another user's, or the kernel does not know root there.
            Err(Errno::ACCESS | Errno::PERM | Errno::OVERFLOW) => {
                let owner = mount_of(&directory).and_then(|mount| mount.owner());
                let owner = owner.filter(|_| rustix::process::geteuid().is_root());
                owner.map_or(first, |owner| get_as(owner, directory, question))
            }
            first => first,
        }
    })
}

fn within_limit(
    work: impl FnOnce() -> Result<Vec<u8>, Errno> + Send + 'static,
) -> Result<Vec<u8>, NoAnswer> {
    let (tell, heard) = channel();
    thread::Builder::new()
        .name("asking".into())
        .spawn(move || tell.send(work()))
        .map_err(|_| NoAnswer::Failed(Errno::AGAIN))?;
    match heard.recv_timeout(ANSWER_TIMEOUT) {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(NoAnswer::TimedOut),
    }
}

/// Asks as the mounting user, whom the kernel lets in whatever the mount's options are. A thread has ids of its own, which
/// end with it. The directory is open already: that user need not be able to walk to it.
fn get_as(
    (uid, gid): (u32, u32),
    directory: OwnedFd,
    question: Question,
) -> Result<Vec<u8>, Errno> {
    let ask = move || {
        let (uid, gid) = (
            rustix::process::Uid::from_raw(uid),
            rustix::process::Gid::from_raw(gid),
        );
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        get(&directory, question)
    };
    thread::spawn(ask).join().unwrap_or(Err(Errno::IO))
}

fn get(directory: &OwnedFd, question: Question) -> Result<Vec<u8>, Errno> {
    // getxattr(2) is refused on descriptors that are O_PATH, not on the way through them.
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let mut answer = vec![0; MAX_ANSWER];
    let length = rustix::fs::getxattr(link, question.name(), &mut answer[..])?;
    answer.truncate(length);
    Ok(answer)
}

/// The absolute path of a mount point as typed, free of symbolic links. Asks no filesystem mounted there.
///
/// # Errors
/// Those of open(2) with O_PATH.
pub fn mount_point(path: &Path) -> Result<PathBuf, NoAnswer> {
    let directory = open_path(path)?;
    Ok(path_of(&directory)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_plain_directory_is_no_mount() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(status(directory.path()), Err(NoAnswer::NotOurs));
        let missing = directory.path().join("missing");
        assert_eq!(
            status(&missing),
            Err(NoAnswer::Failed(Errno::NOENT)),
            "{missing:?}"
        );
        std::fs::write(&missing, "").unwrap();
        assert_eq!(status(&missing), Err(NoAnswer::NotOurs));
    }

    /// As root: it could not walk there.
    #[test]
    fn another_user_asks_where_root_has_walked() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("inner");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(parent.path(), Permissions::from_mode(0o700)).unwrap();
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let other = match uid.is_root() {
            true => (65_534, 65_534),
            false => (uid.as_raw(), gid.as_raw()),
        };
        let answer = get_as(other, open_path(&path).unwrap(), Question::Status);
        assert_eq!(answer, Err(Errno::OPNOTSUPP));
        assert_eq!(rustix::process::geteuid(), uid, "only the thread changed");
    }
}
