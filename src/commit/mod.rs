//! `mmfs commit`: carries the changes of a private view into its source.
//!
//! What changes in the source is planned ([`plan`]), all that is new is made beside the source's files ([`stage`]), what the plan rests
//! on is looked at once more, the steps are recorded in the store ([`journal`]) and done ([`steps`]), and the store forgets what was
//! committed. Until the steps are recorded nothing that was there has changed. From then on a commit that was cut short is gone on with.

mod attributes;
mod bytes;
mod choosing;
mod ending;
mod handed;
mod journal;
mod path;
mod plan;
mod planned;
mod progress;
mod settings;
mod stage;
mod steps;
mod tree;
mod wanted;

pub use wanted::Wanted;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;

use crate::attr::Attr;
use crate::config::{Config, StoreConfig};
use crate::difference::{Difference, Kind};
use crate::refusal::{ExitCode, StartError, note};
use crate::session::store_place::look_into;
use crate::show::{self, DiffForm};
use crate::store::opening::OpenError;
use crate::store::{Journal, Store, random};
use crate::terminal::for_shell;
use crate::view::private::{Changes, Unmounted};
use choosing::Chosen;
use handed::Handed;
use journal::{Forgets, PathText, State};
use planned::Plan;
use progress::Progress;
use settings::Lacking;
use stage::Made;
use steps::{How, Step, Stopped};
use tree::Tree;

/// Carries the changes in a store into the source.
///
/// # Errors
/// The sentence that says why it is not done. The source is as it was then, unless the sentence says that the commit is to be finished.
pub fn commit(wanted: &Wanted) -> Result<ExitCode, StartError> {
    commit_after(wanted, false)
}

/// `finished`: one that was cut short, which may have been this one.
fn commit_after(wanted: &Wanted, finished: bool) -> Result<ExitCode, StartError> {
    let path = &wanted.store;
    show::must_be_unmounted(path, "commit")?;
    look_into(path)?;
    must_be_ours(path)?;
    let refused = |error: OpenError| StartError::Verb(error.sentence(path));
    let journal = Journal::of(path).map_err(refused)?;
    let base = Store::base_of(path).map_err(refused)?;
    show::must_be_of(path, &base)?;
    let begun = journal::read(&journal).map_err(|error| not_written(path, &error))?;
    if begun.is_some() && wanted.dry_run {
        return Err(StartError::Verb(OpenError::Committing.sentence(path)));
    }
    let in_source = |errno: Errno| StartError::Filesystem(base.path.clone(), errno.into());
    let commit = Commit {
        wanted,
        source: &base.path,
        tree: Tree::open(&base.path).map_err(in_source)?,
        journal,
    };
    let forgets = match begun {
        None => return commit.begin(finished),
        Some(making @ State::Making(..)) => {
            commit.take_back(&making)?;
            return commit.begin(finished);
        }
        Some(State::Stepping(steps, forgets)) => {
            if !commit.is_forgetting(&forgets)? {
                let progress = commit.progress(0)?;
                commit.finish(&steps, &forgets, true, &progress)?;
            }
            forgets
        }
        Some(State::Done(forgets)) => forgets,
    };
    commit.ended(forgets)?;
    again(wanted, commit)
}

/// A commit that was cut short is finished. What was asked for now is a commit of its own.
fn again(wanted: &Wanted, finished: Commit<'_>) -> Result<ExitCode, StartError> {
    // It has the lock.
    drop(finished);
    match wanted.selection.is_all() {
        true => Ok(ExitCode::Success),
        false => commit_after(wanted, true),
    }
}

/// As steps are done that may have been done.
const RESUMED: How = How {
    force: false,
    resumes: true,
};

struct Commit<'a> {
    wanted: &'a Wanted,
    source: &'a Path,
    tree: Tree,
    journal: Journal,
}

/// A path below the root, for a sentence.
fn shown(path: &[u8]) -> String {
    let path = if path.is_empty() { b"." } else { path };
    for_shell(Path::new(OsStr::from_bytes(path))).to_string()
}

