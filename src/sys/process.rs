//! Processes, signals and inherited descriptors: calls that neither std nor rustix wraps.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

/// fork(2). Returns the child's id in the parent, `None` in the child.
///
/// # Errors
/// EINVAL if there is a second thread; those of reading /proc; those of fork(2).
pub fn fork() -> io::Result<Option<Pid>> {
    require_single_thread()?;
    // SAFETY: fork has no condition on memory. What a child may do is limited only when another
    // thread may have held a lock at that moment: `require_single_thread` has just seen that this
    // thread is the only one, and only this thread could start another.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

/// Ends a forked child without running the parent's destructors and exit handlers.
pub fn exit_at_once(status: i32) -> ! {
    // SAFETY: _exit takes no pointer and does not return.
    unsafe { libc::_exit(status) }
}

fn require_single_thread() -> io::Result<()> {
    match std::fs::read_dir("/proc/self/task")?.count() {
        1 => Ok(()),
        _ => Err(Errno::INVAL.into()),
    }
}

/// Runs `question` about `path` in a child process: a system call that waits in the kernel, where no signal ends it, then does
/// not stop the caller. `None`: no answer within `limit`. The child is then killed, but not waited for. It has closed all
/// descriptors, so it does not hold the parent's output open. It is killed when its parent ends: otherwise a container's health
/// checks would pile up below its process 1.
///
/// # Errors
/// Those of fork(2), pidfd_open(2), poll(2) and waitpid(2).
pub fn ask_in_child(
    limit: Duration,
    path: &Path,
    question: fn(&Path) -> Result<(), Errno>,
) -> io::Result<Option<Result<(), Errno>>> {
    let parent = rustix::process::getpid();
    let Some(child) = fork()? else {
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        if rustix::process::getppid() != Some(parent) {
            exit_at_once(libc::ECANCELED); // No parent waits for this answer.
        }
        // SAFETY: close_range takes no pointer. Nothing below uses a descriptor opened before:
        // `question` is a plain function, so it has captured none, and the child ends with it.
        unsafe { libc::close_range(0, libc::c_uint::MAX, 0) };
        // Each errno of Linux is below 134, so it fits an exit status.
        let answer = question(path).map_or_else(Errno::raw_os_error, |()| 0);
        exit_at_once(answer);
    };
    let pidfd = rustix::process::pidfd_open(child, PidfdFlags::empty())?;
    let limit = Timespec::try_from(limit).map_err(|_| Errno::INVAL)?;
    let exited = |fd| {
        retry_on_intr(|| {
            poll(
                &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
                Some(&limit),
            )
        })
    };
    if exited(pidfd.as_fd())? == 0 {
        rustix::process::pidfd_send_signal(&pidfd, Signal::KILL)?;
        return Ok(None);
    }
    let status = retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()))?;
    match status.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(Some(Ok(()))),
        Some(errno) => Ok(Some(Err(Errno::from_raw_os_error(errno)))),
        None => Ok(None),
    }
}

/// Voluntary context switches of the calling thread, that is, how often it waited for something (getrusage(2)).
pub fn voluntary_switches() -> i64 {
    // SAFETY: a rusage is plain data for which all zeroes is a valid value, and getrusage writes one to the pointer, which
    // is valid for the call. It fails only for arguments other than these; then nothing was counted.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage.ru_nvcsw
    }
}

/// Enters a new mount namespace. Without the right to do so, also a new user namespace, in which the user and the group have the
/// numbers that they had. Later mounts are visible to this process and its children only, after "/" was made private.
///
/// # Errors
/// EINVAL if there is a second thread; EPERM if the system forbids it.
pub fn leave_namespaces() -> Result<(), Errno> {
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    require_single_thread().map_err(|_| Errno::INVAL)?;
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    // SAFETY: the descriptor table, the one thing whose unsharing is unsound, stays shared.
    match unsafe { unshare_unsafe(UnshareFlags::NEWNS) } {
        Err(Errno::PERM) => {}
        result => return result,
    }
    // SAFETY: as above.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }?;
    let write = |file: &str, text: String| std::fs::write(format!("/proc/self/{file}"), text);
    write("uid_map", format!("{user} {user} 1"))
        .and_then(|()| write("setgroups", "deny".into()))
        .and_then(|()| write("gid_map", format!("{group} {group} 1")))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Sets SIGCHLD to its default. A parent may have left it ignored. The kernel would then discard the exit status of children
/// (waitpid: ECHILD).
pub fn reset_sigchld() {
    // SAFETY: SIG_DFL is a disposition every signal accepts. No handler of ours is replaced: `main` calls this before it
    // sets any. It fails only for numbers that are no signals.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Whether this process ignores a signal.
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: a sigaction is plain data for which all zeroes is a valid value. Nothing is set (null), and the old action is written to
    // the pointer, which is valid for the call. It fails only for numbers that are no signals.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut action);
        action.sa_sigaction == libc::SIG_IGN
    }
}

