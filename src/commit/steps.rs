//! The steps of a commit that anybody can see. Each is one change, and is done or not done: the inode that it is about tells which.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, Result};
use serde::{Deserialize, Serialize};

use super::path::{above, as_text};
use super::settings::{Lacking, Settings};
use super::tree::{Identity, Seen, Tree, named, stat};
use crate::attr::Attr;
use crate::store::{Journal, NodeId};

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
    /// renameat2(2) of a data file of the store.
    Hand {
        node: u64,
        data: u64,
        #[serde(with = "as_text")]
        to: Vec<u8>,
        /// Where it is in the end.
        #[serde(with = "as_text")]
        path: Vec<u8>,
        /// What is renamed, unless the store is a copy by now.
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
    /// Sets attributes of a data file of the store, as far as that can be.
    TakeBack {
        node: u64,
        data: u64,
        settings: Settings,
    },
}

/// How steps are done.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// What is there instead of what was expected is replaced.
    pub force: bool,
    /// Some of the steps may have been done.
    pub resumes: bool,
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

    /// Whether it was done, and the directory above it is closed to its owner now: by one of these steps, which come later and are done, too.
    pub fn is_shut_off(&self, tree: &Tree, later: &[Self]) -> bool {
        let directories: HashSet<&[u8]> = above(self.path()).collect();
        later.iter().any(|step| match step {
            Self::Set { path, settings, .. } if directories.contains(&**path) => {
                let mode = tree
                    .attr(path)
                    .ok()
                    .flatten()
                    .map(|attr| attr.mode & 0o7777);
                mode.is_some() && mode == settings.mode
            }
            _ => false,
        })
    }

    /// The path that it gives to a data file, if that is another inode than it was: the store is a copy.
    pub fn hands_a_copy(&self, journal: &Journal) -> Option<&[u8]> {
        let Self::Hand {
            node,
            data,
            path,
            what,
            ..
        } = self
        else {
            return None;
        };
        let (_, attr) = data_file(journal, *node, *data).ok()??;
        (Identity::of(&attr) != *what).then_some(path)
    }

    /// The name that it takes away from what it renames.
    fn from(&self) -> Option<&[u8]> {
        match self {
            Self::Rename { from, .. } => Some(from),
            _ => None,
        }
    }

    /// The path that it is about in the end.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Rename { to, .. } => to,
            Self::Hand { path, .. } | Self::Remove { path, .. } | Self::Set { path, .. } => path,
            // None of the source's.
            Self::TakeBack { .. } => b"",
        }
    }

    /// Does it, unless it was done. Returns what the user may not do of it.
    ///
    /// # Errors
    /// Why it is not done.
    pub fn apply(
        &self,
        (tree, journal): (&Tree, &Journal),
        how: How,
    ) -> std::result::Result<Lacking, Stopped> {
        match self {
            Self::Hand {
                node,
                data,
                to,
                over,
                ..
            } => match data_file(journal, *node, *data)? {
                Some((from, attr)) => {
                    let what = Identity::of(&attr);
                    rename(tree, (Some(from), to), &what, over.as_ref(), how)?;
                }
                None if how.resumes => {}
                None => return Err(Stopped::Conflict),
            },
            Self::TakeBack {
                node,
                data,
                settings,
            } => {
                if let Some(((directory, name), _)) = data_file(journal, *node, *data)? {
                    take_back((&directory, &name), settings)?;
                }
            }
            Self::Rename {
                from,
                to,
                what,
                over,
            } => {
                tree.forget();
                let place = match tree.place(from) {
                    Err(Errno::NOENT | Errno::NOTDIR) => None,
                    place => Some(place?),
                };
                let place = place.map(|(directory, name)| (directory, name.to_owned()));
                rename(tree, (place, to), what, over.as_ref(), how)?;
            }
            Self::Remove { path, what } => remove(tree, path, what, how)?,
            Self::Set {
                path,
                what,
                settings,
            } => {
                return match tree.hold(path, what) {
                    Err(Errno::STALE | Errno::NOENT | Errno::NOTDIR) => Ok(vec!["all: gone"]),
                    held => Ok(settings.apply(&held?)?),
                };
            }
        }
        Ok(Lacking::new())
    }
}

/// A directory, and a name in it.
type Place = (Rc<OwnedFd>, OsString);

