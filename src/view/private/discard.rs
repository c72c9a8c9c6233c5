//! Giving up some of the changes: what the store has to forget, so that the view shows the source there and stays as it is elsewhere.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::diff::Failed;
use super::forget::{Forgetting, everything};
use super::layers::Layers;
use super::node::Node;
use super::unmounted::layers;
use crate::config::{Config, StoreConfig};
use crate::difference::{Detail, Difference, Kind, joined};
use crate::store::{Change, NodeId, Place, Store};
use crate::terminal::for_shell;

/// Why changes stay.
#[derive(Debug)]
pub enum Stays {
    /// The sentence that says which changes depend on each other.
    Depends(String),
    /// A path cannot be looked at.
    Failed(Failed),
    /// The store or the source cannot be read.
    Error(io::Error),
}

impl Stays {
    /// The sentence for the terminal.
    pub fn sentence(&self, store: &Path) -> String {
        match self {
            Self::Depends(sentence) => sentence.clone(),
            Self::Failed(failed) => not_compared(failed),
            Self::Error(error) => {
                let store = for_shell(store);
                format!("the changes in the store {store} stay: {error}")
            }
        }
    }
}

/// The sentence about a path that cannot be looked at.
pub fn not_compared((path, errno): &Failed) -> String {
    let path = for_shell(Path::new(OsStr::from_bytes(path)));
    format!("{path} cannot be compared with the source: {errno}")
}

impl From<io::Error> for Stays {
    fn from(error: io::Error) -> Self {
        Self::Error(error)
    }
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    /// What the store forgets, for [`Store::change_all`].
    pub changes: Vec<Vec<Change>>,
    /// The changes that are given up.
    pub given_up: Vec<Difference>,
    /// Those that stay, as they are told afterwards.
    stay: Vec<Told>,
}

/// A line of differences.
type Told = (Vec<u8>, Option<Vec<u8>>, char);

fn told(one: &Difference) -> Told {
    (one.path.clone(), one.from.clone(), one.kind.letter())
}

/// Works out how the changes are given up that `choose` chooses of all, of a view that is not mounted.
///
/// `said` says why they stay.
///
/// # Errors
/// Those of `choose`, and why they stay.
pub fn plan<E>(
    config: &Config,
    wanted: &StoreConfig,
    store: Arc<Store>,
    choose: impl FnOnce(&[Difference]) -> std::result::Result<Vec<bool>, E>,
    said: impl Fn(Stays) -> E,
) -> std::result::Result<Plan, E> {
    let layers = layers(config, wanted, store).map_err(|error| said(error.into()))?;
    plan_of(&layers, choose, said)
}

/// As [`plan`], of these layers.
pub(super) fn plan_of<E>(
    layers: &Layers,
    choose: impl FnOnce(&[Difference]) -> std::result::Result<Vec<bool>, E>,
    said: impl Fn(Stays) -> E,
) -> std::result::Result<Plan, E> {
    let all = layers.differences(Detail::Kinds);
    let all = all.map_err(|failed| said(Stays::Failed(failed)))?;
    let chosen = choose(&all)?;
    let planning = Planning::new(layers, &all, chosen);
    planning.and_then(Planning::plan).map_err(said)
}

/// Checks that a plan does what it is to do, on a store that is only looked at.
///
/// # Errors
/// The sentence about the first path that would show something else.
pub fn try_out(
    config: &Config,
    wanted: &StoreConfig,
    looked: Arc<Store>,
    plan: &Plan,
) -> std::result::Result<(), Stays> {
    try_out_on(&layers(config, wanted, looked)?, plan)
}

/// As [`try_out`], on these layers.
pub(super) fn try_out_on(layers: &Layers, plan: &Plan) -> std::result::Result<(), Stays> {
    layers.store.pretend(&plan.changes)?;
    let now = layers.differences(Detail::Kinds);
    let now: HashSet<Told> = now.map_err(Stays::Failed)?.iter().map(told).collect();
    let path = |told: &Told| shown(&told.0);
    if let Some(lost) = plan.stay.iter().find(|told| !now.contains(*told)) {
        return Err(Stays::Depends(format!(
            "the change at {} depends on what is chosen, and is not chosen; choose it, too",
            path(lost)
        )));
    }
    let stay: HashSet<&Told> = plan.stay.iter().collect();
    match now.iter().filter(|told| !stay.contains(told)).min() {
        None => Ok(()),
        Some(left) => Err(Stays::Depends(format!(
            "the change at {} depends on others that are not chosen; choose those of its directory, too",
            path(left)
        ))),
    }
}

pub(super) fn shown(path: &[u8]) -> String {
    for_shell(Path::new(OsStr::from_bytes(path)))
}

