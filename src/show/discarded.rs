//! `mmfs discard`: gives up all that a private view has changed.

use std::path::Path;

use super::changes::is_shared;
use super::checked::other_owner;
use crate::ask::{self, NoAnswer};
use crate::refusal::StartError;
use crate::session::store_place::look_into;
use crate::store::Unwanted;
use crate::terminal::for_shell;

/// Gives up all changes in the store in the directory `path`.
///
/// # Errors
/// The sentence that says why they stay.
pub fn discard(path: &Path) -> Result<(), StartError> {
    match ask::status(path) {
        Ok(status) if status.store.is_none() => return Err(is_shared(path)),
        Ok(_) => {
            return Err(StartError::Verb(format!(
                "{} is mounted, and programs may use what was changed; unmount it, and name the store",
                for_shell(path)
            )));
        }
        // Who looks into it would wait for ever.
        Err(why @ (NoAnswer::TimedOut | NoAnswer::NotAsked)) => {
            return Err(StartError::NotAnswered(path.into(), why.to_string()));
        }
        Err(_) => {}
    }
    if let Some(owner) = other_owner(path) {
        return Err(StartError::Verb(format!(
            "the store {} belongs to user {owner}, who can discard its changes",
            for_shell(path)
        )));
    }
    look_into(path)?;
    let unwanted = Unwanted::open_directory(path);
    let unwanted = unwanted.map_err(|error| StartError::Verb(error.sentence(path)))?;
    unwanted.discard().map_err(|error| {
        StartError::Verb(format!(
            "the changes in the store {} stay: {error}",
            for_shell(path)
        ))
    })
}
