//! Writes that were lost after mmfs had answered them.
//!
//! The kernel reports a loss once to each open file description, by fsync(2). A handle whose description is closed gets no such
//! report. So this counts the losses, and each handle keeps the count that it has reported.

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

    /// The error of the last loss, if there were more than `known`.
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
    fn a_loss_is_reported_until_it_is_counted() {
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
