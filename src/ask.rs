//! Asks a mount for its status and its requests ([`crate::report`]), and to give up changes. Any process that can reach the mount's root can ask.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsString};
use std::fmt::{Display, Formatter};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;

use crate::inode::ROOT;
use crate::mount_table::{self, Mount};
use crate::report::{Discarded, MAX_ANSWER, Question, Status, Trace};
use crate::session::top_mount::{mount_of, open_path, path_of};
use crate::sys::child::{self, Child};

/// How long an answer may take. The daemon needs CPU time for it, but does not access the source.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a mount gave no answer. `Display` is a sentence without the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// The path is not the root of a mount of mmfs, or that mmfs is too old.
    NotOurs,
    /// The caller is neither root nor the mounting user.
    Forbidden,
    /// The mount belongs to another user namespace, in which our root is a different user.
    Elsewhere,
    /// The daemon has ended.
    Dead,
    /// No answer came within [`ANSWER_TIMEOUT`]: the daemon is stopped, or the mount was never served.
    TimedOut,
    /// The question was not sent: an earlier one to this mount, or several to other mounts of its user, have no answer yet.
    NotAsked,
    /// The answer is not valid.
    Garbled,
    /// Another error, for example of open(2).
    Failed(Errno),
}

impl std::error::Error for NoAnswer {}

