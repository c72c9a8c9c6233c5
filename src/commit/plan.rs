//! The plan of a commit: what is made beside the source's files, and in which order names change then.
//!
//! Everything new is made first, under temporary names: nothing that anybody sees has changed when that fails. Then, with the
//! paths of the source and from the deepest up, what the view has elsewhere is moved away and what it does not have is removed.
//! Then, with the paths of the view and from the root down, all that is new or moved gets its name. Attributes of what was there
//! come last, and directories after what lies in them.

use std::collections::{HashMap, HashSet};

use rustix::io::{Errno, Result};

use super::attributes::{all_settings, own_settings};
use super::path::{above, parent};
use super::planned::{Make, Plan, Planned, What};
use super::settings::{Lacking, time};
use super::steps::Step;
use super::tree::{Identity, Seen, Tree};
use crate::difference::joined;
use crate::view::private::{Changed, Changes, Fate, Key, Left, Spot, Unmounted};

/// What is not done, and the path it is about.
pub type Failed = (Vec<u8>, Errno);

/// What a name of the view needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing but attributes.
    Stays,
    /// The source's inode gets this name.
    Moves,
    /// It is made.
    New,
}

/// How temporary names begin.
pub const TEMPORARY: &str = ".mmfs-commit-";

struct Planner<'a> {
    view: &'a Unmounted,
    tree: &'a Tree,
    changed: &'a [Changed],
    left: &'a [Left],
    left_at: HashMap<&'a [u8], usize>,
    random: u64,
    roles: Vec<Role>,
    /// Inodes of the source whose bytes are others in the view.
    other_bytes: HashMap<Key, bool>,
    /// What was made first for an inode.
    made: HashMap<Key, usize>,
    /// Directories that are made: the view's path, and where they are made.
    new_directories: HashMap<&'a [u8], Vec<u8>>,
    /// Where what moves waits, by the path that it has in the source.
    waits: HashMap<&'a [u8], Step>,
    /// Names of the source that are replaced at once.
    replaced: HashSet<usize>,
    placing: Vec<Planned>,
    /// Directories in which names change: the view's path, and the source's.
    touched: HashMap<&'a [u8], &'a [u8]>,
    plan: Plan,
}

/// Plans a commit of all changes. `random` makes temporary names that nobody else has.
///
/// # Errors
/// The first one that was found on a path.
pub fn plan(
    view: &Unmounted,
    tree: &Tree,
    changes: &Changes,
    random: u64,
) -> std::result::Result<Plan, Failed> {
    let (changed, left) = (&changes.changed[..], &changes.left[..]);
    let places = left.iter().enumerate();
    let mut planner = Planner {
        view,
        tree,
        changed,
        left,
        left_at: places.map(|(index, left)| (&*left.way, index)).collect(),
        random,
        roles: Vec::with_capacity(changed.len()),
        other_bytes: HashMap::new(),
        made: HashMap::new(),
        new_directories: HashMap::new(),
        waits: HashMap::new(),
        replaced: HashSet::new(),
        placing: Vec::new(),
        touched: HashMap::new(),
        plan: Plan::default(),
    };
    for one in changed {
        let role = planner.role(one).map_err(|errno| failed(one, errno))?;
        planner.roles.push(role);
    }
    for (index, one) in changed.iter().enumerate() {
        let done = match planner.roles[index] {
            Role::Stays => Ok(()),
            Role::Moves => planner.moves(one),
            Role::New => planner.makes(index, one),
        };
        done.map_err(|errno| failed(one, errno))?;
    }
    planner.leave()?;
    let placing = std::mem::take(&mut planner.placing);
    planner.plan.steps.extend(placing);
    planner.set_all()?;
    Ok(planner.plan)
}

fn failed(changed: &Changed, errno: Errno) -> Failed {
    (changed.spot.path.clone(), errno)
}

/// Whether the view has a directory of its own where the source has one.
fn is_merged(one: &Changed) -> bool {
    one.attr.is_dir() && !one.is_of_source() && one.old.is_some_and(|old| old.is_dir())
}

