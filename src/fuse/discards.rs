//! `mmfs discard MNT`: the process that asks sets what it chooses as the value of an attribute, and then asks until it has an answer.
//!
//! setxattr(2) holds the kernel's lock of the mount's root, for which a notification may have to wait. So it only leaves the choice here.
//! The first question begins the work, on a thread that serves no requests: getxattr(2) holds no lock, and a process that has given up
//! asks no more.

use crate::fs::Fs;
use crate::report::Discarded;
use crate::selection::Selection;
use crate::view::Tree;
use parking_lot::Mutex;
use rustix::io::{Errno, Result};
use std::collections::VecDeque;
use std::sync::Arc;

/// So many choices and answers are kept.
const MOST: usize = 8;

/// What was chosen, and what became of it, by the number that the process has drawn.
#[derive(Debug, Default)]
struct State {
    chosen: VecDeque<(u64, Vec<u8>)>,
    running: Option<u64>,
    done: VecDeque<(u64, Discarded)>,
}

/// The discards of a mount.
#[derive(Debug)]
pub struct Discards<T: Tree> {
    fs: Arc<Fs<T>>,
    /// Nothing is done with it held.
    state: Arc<Mutex<State>>,
}

impl<T: Tree> Discards<T> {
    /// None yet.
    pub fn new(fs: Arc<Fs<T>>) -> Self {
        let state = Arc::default();
        Self { fs, state }
    }

    /// Keeps a choice until it is asked for.
    ///
    /// # Errors
    /// EOPNOTSUPP if the view has no changes of its own. EROFS if it must not be changed.
    pub fn choose(&self, number: u64, chosen: &[u8]) -> Result<()> {
        if !T::HAS_CHANGES {
            return Err(Errno::OPNOTSUPP);
        }
        if self.fs.is_read_only() {
            return Err(Errno::ROFS);
        }
        let mut state = self.state.lock();
        state.chosen.retain(|(other, _)| *other != number);
        state.chosen.push_back((number, chosen.to_vec()));
        if state.chosen.len() > MOST {
            state.chosen.pop_front();
        }
        Ok(())
    }

    /// What has become of a choice. Begins to give it up, if nothing else is given up at the time.
    ///
    /// # Errors
    /// ENODATA if nobody has made it.
    pub fn answer(&self, number: u64) -> Result<Discarded> {
        let mut state = self.state.lock();
        if let Some((_, done)) = state.done.iter().find(|(other, _)| *other == number) {
            return Ok(done.clone());
        }
        if state.running == Some(number) {
            return Ok(Discarded::default());
        }
        let mut chosen = state.chosen.iter();
        let at = chosen.position(|(other, _)| *other == number);
        let at = at.ok_or(Errno::NODATA)?;
        if state.running.is_some() {
            return Ok(Discarded::default());
        }
        let Some((_, chosen)) = state.chosen.remove(at) else {
            return Err(Errno::NODATA);
        };
        state.running = Some(number);
        drop(state);
        if let Err(error) = self.begin(number, chosen) {
            let sentence = format!("the changes stay, because no thread can be started: {error}");
            end(&self.state, number, Err(sentence));
        }
        Ok(Discarded::default())
    }

    fn begin(&self, number: u64, chosen: Vec<u8>) -> std::io::Result<()> {
        let (fs, state) = (self.fs.clone(), self.state.clone());
        let work = move || {
            let mut running = Running {
                state,
                number,
                done: None,
            };
            let chosen = Selection::from_bytes(&chosen).map_err(|error| error.to_string());
            running.done = Some(chosen.and_then(|chosen| fs.give_up(&chosen)));
        };
        let thread = std::thread::Builder::new().name("discard".into());
        thread.spawn(work).map(drop)
    }
}

/// Work under way. However it ends, others can follow.
struct Running {
    state: Arc<Mutex<State>>,
    number: u64,
    done: Option<std::result::Result<(), String>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let broke_off = || {
            Err("mmfs broke off with an error of its own; mmfs diff tells what was given up".into())
        };
        let done = self.done.take().unwrap_or_else(broke_off);
        end(&self.state, self.number, done);
    }
}

fn end(state: &Mutex<State>, number: u64, done: std::result::Result<(), String>) {
    let mut state = state.lock();
    state.running = None;
    let done = Discarded {
        done: true,
        refused: done.err(),
    };
    state.done.push_back((number, done));
    if state.done.len() > MOST {
        state.done.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_off_keeps_nobody_waiting() {
        let state: Arc<Mutex<State>> = Arc::default();
        state.lock().running = Some(7);
        let running = Running {
            state: state.clone(),
            number: 7,
            done: None,
        };
        let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _running = running;
            panic!("of the test");
        }));
        assert!(broken.is_err());
        let state = state.lock();
        assert_eq!(state.running, None);
        let (number, done) = state.done.back().expect("an answer");
        assert!(*number == 7 && done.done && done.refused.is_some());
    }
}
