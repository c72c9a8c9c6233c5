//! Committing some of the changes: which others have to come with them, and which cannot be left behind.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::journal::{Forgets, Item, KeptItem};
use super::path::{above, parent};
use crate::difference::{Difference, Kind};
use crate::refusal::StartError;
use crate::selection::Selection;
use crate::store::NodeId;
use crate::terminal::for_shell;
use crate::view::private::{Changed, Changes, Fate, Kept, Key, Left};

/// What is committed.
#[derive(Debug)]
pub struct Chosen {
    pub changes: Changes,
    pub forgets: Forgets,
}

/// Chooses changes of a view. `skips`: those that the source has changed, too, are left out.
///
/// # Errors
/// The sentence that says which changes have to go together.
pub fn choose(all: Changes, selection: &Selection, skips: bool) -> Result<Chosen, StartError> {
    selection.must_fit(&all.differences)?;
    let has_conflicts = || all.differences.iter().any(|one| one.kind == Kind::Conflict);
    if selection.is_all() && !(skips && has_conflicts()) {
        return Ok(Chosen {
            changes: all,
            forgets: Forgets::All,
        });
    }
    let mut choice = Choice::new(&all, |one: &Difference| {
        selection.chooses(one) && !(skips && one.kind == Kind::Conflict)
    });
    choice.add_directories()?;
    choice.leave_directories()?;
    choice.check_renames()?;
    choice.check_places()?;
    choice.check_links()?;
    Ok(choice.chosen(&all))
}

struct Choice<'a> {
    changed: &'a [Changed],
    left: &'a [Left],
    /// Those of the view, by their index.
    entries: Vec<bool>,
    /// Those of the source, by their index.
    gone: Vec<bool>,
    /// Indices by path.
    at: HashMap<&'a [u8], usize>,
    /// The name of the view that has the place of a name of the source, by the path in the source.
    instead: HashMap<&'a [u8], usize>,
    /// By the path in the source from which it was renamed.
    renamed: HashMap<&'a [u8], usize>,
}

fn from(one: &Changed) -> Option<&[u8]> {
    one.difference.as_ref()?.from.as_deref()
}

fn shown(path: &[u8]) -> String {
    for_shell(Path::new(OsStr::from_bytes(path)))
}

fn refused(sentence: String) -> StartError {
    StartError::Verb(sentence)
}

/// Which of `all`, sorted by path, lie in a directory.
fn below<T>(all: &[T], path: impl Fn(&T) -> &[u8], directory: &[u8]) -> Range<usize> {
    let prefix = [directory, b"/"].concat();
    let begin = all.partition_point(|one| path(one) < &*prefix);
    let rest = &all[begin..];
    begin..begin + rest.partition_point(|one| path(one).starts_with(&prefix))
}

impl<'a> Choice<'a> {
    fn new(all: &'a Changes, chooses: impl Fn(&Difference) -> bool) -> Self {
        let (changed, left) = (&all.changed[..], &all.left[..]);
        let pairs = || changed.iter().enumerate();
        let renamed: HashMap<&[u8], usize> = pairs()
            .filter_map(|(index, one)| Some((from(one)?, index)))
            .collect();
        // What differs in times only has no line.
        let chosen = |one: &Changed| match &one.difference {
            Some(difference) => chooses(difference),
            None => chooses(&only_path(&one.spot.path)),
        };
        let deleted = all.differences.iter().filter(|one| one.now.is_none());
        let deleted: HashSet<&[u8]> = deleted
            .filter(|one| chooses(one))
            .map(|one| &*one.path)
            .collect();
        Self {
            entries: changed.iter().map(chosen).collect(),
            gone: left
                .iter()
                .map(|left| deleted.contains(&*left.way))
                .collect(),
            at: pairs()
                .map(|(index, one)| (&*one.spot.path, index))
                .collect(),
            instead: pairs()
                .filter_map(|(index, one)| Some((one.spot.way.as_deref()?, index)))
                .collect(),
            renamed,
            changed,
            left,
        }
    }

    /// What lies in a new directory needs the directory.
    fn add_directories(&mut self) -> Result<(), StartError> {
        for index in 0..self.changed.len() {
            let one = &self.changed[index];
            if !self.entries[index] || one.difference.is_none() {
                continue;
            }
            for directory in above(&one.spot.path) {
                let Some(index) = self.at.get(directory).copied() else {
                    continue;
                };
                let directory = &self.changed[index];
                let is_new =
                    !directory.is_of_source() && !directory.old.is_some_and(|old| old.is_dir());
                if is_new {
                    self.entries[index] = true;
                } else if from(directory).is_some() && !self.entries[index] {
                    return Err(refused(format!(
                        "{} lies in {}, which was renamed; commit both",
                        shown(&one.spot.path),
                        shown(&directory.spot.path)
                    )));
                }
            }
        }
        Ok(())
    }