fn from(one: &Changed) -> Option<&[u8]> {
    one.difference.as_ref()?.from.as_deref()
}

impl<'a> Planner<'a> {
    fn role(&mut self, one: &Changed) -> Result<Role> {
        if is_merged(one) {
            return Ok(Role::Stays);
        }
        if !one.is_of_source() || self.has_other_bytes(one)? {
            return Ok(Role::New);
        }
        if one.attr.is_dir() && from(one).is_some() && self.tree.is_overlay()? {
            // A directory of its lower layer cannot be renamed.
            return Err(Errno::XDEV);
        }
        Ok(match from(one) {
            _ if one.is_same && from(one).is_none() => Role::Stays,
            None => Role::New,
            Some(from) if self.is_on(one)? == self.device(from)? => Role::Moves,
            // A directory would have to be copied with all that lies in it.
            Some(_) if one.attr.is_dir() => return Err(Errno::XDEV),
            Some(_) => Role::New,
        })
    }

    fn has_other_bytes(&mut self, one: &Changed) -> Result<bool> {
        if let Some(known) = self.other_bytes.get(&one.key()) {
            return Ok(*known);
        }
        let has = self.view.has_other_bytes(one)?;
        self.other_bytes.insert(one.key(), has);
        Ok(has)
    }

    /// The device number of what the source has at a path, and its mount: rename(2) crosses neither.
    fn device(&self, path: &[u8]) -> Result<(u64, u64)> {
        let attr = self.tree.attr(path)?;
        attr.map(|attr| (attr.dev, attr.mount.id))
            .ok_or(Errno::STALE)
    }

    /// The device number of the directory that gets a name.
    fn is_on(&self, one: &Changed) -> Result<(u64, u64)> {
        if let Some(way) = &one.spot.way {
            return self.device(parent(way).0);
        }
        // In a directory that is made: where the nearest one is that the source has.
        for directory in above(&one.spot.path) {
            let found = self
                .changed
                .binary_search_by(|one| (*one.spot.path).cmp(directory));
            let way = found.ok().and_then(|at| self.changed[at].spot.way.as_ref());
            if let Some(way) = way {
                return self.device(parent(way).0);
            }
        }
        self.device(b"")
    }

    fn temporary(&self) -> Vec<u8> {
        let number = self.plan.temporary.len();
        format!("{TEMPORARY}{:016x}-{number}", self.random).into_bytes()
    }

    /// What the source has where a name of the view goes, if that can be replaced by one rename(2).
    fn occupant(&mut self, one: &Changed) -> (Option<Seen>, bool) {
        let Some(way) = &one.spot.way else {
            return (None, true);
        };
        if let Some(old) = one.old.filter(|_| one.is_same && from(one).is_none()) {
            return (Some(Seen::of(&old)), true);
        }
        let Some(index) = self.left_at.get(&**way).copied() else {
            self.plan.expected.push((way.clone(), None));
            return (None, true);
        };
        let left = &self.left[index];
        let is_file = !left.attr.is_dir() && !one.attr.is_dir();
        match left.fate {
            Fate::Replaced if is_file => {
                self.replaced.insert(index);
                (Some(Seen::of(&left.attr)), true)
            }
            _ => (None, false),
        }
    }

    fn touch(&mut self, spot: &'a Spot) {
        let directory = parent(&spot.path).0;
        let way = spot.way.as_ref().map(|way| parent(way).0);
        self.touched.insert(directory, way.unwrap_or(directory));
    }

