//! Background start: the parent exits when the mount answers, or prints why it does not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::RawFd;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use crate::config::Config;
use crate::refusal::{ExitCode, StartError};
use crate::session::device;
use crate::sys::process::{self, Inherited};
use crate::{init, logging, service};

/// The byte that the child sends when the mount answers. If the mount fails, the child sends the sentence of the error.
const MOUNT_ANSWERS: u8 = 0;

/// Tells the parent process, if there is one, that the mount answers.
#[derive(Debug)]
pub struct Ready {
    parent: Option<File>,
    /// The daemon goes on to write log lines to the terminal.
    keeps_terminal: bool,
}

impl Ready {
    /// Tells the parent that the mount of `config` answers. After this, nothing is written to the terminal, unless the daemon
    /// ends with its parent.
    ///
    /// # Errors
    /// The parent has ended, so it has reported a failure.
    pub fn announce(&mut self, config: &Config) -> Result<(), StartError> {
        let Some(mut parent) = self.parent.take() else {
            return Ok(());
        };
        if !self.keeps_terminal {
            logging::leave_terminal(&config.source, &config.mount_point);
            // Standard input is /dev/null. It is not opened again, because our own mount may cover /dev/null.
            let replaced = rustix::stdio::dup2_stderr(rustix::stdio::stdin());
            replaced.map_err(|errno| StartError::System("leave the terminal", errno.into()))?;
        }
        let gone = |_| StartError::Background("interrupted before the mount answered".into());
        parent.write_all(&[MOUNT_ANSWERS]).map_err(gone)
    }
}

/// Runs `serve` in the foreground, or in a background process while this one waits for the mount to answer. The background
/// process closes the descriptors that it inherited, except those named by `config` or passed by systemd.
/// No thread may exist yet.
///
/// # Errors
/// In the foreground those of `serve`. Otherwise the error that the background process sent before its mount answered.
pub fn start(
    config: &Config,
    inherited: io::Result<Inherited>,
    serve: impl FnOnce(&mut Ready) -> Result<(), StartError>,
) -> Result<(), StartError> {
    if init::is_first() {
        // Process 1 must stay: when it ends, the kernel ends its container.
        init::fork_and_supervise()
            .map_err(|error| StartError::System("start the daemon", error))?;
    } else if !config.foreground {
        let inherited = inherited.map_err(|error| StartError::System("list descriptors", error))?;
        let of_systemd = service::passed();
        let named = [Some(&config.mount_point), config.log.file.as_ref()];
        let named = named.map(|path| path.and_then(|path| device::passed_number(path)));
        let is_ours = |number: RawFd| named.contains(&Some(number)) || of_systemd.contains(&number);
        return in_background(|| inherited.close(is_ours), false, serve).map(drop);
    }
    serve(&mut Ready {
        parent: None,
        keeps_terminal: true,
    })
}

/// Runs `serve` in a background process, which gets SIGTERM when this one ends. Returns its id when the mount answers. It closes
/// all descriptors of `inherited`, and logs to standard error. No thread may exist yet.
///
/// # Errors
/// The error that the background process sent before its mount answered.
pub fn start_bound(
    inherited: Inherited,
    serve: impl FnOnce(&mut Ready) -> Result<(), StartError>,
) -> Result<Pid, StartError> {
    let begin = || {
        inherited.close(|_| false);
        // It cannot fail: the signal exists. If the parent has ended before, `Ready::announce` fails.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
    };
    in_background(begin, true, serve)
}

fn in_background(
    begin: impl FnOnce(),
    keeps_terminal: bool,
    serve: impl FnOnce(&mut Ready) -> Result<(), StartError>,
) -> Result<Pid, StartError> {
    let failed = |error: io::Error| StartError::System("go to the background", error);
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    match process::fork().map_err(failed)? {
        Some(child) => {
            drop(writer);
            wait_for(child, File::from(reader)).map(|()| child)
        }
        None => {
            drop(reader);
            begin();
            let ready = Ready {
                parent: Some(File::from(writer)),
                keeps_terminal,
            };
            run_daemon(ready, serve)
        }
    }
}

fn wait_for(child: Pid, mut reader: File) -> Result<(), StartError> {
    let mut first = [0];
    match reader.read(&mut first) {
        Ok(1) if first[0] == MOUNT_ANSWERS => return Ok(()),
        Ok(1) => {}
        _ => return Err(StartError::Background(how_it_ended(child))),
    }
    let mut sentence = first.to_vec();
    // If the read fails, the part of the sentence that has been read is printed.
    let _ = reader.read_to_end(&mut sentence);
    Err(StartError::Background(
        String::from_utf8_lossy(&sentence).into_owned(),
    ))
}

/// How a child ended that has sent no byte.
fn how_it_ended(child: Pid) -> String {
    let waited =
        rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()));
    let signal = waited
        .ok()
        .flatten()
        .and_then(|(_, status): (_, WaitStatus)| status.terminating_signal());
    match signal {
        Some(signal) => format!("killed by signal {signal} before the mount answered"),
        None => "the background process ended before the mount answered".into(),
    }
}

/// The child. It never returns to `main`: its errors go to its parent or to the log.
fn run_daemon(mut ready: Ready, serve: impl FnOnce(&mut Ready) -> Result<(), StartError>) -> ! {
    let result = detach()
        .map_err(|error| StartError::System("go to the background", error))
        .and_then(|()| serve(&mut ready));
    let Err(error) = result else {
        std::process::exit(ExitCode::Success as i32);
    };
    match ready.parent {
        // The write fails if the parent has ended. Then there is no reader.
        Some(mut parent) => drop(parent.write_all(error.to_string().as_bytes())),
        None => log::error!("{error}"),
    }
    std::process::exit(error.exit_code() as i32)
}

/// Starts a new session and leaves the working directory. Standard error stays open, at least until the mount answers.
fn detach() -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    let null = open_null()?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

fn open_null() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}
