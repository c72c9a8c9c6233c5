//! Running commands, and waiting for things.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Runs the command to its end; shows everything it said and fails the test when it did not succeed.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = output_of(command);
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs the command to its end, whatever that is.
#[track_caller]
pub fn output_of(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output();
    output.unwrap_or_else(|e| {
        panic!("cannot start {command:?}: {e} (scripts/test installs the tools)")
    })
}

/// Runs a piece of shell, its arguments as `$1`, `$2`, ..., and returns what it printed.
#[track_caller]
pub fn sh(script: &str, arguments: &[&OsStr]) -> String {
    let mut shell = Command::new("bash");
    shell
        .args(["-euo", "pipefail", "-c", script, "sh"])
        .args(arguments);
    String::from_utf8_lossy(&run(&mut shell).stdout).into_owned()
}

/// Where an executable of this name is, on the PATH or in the directories of administrators' tools.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places
        .map(|place| place.join(name))
        .find(|file| file.is_file())
}

/// The tool's path; a tool that is missing fails the test.
#[track_caller]
pub fn tool(name: &str) -> PathBuf {
    find_tool(name).unwrap_or_else(|| panic!("{name} is not installed (scripts/test installs it)"))
}

/// Asks again and again until the answer is yes; false when the time is over.
pub fn wait_until(limit: Duration, mut question: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if question() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How long an unmount may find a filesystem busy that the test has just used: a process that another test starts has copies
/// of its descriptors until it executes its program.
pub const BUSY: Duration = Duration::from_secs(2);

/// Unmounts a filesystem that the test has just used. What it takes to unmount a mount of mmfs is [`super::Mount`]'s.
///
/// # Errors
/// What umount(8) says.
pub fn unmount_idle(point: &Path) -> Result<(), String> {
    let mut reason = String::new();
    let gone = wait_until(BUSY, || {
        let output = output_of(Command::new("umount").arg(point));
        reason = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success()
    });
    if gone { Ok(()) } else { Err(reason) }
}

/// The file's text, or nothing.
pub fn text_of(file: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()).into_owned()
}
