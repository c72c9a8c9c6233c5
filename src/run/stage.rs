//! The process that becomes the command. It enters a mount namespace of its own and mounts the view there, which the daemon serves.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, WaitOptions};

use crate::config::Config;
use crate::refusal::{ExitCode, StartError};
use crate::session;
use crate::sys::child::die_with_parent;
use crate::sys::{passing, process};
use crate::terminal::for_shell;

/// The process, as long as it waits for the daemon.
#[derive(Debug)]
pub struct Stage {
    /// Later the command's.
    pub pid: Pid,
    /// The view's /dev/fuse.
    pub device: OwnedFd,
    socket: UnixStream,
}

impl Stage {
    /// Starts the process, which mounts the view of `config`. It shows an empty directory in place of `covered`. No thread may
    /// exist yet.
    ///
    /// # Errors
    /// The sentence that says why the view cannot be mounted.
    pub fn start(
        config: &Config,
        command: &[OsString],
        covered: Option<&Path>,
    ) -> Result<Self, StartError> {
        let failed = |error| StartError::System("start the command", error);
        let (mut socket, theirs) = UnixStream::pair().map_err(failed)?;
        let parent = rustix::process::getpid();
        let Some(pid) = process::fork().map_err(failed)? else {
            drop(socket);
            die_with_parent();
            let code = match rustix::process::getppid() == Some(parent) {
                true => become_command(theirs, config, command, covered),
                false => ExitCode::RunFailed,
            };
            process::exit_at_once(code as i32);
        };
        drop(theirs);
        if let Some(device) = passing::receive(&socket) {
            let stage = Self {
                pid,
                device,
                socket,
            };
            return Ok(stage);
        }
        let mut sentence = String::new();
        let _ = socket.read_to_string(&mut sentence); // what was read is printed
        reap(pid);
        Err(match sentence.is_empty() {
            true => failed(ErrorKind::Interrupted.into()),
            false => StartError::Verb(sentence),
        })
    }

    /// Lets the process run the command.
    ///
    /// # Errors
    /// It has ended.
    pub fn go(mut self) -> Result<(), StartError> {
        let told = self.socket.write_all(&[0]);
        told.map_err(|error| StartError::System("start the command", error))
    }

    /// Ends the process.
    pub fn cancel(self) {
        let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::KILL);
        reap(self.pid);
    }
}

/// Waits for the end of a process, which must be there.
fn reap(pid: Pid) {
    let ended = || rustix::process::waitpid(Some(pid), WaitOptions::empty());
    let _ = rustix::io::retry_on_intr(ended);
}

/// Returns only if the command was not run.
fn become_command(
    mut parent: UnixStream,
    config: &Config,
    command: &[OsString],
    covered: Option<&Path>,
) -> ExitCode {
    let sent = enter(config).and_then(|device| {
        let sent = passing::send(&parent, device);
        sent.map_err(|errno| StartError::System("pass /dev/fuse on", errno.into()))
    });
    if let Err(error) = sent {
        // The first byte is that which would come with the descriptor. An error means that nobody reads it.
        let _ = parent.write_all(format!("0{error}").as_bytes());
        return ExitCode::RunFailed;
    }
    if !matches!(parent.read(&mut [0]), Ok(1)) {
        return ExitCode::RunFailed; // The view does not answer, which the parent says.
    }
    drop(parent);
    let ready = covered.map_or(Ok(()), cover);
    if let Err(error) = ready.and_then(|()| step_into(&config.source)) {
        let _ = error.print();
        return ExitCode::RunFailed;
    }
    let Some((program, arguments)) = command.split_first() else {
        return ExitCode::RunFailed;
    };
    let error = Command::new(program).args(arguments).exec();
    let program = for_shell(program);
    let refusal = StartError::Verb(format!("the command {program} cannot be run: {error}"));
    let _ = refusal.print();
    match error.kind() {
        ErrorKind::NotFound => ExitCode::CommandNotFound,
        _ => ExitCode::CommandNotRun,
    }
}

/// Enters a mount namespace, mounts the view there, and returns its /dev/fuse.
fn enter(config: &Config) -> Result<OwnedFd, StartError> {
    let forbidden = |errno: Errno| {
        StartError::Verb(format!(
            "no mount namespace can be made: {errno}; where ordinary users may make no user namespaces, ask for that \
             (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns), or run mmfs as root \
             (in a container: start it with --cap-add SYS_ADMIN)"
        ))
    };
    process::leave_namespaces().map_err(forbidden)?;
    // Mounts and unmounts of others are seen here, and the view is seen by nobody else.
    let from_others = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", from_others).map_err(forbidden)?;
    // Entering a user namespace may have ended it.
    die_with_parent();
    session::mount_for_another(config)
}

/// Shows an empty directory, which cannot be changed, in place of the store.
fn cover(store: &Path) -> Result<(), StartError> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    let covered = mount(
        "mmfs",
        store,
        "tmpfs",
        flags,
        Some(c"mode=0700,nr_blocks=1"),
    );
    covered.map_err(|errno| StartError::System("cover the store", errno.into()))
}

/// Changes to the view's root.
fn step_into(place: &Path) -> Result<(), StartError> {
    let device = || rustix::fs::stat(".").map(|found| found.st_dev);
    let changed = device().and_then(|before| {
        rustix::process::chdir(place)?;
        Ok(before != device()?)
    });
    let failed = |error| StartError::System("change to the view", error);
    match changed {
        Ok(true) => Ok(()),
        Ok(false) => Err(failed(io::Error::other("the directory was moved"))),
        Err(errno) => Err(failed(errno.into())),
    }
}
