//! fusermount3, the set-user-ID program that mounts and unmounts for ordinary users.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::mount_options::MountOptions;
use crate::refusal::StartError;
use crate::sys::passing;

const PROGRAM: &str = "fusermount3";

/// Mounts. The first result is the session's /dev/fuse. The second result is a socket, with `--auto-unmount`. fusermount3 unmounts
/// when that socket is closed, at the latest when this process ends.
///
/// # Errors
/// fusermount3 is missing, or refuses.
pub fn mount(options: &MountOptions) -> Result<(OwnedFd, Option<OwnedFd>), StartError> {
    let (ours, mut child) = start(options).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StartError::HelperMissing,
        _ => StartError::Helper(format!("it cannot be run: {error}")),
    })?;
    // The /dev/fuse that fusermount3 has mounted. If fusermount3 refuses, it ends without sending one.
    let Some(device) = passing::receive(&ours) else {
        return Err(refusal(child));
    };
    if options.auto_unmount {
        return Ok((device, Some(ours)));
    }
    // fusermount3 ends now. An error means that it has been reaped already.
    let _ = child.wait();
    Ok((device, None))
}

/// Unmounts. With `lazy`, a busy mount is detached.
///
/// # Errors
/// fusermount3 cannot be run, or refuses, for example because the mount is busy.
pub fn unmount(mount_point: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new(PROGRAM);
    command
        .arg("-u")
        .args(lazy.then_some("-z"))
        .arg("--")
        .arg(mount_point);
    let output = command.stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(last_line(&output.stderr))),
    }
}

fn start(options: &MountOptions) -> io::Result<(OwnedFd, Child)> {
    let stream = SocketType::STREAM;
    // `theirs` has no CLOEXEC, because fusermount3 inherits it. No other thread exists that could run another program.
    let (ours, theirs) = socketpair(AddressFamily::UNIX, stream, SocketFlags::empty(), None)?;
    fcntl_setfd(&ours, FdFlags::CLOEXEC)?;
    let child = Command::new(PROGRAM)
        .arg("-o")
        .arg(options.for_fusermount())
        .arg("--")
        .arg(&options.mount_point)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok((ours, child))
}

fn refusal(child: Child) -> StartError {
    match child
        .wait_with_output()
        .map(|output| last_line(&output.stderr))
    {
        Ok(words) if words.contains("user_allow_other") => StartError::OthersForbidden,
        Ok(words) if words.is_empty() => StartError::Helper("it gave no reason".into()),
        Ok(words) => StartError::Helper(words),
        Err(error) => StartError::Helper(error.to_string()),
    }
}

/// The last line of fusermount3's output, without the program's name.
fn last_line(output: &[u8]) -> String {
    let output = String::from_utf8_lossy(output);
    let line = output
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default()
        .trim();
    let (_, words) = line.split_once(": ").unwrap_or(("", line));
    words.into()
}
