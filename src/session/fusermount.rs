//! fusermount3, the set-user-ID program that mounts and unmounts for ordinary users.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use crate::config::{Access, Config};
use crate::refusal::StartError;

const PROGRAM: &str = "fusermount3";

/// Mounts. Besides the session's /dev/fuse, for `--auto-unmount`: the socket whose closing (with our
/// end, whichever that is) makes fusermount3 unmount.
///
/// # Errors
/// fusermount3 is missing, or its refusal.
pub fn mount(config: &Config) -> Result<(OwnedFd, Option<OwnedFd>), StartError> {
    let (ours, mut child) = start(config).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StartError::HelperMissing,
        _ => StartError::Helper(format!("it cannot be run: {error}")),
    })?;
    let Some(device) = receive_descriptor(&ours) else {
        return Err(refusal(child));
    };
    if config.auto_unmount {
        return Ok((device, Some(ours)));
    }
    // It has nothing more to do; an error of waiting would only mean that somebody else has waited.
    let _ = child.wait();
    Ok((device, None))
}

/// Unmounts, detaching a busy mount when `lazy`.
///
/// # Errors
/// fusermount3 cannot be run, or its refusal (a busy mount, above all).
pub fn unmount(mount_point: &Path, lazy: bool) -> io::Result<()> {
    let mut command = Command::new(PROGRAM);
    command
        .args(["-u", "-q"])
        .args(lazy.then_some("-z"))
        .arg("--")
        .arg(mount_point);
    let output = command.stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(last_line(&output.stderr))),
    }
}

fn start(config: &Config) -> io::Result<(OwnedFd, Child)> {
    let stream = SocketType::STREAM;
    // `theirs` is to outlive exec, and no other thread exists that could exec something else.
    let (ours, theirs) = socketpair(AddressFamily::UNIX, stream, SocketFlags::empty(), None)?;
    fcntl_setfd(&ours, FdFlags::CLOEXEC)?;
    let child = Command::new(PROGRAM)
        .arg("-o")
        .arg(options(config))
        .arg("--")
        .arg(&config.mount_point)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok((ours, child))
}

fn options(config: &Config) -> OsString {
    let flags = &config.flags;
    let switches = [
        (true, "default_permissions"),
        (config.access != Access::Owner, "allow_other"),
        (config.auto_unmount, "auto_unmount"),
        (flags.read_only, "ro"),
        (flags.no_exec, "noexec"),
        (!flags.no_suid, "suid"),
        (!flags.no_dev, "dev"),
        (flags.no_atime, "noatime"),
        (flags.sync, "sync"),
        (flags.dir_sync, "dirsync"),
    ];
    let mut list = [b"fsname=", escape(&config.fsname).as_slice()].concat();
    list.extend([b",subtype=", escape(&config.subtype).as_slice()].concat());
    for (_, name) in switches.iter().filter(|(on, _)| *on) {
        list.extend([b",", name.as_bytes()].concat());
    }
    OsString::from_vec(list)
}

fn escape(value: &OsStr) -> Vec<u8> {
    let special = |byte| matches!(byte, b',' | b'\\');
    let bytes = value.as_bytes().iter();
    bytes
        .flat_map(|&byte| special(byte).then_some(b'\\').into_iter().chain([byte]))
        .collect()
}

/// The /dev/fuse that fusermount3 has mounted; `None` when it ended without sending one.
fn receive_descriptor(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            flags,
        )
    })
    .ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    })
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

/// The last thing it said, without its name before it.
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