/// Ignores SIGTTOU, so that a process in the background of its terminal may write to it and take it.
pub fn ignore_terminal_output() {
    // SAFETY: SIG_IGN is a disposition that SIGTTOU accepts. No handler of ours is replaced: none is ever set for it. It fails only
    // for numbers that are no signals.
    unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
}

/// Sets signals as the daemon needs them, independent of its parent. SIGXFSZ is ignored, so a write beyond RLIMIT_FSIZE fails
/// with EFBIG. SIGUSR2 is ignored: it would kill the daemon and leave a dead mount. Signals that the daemon handles, and SIGBUS
/// for the guarded copy, are unblocked. (SIGPIPE is ignored by Rust's runtime.)
///
/// # Errors
/// Those of signal(2) and sigprocmask(2).
pub fn prepare_signals() -> io::Result<()> {
    for ignored in [libc::SIGXFSZ, libc::SIGUSR2] {
        // SAFETY: SIG_IGN is a disposition every signal but SIGKILL and SIGSTOP accepts; no handler
        // of ours is replaced, since none is ever set for these two.
        if unsafe { libc::signal(ignored, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    let handled = [
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGQUIT,
        libc::SIGHUP,
        libc::SIGUSR1,
    ];
    // SAFETY: a sigset_t is plain data for which all zeroes is a valid value; sigemptyset and
    // sigaddset write only to the set they are given; the old mask is not asked for (null).
    let blocked = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGBUS);
        for signal in handled {
            libc::sigaddset(&mut set, signal);
        }
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut())
    };
    if blocked == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The descriptors this process was started with, except the standard streams.
#[derive(Debug)]
pub struct Inherited(Vec<RawFd>);

impl Inherited {
    /// The descriptors that are open now. `main` calls this before it opens any, so no code of this process owns them.
    ///
    /// # Errors
    /// Those of reading /proc/self/fd.
    pub fn list() -> io::Result<Self> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let number = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<RawFd>().ok());
            numbers.extend(number.filter(|number| *number > libc::STDERR_FILENO));
        }
        // SAFETY: F_GETFD takes an integer and changes nothing.
        numbers.retain(|number| unsafe { libc::fcntl(*number, libc::F_GETFD) } >= 0); // Without the descriptor of the listing itself.
        Ok(Self(numbers))
    }

    /// Closes all except those for which `keep` is true. This releases the parent's locks on them, and lets a reader at the
    /// other end see the end.
    pub fn close(self, keep: impl Fn(RawFd) -> bool) {
        for number in self.0.into_iter().filter(|number| !keep(*number)) {
            // SAFETY: close takes an integer. Nothing in this process owns the descriptor: it was open before anything
            // here was opened, and has been open since, so its number was given to nobody else.
            unsafe { libc::close(number) };
        }
    }
}

/// A duplicate of a descriptor known by number, which another program left open for this one.
///
/// # Errors
/// EBADF if no descriptor has that number.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes integers only and leaves the original as it is.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// ioctl(FUSE_DEV_IOC_CLONE): connects `fresh`, a newly opened /dev/fuse, to the connection of `session`.
///
/// # Errors
/// EINVAL if the two come from different user namespaces, or `fresh` is connected already.
pub fn clone_fuse_device(fresh: impl AsFd, session: impl AsFd) -> Result<(), Errno> {
    /// `_IOR(229, 0, uint32_t)` of linux/fuse.h.
    const FUSE_DEV_IOC_CLONE: Opcode = opcode::read::<u32>(229, 0);
    let session = session.as_fd().as_raw_fd() as u32;
    // SAFETY: this request reads one u32, whatever the direction in its number says.
    unsafe { ioctl(fresh, Setter::<FUSE_DEV_IOC_CLONE, u32>::new(session)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forking_beside_other_threads_is_refused() {
        // The test harness runs each test in a thread of its own.
        assert_eq!(fork().unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_closed_descriptor_cannot_be_duplicated() {
        assert_eq!(
            duplicate(987_654).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
    }
}
