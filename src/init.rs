//! Process 1 of a container. It starts the daemon as its child, forwards signals to it, and reaps the orphans of the container.

use std::convert::Infallible;
use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, setpgid, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::sys::process;

/// Whether this is process 1 of its pid namespace.
pub fn is_first() -> bool {
    getpid().is_init()
}

/// Forks and returns in the child, which becomes the daemon. The parent supervises it and exits with its code. The kernel
/// delivers a signal to process 1 only if it has a handler, and makes process 1 the parent of every orphan. No thread may
/// exist yet.
///
/// # Errors
/// Those of fork(2) and of signal handling.
pub fn fork_and_supervise() -> io::Result<()> {
    match process::fork()? {
        None => Ok(()),
        Some(child) => match supervise(child)? {},
    }
}

fn supervise(child: Pid) -> io::Result<Infallible> {
    // Ctrl-C on a terminal then reaches the parent only, which forwards it once. EACCES and ESRCH: the child has ended already.
    let _ = setpgid(Some(child), None);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGCHLD])?;
    loop {
        if let Some(status) = reap(child)? {
            std::process::exit(exit_code(status));
        }
        for signal in signals.wait() {
            if let Some(signal) = Signal::from_named_raw(signal).filter(|s| *s != Signal::CHILD) {
                // An error means that the child has just ended. The loop reaps it next.
                let _ = kill_process(child, signal);
            }
        }
    }
}

/// Reaps all children that have ended. Returns the status of `child` if it has ended.
fn reap(child: Pid) -> Result<Option<WaitStatus>, Errno> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => return Ok(Some(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Ok(None),
            Err(errno) => return Err(errno),
        }
    }
}

/// The exit code as a shell reports it: 128 plus the signal's number for a child that was killed by a signal.
fn exit_code(status: WaitStatus) -> i32 {
    let signal = status.terminating_signal().unwrap_or_default();
    status.exit_status().unwrap_or(128 + signal)
}
