//! Writes that were lost after they had been answered.
//!
//! fsync(2) on a handle's own description reports a loss once to each. A handle that has given up its description has no
//! such memory in the kernel: this counts the losses, and each handle remembers how many it has been told of.

use rustix::io::{Errno, Result};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

#[derive(Debug, Default)]
pub struct Losses {
    count: AtomicU64,
    last: AtomicI32,
}

impl Losses {
    pub fn add(&self, errno: Errno) {
        self.last.store(errno.raw_os_error(), SeqCst);
        self.count.fetch_add(1, SeqCst);
    }

    pub fn count(&self) -> u64 {
        self.count.load(SeqCst)
    }

    /// An error when there were more than `known`.
    pub fn since(&self, known: u64) -> Result<()> {
        match self.count() > known {
            true => Err(Errno::from_raw_os_error(self.last.load(SeqCst))),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_to_those_who_do_not_know_it() {
        let losses = Losses::default();
        let known = losses.count();
        assert_eq!(losses.since(known), Ok(()));
        losses.add(Errno::NOSPC);
        assert_eq!(losses.since(known), Err(Errno::NOSPC));
        assert_eq!(
            losses.since(known),
            Err(Errno::NOSPC),
            "asking does not consume it"
        );
        assert_eq!(losses.since(losses.count()), Ok(()));
    }
}
