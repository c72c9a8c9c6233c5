//! Mounting, serving, and unmounting at the end.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use fuser::{Filesystem, Session, SessionACL};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::answering::Answering;
use super::mount::{Mounted, Unmounted};
use super::{device, disconnect, probe};
use crate::config::{Access, Config};
use crate::dispatch::event_loops;
use crate::pid_file::PidFile;
use crate::refusal::{ExitCode, StartError};
use crate::report::Feature;
use crate::service;
use crate::sys::process;

/// How long the open files of a detached mount are served.
const DETACHED_TIMEOUT: Duration = Duration::from_secs(30);

/// How long event loops may take to end once the mount is gone.
const DISCONNECTED_TIMEOUT: Duration = Duration::from_millis(300);

/// How long the program may take to end by itself after a second signal.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the removal of the PID file is waited for: its filesystem may not answer.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(3);

/// How far the kernel reads ahead in files of the mount, in KiB.
const READ_AHEAD_KIB: u32 = 256;

/// Lets the kernel ask for larger pieces, and for several at a time; its default of 128 KiB bounds what a first
/// sequential read can reach. INIT can lower that only.
fn raise_read_ahead(device: Option<u64>) -> Feature {
    let Some(device) = device else {
        let note = "as the kernel has it: the device of this mount is unknown before Linux 6.17";
        return Feature::new("read-ahead", false, note);
    };
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    match std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        Ok(()) => Feature::new("read-ahead", true, format!("{READ_AHEAD_KIB} KiB")),
        Err(error) => {
            log::debug!("{path} stays as it is: {error}");
            Feature::new(
                "read-ahead",
                false,
                format!("as the kernel has it: {error}"),
            )
        }
    }
}

enum Event {
    /// A signal asks for the end of the session.
    Terminate,
    /// The mount is gone. Event loops may still be at work.
    Disconnected,
    /// The event loops have ended: the mount is gone.
    Ended(io::Result<()>),
}

/// Mounts, and serves `filesystem` until the mount is gone. `answering` is called once the mount
/// answers; no thread exists before. SIGUSR1 calls `report`, on a thread of its own. The PID file is there for
/// longer than the mount.
///
/// # Errors
/// The sentence for why nothing could be mounted, or why the session ended early.
pub fn serve(
    config: &Config,
    filesystem: impl Filesystem,
    answering: impl FnOnce(Answering) -> Result<(), StartError>,
    report: impl Fn() + Send + Sync + 'static,
) -> Result<(), StartError> {
    let pid_file = config.pid_file.as_deref();
    let pid_file = pid_file.map(|path| PidFile::prepare(path).map_err(refused(path)));
    let controls = Controls {
        report: Report::new(report),
        pid_file: pid_file.transpose()?.map(Arc::new),
    };
    let pid_file = controls.pid_file.clone();
    let result = mount_and_serve(config, filesystem, answering, controls);
    if let Err(error) = remove(pid_file) {
        log::warn!("the PID file stays: {error}");
    }
    result
}

fn refused(path: &Path) -> impl Fn(io::Error) -> StartError {
    move |error| StartError::PidFile(path.into(), error)
}

/// Removes the PID file. A filesystem that does not answer must not keep us: we hold the source until we have ended. Nothing is
/// logged where it does not: the log may lie there, too.
fn remove(pid_file: Option<Arc<PidFile>>) -> io::Result<()> {
    let Some(pid_file) = pid_file else {
        return Ok(());
    };
    let (tell, removed) = channel();
    let work = move || {
        // Nothing receives it once the time is over.
        let _ = tell.send(pid_file.remove_by_another());
    };
    thread::Builder::new().name("pid file".into()).spawn(work)?;
    removed.recv_timeout(REMOVAL_TIMEOUT).unwrap_or(Ok(()))
}