/// An error, and the path below the root that it is about.
fn on_path(path: &[u8], error: impl Into<io::Error>) -> StartError {
    let error = error.into();
    let path = shown(path);
    let why = match error.raw_os_error() {
        Some(libc::EINTR) => {
            return StartError::Verb(
                "the commit was ended by a signal; nothing was changed".into(),
            );
        }
        Some(libc::EXDEV) => "it cannot be renamed to there".to_string(),
        Some(libc::ENOTUNIQ) => "the source has it under another name, too, as filesystems do that do not tell upper from lower case".to_string(),
        Some(libc::ESTALE) => "its other bytes were in the source only, and are others there now".to_string(),
        _ => error.to_string(),
    };
    StartError::Verb(format!(
        "{path} cannot be committed: {why}; nothing was changed"
    ))
}

/// Refuses a store into which others than its owner may write: a commit does what stands in it, with all of root's rights.
fn must_be_ours(store: &Path) -> Result<(), StartError> {
    let user = rustix::process::geteuid().as_raw();
    // Most users have a group of their own.
    let others = if user == 0 { 0o022 } else { 0o002 };
    let is_ours = |path: &Path| {
        let found = std::fs::symlink_metadata(path);
        found.map_or(true, |found| {
            found.uid() == user && found.mode() & others == 0
        })
    };
    match is_ours(store) && is_ours(&store.join("commit")) {
        true => Ok(()),
        false => Err(StartError::Verb(format!(
            "others may write to the store {}; with chmod go-w it can be committed, if it is as you have left it",
            for_shell(store)
        ))),
    }
}

fn not_written(store: &Path, error: &io::Error) -> StartError {
    let store = for_shell(store);
    StartError::Verb(format!("the store {store} cannot be changed: {error}"))
}