impl Display for NoAnswer {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotOurs => f.write_str("not a mount of mmfs, or its mmfs is too old to be asked"),
            Self::Forbidden => f.write_str("only root and the user who mounted it may ask it"),
            Self::Elsewhere => f.write_str(
                "it belongs to another user namespace, and can only be asked from there: \
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

/// The status of the mount at this path.
///
/// # Errors
/// The reason why there is no answer.
pub fn status(mount_point: &Path) -> Result<Status, NoAnswer> {
    ask(mount_point, Question::Status)
}

/// As [`status`], but returns before the answer has come.
///
/// # Errors
/// No child process can be started.
pub fn asking_status(mount_point: &Path) -> Result<Asking<Status>, NoAnswer> {
    Asking::start(mount_point, Question::Status)
}

/// The requests from number `from` on, as many as fit into one answer.
///
/// # Errors
/// The reason why there is no answer.
pub fn trace(mount_point: &Path, from: u64) -> Result<Trace, NoAnswer> {
    ask(mount_point, Question::Trace(from))
}

/// As [`trace`], but returns before the answer has come.
///
/// # Errors
/// No child process can be started.
pub fn asking_trace(mount_point: &Path, from: u64) -> Result<Asking<Trace>, NoAnswer> {
    Asking::start(mount_point, Question::Trace(from))
}

/// The requests that are not answered yet, the oldest first, as many as fit into one answer.
///
/// # Errors
/// The reason why there is no answer.
pub fn waiting(mount_point: &Path) -> Result<Trace, NoAnswer> {
    ask(mount_point, Question::Waiting)
}

/// Whether a path leads to the root of a view, and not to a directory below it. Sends no request to the filesystem that is mounted there.
///
/// # Errors
/// Those of open(2) with O_PATH, and of statx(2).
pub fn is_root(path: &Path) -> Result<bool, NoAnswer> {
    let look = |path: &PathBuf| {
        let directory = open_path(path)?;
        let without_request = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let look = |mask| rustix::fs::statx(&directory, c"", without_request, mask);
        let is_root = match look(StatxFlags::INO) {
            Ok(found) => found.stx_ino == ROOT,
            // A mount of another user's tells root nothing but whether it is one.
            Err(Errno::ACCESS) => look(StatxFlags::empty())?
                .stx_attributes
                .contains(StatxAttributes::MOUNT_ROOT),
            Err(errno) => return Err(errno),
        };
        Ok(vec![u8::from(is_root)])
    };
    let mut child = Child::start(&path.to_owned(), look).map_err(|error| failed(&error))?;
    Ok(heard(&mut child, ANSWER_TIMEOUT)? == [1])
}

/// How often a discard is asked for that gives no answer, before that is an error. Asking costs the daemon nothing.
const DISCARD_TRIES: usize = 3;

/// The longest pause between two questions.
const MAX_PAUSE: Duration = Duration::from_millis(200);

/// Gives up the changes of the private view at this path that `chosen` says ([`crate::selection`]). Waits until it is done. The daemon goes on
/// if this process ends.
///
/// # Errors
/// The reason why there is no answer. With [`NoAnswer::TimedOut`], nobody knows what was done.
pub fn discard(mount_point: &Path, number: u64, chosen: &[u8]) -> Result<Discarded, NoAnswer> {
    let question = Question::Discard(number);
    let about = (mount_point.to_owned(), question, chosen.to_owned());
    let told = Child::start(&about, |(path, question, value)| {
        name_process(path)?;
        admitted(path, |directory| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(link_to(directory), question.name(), value, flags)?;
            Ok(Vec::new())
        })
    });
    heard(&mut told.map_err(|error| failed(&error))?, ANSWER_TIMEOUT)?;
    let (mut pause, mut tries) = (Duration::from_millis(2), 0);
    loop {
        match ask::<Discarded>(mount_point, question) {
            Ok(answer) if answer.done => return Ok(answer),
            Ok(_) => tries = 0,
            Err(NoAnswer::TimedOut) if tries + 1 < DISCARD_TRIES => tries += 1,
            Err(error) => return Err(error),
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(MAX_PAUSE);
    }
}

/// All mounts of mmfs in this mount namespace.
///
/// # Errors
/// Those of reading /proc/self/mountinfo.
pub fn mounts() -> std::io::Result<Vec<Mount>> {
    let mut mounts = mount_table::read()?;
    mounts.retain(Mount::is_mmfs);
    Ok(mounts)
}

/// A question that a child process asks ([`Child`]). Any user can serve a mount that never answers, and the kernel does not
/// end a process that waits for such an answer.
#[derive(Debug)]
pub struct Asking<T>(Child, PhantomData<T>);

impl<T: DeserializeOwned> Asking<T> {
    fn start(mount_point: &Path, question: Question) -> Result<Self, NoAnswer> {
        let about = (mount_point.to_owned(), question);
        let child = Child::start(&about, |(path, question)| {
            name_process(path)?;
            answer(path, *question)
        });
        Ok(Self(child.map_err(|error| failed(&error))?, PhantomData))
    }

    /// Waits for the answer. It is returned once. After [`NoAnswer::TimedOut`], `wait` can be called again.
    ///
    /// # Errors
    /// The reason why there is no answer.
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

/// The name of a process that asks a mount. The minor number of the mount's device follows.
const ASKING_PREFIX: &str = "mmfs?";

/// Gives the calling process the name that [`asked_in_vain`] looks for.
fn name_process(mount_point: &Path) -> Result<(), Errno> {
    let mount = mount_of(&open_path(mount_point)?);
    // The question itself then fails.
    let Some(mount) = mount else { return Ok(()) };
    let name = format!("{ASKING_PREFIX}{}", rustix::fs::minor(mount.device));
    let name = CString::new(name).unwrap_or_default();
    rustix::thread::set_name(&name)
}

/// Mounts that other processes have asked for longer than [`ANSWER_TIMEOUT`]: the minor numbers of their devices, each with the
/// users of those processes. Any user can give a process such a name. So a caller believes a user only about that user's own mounts.
pub fn asked_in_vain() -> HashMap<u32, HashSet<u32>> {
    let mut found: HashMap<u32, HashSet<u32>> = HashMap::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let read = |name| std::fs::read_to_string(process.path().join(name)).ok();
        let minor = |comm: String| comm.trim_end().strip_prefix(ASKING_PREFIX)?.parse().ok();
        let Some(device) = read("comm").and_then(minor) else {
            continue;
        };
        let age = read("stat").and_then(|stat| age(&stat));
        if age.is_some_and(|age| age > ANSWER_TIMEOUT) {
            let user = read("status").and_then(|status| real_user(&status));
            found.entry(device).or_default().extend(user);
        }
    }
    found
}

/// The age of a process, from its `stat` file (proc_pid_stat(5)). `None` for a zombie.
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

/// Asks on the calling thread, without a timeout. The thread may run as another user afterwards.
///
/// # Errors
/// Those of open(2) and of getxattr(2).
pub fn answer(mount_point: &Path, question: Question) -> Result<Vec<u8>, Errno> {
    admitted(mount_point, |directory| get(directory, question))
}

/// Runs `op` on a mount's root, if need be as the user who is admitted there.
fn admitted(
    mount_point: &Path,
    op: impl Fn(&OwnedFd) -> Result<Vec<u8>, Errno>,
) -> Result<Vec<u8>, Errno> {
    let directory = open_path(mount_point)?;
    let refused = |errno| matches!(errno, Errno::ACCESS | Errno::PERM | Errno::OVERFLOW);
    match op(&directory) {
        // The mount belongs to another user, or to a user namespace that does not map root.
        Err(errno) if refused(errno) && rustix::process::geteuid().is_root() => {
            let owner = mount_of(&directory).and_then(|mount| mount.owner());
            become_user(owner.ok_or(errno)?)?;
            op(&directory).map_err(|errno| match errno {
                // The mount table shows the owner's number of the mount's own user namespace.
                Errno::ACCESS | Errno::OVERFLOW => Errno::OVERFLOW,
                errno => errno,
            })
        }
        first => first,
    }
}

/// Makes the calling thread run as the mounting user, whom the kernel admits with every option of the mount. The directory is
/// open already, because that user may not be allowed to search the directories above it.
fn become_user((uid, gid): (u32, u32)) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    child::die_with_parent();
    Ok(())
}

/// fgetxattr(2) fails on O_PATH descriptors. getxattr(2) on their path in /proc does not.
fn link_to(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

fn get(directory: &OwnedFd, question: Question) -> Result<Vec<u8>, Errno> {
    let mut answer = vec![0; MAX_ANSWER];
    let length = rustix::fs::getxattr(link_to(directory), question.name(), &mut answer[..])?;
    answer.truncate(length);
    Ok(answer)
}

/// The absolute path of a mount point, without symbolic links. Sends no request to the filesystem that is mounted there.
///
/// # Errors
/// Those of open(2) with O_PATH.
pub fn mount_point(path: &Path) -> Result<PathBuf, NoAnswer> {
    let find =
        |path: &PathBuf| path_of(open_path(path)?).map(|path| path.into_os_string().into_vec());
    // The path may lead through a filesystem that does not answer.
    let mut child = Child::start(&path.to_owned(), find).map_err(|error| failed(&error))?;
    let found = heard(&mut child, ANSWER_TIMEOUT)?;
    Ok(OsString::from_vec(found).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    /// As `answer`, on a thread of its own, because the thread may change its user. `Child` cannot be used: it forks, which needs
    /// a process with one thread.
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

    /// As root, the other user is not allowed to search the parent directory.
    #[test]
    fn another_user_asks_through_a_directory_that_root_has_opened() {
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
