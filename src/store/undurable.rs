//! What a power cut would take back: records and bytes that no sync covers yet.

use std::collections::{HashMap, HashSet};
use std::io;

use super::effects::Effects;
use super::node::{Name, NodeId};
use super::record::{Change, Record, Written};

/// What is not durable yet of one node.
#[derive(Debug, Clone, Default)]
struct Dirt {
    /// Its last record of class M.
    meta: u64,
    /// Its last record of pages or growth; its last of a time alone.
    data: u64,
    time: u64,
    /// Its data file; the number of the last landing of bytes in it, and of the last that a sync has covered.
    file: u64,
    written: u64,
    synced: u64,
    /// The data file's name is new.
    fresh: bool,
    /// Its last truncation to a smaller length.
    cut: u64,
    /// The errno of a sync that nobody asked for. It is told to the next who asks.
    error: Option<i32>,
}

impl Dirt {
    /// Whether a power cut would take nothing back. Class M is durable up to record `durable`.
    fn is_clean(&self, durable: u64) -> bool {
        self.meta.max(self.cut) <= durable
            && self.data == 0
            && self.time == 0
            && self.written <= self.synced
    }
}

/// A data file that changes once a record is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Garbage {
    /// The data file of this number is removed.
    Unused(NodeId, u64),
    /// The node's data file is cut behind the last page.
    Longer(NodeId),
}

/// A data file with bytes that are not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirtyFile {
    /// Whose it is.
    pub node: NodeId,
    /// Its number.
    pub data: u64,
    /// The last landing of bytes.
    written: u64,
    /// Its name is new.
    pub fresh: bool,
    /// How many syncs of it had failed.
    failures: u64,
}

/// What a sync is to make durable.
#[derive(Debug, Default)]
pub struct Work {
    /// The data files that are synced first.
    pub files: Vec<DirtyFile>,
    /// A record is needed: its `upto` and its nodes.
    pub record: Option<(u64, Vec<NodeId>)>,
}

/// What is not durable yet. Record numbers begin with 1.
#[derive(Debug, Default)]
pub struct Undurable {
    nodes: HashMap<NodeId, Dirt>,
    /// Nodes that a rename or truncation put in place of other bytes, with the number of that record. Whoever makes this record
    /// durable makes the node's bytes durable before.
    placed: HashMap<NodeId, u64>,
    /// The last record, and the last of class M.
    last: u64,
    last_meta: u64,
    /// Class M is durable up to this record.
    durable: u64,
    garbage: Vec<(u64, Garbage)>,
    /// Landings of bytes in all files. A number is not used again: a sync may end after its node was clean and dirty again.
    landings: u64,
    /// Nodes of which a sync failed: how many did, and the last errno. The kernel tells an error once, to one of those who sync at
    /// the same time.
    failed: HashMap<NodeId, (u64, i32)>,
}

impl Undurable {
    /// Nothing: all records up to `last` are durable.
    pub fn new(last: u64) -> Self {
        Self {
            last,
            last_meta: last,
            durable: last,
            ..Self::default()
        }
    }

    /// Record `number` was written.
    pub fn note(&mut self, number: u64, record: &Record, effects: &Effects<'_>) {
        self.last = number;
        match record {
            Record::Meta(changes) => {
                self.last_meta = number;
                changes
                    .iter()
                    .for_each(|change| self.note_change(number, change));
            }
            Record::Written(Written {
                node,
                count: 0,
                size: 0,
                ..
            }) => self.dirt(*node).time = number,
            Record::Written(Written { node, .. }) | Record::Whole { node, .. } => {
                self.dirt(*node).data = number
            }
            // The end of one, too: a loan that was made durable would count again after a power cut.
            Record::Lent { node, .. } => self.dirt(*node).data = number,
            Record::Sync { .. } => {}
        }
        for (node, data) in &effects.unused {
            self.garbage.push((number, Garbage::Unused(*node, *data)));
            if let Some(dirt) = self.nodes.get_mut(node) {
                // What was written went into the data file that is no longer used.
                (dirt.synced, dirt.fresh) = (dirt.written, false);
            }
        }
        self.garbage.extend(
            effects
                .shorter
                .iter()
                .map(|node| (number, Garbage::Longer(*node))),
        );
        for node in &effects.shorter {
            self.dirt(*node).cut = number;
        }
    }

    fn note_change(&mut self, number: u64, change: &Change) {
        match change {
            Change::Remove(id) => {
                self.nodes.remove(id);
                self.placed.remove(id);
                self.failed.remove(id);
            }
            Change::Make(id, _)
            | Change::Attributes(id, _)
            | Change::Links(id, _)
            | Change::Opaque(id, _)
            | Change::Reset(id)
            | Change::Origin(id, _)
            | Change::Xattr(id, ..)
            | Change::Orphan(id, _) => self.dirt(*id).meta = number,
            Change::Name {
                directory,
                to,
                replaces,
                ..
            } => {
                self.dirt(*directory).meta = number;
                if let Some(Name::Node(id)) = to {
                    self.dirt(*id).meta = number;
                    if *replaces {
                        self.placed.insert(*id, number);
                    }
                }
            }
            Change::Truncate { node, .. } => {
                self.dirt(*node).meta = number;
                self.placed.insert(*node, number);
            }
            Change::Filesystem(..) => {}
        }
    }

