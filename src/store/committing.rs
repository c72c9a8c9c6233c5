//! Opening a store for a commit.

use std::path::Path;
use std::sync::Arc;

use super::disk::Directory;
use super::format::{self, Base};
use super::open_error::at;
use super::opening::{OpenError, Opened, Recovered, Rule, lock, options, uuid_of};
use super::{Store, journal};

impl Store {
    /// The source that the store in a directory belongs to.
    ///
    /// # Errors
    /// Why it is no store, or cannot be read.
    pub fn base_of(path: &Path) -> Result<Base, OpenError> {
        let failed = |error| OpenError::Failed("the directory", error);
        let directory = Directory::open(path).map_err(failed)?;
        uuid_of(&directory)?;
        format::read_base(&directory).map_err(at("base"))
    }

    /// The store in a directory, with its lock, to see what is committed. One that was closed is only looked at, as [`Store::look`] does:
    /// that needs no sync.
    ///
    /// # Errors
    /// As [`Store::open_directory`].
    pub fn open_to_commit(path: &Path) -> Result<(Self, Base), OpenError> {
        let failed = |error| OpenError::Failed("the directory", error);
        let directory = Directory::open(path).map_err(failed)?;
        let lock = lock(&directory)?;
        let base = format::read_base(&directory).map_err(at("base"))?;
        let found = Recovered::read(&directory, &options(&directory, false)?)?;
        if found.recovery.rule == Rule::Closed {
            return Ok((found.looked_at(Arc::new(directory), Some(lock))?, base));
        }
        drop(lock);
        let (opened, base) = Self::open_to_forget(path)?;
        Ok((opened.store, base))
    }

    /// As [`Store::open_directory`], while the journal of a commit is there.
    ///
    /// # Errors
    /// As [`Store::open_directory`].
    pub fn open_to_forget(path: &Path) -> Result<(Opened, Base), OpenError> {
        Self::open_checked(path, false, |_| Ok(()))
    }

    /// Why nobody else has the store in a directory: a commit of it goes on, or was cut short. None: neither.
    pub fn committing(path: &Path) -> Option<OpenError> {
        let checked = journal::check(&Directory::open(path).ok()?);
        let is_of_commit =
            |error: &OpenError| matches!(error, OpenError::Committing | OpenError::InUse);
        checked.err().filter(is_of_commit)
    }
}
