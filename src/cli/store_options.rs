//! Options of a private view.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::absolute::absolute;
use super::size;
use crate::config::{OnSourceChange, StoreConfig};
use crate::refusal::StartError;

/// As typed.
#[derive(Debug, Args)]
pub struct StoreOptions {
    /// Keep changes in STORE, and leave the source as it is.
    #[arg(
        long,
        value_name = "STORE",
        value_hint = ValueHint::DirPath,
        conflicts_with = "passthrough",
        help_heading = "Access",
        hide = true
    )]
    private: Option<PathBuf>,
    /// Keep changes in a store of its own, which goes with the mount.
    #[arg(long, conflicts_with_all = ["private", "passthrough"], help_heading = "Access", hide = true)]
    ephemeral: bool,
    /// How many bytes of files the store may hold (K, M, G, T).
    #[arg(long, value_name = "SIZE", value_parser = size::size, help_heading = "Access", hide = true)]
    store_limit: Option<u64>,
    /// Accept a source that was restored or cloned, in place of the one that the store belongs to.
    #[arg(long, requires = "private", help_heading = "Access", hide = true)]
    base_moved: bool,
    /// What a changed file does when its file in the source changes, too.
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "stop",
        help_heading = "Access",
        hide = true
    )]
    on_source_change: OnSourceChange,
}

impl StoreOptions {
    /// The store of a private view. None: the view is shared.
    ///
    /// # Errors
    /// The sentence for a relative path in a directory that was removed.
    pub fn config(&self) -> Result<Option<StoreConfig>, StartError> {
        let directory = self.private.as_deref().map(absolute(StartError::Store));
        let directory = directory.transpose()?;
        Ok(
            (directory.is_some() || self.ephemeral).then_some(StoreConfig {
                directory,
                limit: self.store_limit,
                base_moved: self.base_moved,
                on_source_change: self.on_source_change,
            }),
        )
    }
}
