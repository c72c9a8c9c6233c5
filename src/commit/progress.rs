//! How far a commit has come, for a terminal, and whether it is to end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{SigId, flag, low_level};

use crate::sys::process;

/// A bar on the terminal, if there is one, and the signals that ask to end.
pub struct Progress {
    bar: ProgressBar,
    is_to_end: Arc<AtomicBool>,
    signals: Vec<SigId>,
}

impl Progress {
    /// Of `total` bytes.
    ///
    /// # Errors
    /// A signal cannot be handled.
    pub fn new(total: u64) -> io::Result<Self> {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        // A fixed template has no mistake; the default is fine, too.
        if let Ok(style) = ProgressStyle::with_template(
            "mmfs: {msg} [{bar:30}] {bytes} of {total_bytes}, {eta} left",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message("copying");
        let is_to_end = Arc::new(AtomicBool::new(false));
        let mut signals = Vec::new();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            if !process::is_ignored(signal) {
                signals.push(flag::register(signal, is_to_end.clone())?);
            }
        }
        Ok(Self {
            bar,
            is_to_end,
            signals,
        })
    }

    /// So many bytes more are done.
    ///
    /// # Errors
    /// EINTR if it is to end.
    pub fn bytes(&self, more: u64) -> io::Result<()> {
        self.bar.inc(more);
        self.goes_on()
    }

    /// Goes on, unless a signal has come.
    ///
    /// # Errors
    /// EINTR if it is to end.
    pub fn goes_on(&self) -> io::Result<()> {
        match self.is_to_end.load(Relaxed) {
            true => Err(Errno::INTR.into()),
            false => Ok(()),
        }
    }

    /// So many steps come now.
    pub fn steps(&self, total: usize) {
        if let Ok(style) = ProgressStyle::with_template("mmfs: {msg} [{bar:30}] {pos} of {len}") {
            self.bar.set_style(style.progress_chars("=> "));
        }
        self.bar.set_message("committing");
        self.bar.set_length(total as u64);
        self.bar.set_position(0);
    }

    /// A step is done.
    pub fn step(&self) {
        self.bar.inc(1);
    }
}

/// The line goes, and signals are handled as before.
impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        for signal in self.signals.drain(..) {
            low_level::unregister(signal);
        }
    }
}
