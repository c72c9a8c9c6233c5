//! What a plan consists of.

use std::collections::HashSet;

use super::settings::{Lacking, Settings};
use super::steps::Step;
use super::tree::{Identity, Seen};

/// An inode, or one more name of one, that is made beside the source's files.
#[derive(Debug)]
pub struct Make {
    /// Where, with the source's paths.
    pub at: Vec<u8>,
    /// Which name of the view it is for, of all that changed.
    pub of: usize,
    pub what: What,
}

/// What is made.
#[derive(Debug)]
pub enum What {
    /// An inode with the bytes of the view's.
    Inode,
    /// A further name of what was made there.
    Link(Vec<u8>),
    /// A further name of an inode of the source.
    LinkOf(Vec<u8>, Identity),
}

/// A step. What is about something that is made is known when it is made.
#[derive(Debug)]
pub enum Planned {
    Step(Step),
    /// What was made gets its name.
    Place {
        make: usize,
        from: Vec<u8>,
        to: Vec<u8>,
        over: Option<Seen>,
    },
    /// A directory that was made gets its attributes.
    SetMade {
        make: usize,
        path: Vec<u8>,
        settings: Settings,
    },
}

/// All that a commit does.
#[derive(Debug, Default)]
pub struct Plan {
    pub makes: Vec<Make>,
    /// Temporary names, with the source's paths.
    pub temporary: Vec<Vec<u8>>,
    pub steps: Vec<Planned>,
    /// What the steps rest on, with the source's paths. None: nothing is there.
    pub expected: Vec<(Vec<u8>, Option<Seen>)>,
    /// Directories of the source in which names change.
    pub changing: HashSet<Vec<u8>>,
    /// What will not be set on what is there, or on new directories, and of which path of the view.
    pub lacking: Vec<(Vec<u8>, Lacking)>,
}
