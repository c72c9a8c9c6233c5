//! `mmfs discard`: gives up what a private view has changed, all of it or some.

use std::path::Path;
use std::sync::Arc;

use super::changes::{is_shared, must_be_source, not_compared, unmounted};
use super::checked::other_owner;
use super::{DiffForm, differences};
use crate::ask::{self, NoAnswer};
use crate::difference::Difference;
use crate::refusal::StartError;
use crate::selection::Selection;
use crate::session::store_place::look_into;
use crate::store::opening::OpenError;
use crate::store::{Store, Unwanted};
use crate::terminal::for_shell;
use crate::view::private::{self, Plan, Stays};

/// Gives up all changes in the store in the directory `path`.
///
/// # Errors
/// The sentence that says why they stay.
pub fn discard(path: &Path) -> Result<(), StartError> {
    must_be_unmounted(path, "discard")?;
    let unwanted = Unwanted::open_directory(path);
    let unwanted = unwanted.map_err(|error| StartError::Verb(error.sentence(path)))?;
    unwanted.discard().map_err(|error| stay(path, error))
}

/// Gives up the changes in the store in the directory `path` that are selected, or prints them.
///
/// # Errors
/// The sentence that says why they stay.
pub fn discard_some(path: &Path, selection: &Selection, prints: bool) -> Result<(), StartError> {
    must_be_unmounted(path, "discard")?;
    let refused = |error: OpenError| StartError::Verb(error.sentence(path));
    if prints {
        let looked = Store::look(path).map_err(refused)?;
        let source = looked.base.path.clone();
        must_be_source(path, &looked.base, (&source, looked.in_use))?;
        let plan = tried(path, &source, Arc::new(looked.store), selection)?;
        return differences(&plan.given_up, DiffForm::Lines);
    }
    // It has the lock from now on.
    let (opened, base) = Store::open_directory(path, false).map_err(refused)?;
    let store = Arc::new(opened.store);
    let done = must_be_source(path, &base, (&base.path, false)).and_then(|()| {
        let plan = tried(path, &base.path, store.clone(), selection)?;
        let done = store.change_all(plan.changes);
        done.map_err(|error| stay(path, error))
    });
    let closed = store.close().map_err(|error| stay(path, error));
    done.and(closed)
}

/// What is to be done, after it was done to what is in memory.
fn tried(
    path: &Path,
    source: &Path,
    store: Arc<Store>,
    selection: &Selection,
) -> Result<Plan, StartError> {
    let said = |why: Stays| match why {
        Stays::Depends(sentence) => StartError::Verb(sentence),
        Stays::Failed(failed) => not_compared(failed),
        Stays::Error(error) => stay(path, error),
    };
    let (config, wanted) = unmounted(source, path.into());
    let choose = |all: &[Difference]| {
        selection.must_fit(all)?;
        Ok(all.iter().map(|one| selection.chooses(one)).collect())
    };
    let plan = private::plan(&config, &wanted, store.clone(), choose, said)?;
    let looked = match store.is_closed() {
        true => store,
        false => {
            let looked = Store::look(path);
            let looked = looked.map_err(|error| StartError::Verb(error.sentence(path)))?;
            Arc::new(looked.store)
        }
    };
    private::try_out(&config, &wanted, looked, &plan).map_err(said)?;
    Ok(plan)
}

fn stay(path: &Path, error: std::io::Error) -> StartError {
    StartError::Verb(format!(
        "the changes in the store {} stay: {error}",
        for_shell(path)
    ))
}

/// Refuses what is mounted, what does not answer, and what is not this user's. `verb`: what is to be done with its changes.
///
/// # Errors
/// The sentence that says so.
pub fn must_be_unmounted(path: &Path, verb: &str) -> Result<(), StartError> {
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
            "the store {} belongs to user {owner}, who can {verb} its changes",
            for_shell(path)
        )));
    }
    look_into(path).map(drop)
}
