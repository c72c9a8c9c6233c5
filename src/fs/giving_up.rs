//! Gives up changes of a view while it is mounted.
//!
//! Requests share `Fs::serving`. Who gives changes up has it alone, so that nothing is changed between the look at the view and the
//! record. The kernel is told afterwards, without it: it may wait for requests that wait for this lock.

use super::Fs;
use crate::selection::Selection;
use crate::view::{Stay, Tree, Used};
use crate::working_directories;
use parking_lot::RwLockReadGuard;
use std::time::{Duration, Instant};

/// So long requests that come wait for those that are under way, at a time. One of these may wait for a source that does not answer.
const TURN: Duration = Duration::from_millis(500);

/// How long new requests are served in between.
const PAUSE: Duration = Duration::from_millis(100);

/// How long requests that are under way are waited for.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The kernel tells of the last close of a file after close(2) has returned. On a busy machine it may take this long.
const CLOSING: Duration = Duration::from_secs(1);
const CLOSING_INTERVAL: Duration = Duration::from_millis(50);

/// So often it is worked out beside requests, which may change the view meanwhile.
const MOST_TRIES: u32 = 3;

impl<T: Tree> Fs<T> {
    /// To be called before a request is served. The result is kept until it is. Not to be called twice by a thread.
    pub fn serving(&self) -> Option<RwLockReadGuard<'_, ()>> {
        T::HAS_CHANGES.then(|| self.serving.read())
    }

    /// Gives up the changes that are chosen, durably, and has the kernel drop what it has of them. Runs on a thread that no request needs.
    ///
    /// # Errors
    /// The sentence that says why they stay.
    pub fn give_up(&self, chosen: &Selection) -> Result<(), String> {
        let until = Instant::now() + CLOSING;
        let mut tries = 0;
        let given_up = loop {
            // To work it out with no request served keeps requests waiting. That comes last.
            let prepared = match tries < MOST_TRIES {
                true => self.tree.prepare(chosen),
                false => None,
            };
            // Before, because a process that executes a program of the mount holds the search up.
            let device = self.own_device.get().copied();
            let working = device.map(working_directories::on).unwrap_or_default();
            let done = {
                let _alone = self.alone()?;
                let open = self.dirs.all().iter().map(|dir| dir.node).collect();
                self.tree.give_up(chosen, prepared, &Used { open, working })
            };
            match done {
                Err(Stay::Changed) => tries += 1,
                Err(Stay::InUse(_)) if Instant::now() < until => {
                    std::thread::sleep(CLOSING_INTERVAL);
                }
                Err(Stay::InUse(sentence) | Stay::Refused(sentence)) => return Err(sentence),
                Ok(given_up) => break given_up,
            }
        };
        self.cache.withdraw(&given_up.withdrawn);
        let secured = self.tree.secure_given_up();
        given_up.failed.map_or(secured, Err)
    }

    /// Waits until no request is served.
    fn alone(&self) -> Result<parking_lot::RwLockWriteGuard<'_, ()>, String> {
        let since = Instant::now();
        loop {
            if let Some(alone) = self.serving.try_write_for(TURN) {
                return Ok(alone);
            }
            if since.elapsed() > MAX_WAIT {
                return Err(format!(
                    "a request of a program has had no answer for {} s, so nothing was given up; mmfs trace lists it",
                    MAX_WAIT.as_secs()
                ));
            }
            std::thread::sleep(PAUSE);
        }
    }
}