/// Where a data file of the store lies, if it does.
fn data_file(journal: &Journal, node: u64, data: u64) -> Result<Option<(Place, Attr)>> {
    let found = NodeId::checked(node).and_then(|id| journal.data_file(id, data));
    let found = found.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let Some((directory, name)) = found else {
        return Ok(None);
    };
    match named(&directory, &name)? {
        None => Ok(None),
        Some(attr) if attr.is_file() => Ok(Some(((Rc::new(directory), name), attr))),
        Some(_) => Err(Errno::UCLEAN),
    }
}

fn take_back((directory, name): (&OwnedFd, &OsStr), settings: &Settings) -> Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = fs::openat(directory, name, flags, Mode::empty())?;
    let attr = stat(&held)?;
    // What has a second name may lie elsewhere.
    match attr.is_file() && attr.nlink == 1 {
        true => settings.apply(&held).map(drop),
        false => Ok(()),
    }
}

fn rename(
    tree: &Tree,
    (from, to): (Option<Place>, &[u8]),
    what: &Identity,
    over: Option<&Seen>,
    how: How,
) -> std::result::Result<(), Stopped> {
    tree.forget();
    let there = match &from {
        Some((directory, name)) => named(directory, name)?,
        None => None,
    };
    let (old, old_name) = match (from, there) {
        (Some(from), Some(attr)) if Identity::of(&attr) == *what => from,
        // It was done. At last all names are looked at.
        _ if how.resumes => return Ok(()),
        _ => return Err(Stopped::Conflict),
    };
    let old_name = &*old_name;
    let (new, new_name) = tree.place(to)?;
    let occupant = tree.attr(to)?.map(|attr| Seen::of(&attr));
    let flags = match (occupant, over) {
        (None, _) => RenameFlags::NOREPLACE,
        // rename(2) does nothing then.
        (Some(there), _) if there.identity == *what => {
            return Ok(fs::unlinkat(&*old, old_name, AtFlags::empty())?);
        }
        (Some(there), Some(seen)) if there == *seen => RenameFlags::empty(),
        (Some(there), _) if how.force && !there.identity.is_dir() && !what.is_dir() => {
            RenameFlags::empty()
        }
        _ => return Err(Stopped::Conflict),
    };
    let plain = || fs::renameat(&*old, old_name, &*new, new_name);
    let done = match flags.is_empty() {
        true => plain(),
        false => match fs::renameat_with(&*old, old_name, &*new, new_name, flags) {
            // Not every filesystem has it. Of directories, rename(2) replaces empty ones only.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if what.is_dir() => plain(),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                fs::linkat(&*old, old_name, &*new, new_name, AtFlags::empty())
                    .and_then(|()| fs::unlinkat(&*old, old_name, AtFlags::empty()))
            }
            done => done,
        },
    };
    match done {
        Err(Errno::EXIST | Errno::NOTEMPTY) => Err(Stopped::Conflict),
        done => Ok(done?),
    }
}

fn remove(tree: &Tree, path: &[u8], what: &Seen, how: How) -> std::result::Result<(), Stopped> {
    tree.forget();
    match tree.attr(path)?.map(|attr| Seen::of(&attr)) {
        Some(there) if there == *what => {}
        Some(there) if there.identity == what.identity && how.force => {}
        Some(there) if there.identity == what.identity => return Err(Stopped::Conflict),
        // It was done, and the commit may have given the name away.
        Some(_) if how.resumes => return Ok(()),
        Some(_) => return Err(Stopped::Conflict),
        None => return Ok(()),
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

/// The first step whose name does not lead to what it gave the name to, after all steps. None: all names do. `copied`: paths of other
/// inodes than were recorded.
///
/// # Errors
/// That of statx(2).
pub fn not_placed<'a>(
    tree: &Tree,
    steps: &'a [Step],
    copied: &HashSet<&[u8]>,
) -> std::result::Result<Option<&'a Step>, Errno> {
    let passing: HashSet<&[u8]> = steps.iter().filter_map(Step::from).collect();
    for step in steps {
        let (Step::Rename { to, what, .. } | Step::Hand { path: to, what, .. }) = step else {
            continue;
        };
        // What is renamed twice waits at a temporary name.
        if passing.contains(&**to) || copied.contains(&**to) {
            continue;
        }
        let there = tree.attr(to)?.map(|attr| Identity::of(&attr));
        if there != Some(*what) {
            return Ok(Some(step));
        }
    }
    Ok(None)
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