    fn dirt(&mut self, id: NodeId) -> &mut Dirt {
        self.nodes.entry(id).or_default()
    }

    /// Bytes of the node have landed in its data file. `fresh`: the file was made for them.
    pub fn landed(&mut self, id: NodeId, data: u64, fresh: bool) {
        self.landings += 1;
        let landing = self.landings;
        let dirt = self.dirt(id);
        dirt.file = data;
        dirt.written = landing;
        dirt.fresh |= fresh;
    }

    /// Whether there is anything that a barrier would make durable.
    pub fn is_empty(&self) -> bool {
        // An error waits for who asks for it.
        self.last_meta <= self.durable
            && self.nodes.values().all(|dirt| dirt.is_clean(self.durable))
    }

    /// Whether the node was cut by a record that is not durable.
    pub fn is_cut(&self, id: NodeId) -> bool {
        self.nodes
            .get(&id)
            .is_some_and(|dirt| dirt.cut > self.durable)
    }

    /// Whether a power cut would change the node's bytes or length.
    pub fn has_records(&self, id: NodeId) -> bool {
        self.nodes
            .get(&id)
            .is_some_and(|dirt| dirt.meta > self.durable || dirt.data > 0)
    }

    /// What a sync of one node has to do. `data_only`: times that came by writing may be lost.
    pub fn work_for(&self, id: NodeId, data_only: bool) -> Work {
        let Some(dirt) = self.nodes.get(&id) else {
            return Work::default();
        };
        if dirt.meta > self.durable || dirt.data > 0 || (dirt.time > 0 && !data_only) {
            return self.work(HashSet::from([id]));
        }
        Work {
            files: self.files(&HashSet::from([id])),
            record: None,
        }
    }

    /// Nodes whose bytes become durable before the record that put them in their place.
    pub fn placed(&self) -> HashSet<NodeId> {
        self.placed.keys().copied().collect()
    }

    /// What a sync of all names and attributes has to do.
    pub fn work_for_names(&self) -> Work {
        if self.last_meta > self.durable {
            self.work(HashSet::new())
        } else {
            Work::default()
        }
    }

    /// What a barrier has to do before it writes the state.
    pub fn work_for_all(&self) -> Work {
        Work {
            files: self.files(&self.nodes.keys().copied().collect()),
            record: None,
        }
    }

    fn work(&self, mut nodes: HashSet<NodeId>) -> Work {
        let has_bytes = |id: &&NodeId| {
            self.nodes
                .get(id)
                .is_some_and(|dirt| dirt.data > 0 || dirt.written > dirt.synced)
        };
        nodes.extend(self.placed.keys().filter(has_bytes));
        let mut all: Vec<_> = nodes.iter().copied().collect();
        all.sort_unstable();
        Work {
            files: self.files(&nodes),
            record: Some((self.last, all)),
        }
    }

    fn files(&self, nodes: &HashSet<NodeId>) -> Vec<DirtyFile> {
        let dirty = |id: &NodeId| {
            let dirt = self
                .nodes
                .get(id)
                .filter(|dirt| dirt.written > dirt.synced)?;
            Some(DirtyFile {
                node: *id,
                data: dirt.file,
                written: dirt.written,
                fresh: dirt.fresh,
                failures: self.failures(*id).0,
            })
        };
        let mut files: Vec<_> = nodes.iter().filter_map(dirty).collect();
        files.sort_unstable();
        files
    }

    /// The sync of a data file has ended well: it is durable, as far as [`Work`] saw it.
    ///
    /// # Errors
    /// That of another sync, which failed while this one was under way: what was lost may be what this one was to make durable.
    pub fn file_synced(&mut self, file: &DirtyFile) -> io::Result<()> {
        let (failures, errno) = self.failures(file.node);
        if failures > file.failures {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if let Some(dirt) = self.nodes.get_mut(&file.node) {
            dirt.synced = dirt.synced.max(file.written);
            dirt.fresh &= dirt.written > file.written;
            self.forget_if_clean(file.node);
        }
        Ok(())
    }

    fn failures(&self, id: NodeId) -> (u64, i32) {
        self.failed.get(&id).copied().unwrap_or_default()
    }

    /// The sync of a data file failed. `told`: who asked for it is told.
    pub fn file_failed(&mut self, file: &DirtyFile, error: &io::Error, told: bool) {
        // One that was removed since is asked for by nobody.
        if let Some(dirt) = self.nodes.get_mut(&file.node) {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            dirt.error = dirt.error.or((!told).then_some(errno));
            let failed = self.failed.entry(file.node).or_default();
            *failed = (failed.0 + 1, errno);
        }
    }

    /// An error that nobody was told yet.
    pub fn take_error(&mut self, id: NodeId) -> Option<io::Error> {
        let error = self.nodes.get_mut(&id)?.error.take()?;
        Some(io::Error::from_raw_os_error(error))
    }

    /// An error of any node that nobody was told yet. It stands for all of them, and is told once.
    pub fn take_errors(&mut self) -> Option<io::Error> {
        let errors = self.nodes.values_mut().filter_map(|dirt| dirt.error.take());
        errors.last().map(io::Error::from_raw_os_error)
    }

    /// A sync record is durable.
    pub fn record_durable(&mut self, upto: u64, nodes: &[NodeId]) {
        self.durable = self.durable.max(upto);
        self.settle(upto, nodes);
    }

    /// All nodes of which something is not durable.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    fn settle(&mut self, upto: u64, nodes: &[NodeId]) {
        for id in nodes {
            if let Some(dirt) = self.nodes.get_mut(id) {
                dirt.data = if dirt.data <= upto { 0 } else { dirt.data };
                dirt.time = if dirt.time <= upto { 0 } else { dirt.time };
                self.forget_if_clean(*id);
            }
        }
        let durable = self.durable;
        self.placed.retain(|_, number| *number > durable);
    }

