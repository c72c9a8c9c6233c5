//! The store of a run.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::wanted::{Choice, Wanted};
use crate::config::{Access, MountFlags, StoreConfig};
use crate::refusal::StartError;
use crate::session::store_place;
use crate::store::random;
use crate::terminal::for_shell;
use crate::utc;

/// Where the changes of a run are kept.
#[derive(Debug)]
pub struct RunStore {
    /// Its directory.
    pub path: PathBuf,
    /// The run makes it, so nothing else is in it.
    pub is_new: bool,
    /// mmfs has chosen its place.
    is_chosen: bool,
    /// The view would show it.
    pub lies_in_source: bool,
}

impl RunStore {
    /// The store that was asked for, or a new one whose place mmfs has chosen.
    ///
    /// # Errors
    /// The sentence for a store that cannot be there, or that holds what `--discard` would lose.
    pub fn new(wanted: &Wanted, source: &Path) -> Result<Self, StartError> {
        match &wanted.store {
            Some(path) => Self::named(path, wanted, source),
            None => Self::chosen(source),
        }
    }

    fn named(path: &Path, wanted: &Wanted, source: &Path) -> Result<Self, StartError> {
        let is_new = path.symlink_metadata().is_err();
        if !is_new && wanted.choice == Some(Choice::Discard) {
            return Err(StartError::Verb(format!(
                "the store {} was there before, and --discard would lose what it holds; leave --discard out, and remove it \
                 by hand if it is of no use",
                for_shell(path)
            )));
        }
        let config = StoreConfig::of_directory(path.into());
        let mut flags = MountFlags::default();
        store_place::check(&config, (source, source), Access::Owner, &mut flags)?;
        Ok(Self {
            path: path.into(),
            is_new,
            is_chosen: false,
            lies_in_source: false,
        })
    }

    fn chosen(source: &Path) -> Result<Self, StartError> {
        let parent = state_directory()?;
        let failed = |error| StartError::Store(parent.clone(), error);
        let made = DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&parent);
        made.map_err(failed)?;
        let path = parent.canonicalize().map_err(failed)?.join(name()?);
        Ok(Self {
            lies_in_source: path.starts_with(source),
            path,
            is_new: true,
            is_chosen: true,
        })
    }

    /// Removes it.
    ///
    /// # Errors
    /// It is still there, or a part of it.
    pub fn remove(&self) -> Result<(), StartError> {
        let failed = |error| {
            StartError::Verb(format!(
                "the store {} cannot be removed: {error}",
                for_shell(&self.path)
            ))
        };
        std::fs::remove_dir_all(&self.path).map_err(failed)
    }

    /// Removes a store whose place mmfs has chosen, after the command was not run.
    pub fn remove_unused(&self) {
        if self.is_chosen {
            // It may not be there yet. Why the command was not run is more important.
            let _ = self.remove();
        }
    }
}

/// The user's directory for the stores of runs.
fn state_directory() -> Result<PathBuf, StartError> {
    // The specification of these directories says that a relative path is ignored.
    let absolute = |variable| {
        let path = std::env::var_os(variable).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME");
    let state = state.or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let none = || {
        let sentence = "neither XDG_STATE_HOME nor HOME names a directory for the store; name a store with --store";
        StartError::Verb(sentence.into())
    };
    Ok(state.ok_or_else(none)?.join("mmfs"))
}

/// The name of a new store: the moment, and a random part.
fn name() -> Result<String, StartError> {
    let failed = |error: io::Error| StartError::System("get random bytes", error);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = utc::second(now.unwrap_or_default().as_secs()).unwrap_or_default();
    let now: String = now.chars().filter(char::is_ascii_alphanumeric).collect();
    Ok(format!(
        "{now}-{:08x}",
        random().map_err(failed)? & 0xffff_ffff
    ))
}
