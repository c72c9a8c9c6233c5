//! Asking a mount what it does ([`crate::report`]), from any process that can reach its root.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsString};
use std::fmt::{Display, Formatter};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;

use crate::mount_table::{self, Mount};
use crate::report::{MAX_ANSWER, Question, Status, Trace};
use crate::session::top_mount::{mount_of, open_path, path_of};
use crate::sys::child::{self, Child};

/// How long an answer may take. The daemon needs no source for it, but a processor.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Why there is no answer. `Display` is a sentence, without the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// It is not the root of a mount of mmfs, or of one that is too old.
    NotOurs,
    /// Only root and the mounting user are answered.
    Forbidden,
    /// Root is another user there.
    Elsewhere,
    /// The daemon has ended.
    Dead,
    /// Nothing came in time: the daemon is stopped, or the mount was never served.
    TimedOut,
    /// It was not asked: an earlier question to it, or several to other mounts of its user, are not answered yet.
    NotAsked,
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
            Self::Elsewhere => f.write_str(
                "it belongs to another user namespace, and is answered only there: \
                 nsenter -U -t PID mmfs status MNT, with the PID of a process in it",
            ),
            Self::Dead => f.write_str("its daemon has ended"),
            Self::TimedOut => write!(
                f,
                "its daemon did not answer within {} s",
                ANSWER_TIMEOUT.as_secs()
            ),
            Self::NotAsked => f.write_str(
                "not asked: earlier questions to its daemon, or to others of its user, are not answered yet",
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
            Errno::OVERFLOW => Self::Elsewhere,
            Errno::NOTCONN | Errno::CONNABORTED | Errno::NODEV => Self::Dead,
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

/// The same, to be waited for by and by.
///
/// # Errors
/// No child process can be started.
pub fn asking_status(mount_point: &Path) -> Result<Asking<Status>, NoAnswer> {
    Asking::start(mount_point, Question::Status)
}

/// The requests from number `from` on, as many as fit into one answer.
///
/// # Errors
/// Why it does not say so.
pub fn trace(mount_point: &Path, from: u64) -> Result<Trace, NoAnswer> {
    ask(mount_point, Question::Trace(from))
}

/// The same, to be waited for by and by.
///
/// # Errors
/// No child process can be started.
pub fn asking_trace(mount_point: &Path, from: u64) -> Result<Asking<Trace>, NoAnswer> {
    Asking::start(mount_point, Question::Trace(from))
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

/// A question that a child process asks ([`Child`]): a mount may be served by anybody, who need not answer.
#[derive(Debug)]
pub struct Asking<T>(Child, PhantomData<T>);

impl<T: DeserializeOwned> Asking<T> {
    fn start(mount_point: &Path, question: Question) -> Result<Self, NoAnswer> {
        let about = (mount_point.to_owned(), question);
        let child = Child::start(&about, |(path, question)| {
            mark(path)?;
            answer(path, *question)
        });
        Ok(Self(child.map_err(|error| failed(&error))?, PhantomData))
    }

    /// The answer, once. After [`NoAnswer::TimedOut`] it can be waited for again.
    ///
    /// # Errors
    /// Why there is none.
    pub fn wait(&mut self, limit: Duration) -> Result<T, NoAnswer> {
        let answer = heard(&mut self.0, limit)?;
        serde_json::from_slice(&answer).map_err(|_| NoAnswer::Garbled)
    }
}

fn ask<T: DeserializeOwned>(mount_point: &Path, question: Question) -> Result<T, NoAnswer> {
    Asking::start(mount_point, question)?.wait(ANSWER_TIMEOUT)
}

fn heard(child: &mut Child, limit: Duration) -> Result<Vec<u8>, NoAnswer> {
    match child.wait(limit) {
        Ok(Some(answer)) => Ok(answer?),
        Ok(None) => Err(NoAnswer::TimedOut),
        Err(error) => Err(failed(&error)),
    }
}

fn failed(error: &std::io::Error) -> NoAnswer {
    NoAnswer::Failed(Errno::from_io_error(error).unwrap_or(Errno::IO))
}

/// By this a process that asks a mount is known, with the minor number of the mount's device.
const MARK: &str = "mmfs?";

/// Names the calling process after the mount that it is about to ask.
fn mark(mount_point: &Path) -> Result<(), Errno> {
    let mount = mount_of(&open_path(mount_point)?);
    let Some(mount) = mount else { return Ok(()) }; // It says itself that it is none of ours.
    let name = format!("{MARK}{}", rustix::fs::minor(mount.device));
    let name = CString::new(name).unwrap_or_default();
    rustix::thread::set_name(&name)
}

/// The mounts, by the minor numbers of their devices, that other processes wait for longer than an answer may take, and as which
/// users. A user could name processes like these, which tells something of that user's mounts only.
pub fn asked_in_vain() -> HashMap<u32, HashSet<u32>> {
    let mut found: HashMap<u32, HashSet<u32>> = HashMap::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let read = |name| std::fs::read_to_string(process.path().join(name)).ok();
        let marked = |comm: String| comm.trim_end().strip_prefix(MARK)?.parse().ok();
        let Some(device) = read("comm").and_then(marked) else {
            continue;
        };
        let old = read("stat").and_then(|stat| age(&stat));
        if old.is_some_and(|age| age > ANSWER_TIMEOUT) {
            let user = read("status").and_then(|status| real_user(&status));
            found.entry(device).or_default().extend(user);
        }
    }
    found
}

/// How long a process is there, by its `stat` (proc_pid_stat(5)). None of one that has ended, and that nobody has asked how.
fn age(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let started: u64 = fields.nth(18)?.parse().ok()?;
    let started = Duration::from_secs(started / rustix::param::clock_ticks_per_second());
    let now = Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
    Some(now.saturating_sub(started))
}

fn real_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Asks on the calling thread, which waits as long as it takes, and may be another user afterwards.
///
/// # Errors
/// Those of open(2) and of getxattr(2).
pub fn answer(mount_point: &Path, question: Question) -> Result<Vec<u8>, Errno> {
    let directory = open_path(mount_point)?;
    let refused = |errno| matches!(errno, Errno::ACCESS | Errno::PERM | Errno::OVERFLOW);
    match get(&directory, question) {
        // The mount is another user's, or the kernel does not know root there.
        Err(errno) if refused(errno) && rustix::process::geteuid().is_root() => {
            let owner = mount_of(&directory).and_then(|mount| mount.owner());
            become_user(owner.ok_or(errno)?)?;
            get(&directory, question).map_err(|errno| match errno {
                // Its owner is told as the mount's own user namespace has it.
                Errno::ACCESS | Errno::OVERFLOW => Errno::OVERFLOW,
                errno => errno,
            })
        }
        first => first,
    }
}

/// Takes on the mounting user, whom the kernel lets in whatever the mount's options are. The directory is open already: that user
/// need not be able to walk to it.
fn become_user((uid, gid): (u32, u32)) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    child::die_with_parent();
    Ok(())
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
    let find =
        |path: &PathBuf| path_of(open_path(path)?).map(|path| path.into_os_string().into_vec());
    // The way there may lead through a filesystem that does not answer.
    let mut child = Child::start(&path.to_owned(), find).map_err(|error| failed(&error))?;
    let found = heard(&mut child, ANSWER_TIMEOUT)?;
    Ok(OsString::from_vec(found).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    /// As `answer`, but no thread of the tests becomes another user. No child: that takes a process of one thread.
    fn asked(path: &Path) -> Result<Vec<u8>, NoAnswer> {
        let path = path.to_owned();
        let asking = std::thread::spawn(move || answer(&path, Question::Status));
        Ok(asking.join().expect("no panic")?)
    }

    #[test]
    fn a_plain_directory_is_no_mount() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(asked(directory.path()), Err(NoAnswer::NotOurs));
        let missing = directory.path().join("missing");
        assert_eq!(asked(&missing), Err(NoAnswer::Failed(Errno::NOENT)));
        std::fs::write(&missing, "").unwrap();
        assert_eq!(asked(&missing), Err(NoAnswer::NotOurs));
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
        let directory = open_path(&path).unwrap();
        let asking = std::thread::spawn(move || {
            become_user(other)?;
            get(&directory, Question::Status)
        });
        assert_eq!(asking.join().expect("no panic"), Err(Errno::OPNOTSUPP));
        assert_eq!(rustix::process::geteuid(), uid, "only the thread changed");
    }

    #[test]
    fn a_process_has_an_age_until_it_has_ended() {
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        let age_of_own = age(&own).expect("an age");
        assert!(age_of_own < Duration::from_secs(3600), "{age_of_own:?}");
        assert_eq!(age("7 (a) Z 1) Z 1 2 3"), None);
        assert_eq!(age("7 (short) S 1 2 3"), None);
    }

    #[test]
    fn root_of_elsewhere_is_told_where_to_ask() {
        let text = NoAnswer::from(Errno::OVERFLOW).to_string();
        assert!(text.contains("another user namespace"), "{text}");
    }
}
