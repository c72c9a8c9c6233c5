//! What is left to do after a request was answered. A thread of the operations does it ([`crate::fs`]).

use std::sync::Weak;
use std::sync::mpsc::Sender;

/// Work that no request waits for.
#[derive(Debug)]
pub enum Chore {
    /// Times of this file wait to be applied.
    ApplyTimes(Weak<dyn PendingTimes>),
    /// A file was opened while none was watched: watch open files from now on.
    Watch,
    /// Many inodes were forgotten: their memory can go back.
    Trim,
    /// Something is held for a moment.
    LetGo,
}

/// A file whose times may wait to be applied.
pub trait PendingTimes: Send + Sync + std::fmt::Debug {
    /// Applies times that wait; says whether any did.
    fn apply_times(&self) -> bool;
}

/// Where chores go.
#[derive(Debug, Clone)]
pub struct Chores(Sender<Chore>);

impl Chores {
    /// Chores that go to the receiver of `sender`.
    pub fn new(sender: Sender<Chore>) -> Self {
        Chores(sender)
    }

    /// Adds a chore. The housekeeping thread does it.
    pub fn add(&self, chore: Chore) {
        // Nobody listens any more when the session is ending.
        let _ = self.0.send(chore);
    }
}
