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
    /// Keep changes in the directory STORE, not in SRC.
    ///
    /// SRC is never changed. STORE is made if it is missing. Mounted again with the same STORE, the view has its changes again.
    /// After -o, the name is store=STORE.
    #[arg(
        long,
        value_name = "STORE",
        value_hint = ValueHint::DirPath,
        help_heading = "Private view"
    )]
    private: Option<PathBuf>,
    /// Keep changes until the mount ends, not in SRC.
    ///
    /// SRC is never changed. The changes are in a directory of their own in $TMPDIR (/tmp without it), which is removed when the
    /// mount ends. If mmfs is killed, the next mount with --ephemeral removes it.
    #[arg(
        long,
        conflicts_with = "private",
        help_heading = "Private view",
        hide_short_help = true
    )]
    ephemeral: bool,
    /// How many bytes of files the store may hold (K, M, G, T).
    ///
    /// More is refused with ENOSPC. Names and attributes do not count. Not with --passthrough. Default: no limit.
    #[arg(
        long,
        value_name = "SIZE",
        allow_negative_numbers = true,
        value_parser = size::size,
        help_heading = "Private view",
        hide_short_help = true
    )]
    store_limit: Option<u64>,
    /// Accept that SRC is another directory than the one STORE was made for.
    ///
    /// For a source that was restored from a backup or cloned. STORE belongs to the new one from then on.
    #[arg(
        long,
        conflicts_with = "ephemeral",
        help_heading = "Private view",
        hide_short_help = true
    )]
    base_moved: bool,
    /// What to do when SRC changes a file that the view has changed.
    ///
    /// stop: parts of it that were not changed in the view cannot be read any more (EIO). follow: they show what SRC has now. copy: the
    /// first write to a file copies all of it, so they are in STORE. Default: stop.
    #[arg(
        long,
        value_enum,
        value_name = "stop|follow|copy",
        hide_possible_values = true,
        help_heading = "Private view",
        hide_short_help = true
    )]
    on_source_change: Option<OnSourceChange>,
}

impl StoreOptions {
    /// What is wrong, if an option of a private view stands beside neither `--private` nor `--ephemeral`, or a limit beside
    /// `--passthrough`.
    pub fn wrong(&self, passthrough: bool) -> Option<String> {
        let given = [
            (self.base_moved, "--base-moved"),
            (self.store_limit.is_some(), "--store-limit"),
            (self.on_source_change.is_some(), "--on-source-change"),
        ];
        let is_private = self.private.is_some() || self.ephemeral;
        if is_private && passthrough && self.store_limit.is_some() {
            let sentence = "--store-limit cannot be used with --passthrough: the kernel writes to the store by itself";
            return Some(sentence.into());
        }
        let (_, option) = given
            .iter()
            .find(|(is_given, _)| *is_given && !is_private)?;
        Some(format!(
            "{option} is for private views: add --private STORE or --ephemeral, after -o store=STORE or ephemeral"
        ))
    }

    /// The store of a private view. None: the view is shared.
    ///
    /// # Errors
    /// The sentence for a relative path in a directory that was removed.
    pub fn config(&self) -> Result<Option<StoreConfig>, StartError> {
        let directory = self.private.as_deref().map(absolute(StartError::Store));
        let directory = directory.transpose()?;
        let temporary = match self.ephemeral {
            true => temporary()?,
            false => PathBuf::new(),
        };
        Ok(
            (directory.is_some() || self.ephemeral).then_some(StoreConfig {
                directory,
                temporary,
                limit: self.store_limit,
                base_moved: self.base_moved,
                on_source_change: self.on_source_change.unwrap_or_default(),
            }),
        )
    }
}

/// Where a store is made that goes with the mount. An empty TMPDIR is none. A daemon in the background has another working directory.
fn temporary() -> Result<PathBuf, StartError> {
    let temporary = Some(std::env::temp_dir()).filter(|path| !path.as_os_str().is_empty());
    absolute(StartError::Store)(&temporary.unwrap_or_else(|| "/tmp".into()))
}
