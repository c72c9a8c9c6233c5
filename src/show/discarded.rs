//! `mmfs discard`: gives up what a private view has changed, all of it or some.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::changes::{is_shared, must_be_source, unmounted};
use super::checked::other_owner;
use super::{DiffForm, differences};
use crate::ask::{self, NoAnswer};
use crate::difference::Difference;
use crate::refusal::StartError;
use crate::report::{self, Discarded, MAX_ANSWER};
use crate::selection::Selection;
use crate::session::store_place::look_into;
use crate::store::opening::OpenError;
use crate::store::{Store, Unwanted, random};
use crate::terminal::for_shell;
use crate::view::private::{self, Plan, Stays};

/// What `mmfs discard` was given.
enum Object {
    /// The directory of a store.
    Store,
    /// A mounted private view: the directory of its store, and its source.
    View(PathBuf, PathBuf),
}

impl Object {
    /// What is at a path.
    ///
    /// # Errors
    /// The sentence that says why nothing of it can be given up.
    fn at(path: &Path) -> Result<Self, StartError> {
        let status = match ask::status(path) {
            Ok(status) => status,
            Err(
                why @ (NoAnswer::TimedOut
                | NoAnswer::NotAsked
                | NoAnswer::Forbidden
                | NoAnswer::Elsewhere),
            ) => return Err(StartError::NotAnswered(path.into(), why.to_string())),
            Err(_) => return must_be_own(path, "discard").map(|()| Self::Store),
        };
        let store = status.store.ok_or_else(|| is_shared(path))?;
        let unknown = |why: NoAnswer| StartError::NotAnswered(path.into(), why.to_string());
        if !ask::is_root(path).map_err(unknown)? {
            return Err(StartError::Verb(format!(
                "{} is not the mount point of a view, but lies in one; name the mount point, and paths below it",
                for_shell(path)
            )));
        }
        let path = |path: &report::Path| path.path().unwrap_or_default();
        Ok(Self::View(path(&store.path), path(&status.source.path)))
    }
}

/// Gives up all changes in the store in the directory `path`, or of the view that is mounted there.
///
/// # Errors
/// The sentence that says why they stay.
pub fn discard(path: &Path) -> Result<(), StartError> {
    if let Object::View(..) = Object::at(path)? {
        return discard_mounted(path, &[]);
    }
    let unwanted = Unwanted::open_directory(path);
    let unwanted = unwanted.map_err(|error| StartError::Verb(error.sentence(path)))?;
    unwanted.discard().map_err(|error| stay(path, error))
}

/// As [`discard`], those that are selected. `chosen`: the selection as bytes.
///
/// # Errors
/// The sentence that says why they stay.
pub fn discard_some(path: &Path, selection: &Selection, chosen: &[u8]) -> Result<(), StartError> {
    if let Object::View(..) = Object::at(path)? {
        return discard_mounted(path, chosen);
    }
    let refused = |error: OpenError| StartError::Verb(error.sentence(path));
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

/// Prints what [`discard_some`] would give up.
///
/// # Errors
/// The sentence that says why they stay.
pub fn discardable(path: &Path, selection: &Selection) -> Result<(), StartError> {
    let (directory, mounted) = match Object::at(path)? {
        Object::Store => (path.to_owned(), None),
        Object::View(directory, source) => (directory, Some(source)),
    };
    let looked = Store::look(&directory);
    let looked = looked.map_err(|error| StartError::Verb(error.sentence(&directory)))?;
    let is_mounted = looked.in_use || mounted.is_some();
    let source = mounted.unwrap_or_else(|| looked.base.path.clone());
    must_be_source(&directory, &looked.base, (&source, is_mounted))?;
    let plan = tried(&directory, &source, Arc::new(looked.store), selection)?;
    differences(&plan.given_up, DiffForm::Lines)
}

/// Has the daemon of a mounted view give up what is chosen.
fn discard_mounted(path: &Path, chosen: &[u8]) -> Result<(), StartError> {
    let verb = |sentence: String| Err(StartError::Verb(sentence));
    let mount = for_shell(path);
    if chosen.len() > MAX_ANSWER {
        return verb(format!(
            "the paths and globs are longer than {MAX_ANSWER} bytes, which is too much for a view that is mounted; name fewer at once"
        ));
    }
    let number = random().map_err(|error| StartError::System("draw a number", error))?;
    match ask::discard(path, number, chosen) {
        Ok(Discarded { refused: None, .. }) => Ok(()),
        Ok(Discarded {
            refused: Some(sentence),
            ..
        }) => verb(sentence),
        Err(NoAnswer::Failed(Errno::ROFS)) => verb(format!(
            "{mount} is read-only, and its changes stay; unmount it, and name the store"
        )),
        // It has answered before.
        Err(NoAnswer::NotOurs | NoAnswer::Forbidden) => verb(format!(
            "the mmfs of {mount} is too old to give changes up while it is mounted; unmount it, and name the store"
        )),
        Err(why @ (NoAnswer::TimedOut | NoAnswer::Dead)) => verb(format!(
            "{mount}: {why}, so it is not known whether the changes were given up; mmfs diff tells"
        )),
        Err(why) => Err(StartError::NotAnswered(path.into(), why.to_string())),
    }
}

/// What is to be done, after it was done to what is in memory.
fn tried(
    path: &Path,
    source: &Path,
    store: Arc<Store>,
    selection: &Selection,
) -> Result<Plan, StartError> {
    let said = |why: Stays| match why {
        Stays::Depends(sentence) => StartError::Verb(selection.explained(sentence)),
        why => StartError::Verb(why.sentence(path)),
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
    StartError::Verb(Stays::Error(error).sentence(path))
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
    must_be_own(path, verb)
}

fn must_be_own(path: &Path, verb: &str) -> Result<(), StartError> {
    if let Some(owner) = other_owner(path) {
        return Err(StartError::Verb(format!(
            "the store {} belongs to user {owner}, who can {verb} its changes",
            for_shell(path)
        )));
    }
    look_into(path).map(drop)
}
