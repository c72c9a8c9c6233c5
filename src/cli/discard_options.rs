//! Options of `mmfs discard`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::difference::Detail;
use crate::refusal::StartError;
use crate::selection::Selection;
use crate::show::{self, DiffForm};

/// `mmfs discard STORE|MNT [PATH]...`.
#[derive(Debug, Args)]
pub struct Discard {
    /// The directory of the store, or the mount point of the view.
    #[arg(value_name = "STORE|MNT", value_hint = ValueHint::DirPath)]
    object: PathBuf,
    /// Give up only changes at this path and below it, as mmfs diff prints it.
    ///
    /// What was renamed has two paths. Either will do.
    #[arg(value_name = "PATH", value_hint = ValueHint::Other)]
    paths: Vec<PathBuf>,
    /// Give up only what this glob fits. May be given more than once.
    #[arg(short = 'I', long, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave what this glob fits. May be given more than once.
    #[arg(short = 'E', long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Leave what the source has changed, too.
    #[arg(long)]
    skip_conflicts: bool,
    /// Print what would be given up, as mmfs diff does, and leave it.
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl Discard {
    /// Gives up what they say, or prints it.
    ///
    /// # Errors
    /// The sentence that says why changes stay.
    pub fn run(&self) -> Result<(), StartError> {
        let selection = Selection::new(&self.paths, &self.include, &self.exclude)?;
        let selection = match self.skip_conflicts {
            true => selection.without_conflicts(),
            false => selection,
        };
        match (selection.is_all(), self.dry_run) {
            (true, true) => {
                let found = show::changes(&self.object, Detail::Kinds)?;
                show::differences(&found, DiffForm::Lines)
            }
            (true, false) => show::discard(&self.object),
            (false, true) => show::discardable(&self.object, &selection),
            (false, false) => {
                let (paths, skips) = (&self.paths, self.skip_conflicts);
                let chosen = Selection::to_bytes(paths, &self.include, &self.exclude, skips);
                show::discard_some(&self.object, &selection, &chosen)
            }
        }
    }
}
