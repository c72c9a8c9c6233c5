//! Options of `mmfs commit`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::commit::Wanted;
use crate::refusal::StartError;
use crate::selection::Selection;

/// `mmfs commit STORE [PATH...]`.
#[derive(Debug, Args)]
pub struct CommitOptions {
    /// The directory of the store.
    #[arg(value_name = "STORE", value_hint = ValueHint::DirPath)]
    store: PathBuf,
    /// Print what would be committed, as mmfs diff does, and leave it.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// What to commit, as mmfs diff prints it, each with all below it. Default: all changes.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Commit only what fits this glob, and what is below it.
    ///
    /// Without a slash it is about names, with one about paths below the root of the view. It can be given more than once.
    #[arg(short = 'I', long, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave out what fits this glob, and what is below it.
    #[arg(short = 'E', long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Commit what the source has changed, too: what the view has counts.
    #[arg(long, conflicts_with = "skip_conflicts")]
    force: bool,
    /// Leave out what the source has changed, too. The store keeps it.
    #[arg(long)]
    skip_conflicts: bool,
    /// Commit nothing if the privilege is missing to set an owner, a mode or something else.
    ///
    /// Without it, what cannot be set is listed.
    #[arg(long)]
    strict: bool,
}

impl CommitOptions {
    /// As meant.
    ///
    /// # Errors
    /// The sentence about a path that is not below the view's root, or about a glob that is none.
    pub fn wanted(self) -> Result<Wanted, StartError> {
        Ok(Wanted {
            selection: Selection::new(&self.paths, &self.include, &self.exclude)?,
            store: self.store,
            dry_run: self.dry_run,
            force: self.force,
            skip_conflicts: self.skip_conflicts,
            strict: self.strict,
        })
    }
}
