//! The calls that have reached the view, and those that are to fail.

use rustix::io::{Errno, Result};

use super::Memory;

/// Methods are named as in the traits of `mmfs::view`.
#[derive(Default)]
pub struct Calls {
    made: Vec<String>,
    failing: Vec<(&'static str, Errno)>,
}

impl Memory {
    /// The calls since this was last asked: the method, then what it was given.
    pub fn take_calls(&self) -> Vec<String> {
        let mut calls = self.0.calls.lock();
        std::mem::take(&mut calls.made)
    }

    /// The calls of one method since any were last asked for.
    pub fn take_calls_of(&self, method: &str) -> Vec<String> {
        let mut calls = self.take_calls();
        calls.retain(|call| call.split(' ').next() == Some(method));
        calls
    }

    /// The next call of this method does nothing and fails. Said twice, the next two do.
    pub fn fail_next(&self, method: &'static str, errno: Errno) {
        let mut calls = self.0.calls.lock();
        calls.failing.push((method, errno));
    }

    pub(super) fn note(&self, call: String) {
        let mut calls = self.0.calls.lock();
        calls.made.push(call);
    }

    /// Every method that can fail begins with this.
    pub(super) fn called(&self, method: &str, given: impl std::fmt::Display) -> Result<()> {
        self.note(format!("{method} {given}"));
        let mut calls = self.0.calls.lock();
        match calls.failing.iter().position(|(name, _)| *name == method) {
            Some(found) => Err(calls.failing.remove(found).1),
            None => Ok(()),
        }
    }
}
