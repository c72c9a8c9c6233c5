//! Giving up changes of a view while it is mounted.

use crate::cache::Withdrawn;
use crate::selection::Selection;
use crate::store::Change;
use std::collections::HashSet;

/// Why nothing was given up: a sentence.
#[derive(Debug)]
pub enum Stay {
    /// A program uses what is to be given up. It may have closed it, and the kernel not have told yet.
    InUse(String),
    /// The view has changed since what was prepared.
    Changed,
    /// Another reason.
    Refused(String),
}

/// Changes that were given up.
#[derive(Debug)]
pub struct GivenUp {
    /// What the kernel has of them. It is told with no lock held.
    pub withdrawn: Withdrawn,
    /// The sentence about an error that left some of them.
    pub failed: Option<String>,
}

/// Directories that programs use.
#[derive(Debug, Default)]
pub struct Used {
    /// Node ids of those that are open.
    pub open: HashSet<u64>,
    /// Inode numbers of those in which a process works.
    pub working: HashSet<u64>,
}

/// What the store is to forget, worked out before.
#[derive(Debug)]
pub struct Prepared {
    /// The number of the store's next record at the time.
    pub as_of: u64,
    /// The changes.
    pub changes: Vec<Vec<Change>>,
}

/// Views that have changes of their own.
pub trait GivesUp {
    /// Whether there are any. Requests are served beside each other with the others only.
    const HAS_CHANGES: bool = false;

    /// Works out what it can, while requests are served.
    fn prepare(&self, _chosen: &Selection) -> Option<Prepared> {
        None
    }

    /// Gives up the changes that are chosen. No request is served meanwhile. Without `prepared` it is worked out now.
    ///
    /// # Errors
    /// Why all changes stay.
    fn give_up(
        &self,
        _chosen: &Selection,
        _prepared: Option<Prepared>,
        _used: &Used,
    ) -> Result<GivenUp, Stay> {
        Err(Stay::Refused("the view has no changes of its own".into()))
    }

    /// Makes it durable that they are given up.
    ///
    /// # Errors
    /// The sentence that says why it may not be.
    fn secure_given_up(&self) -> Result<(), String> {
        Ok(())
    }
}
