//! The constant part of a mount's status: its options, and the kernel features in use.

use super::negotiation;
use super::passthrough::Passthrough;
use crate::config::{Access, Config, OnSourceChange, StoreConfig, WritePath};
use crate::report::{self, Feature};
use fuser::InitFlags;
use rustix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The constant part of a mount's status.
#[derive(Debug)]
pub struct Facts {
    pub(super) config: Config,
    pub(super) version: &'static str,
    /// The mounting user. Only this user and root get answers.
    pub(super) owner: u32,
    mounted: SystemTime,
    /// The time of the mount since boot.
    booted: Duration,
    known: OnceLock<InitFlags>,
    features: OnceLock<Vec<Feature>>,
}

impl Facts {
    /// Facts of a mount with this configuration.
    pub fn new(config: &Config) -> Self {
        Facts {
            config: config.clone(),
            version: crate::VERSION,
            owner: rustix::process::getuid().as_raw(),
            mounted: SystemTime::now(),
            booted: since_boot(),
            known: OnceLock::new(),
            features: OnceLock::new(),
        }
    }

    /// Notes the features that the kernel and mmfs have agreed on.
    pub fn negotiated(&self, known: InitFlags) {
        // INIT comes once.
        let _ = self.known.set(known);
    }

    /// Notes the kernel features that the session uses.
    pub fn begin(&self, features: Vec<Feature>) {
        let _ = self.features.set(features);
    }

    /// Time of the mount in seconds since 1970, by the clock's setting at that time.
    pub(super) fn since(&self) -> u64 {
        let since = self.mounted.duration_since(UNIX_EPOCH);
        since.unwrap_or_default().as_secs()
    }

    /// Time since the mount.
    pub(super) fn uptime(&self) -> Duration {
        since_boot().saturating_sub(self.booted)
    }
}

/// Time since boot, including time during which the machine was suspended.
fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// The kind of view, as the status names it.
pub(super) fn kind_of_view(config: &Config) -> &'static str {
    match config.store {
        Some(_) => "private",
        None => "shared",
    }
}

pub(super) fn options(config: &Config) -> report::Options {
    let access = match config.access {
        Access::Owner => "owner",
        Access::OwnerAndRoot => "owner and root",
        Access::Everyone => "everyone",
    };
    let write_path = match config.write_path {
        WritePath::Auto => "auto",
        WritePath::Region => "region",
    };
    let on_source_change = |store: &StoreConfig| match store.on_source_change {
        OnSourceChange::Stop => "stop",
        OnSourceChange::Follow => "follow",
        OnSourceChange::Copy => "copy",
    };
    let store = config.store.as_ref();
    let directory = store.and_then(|store| store.directory.as_deref());
    let flags = &config.flags;
    let set = [
        (flags.no_exec, "noexec"),
        (flags.no_suid, "nosuid"),
        (flags.no_dev, "nodev"),
        (flags.no_symfollow, "nosymfollow"),
        (flags.no_atime, "noatime"),
        (flags.sync, "sync"),
        (flags.dir_sync, "dirsync"),
    ];
    report::Options {
        access: access.into(),
        read_only: flags.read_only,
        threads: config.threads as u64,
        window_size: config.window_size,
        map_budget: config.map_budget,
        write_path: write_path.into(),
        sync_on_close: config.sync_on_close,
        attr_timeout: config.attr_timeout.as_secs_f64(),
        entry_timeout: config.entry_timeout.as_secs_f64(),
        direct_io: config.direct_io,
        passthrough: config.passthrough,
        auto_unmount: config.auto_unmount,
        flags: set
            .into_iter()
            .filter(|(is_set, _)| *is_set)
            .map(|(_, name)| name.to_owned())
            .collect(),
        store: directory.map(report::Path::new),
        ephemeral: store.is_some_and(|store| store.directory.is_none()),
        store_limit: store.and_then(|store| store.limit),
        on_source_change: store.map(|store| on_source_change(store).into()),
        log: config.log.file.as_deref().map(report::Path::new),
    }
}

pub(super) fn kernel(facts: &Facts, passthrough: &Passthrough, handles: bool) -> report::Kernel {
    let known = facts.known.get().copied().unwrap_or(InitFlags::empty());
    let (in_use, missing) = negotiation::features(known);
    let why = match handles {
        true => "",
        false => {
            "inodes are found again by their names: mmfs lacks the privilege, or the source lacks handles"
        }
    };
    let mut features = vec![passthrough.feature(), Feature::new("handles", handles, why)];
    features.extend(facts.features.get().into_iter().flatten().cloned());
    let release = rustix::system::uname().release().to_string_lossy().into();
    report::Kernel {
        release,
        in_use,
        missing,
        features,
    }
}
