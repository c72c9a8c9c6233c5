//! The steps of giving up single changes: what becomes of each name and each node.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::{Errno, Result};

use super::discard::{Planning, Stays, above, failed, is_dir, lies_in, parted, shown};
use super::layers::errno;
use super::node::Node;
use super::origins::Hold;
use crate::difference::{Difference, Kind};
use crate::inode::ROOT;
use crate::store::{Kind as NodeKind, Name, NodeId, Place};
use crate::view::{Found, shared};

/// What a path of the view leads to.
struct Spot {
    dir: Node,
    /// The name in the store, if the store has its directory.
    place: Option<Place>,
    leads: Option<Name>,
    found: Found<Node>,
    node: Option<NodeId>,
}

type Done = std::result::Result<(), Stays>;

impl Planning<'_> {
    /// Gives up these changes.
    pub fn steps(&mut self, given_up: &[usize]) -> Done {
        let mut files: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        let (mut renamed, mut deleted, mut own) = (Vec::new(), Vec::new(), Vec::new());
        let anew = self.made_anew(given_up)?;
        // What lies in a directory comes before the directory.
        for at in given_up.iter().copied().rev() {
            let one = &self.all[at];
            let is_own_dir = |id| self.is_own_directory(id);
            match self.nodes[at] {
                Some(id) if self.is_file_of_source(id).map_err(failed(&one.path))? => {
                    files.entry(id).or_default().push(at);
                }
                _ if one.now.is_none() => deleted.push(at),
                _ if one.from.is_some() => renamed.push(at),
                Some(id) if is_own_dir(id).map_err(failed(&one.path))? => {
                    own.push(one.path.clone())
                }
                _ => self.here(one).map_err(failed(&one.path))?,
            }
            self.forgetting.end_group();
        }
        for (id, ats) in &files {
            self.names_of_file(*id, ats)?;
            self.forgetting.end_group();
        }
        for (id, ats) in &files {
            let path = &self.all[ats[0]].path;
            self.file(*id).map_err(failed(path))?;
            self.forgetting.end_group();
        }
        for at in deleted.into_iter().rev() {
            self.deleted(at)?;
            self.forgetting.end_group();
        }
        self.forgetting.tidy()?;
        self.directories_come_home(renamed)?;
        own.retain(|path| !anew.contains(path));
        own.extend(anew);
        own.sort();
        for path in own.iter().rev() {
            self.own_directory(path).map_err(failed(path))?;
            self.forgetting.end_group();
        }
        self.forgetting.tidy()?;
        self.names_are_free()
    }

    fn is_file_of_source(&self, id: NodeId) -> Result<bool> {
        let stored = self.layers.stored(id)?;
        Ok(stored.origin.is_some() && stored.kind != NodeKind::Directory)
    }

    /// A directory that the source does not have, or has no more.
    fn is_own_directory(&self, id: NodeId) -> Result<bool> {
        let stored = self.layers.stored(id)?;
        let is_dir = stored.kind == NodeKind::Directory;
        Ok(is_dir && self.layers.found(id)?.place.source().is_none())
    }

    fn directory(&mut self, path: &[u8]) -> Result<Node> {
        if let Some(node) = self.directories.get(path) {
            return Ok(node.clone());
        }
        let mut node = self.layers.nodes.get(ROOT)?;
        let ways: Vec<&[u8]> = above(path).collect();
        let ways = ways.into_iter().rev().chain([path]);
        for way in ways.filter(|way| !way.is_empty()) {
            node = match self.directories.get(way) {
                Some(known) => known.clone(),
                None => {
                    let name = OsStr::from_bytes(parted(way).1);
                    self.layers.lookup(&node, name)?.place
                }
            };
            self.directories.insert(way.to_vec(), node.clone());
        }
        Ok(node)
    }

    fn at(&mut self, path: &[u8]) -> Result<Spot> {
        let (parent, name) = parted(path);
        let dir = self.directory(parent)?;
        let layers = self.layers;
        let found = layers.lookup(&dir, OsStr::from_bytes(name))?;
        let place = layers.id(&dir)?.map(|id| (id, name.to_vec()));
        let leads = match &place {
            Some((directory, name)) => layers.store.name(*directory, name).map_err(errno)?,
            None => None,
        };
        let node = match leads {
            Some(Name::Node(id)) => Some(id),
            _ => layers.id(&found.place)?,
        };
        Ok(Spot {
            dir,
            place,
            leads,
            found,
            node,
        })
    }

    /// The node of what differs. Of a file that was deleted: the node of the source's file.
    pub fn node(&mut self, one: &Difference) -> Result<Option<NodeId>> {
        let layers = self.layers;
        if one.now.is_none() {
            let found = layers.walk(&one.path, Hold::IfNeeded)?;
            return match found.filter(|found| !found.attr.is_dir()) {
                Some(found) => layers.claim(&found.place),
                None => Ok(None),
            };
        }
        match one.path.as_slice() {
            b"." => layers.id(&layers.nodes.get(ROOT)?),
            path => Ok(self.at(path)?.node),
        }
    }

    /// The name in the store of a path of the source, if the store has its directory.
    pub fn home(&self, way: &[u8]) -> Result<Option<Place>> {
        let (parent, name) = parted(way);
        let Some(found) = self.layers.walk(parent, Hold::IfNeeded)? else {
            return Ok(None);
        };
        let directory = self.layers.claim(&found.place)?;
        Ok(directory.map(|id| (id, name.to_vec())))
    }

    /// What the source has under the name.
    fn below(&self, spot: &Spot, name: &[u8]) -> Result<Option<Found<shared::Node>>> {
        match spot.dir.source() {
            Some(dir) => self.layers.in_source(dir, OsStr::from_bytes(name)),
            None => Ok(None),
        }
    }

    /// Takes a name from what it leads to. What the source has there shows, unless the view has it elsewhere.
    fn release(&mut self, spot: &Spot) -> Result<()> {
        let Some(place) = spot.place.clone() else {
            return Ok(());
        };
        self.released.insert(place.clone());
        if self.restored.contains(&place) {
            return Ok(());
        }
        let old = self.below(spot, &place.1)?;
        let Some(old) = old else {
            self.forgetting.lead(place, None);
            return Ok(());
        };
        if self.away.contains(&place) {
            self.forgetting.lead(place, Some(Name::Hidden));
            return Ok(());
        }
        let linked = match old.attr.is_dir() {
            true => Some(place.0),
            false => self.layers.claim(&old.place)?,
        };
        self.forgetting.lead(place, None);
        if let Some(id) = linked {
            self.forgetting.count(id, 1);
        }
        Ok(())
    }

    /// What is at its path by no other name of the source.
    fn here(&mut self, one: &Difference) -> Result<()> {
        let id = match one.path.as_slice() {
            b"." => self.layers.id(&self.layers.nodes.get(ROOT)?)?,
            path => {
                let spot = self.at(path)?;
                let id = spot.node.ok_or(Errno::STALE)?;
                if !spot.found.attr.is_dir() {
                    self.release(&spot)?;
                    self.forgetting.unlink(id);
                    return Ok(());
                }
                Some(id)
            }
        };
        let id = id.ok_or(Errno::STALE)?;
        self.forgetting.reset(id).map_err(errno)
    }

    /// The names of a file of the source.
    fn names_of_file(&mut self, id: NodeId, ats: &[usize]) -> Done {
        let path = &self.all[ats[0]].path;
        let changed = self.forgetting.has_changes(id)?;
        let is_new = |at: &usize| self.all[*at].kind == Kind::Added && self.all[*at].from.is_none();
        let others: Vec<String> = self
            .others(id)
            .map(|at| shown(&self.all[at].path))
            .collect();
        if changed && !others.is_empty() && !ats.iter().all(is_new) {
            return Err(Stays::Depends(format!(
                "{} is a file with further names, which is changed by all of them; choose these, too: {}",
                shown(path),
                others.join(" ")
            )));
        }
        for at in ats {
            let one = &self.all[*at];
            match (&one.now, &one.from) {
                (None, _) => self.deleted(*at)?,
                (_, Some(_)) => self.file_comes_home(*at)?,
                _ => self.name_of_file(one, id).map_err(failed(&one.path))?,
            }
        }
        Ok(())
    }

    /// Changes by further names of a node that are not chosen.
    fn others(&self, id: NodeId) -> impl Iterator<Item = usize> {
        let of_node = self.by_node.get(&id).into_iter().flatten().copied();
        of_node.filter(|at| !self.chosen[*at] && self.all[*at].now.is_some())
    }

    fn name_of_file(&mut self, one: &Difference, id: NodeId) -> Result<()> {
        let spot = self.at(&one.path)?;
        let Some(Name::Node(_)) = spot.leads else {
            return Ok(());
        };
        let (_, name) = parted(&one.path);
        let below = self.below(&spot, name)?;
        let source = spot.found.place.source();
        if below.is_some_and(|below| Some(&below.place) == source) {
            return Ok(());
        }
        self.release(&spot)?;
        if source.is_some() {
            self.forgetting.count(id, -1);
        }
        Ok(())
    }

    /// What the store has of a file of the source, when all its changes are given up.
    fn file(&mut self, id: NodeId) -> Result<()> {
        if self.others(id).next().is_some() {
            return Ok(());
        }
        for place in self.forgetting.places(id) {
            if !self.away.contains(&place) || self.restored.contains(&place) {
                self.forgetting.lead(place, None);
            }
        }
        self.forgetting.renew(id).map(drop).map_err(errno)
    }

    fn file_comes_home(&mut self, at: usize) -> Done {
        let one = &self.all[at];
        let spot = self.at(&one.path).map_err(failed(&one.path))?;
        self.release(&spot).map_err(failed(&one.path))?;
        match self.homes[&at].clone() {
            Some(home) => {
                self.restored.insert(home.clone());
                self.forgetting.lead(home, None);
                Ok(())
            }
            None => self.must_be_shown(one, one.from.as_deref().unwrap_or_default()),
        }
    }

    /// Checks that the directory of a path in the source comes back, too.
    fn must_be_shown(&self, one: &Difference, way: &[u8]) -> Done {
        let deleted = |directory: &[u8]| {
            let mut there = self.by_path.get(directory)?.iter();
            there.find(|at| self.all[**at].now.is_none()).copied()
        };
        match above(way).filter_map(deleted).find(|at| !self.chosen[*at]) {
            None => Ok(()),
            Some(at) => Err(Stays::Depends(format!(
                "the directory {} was deleted, in which {} was; choose that directory, too",
                shown(&self.all[at].path),
                shown(match one.from {
                    Some(_) => &one.path,
                    None => way,
                })
            ))),
        }
    }

    fn deleted(&mut self, at: usize) -> Done {
        let one = &self.all[at];
        let home = self.home(&one.path).map_err(failed(&one.path))?;
        let hidden = home.filter(|home| self.forgetting.leads(home) == Some(Name::Hidden));
        let was_dir = one.before.is_some_and(|shape| shape.kind.is_dir());
        match hidden {
            Some(place) => {
                self.restored.insert(place.clone());
                if was_dir {
                    self.forgetting.count(place.0, 1);
                }
                self.forgetting.lead(place, None);
            }
            None => self.must_be_shown(one, &one.path)?,
        }
        if let Some(id) = self.nodes[at] {
            self.forgetting.count(id, 1);
        }
        Ok(())
    }

    /// Renamed directories, in one group: they may have each other's names.
    fn directories_come_home(&mut self, mut renamed: Vec<usize>) -> Done {
        renamed.sort_by_key(|at| std::cmp::Reverse(self.all[*at].from.clone()));
        for at in renamed {
            let one = &self.all[at];
            let spot = self.at(&one.path).map_err(failed(&one.path))?;
            let id = spot.node.ok_or(Errno::STALE).map_err(failed(&one.path))?;
            self.release(&spot).map_err(failed(&one.path))?;
            if let Some((directory, _)) = spot.place {
                self.forgetting.count(directory, -1);
            }
            let stays = self.forgetting.has_names(id);
            let from = one.from.as_deref().unwrap_or_default();
            let Some(home) = self.homes[&at].clone() else {
                self.must_be_shown(one, from)?;
                self.forgetting.remove(id);
                continue;
            };
            self.restored.insert(home.clone());
            self.forgetting.count(home.0, 1);
            match stays {
                true => {
                    self.forgetting.lead(home, Some(Name::Node(id)));
                    self.forgetting.reset(id)?;
                }
                false => {
                    self.forgetting.lead(home, None);
                    self.forgetting.remove(id);
                }
            }
        }
        self.forgetting.end_group();
        Ok(())
    }

    /// A directory that the source does not have goes, with what is in it and is no change.
    fn own_directory(&mut self, path: &[u8]) -> Result<()> {
        let spot = self.at(path)?;
        let id = spot.node.ok_or(Errno::STALE)?;
        self.release(&spot)?;
        if let Some((directory, _)) = spot.place {
            self.forgetting.count(directory, -1);
        }
        let mut directories = vec![id];
        while let Some(directory) = directories.pop() {
            for (name, leads) in self.forgetting.names_in(directory) {
                let Name::Node(id) = leads else { continue };
                if self.is_own_directory(id)? {
                    directories.push(id);
                    continue;
                }
                self.forgetting.lead((directory, name), None);
                match self.is_file_of_source(id)? {
                    true => self.forgetting.count(id, -1),
                    false => self.forgetting.unlink(id),
                }
            }
            self.forgetting.remove(directory);
        }
        Ok(())
    }

    /// Directories of the view's own in the place of directories of the source, in which changes are given up: all have to be.
    fn made_anew(&mut self, given_up: &[usize]) -> std::result::Result<Vec<Vec<u8>>, Stays> {
        let mut anew: Vec<Vec<u8>> = Vec::new();
        let mut known: HashMap<&[u8], bool> = HashMap::new();
        let all = self.all;
        for at in given_up {
            let path = &all[*at].path;
            let ways: Vec<&[u8]> = above(path).collect();
            let own = is_dir(&all[*at]).then_some(path.as_slice());
            for way in ways.into_iter().rev().chain(own) {
                let is_anew = match known.get(way) {
                    Some(known) => *known,
                    None => {
                        let is_anew = self.is_made_anew(way).map_err(failed(way))?;
                        known.insert(way, is_anew);
                        anew.extend(is_anew.then(|| way.to_vec()));
                        is_anew
                    }
                };
                // All below is given up with it.
                if is_anew {
                    break;
                }
            }
        }
        for directory in &anew {
            let left = self.all.iter().zip(&self.chosen).find(|(one, chosen)| {
                let is_in = one.path == *directory || lies_in(&one.path, directory);
                is_in && !**chosen
            });
            if let Some((left, _)) = left {
                return Err(Stays::Depends(format!(
                    "the directory {} was removed and made anew, so its changes can only be given up together; choose {}, too",
                    shown(directory),
                    shown(&left.path)
                )));
            }
        }
        Ok(anew)
    }

    fn is_made_anew(&mut self, path: &[u8]) -> Result<bool> {
        if path == b"." {
            return Ok(false);
        }
        let is_told = |at: &usize| {
            let one = &self.all[*at];
            one.from.is_some() || matches!(one.kind, Kind::Added | Kind::Type)
        };
        let there = self.by_path.get(path);
        if there.is_some_and(|there| there.iter().any(is_told)) {
            return Ok(false);
        }
        let spot = match self.at(path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => return Ok(false),
            spot => spot?,
        };
        let Some(id) = spot.node.filter(|_| spot.found.attr.is_dir()) else {
            return Ok(false);
        };
        Ok(self.layers.stored(id)?.origin.is_none())
    }

    /// Checks that nothing which stays has a name that shows the source again.
    fn names_are_free(&self) -> Done {
        for (at, home) in &self.homes {
            let Some(home) = home.as_ref().filter(|_| self.chosen[*at]) else {
                continue;
            };
            let leads = self.layers.store.name(home.0, &home.1)?;
            if matches!(leads, Some(Name::Node(_))) && !self.released.contains(home) {
                let one = &self.all[*at];
                return Err(Stays::Depends(format!(
                    "{} cannot have its old name {} back, which something else has in the view; choose that, too",
                    shown(&one.path),
                    shown(one.from.as_deref().unwrap_or_default())
                )));
            }
        }
        Ok(())
    }
}