    fn forget_if_clean(&mut self, id: NodeId) {
        let clean = |dirt: &Dirt| dirt.is_clean(self.durable) && dirt.error.is_none();
        if self.nodes.get(&id).is_some_and(clean) {
            self.nodes.remove(&id);
        }
    }

    /// Whether data files could give room back.
    pub fn has_garbage(&self) -> bool {
        !self.garbage.is_empty()
    }

    /// Whether the data file waits for a durable record that lets go of it.
    pub fn waits(&self, id: NodeId, data: u64) -> bool {
        let unused = Garbage::Unused(id, data);
        self.garbage.iter().any(|(_, garbage)| *garbage == unused)
    }

    /// Takes out the garbage that durable records allow.
    pub fn take_garbage(&mut self) -> Vec<Garbage> {
        let durable = self.durable;
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.garbage)
            .into_iter()
            .partition(|g| g.0 <= durable);
        self.garbage = later;
        let mut now: Vec<_> = now.into_iter().map(|(_, garbage)| garbage).collect();
        let mut seen = HashSet::new();
        now.retain(|garbage| seen.insert(*garbage));
        now
    }

    /// Puts garbage back for the next time.
    pub fn put_garbage(&mut self, garbage: Garbage) {
        self.garbage.push((self.last, garbage));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: NodeId = NodeId(NodeId::FIRST);

    /// Two threads sync a file at the same time. What is written after the first has ended is not the second one's.
    #[test]
    fn a_sync_that_ends_late_covers_no_later_bytes() {
        let mut undurable = Undurable::new(0);
        (0..5).for_each(|_| undurable.landed(FILE, 1, true));
        let (late, early) = (undurable.work_for_all(), undurable.work_for_all());
        undurable.file_synced(&early.files[0]).unwrap();
        assert!(undurable.is_empty(), "all is durable");
        undurable.landed(FILE, 1, false);
        undurable.file_synced(&late.files[0]).unwrap();
        assert_eq!(undurable.work_for_all().files.len(), 1);
    }

    /// Two threads sync a file at the same time, and the kernel tells one of them that bytes are lost.
    #[test]
    fn an_error_that_one_sync_met_is_told_to_all_that_ran_beside_it() {
        let mut undurable = Undurable::new(0);
        undurable.landed(FILE, 1, false);
        let (one, other) = (undurable.work_for_all(), undurable.work_for_all());
        undurable.file_failed(&one.files[0], &rustix::io::Errno::IO.into(), true);
        let told = undurable.file_synced(&other.files[0]).unwrap_err();
        assert_eq!(told.raw_os_error(), Some(libc::EIO));
        // As fsync(2): who asks again is told no more of it.
        let again = undurable.work_for_all();
        undurable.file_synced(&again.files[0]).unwrap();
        assert!(undurable.take_error(FILE).is_none());
        assert!(undurable.is_empty());
    }

    /// An error that nobody has asked for makes no barrier of its own.
    #[test]
    fn an_error_that_waits_is_nothing_to_make_durable() {
        let mut undurable = Undurable::new(0);
        undurable.landed(FILE, 1, false);
        let failed = undurable.work_for_all();
        undurable.file_failed(&failed.files[0], &rustix::io::Errno::IO.into(), false);
        assert!(!undurable.is_empty());
        let again = undurable.work_for_all();
        undurable.file_synced(&again.files[0]).unwrap();
        assert!(undurable.is_empty());
        assert!(undurable.take_error(FILE).is_some());
    }

    /// A sync that ends late leaves nothing behind.
    #[test]
    fn a_sync_that_ends_late_leaves_a_node_clean() {
        let mut undurable = Undurable::new(0);
        undurable.landed(FILE, 1, false);
        let (late, early) = (undurable.work_for_all(), undurable.work_for_all());
        undurable.file_synced(&early.files[0]).unwrap();
        undurable.dirt(FILE).time = 1;
        undurable.file_synced(&late.files[0]).unwrap();
        undurable.record_durable(1, &[FILE]);
        assert!(undurable.is_empty());
    }
}