pub(super) fn parted(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Whether a path lies below a directory.
pub(super) fn lies_in(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty()
        || path
            .strip_prefix(directory)
            .is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// The directories that a path lies in, from the nearest on, without the root.
pub(super) fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().rev();
    ends.filter_map(move |(at, byte)| (*byte == b'/').then_some(&path[..at]))
}

pub(super) fn is_dir(one: &Difference) -> bool {
    one.now
        .is_some_and(|shape| shape.kind == FileType::Directory)
}

pub(super) struct Planning<'a> {
    pub layers: &'a Layers,
    pub all: &'a [Difference],
    pub chosen: Vec<bool>,
    pub forgetting: Forgetting<'a>,
    pub directories: HashMap<Vec<u8>, Node>,
    /// The nodes of the differences. Of what was deleted: that of the source's file, if it has one.
    pub nodes: Vec<Option<NodeId>>,
    pub by_node: HashMap<NodeId, Vec<usize>>,
    pub by_path: HashMap<&'a [u8], Vec<usize>>,
    pub by_from: HashMap<&'a [u8], usize>,
    /// Where the source has what the view has renamed.
    pub homes: HashMap<usize, Option<Place>>,
    pub away: HashSet<Place>,
    /// Names that lead to what they lead to in the source.
    pub restored: HashSet<Place>,
    pub released: HashSet<Place>,
}

impl<'a> Planning<'a> {
    fn new(
        layers: &'a Layers,
        all: &'a [Difference],
        chosen: Vec<bool>,
    ) -> std::result::Result<Self, Stays> {
        let mut planning = Self {
            layers,
            all,
            chosen,
            forgetting: Forgetting::new(&layers.store)?,
            directories: HashMap::new(),
            nodes: Vec::new(),
            by_node: HashMap::new(),
            by_path: HashMap::new(),
            by_from: HashMap::new(),
            homes: HashMap::new(),
            away: HashSet::new(),
            restored: HashSet::new(),
            released: HashSet::new(),
        };
        planning.keep_directories();
        for (index, one) in all.iter().enumerate() {
            let node = planning.node(one).map_err(failed(&one.path))?;
            planning.nodes.push(node);
            if let Some(id) = node {
                planning.by_node.entry(id).or_default().push(index);
            }
            planning.by_path.entry(&one.path).or_default().push(index);
            if let Some(from) = &one.from {
                planning.by_from.insert(from, index);
                let home = planning.home(from).map_err(failed(from))?;
                planning.away.extend(home.clone());
                planning.homes.insert(index, home);
            }
        }
        Ok(planning)
    }

    /// A new directory in which something stays, stays.
    fn keep_directories(&mut self) {
        let left = |(index, _): &(usize, &Difference)| !self.chosen[*index];
        let left = self.all.iter().enumerate().filter(left);
        let left: Vec<&Difference> = left.map(|(_, one)| one).collect();
        let needed: HashSet<&[u8]> = left
            .iter()
            .filter(|one| one.now.is_some())
            .flat_map(|one| above(&one.path))
            .collect();
        for (index, one) in self.all.iter().enumerate() {
            let is_new = matches!(one.kind, Kind::Added | Kind::Type | Kind::Conflict);
            if is_new && one.from.is_none() && is_dir(one) && needed.contains(one.path.as_slice()) {
                self.chosen[index] = false;
            }
        }
    }

    fn plan(mut self) -> std::result::Result<Plan, Stays> {
        let (given_up, stay): (Vec<_>, Vec<_>) =
            (0..self.all.len()).partition(|at| self.chosen[*at]);
        if stay.is_empty() {
            return Ok(Plan {
                changes: everything(&self.layers.store, self.layers.looked_at.is_some())?,
                given_up: self.all.to_vec(),
                stay: Vec::new(),
            });
        }
        let stay = stay.into_iter().map(|at| {
            let (_, from, letter) = told(&self.all[at]);
            let path = match self.all[at].now {
                Some(_) => self.afterwards(&self.all[at].path, self.homes.len() * 2),
                None => self.all[at].path.clone(),
            };
            (path, from, letter)
        });
        let stay = stay.collect();
        self.steps(&given_up)?;
        Ok(Plan {
            changes: self.forgetting.done(),
            given_up: given_up.iter().map(|at| self.all[*at].clone()).collect(),
            stay,
        })
    }

    /// The path of what stays, when directories that it lies in have come home. `steps`: so many renamed directories are looked at.
    fn afterwards(&self, path: &[u8], steps: usize) -> Vec<u8> {
        let renamed = |directory: &[u8]| {
            let mut there = self.by_path.get(directory)?.iter();
            there.find(|at| self.all[**at].from.is_some()).copied()
        };
        let nearest = above(path).find_map(renamed);
        let (Some(at), Some(steps)) = (nearest, steps.checked_sub(1)) else {
            return path.to_vec();
        };
        let one = &self.all[at];
        let directory = match self.chosen[at] {
            true => self.way_afterwards(one.from.as_deref().unwrap_or_default(), steps),
            false => self.afterwards(&one.path, steps),
        };
        joined(&directory, &path[one.path.len() + 1..])
    }

    /// Where a path of the source is shown then, if directories above it stay renamed.
    fn way_afterwards(&self, way: &[u8], steps: usize) -> Vec<u8> {
        let stays = |directory: &[u8]| {
            let renamed = self.by_from.get(directory).copied();
            renamed.filter(|at| !self.chosen[*at])
        };
        let nearest = above(way).find_map(|directory| Some((directory, stays(directory)?)));
        match nearest {
            Some((directory, at)) => {
                let shown = self.afterwards(&self.all[at].path, steps);
                joined(&shown, &way[directory.len() + 1..])
            }
            None => way.to_vec(),
        }
    }
}

pub(super) fn failed(path: &[u8]) -> impl Fn(Errno) -> Stays {
    move |errno| Stays::Failed((path.to_vec(), errno))
}
