//! Mounts, serves requests, and unmounts at the end.

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

/// How long open files of a detached mount are served.
const DETACHED_TIMEOUT: Duration = Duration::from_secs(30);

/// How long event loops may take to end after the mount is gone.
const DISCONNECTED_TIMEOUT: Duration = Duration::from_millis(300);

/// How long the program may take to end by itself after a second signal.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long removing the PID file may take. Its filesystem may not answer.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(3);

/// The kernel's read-ahead in files of the mount, in KiB.
const READ_AHEAD_KIB: u32 = 256;

/// Raises the kernel's read-ahead, so that it sends larger READ requests, and several at once. Its default of 128 KiB limits the
/// first sequential read of a file. INIT can only lower it.
fn raise_read_ahead(device: Option<u64>) -> Feature {
    let Some(device) = device else {
        let note = "the kernel's default: the device of this mount is unknown before Linux 6.17";
        return Feature::new("read-ahead", false, note);
    };
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    match std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        Ok(()) => Feature::new("read-ahead", true, format!("{READ_AHEAD_KIB} KiB")),
        Err(error) => {
            log::debug!("cannot write {path}: {error}");
            Feature::new(
                "read-ahead",
                false,
                format!("the kernel's default: {error}"),
            )
        }
    }
}

enum Event {
    /// A signal to end the session.
    Terminate,
    /// The mount is gone. Event loops may still be serving requests.
    Disconnected,
    /// The event loops have ended, because the mount is gone.
    Ended(io::Result<()>),
}

/// Mounts, and serves `filesystem` until the mount is gone. `answering` is called when the mount answers. Before that, no thread
/// exists. SIGUSR1 calls `report` on a thread of its own. The PID file is removed after the mount.
///
/// # Errors
/// The sentence that says why the mount failed, or why the session ended early.
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
        log::warn!("cannot remove the PID file: {error}");
    }
    result
}

fn refused(path: &Path) -> impl Fn(io::Error) -> StartError {
    move |error| StartError::PidFile(path.into(), error)
}

/// Removes the PID file, with a timeout: its filesystem may not answer, and mmfs holds the source until it ends. After the timeout
/// nothing is logged, because the log file may be on the same filesystem.
fn remove(pid_file: Option<Arc<PidFile>>) -> io::Result<()> {
    let Some(pid_file) = pid_file else {
        return Ok(());
    };
    let (sender, removed) = channel();
    let work = move || {
        // Fails after the timeout: then there is no receiver.
        let _ = sender.send(pid_file.remove_by_another());
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
        // An error is an answer as well.
        let reach = |root: &Path| probe::reach(root).unwrap_or_default();
        service::ready(mounted.path(), reach).map_err(system("start a thread"))?;
        run(session, connection, (signals, controls), &mounted)
    });
    // Unmounts even after an error, so that no mount without a daemon remains.
    match mounted.unmount() {
        Ok(outcome) => log::debug!("the session has ended: {outcome:?}"),
        Err(error) => log::error!("cannot unmount: {error}"),
    }
    result
}

/// Answers the kernel's INIT. fuser does not get the mount point, so it never unmounts.
fn start<F: Filesystem>(
    config: &Config,
    filesystem: F,
    device: OwnedFd,
) -> Result<(Session<F>, Feature), StartError> {
    let acl = match config.access {
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        // The kernel checks which users may access the mount. fuser's own check would refuse their FLUSH and lock requests.
        Access::Owner | Access::Everyone => SessionACL::All,
    };
    let mut options = fuser::Config::default();
    options.n_threads = Some(event_loops(config.threads));
    options.clone_fd = device::can_clone(&device);
    let note = match options.clone_fd {
        true => "",
        false => "all threads share one /dev/fuse, because it cannot be opened again here",
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
        log::debug!("cannot watch the mount table: {error}");
    }
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || handle_signals(signals, &controls, &events))
        .and_then(|_| {
            // Fails after the timeout: then there is no receiver.
            let serve = move || drop(ended.send(Event::Ended(session.run())));
            thread::Builder::new().name("session".into()).spawn(serve)
        })
        .map_err(|error| StartError::System("start a thread", error))?;
    wait_for_end(&inbox, mounted)
}

