//! The steps of a commit that anybody can see. Each is one change, and is done or not done: the inode that it is about tells which.

use rustix::fs::{self, AtFlags, RenameFlags};
use rustix::io::{Errno, Result};
use serde::{Deserialize, Serialize};

use super::path::as_text;
use super::settings::{Lacking, Settings};
use super::tree::{Identity, Seen, Tree};
use crate::attr::Attr;

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// renameat2(2).
    Rename {
        #[serde(with = "as_text")]
        from: Vec<u8>,
        #[serde(with = "as_text")]
        to: Vec<u8>,
        /// What is renamed.
        what: Identity,
        /// What it replaces.
        over: Option<Seen>,
    },
    /// unlink(2) or rmdir(2).
    Remove {
        #[serde(with = "as_text")]
        path: Vec<u8>,
        /// What is removed.
        what: Seen,
    },
    /// Sets attributes.
    Set {
        #[serde(with = "as_text")]
        path: Vec<u8>,
        /// Whose.
        what: Identity,
        settings: Settings,
    },
}

/// Why a step is not done.
#[derive(Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Something else is there than when the plan was made.
    Conflict,
    /// A call failed.
    Failed(Errno),
}

impl From<Errno> for Stopped {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

impl Step {
    /// A directory with these attributes, in which names change, has the same times afterwards.
    pub fn keep_times(path: &[u8], attr: &Attr) -> Self {
        Self::Set {
            path: path.to_vec(),
            what: Identity::of(attr),
            settings: Settings::times(attr),
        }
    }

    /// The path that it is about in the end.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Rename { to, .. } => to,
            Self::Remove { path, .. } | Self::Set { path, .. } => path,
        }
    }

    /// Does it, unless it was done. Returns what the user may not do of it. `force`: what is there instead is replaced.
    ///
    /// # Errors
    /// Why it is not done.
    pub fn apply(&self, tree: &Tree, force: bool) -> std::result::Result<Lacking, Stopped> {
        match self {
            Self::Rename {
                from,
                to,
                what,
                over,
            } => rename(tree, (from, to), what, over.as_ref(), force)?,
            Self::Remove { path, what } => remove(tree, path, what)?,
            Self::Set {
                path,
                what,
                settings,
            } => {
                return match tree.hold(path, what) {
                    // It has gone since, or another is there.
                    Err(Errno::STALE | Errno::NOENT | Errno::NOTDIR) => Ok(Lacking::new()),
                    held => Ok(settings.apply(&held?)?),
                };
            }
        }
        Ok(Lacking::new())
    }
}

fn rename(
    tree: &Tree,
    (from, to): (&[u8], &[u8]),
    what: &Identity,
    over: Option<&Seen>,
    force: bool,
) -> std::result::Result<(), Stopped> {
    tree.forget();
    match tree.attr(from)? {
        Some(attr) if Identity::of(&attr) == *what => {}
        // It was done.
        _ => return Ok(()),
    }
    let (old, old_name) = tree.place(from)?;
    let (new, new_name) = tree.place(to)?;
    let occupant = tree.attr(to)?.map(|attr| Identity::of(&attr));
    let flags = match (occupant, over) {
        (None, _) => RenameFlags::NOREPLACE,
        // rename(2) does nothing then.
        (Some(there), _) if there == *what => {
            return Ok(fs::unlinkat(&*old, old_name, AtFlags::empty())?);
        }
        (Some(there), Some(seen)) if there == seen.identity => RenameFlags::empty(),
        (Some(there), _) if force && !there.is_dir() && !what.is_dir() => RenameFlags::empty(),
        _ => return Err(Stopped::Conflict),
    };
    let plain = || fs::renameat(&*old, old_name, &*new, new_name);
    let done = match flags.is_empty() {
        true => plain(),
        false => match fs::renameat_with(&*old, old_name, &*new, new_name, flags) {
            // Not every filesystem has it.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => plain(),
            done => done,
        },
    };
    match done {
        Err(Errno::EXIST | Errno::NOTEMPTY) => Err(Stopped::Conflict),
        done => Ok(done?),
    }
}

fn remove(tree: &Tree, path: &[u8], what: &Seen) -> std::result::Result<(), Stopped> {
    tree.forget();
    match tree.attr(path)? {
        Some(attr) if Identity::of(&attr) == what.identity => {}
        // It was done.
        _ => return Ok(()),
    }
    let (directory, name) = tree.place(path)?;
    let flags = match what.identity.is_dir() {
        true => AtFlags::REMOVEDIR,
        false => AtFlags::empty(),
    };
    match fs::unlinkat(&*directory, name, flags) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => Err(Stopped::Conflict),
        done => Ok(done?),
    }
}

/// Checks that what the steps rest on is as it was. Returns the paths where it is not.
///
/// # Errors
/// That of statx(2), and the path.
pub fn moved_on(
    tree: &Tree,
    expected: &[(Vec<u8>, Option<Seen>)],
) -> std::result::Result<Vec<Vec<u8>>, (Vec<u8>, Errno)> {
    let mut moved = Vec::new();
    for (path, seen) in expected {
        let found: Result<_> = tree.attr(path);
        let found = found.map_err(|errno| (path.clone(), errno))?;
        if found.map(|attr| Seen::of(&attr)) != *seen {
            moved.push(path.clone());
        }
    }
    Ok(moved)
}