    fn makes(&mut self, index: usize, one: &'a Changed) -> Result<()> {
        let make = self.plan.makes.len();
        let (directory, name) = parent(&one.spot.path);
        let name = name.as_encoded_bytes();
        self.touch(&one.spot);
        let at = match (self.new_directories.get(directory), &one.spot.way) {
            (Some(directory), _) => joined(directory, name),
            (None, None) => return Err(Errno::STALE),
            (None, Some(way)) => {
                let (over, _) = self.occupant(one);
                if let Some(seen) = over {
                    self.plan.expected.push((way.clone(), Some(seen)));
                }
                let temporary = self.temporary();
                let at = joined(parent(way).0, &temporary);
                self.plan.changing.insert(parent(way).0.to_vec());
                self.plan.temporary.push(at.clone());
                self.placing.push(Planned::Place {
                    make,
                    from: joined(directory, &temporary),
                    to: one.spot.path.clone(),
                    over,
                });
                at
            }
        };
        let what = self.what(one, make)?;
        if one.attr.is_dir() {
            self.new_directories.insert(&*one.spot.path, at.clone());
        }
        self.plan.makes.push(Make {
            at,
            of: index,
            what,
        });
        Ok(())
    }

    fn what(&mut self, one: &Changed, make: usize) -> Result<What> {
        if let Some(first) = self.made.get(&one.key()) {
            return Ok(What::Link(self.plan.makes[*first].at.clone()));
        }
        if one.is_of_source() && !self.has_other_bytes(one)? {
            let way = self.view.reached(one)?;
            let identity = Identity::of(&self.view.source_attr(one)?);
            let found = self.tree.attr(&way)?;
            let is_there = found.is_some_and(|attr| Identity::of(&attr) == identity);
            if is_there && self.is_on(one)? == self.device(&way)? {
                return Ok(What::LinkOf(way, identity));
            }
        }
        self.made.insert(one.key(), make);
        Ok(What::Inode)
    }

    fn moves(&mut self, one: &'a Changed) -> Result<()> {
        let from = from(one).ok_or(Errno::STALE)?;
        let attr = self.view.source_attr(one)?;
        let identity = Identity::of(&attr);
        self.plan
            .expected
            .push((from.to_vec(), Some(Seen::of(&attr))));
        self.plan.changing.insert(parent(from).0.to_vec());
        self.touch(&one.spot);
        let (over, is_free) = self.occupant(one);
        if let (Some(way), Some(seen)) = (&one.spot.way, over) {
            self.plan.expected.push((way.clone(), Some(seen)));
        }
        if is_free && self.stays_in_place(one) {
            let step = Step::Rename {
                from: from.to_vec(),
                to: one.spot.path.clone(),
                what: identity,
                over,
            };
            self.plan.changing.insert(parent(&one.spot.path).0.to_vec());
            self.waits.insert(from, step);
            return Ok(());
        }
        let root = self.root_of(from)?;
        let waiting = joined(root, &self.temporary());
        self.touched.insert(root, root);
        self.plan.changing.insert(root.to_vec());
        self.plan.temporary.push(waiting.clone());
        self.placing.push(Planned::Step(Step::Rename {
            from: waiting.clone(),
            to: one.spot.path.clone(),
            what: identity,
            over,
        }));
        let step = Step::Rename {
            from: from.to_vec(),
            to: waiting,
            what: identity,
            over: None,
        };
        self.waits.insert(from, step);
        Ok(())
    }

    /// Whether the directory of a name has the same path before and after, and neither it nor one above it goes.
    fn stays_in_place(&self, one: &Changed) -> bool {
        let directory = parent(&one.spot.path).0;
        let is_same = one
            .spot
            .way
            .as_ref()
            .is_some_and(|way| parent(way).0 == directory);
        let goes = |path: &[u8]| {
            let left = self.left_at.get(path).map(|index| &self.left[*index]);
            left.is_some_and(|left| left.fate != Fate::Merged)
        };
        is_same && !goes(directory) && !above(directory).any(goes)
    }

