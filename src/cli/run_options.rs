//! Options of `mmfs run`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::absolute::absolute;
use super::size;
use crate::refusal::StartError;
use crate::run;

/// `mmfs run -- CMD...`.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// Keep the changes in the directory STORE.
    ///
    /// It is made if it is missing. If it was there before, CMD sees the changes it holds, and it is kept at the end.
    /// Default: a new directory in $XDG_STATE_HOME/mmfs (~/.local/state/mmfs without it).
    #[arg(long, value_name = "STORE", value_hint = ValueHint::DirPath)]
    store: Option<PathBuf>,
    /// How many bytes of files the store may hold (K, M, G, T).
    ///
    /// More is refused with ENOSPC. Names and attributes do not count. Default: no limit.
    #[arg(long, value_name = "SIZE", allow_negative_numbers = true, value_parser = size::size)]
    store_limit: Option<u64>,
    /// Keep the changes, and print where they are.
    #[arg(long, conflicts_with_all = ["discard", "commit"])]
    keep: bool,
    /// Carry the changes into the directory, if CMD exits with 0.
    ///
    /// If it does not, or if the directory has changed meanwhile, the changes are kept.
    #[arg(long, conflicts_with = "discard")]
    commit: bool,
    /// Discard the changes.
    ///
    /// The store is removed. Refused with a STORE that was there before.
    #[arg(long)]
    discard: bool,
    /// The command to run, and its arguments.
    #[arg(value_name = "CMD", last = true, required = true, value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

impl RunOptions {
    /// As meant.
    ///
    /// # Errors
    /// The sentence for a relative path in a directory that was removed.
    pub fn wanted(self) -> Result<run::Wanted, StartError> {
        let store = self.store.as_deref().map(absolute(StartError::Store));
        Ok(run::Wanted {
            store: store.transpose()?,
            limit: self.store_limit,
            choice: match (self.keep, self.discard, self.commit) {
                (true, ..) => Some(run::Choice::Keep),
                (_, true, _) => Some(run::Choice::Discard),
                (.., true) => Some(run::Choice::Commit),
                _ => None,
            },
            command: self.command,
        })
    }
}
