//! The end of a commit: its steps, and what the store forgets then.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;

use super::journal::{Forgets, Item, KeptItem, State};
use super::path;
use super::progress::Progress;
use super::steps::{self, How, Step, Stopped};
use super::{Commit, not_written, tell_lacking};
use crate::refusal::{StartError, note};
use crate::store::{Directory, Store, Unwanted};
use crate::terminal::for_shell;
use crate::view::private::forget::forget;

impl Commit<'_> {
    /// Does the steps.
    pub(super) fn finish(
        &self,
        steps: &[Step],
        forgets: &Forgets,
        resumes: bool,
        progress: &Progress,
    ) -> Result<(), StartError> {
        progress.steps(steps.len());
        let how = How {
            force: self.wanted.force,
            resumes,
        };
        let (mut lacking, mut copied) = (Vec::new(), HashSet::new());
        for (number, step) in steps.iter().enumerate() {
            copied.extend(step.hands_a_copy(&self.journal));
            match step.apply((&self.tree, &self.journal), how) {
                Ok(lacks) if lacks.is_empty() => {}
                Ok(lacks) => lacking.push((step.path().to_vec(), lacks)),
                Err(Stopped::Failed(Errno::ACCESS))
                    if resumes && step.is_shut_off(&self.tree, &steps[number + 1..]) => {}
                Err(why) => return Err(self.stopped(step, &why)),
            }
            progress.step();
        }
        let not_placed = steps::not_placed(&self.tree, steps, &copied);
        match not_placed {
            // A directory above it may be closed to its owner by now.
            Ok(None) | Err(Errno::ACCESS) => {}
            Ok(Some(step)) => return Err(self.stopped(step, &Stopped::Conflict)),
            Err(errno) => return Err(self.stopped(&steps[0], &errno.into())),
        }
        tell_lacking(&lacking);
        self.sync(steps.iter().map(|step| path::parent(step.path()).0))?;
        match forgets {
            // That the store has no tables any more says the same.
            Forgets::All => Ok(()),
            Forgets::Names(..) => self.record(&State::Done(forgets.clone())),
        }
    }

    /// Whether the store has begun to forget what was committed.
    pub(super) fn is_forgetting(&self, forgets: &Forgets) -> Result<bool, StartError> {
        match forgets {
            Forgets::All => Ok(self.unwanted()?.is_ending()),
            Forgets::Names(..) => Ok(false),
        }
    }

    fn unwanted(&self) -> Result<Unwanted<Directory>, StartError> {
        let path = &self.wanted.store;
        let unwanted = Unwanted::open_after_commit(path);
        unwanted.map_err(|error| StartError::Verb(error.sentence(path)))
    }

    fn stopped(&self, step: &Step, why: &Stopped) -> StartError {
        let path = for_shell(Path::new(OsStr::from_bytes(step.path())));
        let store = for_shell(&self.wanted.store);
        let why = match why {
            Stopped::Conflict => "something else is there now".into(),
            Stopped::Failed(errno) => errno.to_string(),
        };
        StartError::Verb(format!(
            "the commit stopped at {path}: {why}; put that right, and finish it: mmfs commit {store}"
        ))
    }

    /// The end of a commit that was cut short.
    pub(super) fn ended(&self, forgets: Forgets) -> Result<(), StartError> {
        self.forget(forgets)?;
        note("a commit that was cut short is finished; what was changed since is not in it");
        Ok(())
    }

    /// Lets the store forget what was committed.
    pub(super) fn forget(&self, forgets: Forgets) -> Result<(), StartError> {
        let path = &self.wanted.store;
        let failed = |error| not_written(path, &error);
        match forgets {
            Forgets::All => {
                self.unwanted()?.end().map_err(failed)?;
            }
            Forgets::Names(items, kept) => {
                let opened = Store::open_to_forget(path);
                let (opened, _) = opened.map_err(|error| StartError::Verb(error.sentence(path)))?;
                let items: Vec<_> = items.into_iter().map(Item::for_store).collect();
                let view = self.view(opened.store)?;
                let done = forget(view.store(), &items).and_then(|()| {
                    let mut kept = kept.into_iter().map(KeptItem::for_view);
                    kept.try_for_each(|kept| view.take_over(&kept))
                });
                done.and(view.close()).map_err(failed)?;
            }
        }
        self.journal.remove().map_err(failed)
    }
}