fn mount_and_serve(
    config: &Config,
    filesystem: impl Filesystem,
    answering: impl FnOnce(Answering) -> Result<(), StartError>,
    controls: Controls,
) -> Result<(), StartError> {
    let system = |what| move |error| StartError::System(what, error);
    process::prepare_signals().map_err(system("prepare signals"))?;
    let handled = [SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1];
    let signals = Signals::new(handled).map_err(system("handle signals"))?;
    let (mounted, device) = Mounted::new(config)?;
    let connection = device
        .try_clone()
        .map_err(system("duplicate a descriptor"))?;
    let result = start(config, filesystem, device).and_then(|(session, clone)| {
        log::info!("{:?} is mounted on {:?}", config.source, config.mount_point);
        let (device, notifier) = (mounted.device(), session.notifier());
        let features = vec![clone, raise_read_ahead(device)];
        if let (Some(file), Some(path)) = (&controls.pid_file, &config.pid_file) {
            file.put().map_err(refused(path))?;
        }
        answering(Answering::new(device, notifier, features))?;
        // An error is an answer, too.
        let reach = |root: &Path| probe::reach(root).unwrap_or_default();
        service::ready(mounted.path(), reach).map_err(system("start a thread"))?;
        run(session, connection, (signals, controls), &mounted)
    });
    // Whatever the result, no mount without a server is left behind.
    match mounted.unmount() {
        Ok(outcome) => log::debug!("the session has ended: {outcome:?}"),
        Err(error) => log::error!("cannot unmount: {error}"),
    }
    result
}

/// Answers the kernel's INIT. The session knows no mount point, so fuser never unmounts anything.
fn start<F: Filesystem>(
    config: &Config,
    filesystem: F,
    device: OwnedFd,
) -> Result<(Session<F>, Feature), StartError> {
    let acl = match config.access {
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        // The kernel keeps others out; fuser's own check would refuse them flush and locks.
        Access::Owner | Access::Everyone => SessionACL::All,
    };
    let mut options = fuser::Config::default();
    options.n_threads = Some(event_loops(config.threads));
    options.clone_fd = device::can_clone(&device);
    let note = match options.clone_fd {
        true => "",
        false => "threads share one /dev/fuse: it cannot be opened anew here",
    };
    let clone = Feature::new("clone", options.clone_fd, note);
    let session = Session::from_fd(filesystem, device, acl, options);
    Ok((session.map_err(StartError::Handshake)?, clone))
}

fn run<F: Filesystem>(
    session: Session<F>,
    connection: OwnedFd,
    (signals, controls): (Signals, Controls),
    mounted: &Mounted,
) -> Result<(), StartError> {
    let (events, inbox) = channel();
    let (ended, disconnected) = (events.clone(), events.clone());
    let gone = move || drop(disconnected.send(Event::Disconnected));
    if let Err(error) = disconnect::watch(connection, gone) {
        log::debug!("the end of the mount is noticed by the event loops alone: {error}");
    }
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || handle_signals(signals, &controls, &events))
        .and_then(|_| {
            // Nothing receives this once the timeout is over.
            let serve = move || drop(ended.send(Event::Ended(session.run())));
            thread::Builder::new().name("session".into()).spawn(serve)
        })
        .map_err(|error| StartError::System("start a thread", error))?;
    wait_for_end(&inbox, mounted)
}

/// What signals need.
struct Controls {
    report: Report,
    /// Removed also where the session does not end by itself.
    pid_file: Option<Arc<PidFile>>,
}

/// What SIGUSR1 asks for.
struct Report {
    write: Arc<dyn Fn() + Send + Sync>,
    in_writing: Arc<AtomicBool>,
}

impl Report {
    fn new(write: impl Fn() + Send + Sync + 'static) -> Self {
        let in_writing = Arc::new(AtomicBool::new(false));
        let write = Arc::new(write);
        Self { write, in_writing }
    }

    /// Writes it, unless it is being written. It may wait for something that hangs, and signals must not wait with it.
    fn begin(&self) {
        if self.in_writing.swap(true, SeqCst) {
            return;
        }
        let (write, writing) = (self.write.clone(), Writing(self.in_writing.clone()));
        let work = move || {
            let _writing = writing;
            write();
        };
        if let Err(error) = thread::Builder::new().name("report".into()).spawn(work) {
            log::error!("cannot report: {error}");
        }
    }
}

