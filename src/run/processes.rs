//! The processes of a run: the command, what it leaves behind, and the daemon.

use std::fs;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper,
    test_kill_process_group, wait,
};
use rustix::termios::{tcgetpgrp, tcsetpgrp};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::refusal::{self, ExitCode, StartError};
use crate::sys::process;

/// How long processes that the command has left behind may take to end after SIGTERM.
const TERMINATION: Duration = Duration::from_secs(2);
/// How long they may take after SIGKILL. One that waits for a device cannot be ended.
const KILL: Duration = Duration::from_secs(5);
/// How long the view may be in use by processes that are not the command's.
const OTHERS: Duration = Duration::from_secs(10);
/// Signals that end mmfs, too.
const ENDS: [i32; 2] = [SIGTERM, SIGHUP];
/// Signals of keys. They end mmfs when the command has ended.
const KEYS: [i32; 2] = [SIGINT, SIGQUIT];
const MIN_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// The children of this process.
#[derive(Debug)]
pub struct Processes {
    command: Pid,
    daemon: Pid,
    /// How the daemon has ended.
    daemon_status: Option<WaitStatus>,
    signals: Signals,
    /// A terminal can stop and continue the command.
    has_terminal: bool,
    /// Somebody wants mmfs to end.
    is_to_end: bool,
}

impl Processes {
    /// From now on, processes whose parent ends become children of this one.
    ///
    /// # Errors
    /// Those of prctl(2).
    pub fn adopt_orphans() -> Result<(), StartError> {
        let adopted = set_child_subreaper(Some(getpid()));
        adopted.map_err(|errno| StartError::System("adopt processes", errno.into()))
    }

    /// From now on, no signal ends this process that the command may handle.
    ///
    /// # Errors
    /// Those of sigaction(2).
    pub fn new(command: Pid, daemon: Pid) -> Result<Self, StartError> {
        let handled = [SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2];
        // nohup(1) has SIGHUP ignored, for this process and for the command.
        let handled = handled
            .iter()
            .filter(|signal| !process::is_ignored(**signal));
        let signals = Signals::new(handled.chain([&SIGCHLD]));
        Ok(Self {
            command,
            daemon,
            daemon_status: None,
            signals: signals.map_err(|error| StartError::System("handle signals", error))?,
            has_terminal: tcgetpgrp(io::stdin()).is_ok() || tcgetpgrp(io::stderr()).is_ok(),
            is_to_end: false,
        })
    }

