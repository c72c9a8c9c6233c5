//! `mmfs run`: a command sees its working directory through a private view, which only it and its children see.
//!
//! Three processes: the *command*, which makes the mount namespace and mounts the view in it; the *daemon*, which serves the view and
//! stays outside, so that it sees the source and the store as they are; and this one, which waits for both. When the last process in
//! the namespace ends, the kernel unmounts the view. If this process is killed, the kernel ends the command and the daemon.

mod changes;
mod processes;
mod stage;
mod store;
mod wanted;

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Pid;

pub use wanted::{Choice, Wanted};

use crate::config::{Config, LogConfig, MountFlags, StoreConfig};
use crate::daemon;
use crate::descriptors::{default_threads, raise_limit};
use crate::logging;
use crate::refusal::StartError;
use crate::server;
use crate::session::{self, preflight};
use crate::sys::process::Inherited;
use processes::Processes;
use stage::Stage;
use store::RunStore;

/// How long the kernel caches names and attributes, as with any mount.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Runs a command in a private view of the working directory. Returns its exit code, or 128 and the number of the signal that killed
/// it. What mmfs says goes to standard error.
///
/// # Errors
/// The sentence that says why the command was not run, or why it is not known what it has changed.
pub fn run(wanted: &Wanted) -> Result<u8, StartError> {
    let inherited = Inherited::list();
    let inherited = inherited.map_err(|error| StartError::System("list descriptors", error))?;
    // The daemon, too, logs to standard error, until it ends.
    let log = LogConfig {
        foreground: true,
        ..LogConfig::default()
    };
    logging::start(&log)?;
    let source = preflight::source(Path::new("."))?;
    if source.parent().is_none() {
        let sentence =
            "mmfs run shows the current directory, and cannot show /; change to a directory in it";
        return Err(StartError::Verb(sentence.into()));
    }
    let store = RunStore::new(wanted, &source)?;
    let mut processes = match start(wanted, &source, &store, inherited) {
        Ok(processes) => processes,
        Err(error) => {
            store.remove_unused();
            return Err(error);
        }
    };
    let code = processes.wait_for_command()?;
    if let Err(error) = processes.end_view() {
        changes::say_where(&source, &store);
        return Err(error);
    }
    // Half of what a command was to do is not what was asked for.
    let choice = match wanted.choice {
        Some(Choice::Commit) if code != 0 => Some(Choice::Keep),
        choice => choice,
    };
    changes::show_and_settle(&source, &store, choice, &mut processes)?;
    Ok(code)
}

/// Starts the command and the daemon. The command runs when the view answers.
fn start(
    wanted: &Wanted,
    source: &Path,
    store: &RunStore,
    inherited: Inherited,
) -> Result<Processes, StartError> {
    let config = view(source, store.path.clone(), wanted.limit);
    let covered = store.lies_in_source.then_some(store.path.as_path());
    Processes::adopt_orphans()?;
    let stage = Stage::start(&config, &wanted.command, covered)?;
    let daemon = match serve(&config, &stage, inherited) {
        Ok(daemon) => daemon,
        Err(error) => {
            stage.cancel();
            return Err(error);
        }
    };
    // Only now, so that the command has the handlers that mmfs was started with.
    let processes = Processes::new(stage.pid, daemon)?;
    stage.go()?;
    Ok(processes)
}

/// Starts the daemon. It serves the mount of the stage.
fn serve(config: &Config, stage: &Stage, inherited: Inherited) -> Result<Pid, StartError> {
    daemon::start_bound(inherited, |ready| {
        let limit = raise_limit();
        let threads = default_threads(limit);
        preflight::descriptors(limit, threads)?;
        let Some(wanted) = &config.store else {
            return Ok(());
        };
        // The mount is the stage's own, with nosuid and nodev: the store may be anybody's.
        let kept = session::open_store(wanted, config)?;
        let served = Config {
            mount_point: format!("/dev/fd/{}", stage.device.as_raw_fd()).into(),
            threads,
            ..config.clone()
        };
        server::serve_private(&served, (wanted, kept), ready)
    })
}

/// The settings of the view, mounted over its source.
fn view(source: &Path, store: PathBuf, limit: Option<u64>) -> Config {
    Config {
        store: Some(StoreConfig {
            limit,
            ..StoreConfig::of_directory(store)
        }),
        mount_point: source.into(),
        foreground: false,
        attr_timeout: TIMEOUT,
        entry_timeout: TIMEOUT,
        flags: MountFlags {
            no_suid: true,
            no_dev: true,
            ..MountFlags::default()
        },
        subtype: "mmfs".into(),
        ..Config::unmounted(source.into())
    }
}