    /// A directory that keeps something is not removed.
    fn leave_directories(&mut self) -> Result<(), StartError> {
        // Whatever replaces or moves a name takes it away.
        for index in (0..self.left.len()).rev() {
            let left = &self.left[index];
            let by = match left.fate {
                Fate::Moved => self.renamed.get(&*left.way),
                Fate::Replaced => self.instead.get(&*left.way),
                Fate::Deleted | Fate::Merged => None,
            };
            if let Some(by) = by {
                self.gone[index] = self.entries[*by];
            }
        }
        // What lies in a directory that is replaced by one of the source goes with it.
        for index in 0..self.left.len() {
            let left = &self.left[index];
            if left.fate == Fate::Replaced && !self.instead.contains_key(&*left.way) {
                let directory = parent(&left.way).0;
                let found = self
                    .left
                    .binary_search_by(|left| (*left.way).cmp(directory));
                self.gone[index] = found.is_ok_and(|at| self.gone[at]);
            }
        }
        let stays: HashSet<&[u8]> = (0..self.left.len())
            .filter(|index| !self.gone[*index])
            .flat_map(|index| above(&self.left[index].way))
            .collect();
        for index in 0..self.left.len() {
            let left = &self.left[index];
            if !self.gone[index] || !stays.contains(&*left.way) || !left.attr.is_dir() {
                continue;
            }
            match left.fate {
                Fate::Deleted => self.gone[index] = false,
                Fate::Replaced => {
                    return Err(refused(format!(
                        "{} has the place of a directory of which something would stay; commit all that was in it, too",
                        shown(&left.way)
                    )));
                }
                Fate::Moved | Fate::Merged => {}
            }
        }
        Ok(())
    }

    /// A directory that was renamed goes with all that was changed in it.
    fn check_renames(&self) -> Result<(), StartError> {
        for (index, one) in self.changed.iter().enumerate() {
            let (true, true, Some(from)) = (self.entries[index], one.attr.is_dir(), from(one))
            else {
                continue;
            };
            let below = below(self.changed, |one| &one.spot.path, &one.spot.path);
            let entry = below
                .into_iter()
                .find(|other| !self.entries[*other] && self.changed[*other].difference.is_some());
            let below = self::below(self.left, |left| &left.way, from);
            let gone = below
                .into_iter()
                .find(|other| !self.gone[*other] && self.left[*other].fate != Fate::Merged);
            let path = entry
                .map(|other| &self.changed[other].spot.path)
                .or_else(|| gone.map(|other| &self.left[other].way));
            if let Some(path) = path {
                return Err(refused(format!(
                    "{} was renamed, and {} was changed in it; commit both",
                    shown(&one.spot.path),
                    shown(path)
                )));
            }
        }
        Ok(())
    }

    /// What was renamed to elsewhere has to go before something else gets its name.
    fn check_places(&self) -> Result<(), StartError> {
        for (index, left) in self.left.iter().enumerate() {
            let by = self.instead.get(&*left.way).filter(|by| self.entries[**by]);
            if let (false, Some(by), true) = (self.gone[index], by, left.fate != Fate::Merged) {
                return Err(refused(format!(
                    "{} has the place of what the view has elsewhere; commit both",
                    shown(&self.changed[*by].spot.path)
                )));
            }
        }
        Ok(())
    }

    /// The names of a file go together.
    fn check_links(&self) -> Result<(), StartError> {
        let mut names: HashMap<Key, (Option<usize>, Option<usize>)> = HashMap::new();
        for (index, one) in self.changed.iter().enumerate() {
            if one.attr.is_dir() || one.difference.is_none() {
                continue;
            }
            let (chosen, other) = names.entry(one.key()).or_default();
            match self.entries[index] {
                true => *chosen = Some(index),
                false => *other = Some(index),
            }
        }
        let split = names.values().find_map(|(chosen, other)| {
            Some((*chosen)?.min((*other)?)..=(*chosen)?.max((*other)?))
        });
        match split {
            None => Ok(()),
            Some(both) => Err(refused(format!(
                "{} and {} are one file; commit both",
                shown(&self.changed[*both.start()].spot.path),
                shown(&self.changed[*both.end()].spot.path)
            ))),
        }
    }

