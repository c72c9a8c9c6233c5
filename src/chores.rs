//! Work that is left after a request was answered. The housekeeping thread does it ([`crate::fs`]).

use std::sync::Weak;
use std::sync::mpsc::Sender;

/// Work that no request waits for.
#[derive(Debug)]
pub enum Chore {
    /// Times of this file wait to be applied.
    ApplyTimes(Weak<dyn PendingTimes>),
    /// A file was opened while no file was open: check open files from now on.
    Watch,
    /// Many inodes were forgotten: return their memory to the system.
    Trim,
    /// An inode is held for a moment: release it after that.
    ReleaseHeld,
}

/// A file that may have times waiting to be applied.
pub trait PendingTimes: Send + Sync + std::fmt::Debug {
    /// Applies times that wait. Returns whether there were any.
    fn apply_times(&self) -> bool;
}

/// The queue of chores.
#[derive(Debug, Clone)]
pub struct Chores(Sender<Chore>);

impl Chores {
    /// A queue whose receiver is that of `sender`.
    pub fn new(sender: Sender<Chore>) -> Self {
        Chores(sender)
    }

    /// Adds a chore.
    pub fn add(&self, chore: Chore) {
        // An error means that the session is ending.
        let _ = self.0.send(chore);
    }
}