    /// Waits for the command, and passes signals on to it. Returns its exit code, or 128 and the number of the signal that killed it.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn wait_for_command(&mut self) -> Result<u8, StartError> {
        loop {
            if let Some(status) = self.reap()? {
                let signal = status.terminating_signal().unwrap_or_default();
                let code = status.exit_status().unwrap_or(128 + signal);
                // SIGINT and SIGQUIT until now were for the command.
                let came: Vec<i32> = self.signals.pending().collect();
                self.is_to_end |= came.iter().any(|signal| ENDS.contains(signal));
                return Ok(code.try_into().unwrap_or(ExitCode::RunFailed as u8));
            }
            for signal in self.signals.wait() {
                self.is_to_end |= ENDS.contains(&signal);
                // The terminal sends SIGINT and SIGQUIT to all processes of the group, so the command has them.
                let passed = [SIGTERM, SIGHUP, SIGUSR1, SIGUSR2].contains(&signal);
                if let Some(signal) = Signal::from_named_raw(signal).filter(|_| passed) {
                    // An error means that the command has just ended.
                    let _ = kill_process(self.command, signal);
                }
            }
        }
    }

    /// Reaps all children that have ended. Returns the status of the command if it has ended.
    fn reap(&mut self) -> Result<Option<WaitStatus>, StartError> {
        let mut ended = None;
        loop {
            match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) if status.stopped() => self.stopped(pid),
                Ok(Some((pid, status))) if pid == self.command => ended = Some(status),
                Ok(Some((pid, status))) if pid == self.daemon => self.daemon_status = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) | Err(Errno::CHILD) => return Ok(ended),
                Err(errno) => {
                    return Err(StartError::System("wait for the command", errno.into()));
                }
            }
        }
    }

    /// If the command has stopped itself, its parent stops, too: the shell then has the terminal. Both go on together.
    fn stopped(&self, pid: Pid) {
        if pid == self.command && self.has_terminal {
            let _ = kill_process(getpid(), Signal::STOP);
            let _ = kill_process(pid, Signal::CONT);
        }
    }

    /// Ends processes that the command has left behind, so that the view is at rest, and waits for the daemon, which ends when the
    /// view is gone: until then it writes to the store.
    ///
    /// # Errors
    /// The sentence for a daemon that did not end by itself.
    pub fn end_view(&mut self) -> Result<(), StartError> {
        let (began, mut asked, mut is_told) = (Instant::now(), Vec::new(), false);
        loop {
            let elapsed = began.elapsed();
            let left = self.end_left(elapsed, &mut asked);
            self.reap()?;
            match self.daemon_status {
                Some(_) if left && elapsed < TERMINATION + KILL => {}
                Some(status) if status.exit_status() == Some(0) => return Ok(()),
                Some(status) => return Err(daemon_failed(status)),
                None => {}
            }
            let is_late = !is_told && elapsed > OTHERS;
            if is_late {
                refusal::note("a process that the command did not start still uses the view");
                is_told = true;
            }
            if self.is_asked_to_end() || is_late {
                let _ = kill_process(self.daemon, Signal::TERM);
            }
            // Most daemons end at once.
            sleep((elapsed / 4).clamp(MIN_PAUSE, MAX_PAUSE));
        }
    }

    /// Sends signals to the processes in the command's namespace that are left. Returns whether there are any.
    fn end_left(&self, elapsed: Duration, asked: &mut Vec<Pid>) -> bool {
        let mut is_any = false;
        for pid in children().filter(|pid| is_inside(*pid)) {
            is_any = true;
            // Errors mean that it has just ended.
            if elapsed >= TERMINATION {
                let _ = kill_process(pid, Signal::KILL);
            } else if !asked.contains(&pid) {
                let _ = kill_process(pid, Signal::TERM);
                let _ = kill_process(pid, Signal::CONT);
                asked.push(pid);
            }
        }
        is_any
    }

    /// Whether one of the signals that end a program has come since the last time.
    fn is_asked_to_end(&mut self) -> bool {
        let came: Vec<i32> = self.signals.pending().collect();
        let ends = |signal| ENDS.contains(signal) || KEYS.contains(signal);
        let is_asked = came.iter().any(ends);
        self.is_to_end |= is_asked;
        is_asked
    }

    /// Whether somebody wants mmfs to end.
    pub fn is_to_end(&mut self) -> bool {
        self.is_asked_to_end() || self.is_to_end
    }

    /// Takes the terminal back if a shell had it that was killed.
    pub fn take_terminal() {
        let group = tcgetpgrp(io::stdin());
        if group.is_ok_and(|group| test_kill_process_group(group) == Err(Errno::SRCH)) {
            process::ignore_terminal_output();
            let _ = tcsetpgrp(io::stdin(), rustix::process::getpgrp());
        }
    }
}

fn daemon_failed(status: WaitStatus) -> StartError {
    let how = match (status.terminating_signal(), status.exit_status()) {
        (Some(signal), _) => format!("it was killed by signal {signal}"),
        (_, code) => format!("it ended with exit code {}", code.unwrap_or_default()),
    };
    StartError::Verb(format!("the daemon of the view did not end well: {how}"))
}

/// The children of this process.
fn children() -> impl Iterator<Item = Pid> {
    let parent = getpid();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(move |number: i32| {
        let stat = fs::read(format!("/proc/{number}/stat")).ok()?;
        (parent_in(&stat)? == parent.as_raw_pid()).then_some(Pid::from_raw(number)?)
    })
}

/// Whether a process is in another mount namespace than this one. The daemon is not, nor are children of the program that became
/// mmfs. What may not be asked is another user's, and one that is ending has none.
fn is_inside(pid: Pid) -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    namespace(&pid.to_string()).is_some_and(|found| Some(found) != namespace("self"))
}

/// The parent's id in the text of /proc/PID/stat: "12 (a name) with blanks) S 1 ...".
fn parent_in(stat: &[u8]) -> Option<i32> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parent_in;

    #[test]
    fn a_name_may_have_blanks_and_parentheses() {
        assert_eq!(parent_in(b"12 (a) S 7 8 (b\xff) R 34 12 0"), Some(34));
        assert_eq!(parent_in(b""), None);
    }
}
