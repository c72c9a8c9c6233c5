//! What a run was asked for.

use std::ffi::OsString;
use std::path::PathBuf;

/// What `mmfs run` was asked for.
#[derive(Debug)]
pub struct Wanted {
    /// The store, absolute. `None`: a new one in the user's directory for state.
    pub store: Option<PathBuf>,
    /// How many bytes of files the store may hold.
    pub limit: Option<u64>,
    /// What to do with the changes. `None`: ask.
    pub choice: Option<Choice>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
}

/// What is done with the changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The store stays.
    Keep,
    /// The store is removed.
    Discard,
    /// The source gets the changes, if the command has succeeded.
    Commit,
}
