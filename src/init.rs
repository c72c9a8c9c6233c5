//! Process 1 of a container: passes signals on to the mmfs that it starts, and reaps whatever else
//! ends up as its child.

use std::convert::Infallible;
use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, setpgid, wait};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::sys::process;

/// Whether we are process 1 of our container.
pub fn is_first() -> bool {
    getpid().is_init()
}

/// Returns in the child that is to serve. The kernel keeps signals without a handler from process 1
/// and makes it the parent of every orphan, so it does nothing but this. No thread may exist yet.
///
/// # Errors
/// What fork(2) and signal handling say.
pub fn stand_by() -> io::Result<()> {
    match process::fork()? {
        None => Ok(()),
        Some(child) => match look_after(child)? {},
    }
}

fn look_after(child: Pid) -> io::Result<Infallible> {
    // A terminal's Ctrl-C is for us to pass on, once. EACCES and ESRCH: the child has ended already.
    let _ = setpgid(Some(child), None);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD])?;
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

/// Takes every ended child's status; that of `child` is the answer.
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

/// As a shell tells it.
fn exit_code(status: WaitStatus) -> i32 {
    let signal = status.terminating_signal().unwrap_or_default();
    status.exit_status().unwrap_or(128 + signal)
}
