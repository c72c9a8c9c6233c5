//! Process 1 of a container: passes signals on to the mmfs that it starts, and reaps every other process that becomes
//! its child.

use std::convert::Infallible;
use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, setpgid, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::sys::process;

/// Whether we are process 1 of our container.
pub fn is_first() -> bool {
    getpid().is_init()
}

/// Forks. Returns in the child, which is to serve; the parent supervises it and exits with its code. The kernel
/// delivers no signal without a handler to process 1 and makes it the parent of every orphan. No thread may exist yet.
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
    // A terminal's Ctrl-C then reaches only us, and is passed on once. EACCES and ESRCH: the child has ended already.
    let _ = setpgid(Some(child), None);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGCHLD])?;
    loop {
        if let Some(status) = reap(child)? {
            std::process::exit(exit_code(status));
        }
        for signal in signals.wait() {
            if let Some(signal) = Signal::from_named_raw(signal).filter(|s| *s != Signal::CHILD) {
                // A child that has just ended is reaped next.
                let _ = kill_process(child, signal);
            }
        }
    }
}

/// Reaps every child that has ended. Returns the status of `child`, if it is one of them.
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

/// The exit code by a shell's rule: 128 and the signal's number for a child killed by a signal.
fn exit_code(status: WaitStatus) -> i32 {
    let signal = status.terminating_signal().unwrap_or_default();
    status.exit_status().unwrap_or(128 + signal)
}
