//! Opening a store for a commit.

use std::path::Path;

use super::opening::{OpenError, Opened};
use super::{Base, Directory, Store, journal};

impl Store {
    /// As `open_directory`, also if a commit was cut short.
    ///
    /// # Errors
    /// As [`Store::open_directory`].
    pub fn open_to_commit(path: &Path) -> Result<(Opened, Base), OpenError> {
        Self::open_checked(path, false, |_| Ok(()))
    }

    /// Whether a commit of the store in a directory goes on, or was cut short.
    pub fn is_committing(path: &Path) -> bool {
        let directory = Directory::open(path);
        directory.is_ok_and(|directory| {
            matches!(
                journal::check(&directory),
                Err(OpenError::Committing | OpenError::InUse)
            )
        })
    }
}
