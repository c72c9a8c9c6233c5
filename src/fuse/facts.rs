//! What a mount says of itself that does not change while it lives: how it is meant, and what of the kernel is in use.

use super::negotiation;
use super::passthrough::Passthrough;
use crate::config::{Access, Config, WritePath};
use crate::report::{self, Feature};
use fuser::InitFlags;
use rustix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What does not change while a mount lives.
#[derive(Debug)]
pub struct Facts {
    pub(super) config: Config,
    pub(super) version: &'static str,
    /// Whose questions are answered, besides root's.
    pub(super) owner: u32,
    mounted: SystemTime,
    /// The same, counted from when the machine was started.
    booted: Duration,
    known: OnceLock<InitFlags>,
    features: OnceLock<Vec<Feature>>,
}

impl Facts {
    /// For a mount that is told this.
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

    /// The kernel and we have agreed on these features.
    pub fn negotiated(&self, known: InitFlags) {
        // INIT comes once.
        let _ = self.known.set(known);
    }

    /// What of the kernel the session uses.
    pub fn begin(&self, features: Vec<Feature>) {
        let _ = self.features.set(features);
    }

    /// When it was mounted, in seconds since 1970 as the clock was set then.
    pub(super) fn since(&self) -> u64 {
        let since = self.mounted.duration_since(UNIX_EPOCH);
        since.unwrap_or_default().as_secs()
    }

    /// How long ago that is.
    pub(super) fn uptime(&self) -> Duration {
        since_boot().saturating_sub(self.booted)
    }
}

/// Time that the machine has slept counts.
fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
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
        log: config.log.file.as_deref().map(report::Path::new),
    }
}

pub(super) fn kernel(facts: &Facts, passthrough: &Passthrough, handles: bool) -> report::Kernel {
    let known = facts.known.get().copied().unwrap_or(InitFlags::empty());
    let (in_use, missing) = negotiation::features(known);
    let why = match handles {
        true => "",
        false => "inodes are found again by their names: no privilege, or no handles at the source",
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
