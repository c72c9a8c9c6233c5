//! A session: one mounted connection to /dev/fuse, its event loops, and its end.

mod fusermount;
mod kernel;
mod mount;
mod mount_table;
pub mod preflight;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use fuser::{Filesystem, INodeNo, Notifier, Session, SessionACL};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub use self::kernel::offered;
use self::mount::{Mounted, Unmounted};
use crate::config::{Access, Config};
use crate::refusal::{ExitCode, StartError};
use crate::service;
use crate::sys::process;

/// How long a detached mount's open files are served.
const GRACE: Duration = Duration::from_secs(30);

/// How long the program may take to end itself after a second signal.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What is known once the kernel and we have agreed, before the first request is read.
#[derive(Debug)]
pub struct Answering {
    /// `st_dev` of everything in our mount. Unknown only for a mount made by somebody else, on
    /// kernels before 6.17.
    pub device: Option<u64>,
    notifier: Notifier,
}

impl Answering {
    /// What has the kernel ask for a node's attributes anew. It waits for no request, so an event loop may call it.
    pub fn attribute_invalidator(&self) -> impl Fn(u64) + Send + Sync + 'static {
        const NO_BYTES: i64 = -1;
        let notifier = self.notifier.clone();
        move |node| tell(node, notifier.inval_inode(INodeNo(node), NO_BYTES, 0))
    }

    /// What makes the kernel drop its cache of a node's bytes and attributes. To be called from
    /// anywhere but an event loop, for the kernel may wait there for a read to be answered.
    pub fn into_invalidator(self) -> impl Fn(u64) + Send + Sync + 'static {
        move |node| tell(node, self.notifier.inval_inode(INodeNo(node), 0, 0))
    }
}

fn tell(node: u64, outcome: io::Result<()>) {
    match outcome {
        // ENOENT: the kernel does not remember the node, so it has nothing to drop.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
            log::warn!("cannot invalidate node {node}: {error}");
        }
        _ => {}
    }
}

/// How far the kernel reads ahead in files of the mount, in KiB.
const READ_AHEAD: u32 = 256;

/// Lets the kernel ask for larger pieces, and for several at a time; its default of 128 KiB bounds what a first
/// sequential read can reach. INIT can lower that only.
fn raise_read_ahead(device: u64) {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&path, READ_AHEAD.to_string()) {
        log::debug!("{path} stays as it is: {error}");
    }
}

enum Event {
    /// A person wants the session to end.
    Terminate,
    /// The kernel has ended it: the mount is gone.
    Ended(io::Result<()>),
}

/// Mounts, and serves `filesystem` until the mount is gone. `answering` is called once the mount
/// answers; no thread exists before.
///
/// # Errors
/// The sentence for what kept the mount from coming about, or broke the session off.
pub fn serve(
    config: &Config,
    filesystem: impl Filesystem,
    answering: impl FnOnce(Answering) -> Result<(), StartError>,
) -> Result<(), StartError> {
    let system = |what| move |error| StartError::System(what, error);
    process::prepare_signals().map_err(system("prepare signals"))?;
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(system("handle signals"))?;
    let (mounted, device) = Mounted::new(config)?;
    let result = shake_hands(config, filesystem, device).and_then(|session| {
        log::info!("{:?} is mounted on {:?}", config.source, config.mount_point);
        let (device, notifier) = (mounted.device(), session.notifier());
        device.into_iter().for_each(raise_read_ahead);
        answering(Answering { device, notifier })?;
        // An error is an answer, too: only silence is not.
        let reach = |root: &Path| mount_table::reach(root).unwrap_or_default();
        service::ready(mounted.path(), reach).map_err(system("start a thread"))?;
        run(session, signals, &mounted)
    });
    // Whatever happened, a mount that nobody serves is not left behind.
    match mounted.unmount() {
        Ok(outcome) => log::debug!("the session has ended, its mount is off: {outcome:?}"),
        Err(error) => log::error!("cannot unmount: {error}"),
    }
    result
}

/// The session after INIT. It knows of no mount point, so it never unmounts anything.
fn shake_hands<F: Filesystem>(
    config: &Config,
    filesystem: F,
    device: OwnedFd,
) -> Result<Session<F>, StartError> {
    let acl = match config.access {
        Access::OwnerAndRoot => SessionACL::RootAndOwner,
        // The kernel keeps others out; fuser's own check would refuse them flush and locks.
        Access::Owner | Access::Everyone => SessionACL::All,
    };
    let mut options = fuser::Config::default();
    options.n_threads = Some(config.threads);
    options.clone_fd = can_clone(&device);
    Session::from_fd(filesystem, device, acl, options).map_err(StartError::Handshake)
}

/// Whether each event loop can have a /dev/fuse of its own. fuser asks for that when it is too late
/// to do without, so it is tried here.
fn can_clone(device: &OwnedFd) -> bool {
    mount::open_device().is_ok_and(|fresh| process::clone_fuse_device(fresh, device).is_ok())
}

fn run<F: Filesystem>(
    session: Session<F>,
    signals: Signals,
    mounted: &Mounted,
) -> Result<(), StartError> {
    let (events, inbox) = channel();
    let ended = events.clone();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || watch(signals, &events))
        .and_then(|_| {
            // Nobody listens for the end any more once the grace is over.
            let serve = move || drop(ended.send(Event::Ended(session.run())));
            thread::Builder::new().name("session".into()).spawn(serve)
        })
        .map_err(|error| StartError::System("start a thread", error))?;
    wait_for_end(&inbox, mounted)
}

/// The first signal asks for the end, the second one is the end.
fn watch(mut signals: Signals, events: &Sender<Event>) {
    let mut asked = false;
    for signal in signals.forever() {
        if signal == SIGHUP {
            crate::logging::reopen();
            continue;
        }
        // When nobody listens, the program is ending already.
        let _ = events.send(Event::Terminate);
        if asked {
            // A source or an unmount that hangs holds nobody up for longer.
            thread::sleep(LAST_WORDS);
            std::process::exit(ExitCode::Success as i32);
        }
        asked = true;
    }
}

fn wait_for_end(inbox: &Receiver<Event>, mounted: &Mounted) -> Result<(), StartError> {
    let first = inbox.recv();
    service::stopping();
    if let Ok(Event::Ended(result)) = first {
        return verdict(result);
    }
    match mounted.unmount() {
        Ok(Unmounted::Clean) => log::info!("unmounted"),
        Ok(Unmounted::Detached) => {
            log::warn!("busy: detached, open files are served for {GRACE:?}");
        }
        Ok(Unmounted::Absent) if mounted.is_adopted() => return Ok(()),
        Ok(Unmounted::Absent) => log::warn!("gone or covered by another mount: not unmounted"),
        Err(error) => log::error!("cannot unmount: {error}"),
    }
    match inbox.recv_timeout(GRACE) {
        Ok(Event::Ended(result)) => verdict(result),
        Ok(Event::Terminate) | Err(_) => Ok(()),
    }
}

/// An aborted connection (/sys/fs/fuse/connections) has been ended by a person, like an unmounted one.
fn verdict(result: io::Result<()>) -> Result<(), StartError> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
        result => result.map_err(StartError::Session),
    }
}