    /// By how much a name changes the links of directories: those of its own, and those of the directory from which it was renamed.
    fn links(&self, one: &Changed, directory: NodeId) -> Vec<(NodeId, i64)> {
        if one.difference.is_none() {
            return Vec::new();
        }
        if !one.attr.is_dir() && one.is_of_source() && !one.is_same {
            // A further name of a file of the source.
            return vec![(one.id, 1)];
        }
        let left = |path: &[u8]| {
            let found = self.left.binary_search_by(|left| (*left.way).cmp(path));
            found.ok().map(|at| &self.left[at])
        };
        let replaces = one.spot.way.as_deref().and_then(left).is_some_and(|left| {
            left.attr.is_dir() && matches!(left.fate, Fate::Replaced | Fate::Merged)
        });
        let is_dir = i64::from(one.attr.is_dir());
        let is_new = from(one).is_some() || !one.is_same;
        let here = i64::from(is_new) * is_dir - i64::from(replaces);
        let home = from(one).and_then(left).and_then(|left| left.name.as_ref());
        let home = home.map(|home| (home.0, -is_dir));
        [(directory, here)].into_iter().chain(home).collect()
    }

    fn path(&self, index: usize) -> &'a [u8] {
        &self.changed[index].spot.path
    }

    /// Directories of the view's own, with things in them that are chosen and others that are not.
    fn kept(&self) -> Vec<usize> {
        let above_all = |is_chosen: bool| -> HashSet<&[u8]> {
            (0..self.changed.len())
                .filter(|at| self.entries[*at] == is_chosen)
                .filter(|at| self.changed[*at].difference.is_some())
                .flat_map(|at| above(self.path(at)))
                .collect()
        };
        let (mut stays, goes) = (above_all(false), above_all(true));
        // What is hidden in a directory that was made anew stays so with it.
        let hidden = (0..self.left.len())
            .filter(|at| !self.gone[*at] && self.left[*at].fate != Fate::Merged);
        stays.extend(hidden.flat_map(|at| above(&self.left[at].way)));
        let is_kept = |at: &usize| {
            let one = &self.changed[*at];
            let is_own = one.attr.is_dir() && !one.is_of_source();
            let path = self.path(*at);
            is_own
                && match self.entries[*at] {
                    true => stays.contains(path),
                    false => goes.contains(path),
                }
        };
        (0..self.changed.len()).filter(is_kept).collect()
    }

    fn kept_item(&self, at: usize) -> KeptItem {
        let one = &self.changed[at];
        let below = below(self.changed, |one| &one.spot.path, &one.spot.path);
        let committed = below.filter(|at| self.entries[*at]);
        let committed = committed.map(|at| parent(self.path(at)));
        let committed = committed.filter(|(directory, _)| *directory == &*one.spot.path);
        KeptItem::new(Kept {
            path: one.spot.path.clone(),
            node: one.id,
            is_new: !one.old.is_some_and(|old| old.is_dir()),
            committed: committed
                .map(|(_, name)| name.as_bytes().to_vec())
                .collect(),
        })
    }

    fn chosen(&self, all: &Changes) -> Chosen {
        let entries = || (0..self.changed.len()).filter(|index| self.entries[*index]);
        let gone = || (0..self.left.len()).filter(|index| self.gone[*index]);
        let kept = self.kept();
        let is_kept: HashSet<&[u8]> = kept.iter().map(|index| self.path(*index)).collect();
        let mut items: Vec<Item> = Vec::new();
        for index in entries().filter(|index| !is_kept.contains(self.path(*index))) {
            let one = &self.changed[index];
            if let Some(name) = &one.spot.name {
                items.push(Item::new(name, Some(one.id), &self.links(one, name.0)));
            }
        }
        for index in gone() {
            let left = &self.left[index];
            // What has the name now is an item of its own.
            let is_free = !self.instead.contains_key(&*left.way);
            if let Some(name) = left.name.as_ref().filter(|_| is_free) {
                let is_here = left.fate != Fate::Moved && left.attr.is_dir();
                // A file with further names has one name less in the source, too.
                let file = left.node.filter(|_| left.fate != Fate::Moved);
                let file = file.map(|node| (node, -1));
                let links: Vec<_> = file
                    .into_iter()
                    .chain([(name.0, -i64::from(is_here))])
                    .collect();
                items.push(Item::new(name, None, &links));
            }
        }
        let is_chosen = |one: &&Difference| match (&one.now, self.at.get(&*one.path)) {
            (Some(_), Some(index)) => self.entries[*index],
            _ => self
                .left
                .binary_search_by(|left| left.way.cmp(&one.path))
                .is_ok_and(|at| self.gone[at]),
        };
        Chosen {
            changes: Changes {
                changed: entries().map(|index| self.changed[index].clone()).collect(),
                left: gone().map(|index| self.left[index].clone()).collect(),
                differences: all.differences.iter().filter(is_chosen).cloned().collect(),
            },
            forgets: Forgets::Names(
                items,
                kept.into_iter().map(|at| self.kept_item(at)).collect(),
            ),
        }
    }
}

/// A difference of which only the path counts.
fn only_path(path: &[u8]) -> Difference {
    Difference {
        kind: Kind::Permissions,
        path: match path {
            b"" => b".".to_vec(),
            path => path.to_vec(),
        },
        from: None,
        now: None,
        before: None,
        ranges: Vec::new(),
    }
}
