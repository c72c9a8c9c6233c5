//! Notifies a service manager such as systemd (sd_notify(3)) when the mount answers and when it ends. For a watchdog, it notifies
//! regularly while the mount answers. It also adds priorities to lines for the journal. Without a service manager it does
//! nothing.

use std::ops::Range;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::{io, thread};

use log::Level;
use sd_notify::NotifyState;

/// Notifies that the mount answers. With a watchdog, a thread calls `reach` on the mount's root twice per watchdog interval. If
/// the mount hangs, `reach` hangs, and the service manager restarts mmfs.
/// `mount_point` is `None` if this process cannot see the mount.
///
/// # Errors
/// A thread cannot be started.
pub fn ready(mount_point: Option<&Path>, reach: fn(&Path)) -> io::Result<()> {
    tell(NotifyState::Ready);
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return Ok(());
    };
    let root = mount_point.map(PathBuf::from);
    let keep_alive = move || {
        loop {
            if let Some(root) = &root {
                reach(root);
            }
            tell(NotifyState::Watchdog);
            thread::sleep(limit / 2);
        }
    };
    let watchdog = thread::Builder::new().name("watchdog".into());
    watchdog.spawn(keep_alive).map(drop)
}

/// Notifies that the session is ending.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(&state)) {
        log::warn!("cannot notify the service manager of {state}: {error}");
    }
}

/// The descriptors that the service manager has passed to this process (sd_listen_fds(3)).
pub fn passed() -> Range<RawFd> {
    const FIRST: RawFd = 3;
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let is_for_us = number("LISTEN_PID") == Some(std::process::id());
    let count = number("LISTEN_FDS")
        .filter(|_| is_for_us)
        .unwrap_or_default();
    FIRST..FIRST.saturating_add_unsigned(count)
}

/// The start of a printed line: `mmfs: `. In the journal, which adds the name by itself, it is the [`priority`].
pub fn prefix(level: Level) -> String {
    if logs_to_journal() {
        priority(level)
    } else {
        "mmfs: ".into()
    }
}

/// Whether standard error is connected to the journal. JOURNAL_STREAM has the device and inode number of that stream.
pub fn logs_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(rustix::stdio::stderr())
        .is_ok_and(|status| stream == format!("{}:{}", status.st_dev, status.st_ino))
}

/// The prefix that sets a line's priority in the journal (sd-daemon(3)).
pub fn priority(level: Level) -> String {
    format!("<{}>", severity(level))
}

/// The number of a priority in the journal and in syslog(3).
pub fn severity(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}