impl Commit<'_> {
    /// A commit from its beginning on.
    fn begin(&self, finished: bool) -> Result<ExitCode, StartError> {
        let path = &self.wanted.store;
        let refused = |error: OpenError| StartError::Verb(error.sentence(path));
        let (store, base) = Store::open_to_commit(path).map_err(refused)?;
        if base.path != self.source {
            // A mount has given it another since.
            return Err(refused(OpenError::InUse));
        }
        let view = self.view(store)?;
        let changes = view.changes();
        let changes = changes.map_err(|(path, errno)| on_path(&path, errno))?;
        let is_chosen = |one| self.wanted.selection.chooses(one);
        let close = |view: Unmounted| view.close().map_err(|error| not_written(path, &error));
        if finished && !changes.differences.iter().any(is_chosen) {
            close(view)?;
            return Ok(ExitCode::Success);
        }
        let chosen = choosing::choose(changes, &self.wanted.selection, self.wanted.skip_conflicts)?;
        let Chosen { changes, forgets } = chosen;
        let conflicts = changes.differences.iter();
        let conflicts: Vec<Difference> = conflicts
            .filter(|one| one.kind == Kind::Conflict)
            .cloned()
            .collect();
        if self.wanted.dry_run {
            show::differences(&changes.differences, DiffForm::Lines)?;
        }
        if !conflicts.is_empty() && !self.wanted.force {
            if !self.wanted.dry_run {
                show::tell_differences(&conflicts);
            }
            note(
                "the source has changed these, too, so nothing was changed; see --force and --skip-conflicts",
            );
            return Ok(ExitCode::Conflicts);
        }
        if self.wanted.dry_run {
            return Ok(ExitCode::Success);
        }
        let unsure = |error| StartError::System("get random bytes", error);
        let plan = plan::plan(&view, &self.tree, &changes, random().map_err(unsure)?);
        let plan = plan.map_err(|(path, errno)| on_path(&path, errno))?;
        self.check_directories(&plan)?;
        let sizes = plan.makes.iter().map(|make| changes.changed[make.of].attr);
        let total = sizes.filter(Attr::is_file).map(|attr| attr.size).sum();
        let progress = self.progress(total)?;
        let made = self.make(&view, (&changes, &forgets), plan, &progress)?;
        let Some(steps) = made else {
            return Ok(ExitCode::Conflicts);
        };
        let count = changes.differences.len();
        close(view)?;
        self.finish(&steps, &forgets, false, &progress)?;
        drop(progress);
        self.forget(forgets)?;
        let source = for_shell(self.source);
        let changes = match count {
            0 => "no change".into(),
            1 => "1 change".into(),
            count => format!("{count} changes"),
        };
        note(format_args!("committed {changes} to {source}"));
        Ok(ExitCode::Success)
    }

    fn view(&self, store: Store) -> Result<Unmounted, StartError> {
        let config = Config::unmounted(self.source.into());
        let of_store = StoreConfig::of_directory(self.wanted.store.clone());
        let view = Unmounted::open(&config, &of_store, store);
        view.map_err(|error| StartError::Filesystem(self.source.into(), error))
    }

    fn progress(&self, total: u64) -> Result<Progress, StartError> {
        Progress::new(total).map_err(|error| StartError::System("handle signals", error))
    }

    fn check_directories(&self, plan: &Plan) -> Result<(), StartError> {
        for directory in &plan.changing {
            let checked = self.tree.may_change(directory);
            checked.map_err(|errno| on_path(directory, errno))?;
        }
        for (path, _) in plan.expected.iter().filter(|(_, seen)| seen.is_some()) {
            match self.tree.may_take_away(path) {
                // What has gone is found when all is made.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err(on_path(path, errno)),
            }
        }
        Ok(())
    }

    /// Makes all that is new, and records the steps. None: the source has changed meanwhile, and all is as it was.
    fn make(
        &self,
        view: &Unmounted,
        (changes, forgets): (&Changes, &Forgets),
        mut plan: Plan,
        progress: &Progress,
    ) -> Result<Option<Vec<Step>>, StartError> {
        let texts = plan.temporary.iter().cloned().map(PathText);
        let temporary: Vec<PathText> = texts.collect();
        // Not of others: setting times is a change, too, which a view takes for a conflict.
        let directories = plan.temporary.iter().map(|path| path::parent(path).0);
        let directories: BTreeSet<&[u8]> = directories.collect();
        let times = directories.into_iter().filter_map(|directory| {
            let attr = self.tree.attr(directory).ok()??;
            Some(Step::keep_times(directory, &attr))
        });
        // What stays in the store needs its data files.
        let handed = match forgets {
            Forgets::All => self.candidates(view, changes, &plan)?,
            Forgets::Names(..) => HashMap::new(),
        };
        let taken_back = handed.values().map(Handed::take_back);
        let making = State::Making(temporary, times.chain(taken_back).collect());
        self.record(&making)?;
        let outcome = match self.made(view, changes, (&mut plan, handed), progress) {
            Ok(Some(steps)) => {
                match self.record(&State::Stepping(steps.clone(), forgets.clone())) {
                    Ok(()) => return Ok(Some(steps)),
                    Err(error) => {
                        self.take_steps_back(&making)?;
                        Err(error)
                    }
                }
            }
            outcome => outcome,
        };
        self.take_back(&making)?;
        outcome
    }

    /// The data files that may be handed over, by the index of what is made.
    fn candidates(
        &self,
        view: &Unmounted,
        changes: &Changes,
        plan: &Plan,
    ) -> Result<HashMap<usize, Handed>, StartError> {
        let mut all = HashMap::new();
        let is_private = self.journal.has_private_data();
        if !is_private.map_err(|error| not_written(&self.wanted.store, &error))? {
            return Ok(all);
        }
        for (index, make) in plan.makes.iter().enumerate() {
            let one = &changes.changed[make.of];
            let found = handed::candidate(view, make, one);
            let found = found.map_err(|error| on_path(&one.spot.path, error))?;
            found.and_then(|found| all.insert(index, found));
        }
        Ok(all)
    }

    /// Makes sure that no steps are recorded, after an error: they may be, and what they place is removed next.
    fn take_steps_back(&self, making: &State) -> Result<(), StartError> {
        match journal::read(&self.journal) {
            // So it was before, durably. On a full disk it cannot be written again.
            Ok(Some(State::Making(..))) => Ok(()),
            _ => self.record(making),
        }
    }

    /// Makes all that is new, durably. Returns the steps, or None as above.
    fn made(
        &self,
        view: &Unmounted,
        changes: &Changes,
        (plan, handed): (&mut Plan, HashMap<usize, Handed>),
        progress: &Progress,
    ) -> Result<Option<Vec<Step>>, StartError> {
        let all = (&*plan, &*changes.changed);
        let made = stage::make_all(view, (&self.tree, &self.journal), all, handed, progress);
        let made = made.map_err(|(path, error)| on_path(&path, error))?;
        let steps = stage::steps(plan, &changes.changed, &made);
        let Made { lacking, .. } = made;
        tell_lacking(&lacking);
        if self.wanted.strict && !(lacking.is_empty() && plan.lacking.is_empty()) {
            tell_lacking(&plan.lacking);
            let sentence =
                "not all of this can be set, and --strict was given; nothing was changed";
            return Err(StartError::Verb(sentence.into()));
        }
        self.sync(plan.changing.iter().map(Vec::as_slice))?;
        // As late as can be: a sync takes long.
        let moved = steps::moved_on(&self.tree, &plan.expected);
        let moved = moved.map_err(|(path, errno)| on_path(&path, errno))?;
        if !moved.is_empty() && !self.wanted.force {
            let paths = moved
                .iter()
                .map(|path| for_shell(Path::new(OsStr::from_bytes(path))));
            let paths: Vec<String> = paths.collect();
            note(format_args!(
                "changed in the source meanwhile: {}; nothing was changed",
                paths.join(", ")
            ));
            return Ok(None);
        }
        progress.goes_on().map_err(|error| on_path(b".", error))?;
        Ok(Some(steps))
    }

    fn record(&self, state: &State) -> Result<(), StartError> {
        let written = journal::write(&self.journal, state);
        written.map_err(|error| not_written(&self.wanted.store, &error))
    }

    /// Makes what was done in these directories durable: each of their filesystems once.
    fn sync<'b>(&self, directories: impl Iterator<Item = &'b [u8]>) -> Result<(), StartError> {
        let (mut synced, mut missed) = (HashSet::new(), HashMap::new());
        for directory in directories.chain([&b""[..]]) {
            // It may be gone by now, or something else be there.
            let found = self.tree.attr(directory).ok().flatten();
            let Some(attr) = found.filter(|attr| attr.is_dir() && !synced.contains(&attr.dev))
            else {
                continue;
            };
            match self.tree.sync(directory) {
                Ok(()) => drop(synced.insert(attr.dev)),
                // It is closed to its owner by now. Another one will do.
                Err(Errno::ACCESS) => drop(missed.insert(attr.dev, Errno::ACCESS)),
                Err(errno) => return Err(StartError::Filesystem(self.source.into(), errno.into())),
            }
        }
        match missed.into_iter().find(|(dev, _)| !synced.contains(dev)) {
            Some((_, errno)) => Err(StartError::Filesystem(self.source.into(), errno.into())),
            None => Ok(()),
        }
    }

    /// Removes what was made, and the journal.
    fn take_back(&self, making: &State) -> Result<(), StartError> {
        let State::Making(temporary, steps) = making else {
            return Ok(());
        };
        for PathText(path) in temporary {
            // A hostile journal may name other files.
            let name = path::parent(path).1.as_bytes();
            if name.starts_with(plan::TEMPORARY.as_bytes()) {
                let removed = self.tree.remove_all(path);
                removed.map_err(|error| StartError::Filesystem(self.source.into(), error))?;
            }
        }
        let both = (&self.tree, &self.journal);
        for step in steps {
            match step {
                Step::TakeBack { .. } => {
                    if let Err(Stopped::Failed(errno)) = step.apply(both, RESUMED) {
                        return Err(not_written(&self.wanted.store, &errno.into()));
                    }
                }
                // Only for the looks of it. A hostile journal may have others.
                Step::Set { settings, .. } if settings.is_times() => {
                    let _ = step.apply(both, RESUMED);
                }
                _ => {}
            }
        }
        // The store may be on another filesystem: without the journal, nobody finds what has come back.
        self.sync(temporary.iter().map(|PathText(path)| path::parent(path).0))?;
        let removed = self.journal.remove();
        removed.map_err(|error| not_written(&self.wanted.store, &error))
    }
}

/// Says what could not be set.
fn tell_lacking(lacking: &[(Vec<u8>, Lacking)]) {
    for (path, lacks) in lacking {
        let path = shown(path);
        note(format_args!(
            "{path}: no privilege to set: {}",
            lacks.join(", ")
        ));
    }
}
