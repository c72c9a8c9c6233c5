//! Giving changes up while the view is mounted. The caller sees to it that no request is served meanwhile.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::FileType;
use rustix::io::Result;

use super::discard::{Stays, plan_of, shown, try_out_on};
use super::forget::everything;
use super::layers::Layers;
use super::node::{At, Node, Side, Way};
use super::touched::{Known, Touched};
use super::view::Private;
use crate::difference::Difference;
use crate::inode::{Place as _, ROOT};
use crate::selection::Selection;
use crate::store::{Change, NodeId};
use crate::view::{GivenUp, GivesUp, Names as _, Prepared, Stay, Used};

/// So many paths are named that are in use.
const MOST_NAMED: usize = 5;

impl GivesUp for Private {
    const HAS_CHANGES: bool = true;

    fn prepare(&self, chosen: &Selection) -> Option<Prepared> {
        if chosen.is_all() {
            return None;
        }
        // Planning may record something, too. It is nothing new at the second time.
        let as_of = self.layers.store.next_record();
        // What changes meanwhile may look like an error.
        let changes = self.layers.planned(chosen).ok()?;
        Some(Prepared { as_of, changes })
    }

    fn give_up(
        &self,
        chosen: &Selection,
        prepared: Option<Prepared>,
        used: &Used,
    ) -> std::result::Result<GivenUp, Stay> {
        let layers = &self.layers;
        let stays = |why: Stays| Stay::Refused(why.sentence(&self.directory));
        let failed = |error: io::Error| stays(error.into());
        let now = layers.store.next_record();
        let changes = match prepared {
            Some(prepared) if prepared.as_of == now => prepared.changes,
            Some(_) => return Err(Stay::Changed),
            None if chosen.is_all() => everything(&layers.store, true).map_err(failed)?,
            None => layers.planned(chosen).map_err(stays)?,
        };
        let touched = Touched::by(&layers.store, &changes).map_err(failed)?;
        let known = touched.known(layers);
        let in_use = layers.in_use(&touched, &known, used);
        if !in_use.is_empty() {
            return Err(Stay::InUse(are_in_use(in_use)));
        }
        let before = layers.store.next_record();
        let error = match layers.store.change_all(changes) {
            Err(error) if layers.store.next_record() == before => return Err(failed(error)),
            // After a part of it.
            done => done.err(),
        };
        layers.were_given_up(&touched, &known, chosen.is_all());
        Ok(GivenUp {
            withdrawn: touched.withdrawn(&known),
            failed: error.map(|error| {
                format!("some of the changes are given up, and the others stay: {error}")
            }),
        })
    }

    fn secure_given_up(&self) -> std::result::Result<(), String> {
        let done = self.layers.store.barrier();
        done.map_err(|error| {
            format!("the changes are given up, but a power cut may bring them back: {error}")
        })
    }
}

/// The sentence about paths that are in use.
fn are_in_use(mut paths: Vec<Vec<u8>>) -> String {
    paths.sort();
    paths.dedup();
    let named: Vec<String> = paths
        .iter()
        .take(MOST_NAMED)
        .map(|path| shown(path))
        .collect();
    let named = named.join(" ");
    match paths.len() {
        1 => format!(
            "{named} is open, or a program works in it; close it, or leave it out with --exclude"
        ),
        count if count <= MOST_NAMED => {
            format!(
                "these are open, or programs work in them: {named}; close them, or leave them out with --exclude"
            )
        }
        count => format!(
            "these and {} more are open, or programs work in them: {named}; close them, or leave them out with --exclude",
            count - MOST_NAMED
        ),
    }
}

impl Layers {
    /// What gives up the changes that are chosen. The view is left as it is.
    fn planned(&self, chosen: &Selection) -> std::result::Result<Vec<Vec<Change>>, Stays> {
        let choose = |all: &[Difference]| {
            let fits = chosen.must_fit(all);
            fits.map_err(|error| Stays::Depends(error.to_string()))?;
            Ok(all.iter().map(|one| chosen.chooses(one)).collect())
        };
        let looking = self.to_look_at(self.store.clone())?;
        let plan = plan_of(&looking, choose, |why| match why {
            Stays::Depends(sentence) => Stays::Depends(chosen.explained(sentence)),
            why => why,
        });
        self.looked(looking);
        let plan = plan?;
        let trying = self.to_look_at(Arc::new(self.store.snapshot()))?;
        let tried = try_out_on(&trying, &plan);
        self.looked(trying);
        tried.map(|()| plan.changes)
    }

    /// Paths of what goes, or gets another name, and is in use.
    fn in_use(&self, touched: &Touched, known: &Known, used: &Used) -> Vec<Vec<u8>> {
        let node_of = |number: u64| {
            let node = self.nodes.get(number).ok()?;
            self.id(&node).ok().flatten()
        };
        let open: HashSet<NodeId> = self
            .caches
            .all_open()
            .into_iter()
            .filter_map(node_of)
            .collect();
        let removed = touched.removed.iter().copied();
        let mut paths: Vec<Vec<u8>> = removed
            .filter(|id| open.contains(id))
            .map(|id| touched.path(id))
            .collect();
        let is_used = |(number, _): &(u64, Node)| {
            let shown = self.nodes.shown_number(*number);
            used.open.contains(number) || used.working.contains(&shown)
        };
        let directories = touched.directories();
        let directories = directories.filter(|id| {
            let mut known = known.get(id).into_iter().flatten();
            known.any(is_used)
        });
        paths.extend(directories.map(|id| touched.path(id)));
        paths.extend(self.dead_directories(touched));
        paths.extend(self.used_below(touched, used));
        paths
    }

    /// What this life knows of changes that were given up.
    fn were_given_up(&self, touched: &Touched, known: &Known, all: bool) {
        self.given_up.fetch_add(1, Relaxed);
        for id in &touched.removed {
            self.conflicts.remove(*id);
        }
        match all {
            true => self.gone.lock().clear(),
            false => self.are_shown_again(),
        }
        for id in touched.removed.iter().filter(|id| known.contains_key(id)) {
            for (_, node) in &known[id] {
                self.nodes.update(node, |node| node.is_recorded = false);
                if node.source().is_some() && node.kind != FileType::Directory {
                    self.renamed.lock().given_up(node.key());
                }
            }
        }
        for (id, path) in touched.homes() {
            let known = known.get(&id).into_iter().flatten();
            for (_, node) in known.filter(|(_, node)| node.at.is_none()) {
                // It was found by what only the store knew. Where this fails, the next lookup of its name does it.
                if let Ok(Some(home)) = self.home_of(node, path) {
                    self.nodes.update(node, |node| node.found_as(&home));
                }
            }
        }
    }

    /// The node as it is found by its path in the source. None: that leads to another one.
    fn home_of(&self, node: &Node, path: &[u8]) -> Result<Option<Node>> {
        let Side::Source(wanted) = &node.side else {
            return Ok(None);
        };
        let Some(mut way) = self.nodes.get(ROOT)?.way else {
            return Ok(None);
        };
        let mut names = path.split(|byte| *byte == b'/').peekable();
        while let Some(name) = names.next() {
            let name = OsStr::from_bytes(name);
            let found = self.below.lookup(&way.source, name)?.place;
            let at = At {
                way,
                name: Arc::from(name),
            };
            if names.peek().is_none() {
                let home = || Node::of_source(found.clone(), node.kind, Some(at), false);
                return Ok((found == *wanted).then(home));
            }
            way = Arc::new(Way {
                source: found,
                at: Some(at),
            });
        }
        Ok(None)
    }
}