/// A report in writing. Its end is noticed even if writing it panics, or never begins.
struct Writing(Arc<AtomicBool>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// The first signal that asks for the end unmounts, the second one exits.
fn handle_signals(mut signals: Signals, controls: &Controls, events: &Sender<Event>) {
    let (mut asked, mut reopen) = (false, None);
    for signal in signals.forever() {
        match signal {
            SIGHUP => {
                // If there is no such thread, the log stays as it is.
                let reopen = reopen.get_or_insert_with(reopen_when_told);
                let _ = reopen.send(());
                continue;
            }
            SIGUSR1 => {
                controls.report.begin();
                continue;
            }
            _ => {}
        }
        // If nothing receives it, the program is ending already.
        let _ = events.send(Event::Terminate);
        if asked {
            exit_in_any_case();
            // A source or an unmount that hangs delays the exit no longer than this.
            thread::sleep(EXIT_TIMEOUT);
            let _ = remove(controls.pid_file.clone()); // what keeps it may keep the log, too
            std::process::exit(ExitCode::Success as i32);
        }
        asked = true;
    }
}

/// A thread that opens the log anew whenever it is told to: signals must not wait for the log's filesystem.
fn reopen_when_told() -> Sender<()> {
    let (tell, told) = channel();
    let work = move || told.iter().for_each(|()| crate::logging::reopen());
    if let Err(error) = thread::Builder::new().name("log".into()).spawn(work) {
        log::error!("cannot open the log anew: {error}");
    }
    tell
}

/// Ends the program after a while, whatever its other threads wait for.
fn exit_in_any_case() {
    let end = || {
        thread::sleep(EXIT_TIMEOUT + REMOVAL_TIMEOUT + EXIT_TIMEOUT);
        process::exit_at_once(ExitCode::Success as i32);
    };
    // Without it, nothing that is known to hang lies between here and the exit.
    let _ = thread::Builder::new().name("exit".into()).spawn(end);
}

fn wait_for_end(inbox: &Receiver<Event>, mounted: &Mounted) -> Result<(), StartError> {
    let first = inbox.recv();
    service::stopping();
    match first {
        Ok(Event::Ended(result)) => return outcome(result),
        Ok(Event::Disconnected) => return event_loops_end(inbox),
        Ok(Event::Terminate) | Err(_) => {}
    }
    match mounted.unmount() {
        Ok(Unmounted::Clean) => log::info!("unmounted"),
        Ok(Unmounted::Detached) => {
            log::warn!("busy: detached, open files are served for {DETACHED_TIMEOUT:?}");
        }
        Ok(Unmounted::Absent) if mounted.is_adopted() => return Ok(()),
        Ok(Unmounted::Absent) => log::warn!("gone or covered by another mount: not unmounted"),
        Err(error) => log::error!("cannot unmount: {error}"),
    }
    match inbox.recv_timeout(DETACHED_TIMEOUT) {
        Ok(Event::Ended(result)) => outcome(result),
        Ok(Event::Disconnected) => event_loops_end(inbox),
        Ok(Event::Terminate) | Err(_) => Ok(()),
    }
}

/// The mount is gone: event loops that wait for a source are not waited for, so that the source can be unmounted, too.
fn event_loops_end(inbox: &Receiver<Event>) -> Result<(), StartError> {
    match inbox.recv_timeout(DISCONNECTED_TIMEOUT) {
        Ok(Event::Ended(result)) => outcome(result),
        _ => {
            log::warn!("the source did not answer until the end");
            Ok(())
        }
    }
}

/// Aborting the connection (/sys/fs/fuse/connections) is a way to end a session, like unmounting. It is no error.
fn outcome(result: io::Result<()>) -> Result<(), StartError> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
        result => result.map_err(StartError::Session),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_panics_is_not_the_last_one() {
        let (tell, begun) = channel();
        let report = Report::new(move || {
            tell.send(()).unwrap();
            panic!("as a report may");
        });
        for _ in 0..2 {
            report.begin();
            begun.recv_timeout(Duration::from_secs(30)).unwrap();
            while report.in_writing.load(SeqCst) {
                thread::yield_now();
            }
        }
    }
}
