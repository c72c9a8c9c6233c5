//! SIGSTOP, until it has its effect.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Stops all threads of the process. The signal reaches one thread, and stops the others when that one runs: until then they go on.
///
/// # Panics
/// If they go on for ten seconds.
#[track_caller]
pub fn stop(pid: Pid) {
    kill_process(pid, Signal::STOP).expect("a process");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_stopped(pid) {
        assert!(Instant::now() < deadline, "{pid:?} does not stop");
        sleep(Duration::from_millis(1));
    }
}

fn is_stopped(pid: Pid) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid()));
    tasks.expect("a process").flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(") ").next();
        state.is_some_and(|rest| rest.starts_with('T'))
    })
}
