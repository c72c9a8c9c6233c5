//! What is asked of `mmfs commit`.

use std::path::PathBuf;

use crate::selection::Selection;

/// A commit.
#[derive(Debug)]
pub struct Wanted {
    /// The directory of the store.
    pub store: PathBuf,
    /// Which changes.
    pub selection: Selection,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Commit what the source has changed, too.
    pub force: bool,
    /// Leave out what the source has changed, too.
    pub skip_conflicts: bool,
    /// Commit nothing if something cannot be set for want of privilege.
    pub strict: bool,
}