    /// The root of the filesystem of a path: it stays whatever moves.
    fn root_of<'b>(&self, path: &'b [u8]) -> Result<&'b [u8]> {
        let device = self.device(path)?;
        let mut root = parent(path).0;
        for directory in above(path) {
            if self.device(directory)? != device {
                break;
            }
            root = directory;
        }
        Ok(root)
    }

    /// The steps for names that the view does not have, from the deepest up.
    fn leave(&mut self) -> std::result::Result<(), Failed> {
        let stays = self
            .changed
            .iter()
            .filter(|one| one.is_same && from(one).is_none());
        let stays: HashSet<(u64, u64)> = stays
            .filter_map(|one| one.old.map(|old| (old.dev, old.ino)))
            .collect();
        let ways = self
            .changed
            .iter()
            .filter_map(|one| one.spot.way.as_deref().or(from(one)));
        let ways: HashSet<&[u8]> = ways.chain(self.changed.iter().filter_map(from)).collect();
        for (index, left) in self.left.iter().enumerate().rev() {
            if left.fate == Fate::Merged || self.replaced.contains(&index) {
                continue;
            }
            let is_alone = left.attr.is_dir() || left.attr.nlink < 2;
            if is_alone && stays.contains(&(left.attr.dev, left.attr.ino)) {
                return Err((left.way.clone(), Errno::NOTUNIQ));
            }
            let directory = parent(&left.way).0;
            if !ways.contains(directory) && !self.left_at.contains_key(directory) {
                self.touched.insert(directory, directory);
            }
            self.plan.changing.insert(parent(&left.way).0.to_vec());
            let step = self.waits.remove(&*left.way).unwrap_or_else(|| {
                let what = Seen::of(&left.attr);
                self.plan.expected.push((left.way.clone(), Some(what)));
                Step::Remove {
                    path: left.way.clone(),
                    what,
                }
            });
            self.plan.steps.push(Planned::Step(step));
        }
        Ok(())
    }

    /// The steps that set attributes, from the deepest up.
    fn set_all(&mut self) -> std::result::Result<(), Failed> {
        let mut set = HashSet::new();
        let mut steps = Vec::new();
        for one in self.changed {
            let is_first = set.insert(one.key());
            let step = self.set(one, is_first);
            steps.extend(step.map_err(|errno| failed(one, errno))?);
        }
        for (directory, way) in std::mem::take(&mut self.touched) {
            let found = self
                .changed
                .binary_search_by(|one| (*one.spot.path).cmp(directory));
            if found.is_err() {
                let attr = self.tree.attr(way);
                let attr = attr.map_err(|errno| (directory.to_vec(), errno))?;
                steps.extend(attr.map(|attr| Planned::Step(Step::keep_times(directory, &attr))));
            }
        }
        let of = |planned: &Planned| match planned {
            Planned::Step(step) => step.path().to_vec(),
            Planned::Place { to, .. } => to.clone(),
            Planned::SetMade { path, .. } => path.clone(),
        };
        steps.sort_by_cached_key(|planned| std::cmp::Reverse(of(planned)));
        self.plan.steps.extend(steps);
        Ok(())
    }

    fn set(&mut self, one: &Changed, is_first: bool) -> Result<Option<Planned>> {
        let path = one.spot.path.clone();
        if let Some(make) = self.made.get(&one.key()) {
            if !one.attr.is_dir() {
                return Ok(None);
            }
            let (make, settings) = (*make, all_settings(self.view, one)?);
            self.note_lacking(&path, settings.lacks(None));
            return Ok(Some(Planned::SetMade {
                make,
                path,
                settings,
            }));
        }
        if !is_first {
            return Ok(None);
        }
        let is_merged = is_merged(one);
        let (attr, mut settings) = match one.old.filter(|_| is_merged) {
            Some(old) => (old, all_settings(self.view, one)?),
            None => (self.view.source_attr(one)?, own_settings(self.view, one)?),
        };
        if one.attr.is_dir() && self.touched.contains_key(&*path) {
            settings.mtime = Some(time(one.attr.mtime));
        }
        if settings.is_nothing() {
            return Ok(None);
        }
        self.note_lacking(&path, settings.lacks(Some(&attr)));
        Ok(Some(Planned::Step(Step::Set {
            path,
            what: Identity::of(&attr),
            settings,
        })))
    }

    fn note_lacking(&mut self, path: &[u8], lacks: Lacking) {
        if !lacks.is_empty() {
            self.plan.lacking.push((path.to_vec(), lacks));
        }
    }
}
