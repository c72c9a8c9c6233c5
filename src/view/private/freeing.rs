//! Room that comes back soon.
//!
//! The bytes of a deleted file go when the kernel has forgotten it. Its FORGET and RELEASE come a moment after unlink(2) and close(2)
//! have returned. Who writes in this moment would find the store full.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long the kernel may take. On an idle machine it is below a millisecond.
const MOMENT: Duration = Duration::from_millis(500);
/// How often a request that found no room is tried again.
const INTERVAL: Duration = Duration::from_millis(2);

/// When the kernel was last about to forget a deleted file.
#[derive(Debug, Default)]
pub(super) struct Freeing(Mutex<Option<Instant>>);

impl Freeing {
    /// A file has lost its last name, or a descriptor of one without a name was closed.
    pub fn soon(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Whether a file was deleted in this life at all.
    pub fn is_used(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Whether there may be more room soon.
    pub fn may_help(&self) -> bool {
        self.0.lock().is_some_and(|since| since.elapsed() < MOMENT)
    }

    /// Waits a little. False: there is nothing to wait for any more.
    pub fn wait(&self) -> bool {
        std::thread::sleep(INTERVAL);
        self.may_help()
    }
}