/// State for the handling of signals.
struct Controls {
    report: Report,
    /// Removed by the thread that handles signals if the session does not end by itself.
    pid_file: Option<Arc<PidFile>>,
}

/// The report for SIGUSR1.
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

    /// Starts a thread that writes the report, unless one is writing it. The report can hang, and the handling of signals must not
    /// wait for it.
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
            log::error!("cannot write the report: {error}");
        }
    }
}

/// Marks a report that is being written. Dropping it removes the mark, also after a panic, or if no thread could be started.
struct Writing(Arc<AtomicBool>);

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// Handles signals. The first SIGINT, SIGTERM or SIGQUIT unmounts, the second one exits.
fn handle_signals(mut signals: Signals, controls: &Controls, events: &Sender<Event>) {
    let (mut asked, mut reopen) = (false, None);
    for signal in signals.forever() {
        match signal {
            SIGHUP => {
                // Fails if the thread could not be started. Then the old log file stays in use.
                let reopen = reopen.get_or_insert_with(start_reopening);
                let _ = reopen.send(());
                continue;
            }
            SIGUSR1 => {
                controls.report.begin();
                continue;
            }
            _ => {}
        }
        // Fails if the program is already ending.
        let _ = events.send(Event::Terminate);
        if asked {
            start_forced_exit();
            // A source or an unmount that hangs delays the exit no longer than this.
            thread::sleep(EXIT_TIMEOUT);
            // The error is not logged: the log file may be on the same filesystem.
            let _ = remove(controls.pid_file.clone());
            std::process::exit(ExitCode::Success as i32);
        }
        asked = true;
    }
}

/// Starts a thread that opens the log again for each message. The thread that handles signals must not wait for the log's
/// filesystem.
fn start_reopening() -> Sender<()> {
    let (sender, receiver) = channel();
    let work = move || receiver.iter().for_each(|()| crate::logging::reopen());
    if let Err(error) = thread::Builder::new().name("log".into()).spawn(work) {
        log::error!("cannot open the log again: {error}");
    }
    sender
}

/// Starts a thread that ends the program after a timeout, even if all other threads are blocked.
fn start_forced_exit() {
    let end = || {
        thread::sleep(EXIT_TIMEOUT + REMOVAL_TIMEOUT + EXIT_TIMEOUT);
        process::exit_at_once(ExitCode::Success as i32);
    };
    // If it cannot be started, the exit depends on the calling thread. No known cause blocks that.
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
            log::warn!(
                "the mount is busy and was detached; its open files are served for {DETACHED_TIMEOUT:?}"
            );
        }
        Ok(Unmounted::Absent) if mounted.is_adopted() => return Ok(()),
        Ok(Unmounted::Absent) => {
            log::warn!("not unmounted: the mount is gone or covered by another one");
        }
        Err(error) => log::error!("cannot unmount: {error}"),
    }
    match inbox.recv_timeout(DETACHED_TIMEOUT) {
        Ok(Event::Ended(result)) => outcome(result),
        Ok(Event::Disconnected) => event_loops_end(inbox),
        Ok(Event::Terminate) | Err(_) => Ok(()),
    }
}

/// Waits a moment for the event loops after the mount is gone. They may wait for a source that does not answer. The daemon ends
/// without them, so that the source can be unmounted.
fn event_loops_end(inbox: &Receiver<Event>) -> Result<(), StartError> {
    match inbox.recv_timeout(DISCONNECTED_TIMEOUT) {
        Ok(Event::Ended(result)) => outcome(result),
        _ => {
            log::warn!("the mount is gone, but requests still wait for the source");
            Ok(())
        }
    }
}

/// Turns ECONNABORTED into success: a session may also be ended by aborting its connection (/sys/fs/fuse/connections).
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
        let (sender, begun) = channel();
        let report = Report::new(move || {
            sender.send(()).unwrap();
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
