//! What one thread did, and how much of it was durable at a moment.

use std::collections::BTreeMap;

use mmfs::store::NodeId;

pub const SECTOR: u64 = 512;
/// The source's file of every node that has one, in bytes: sevens.
pub const SOURCE: u64 = 20 * 4096;

/// One step of a thread. Its number is its place in the history.
#[derive(Debug, Clone)]
pub enum Op {
    /// A new file below a name of its own. True: it began as a file of the source.
    Create(NodeId, bool),
    /// Sectors, by their first and how many. The number of the step is their version.
    Write(NodeId, u64, u64),
    /// In bytes.
    Truncate(NodeId, u64),
    Punch(NodeId, u64, u64),
    /// The file takes the place of what has this slot.
    Place(NodeId, usize),
    /// The file gets this slot, which was free.
    #[allow(
        dead_code,
        reason = "not every test binary tells it from the one above"
    )]
    Move(NodeId, usize),
    Unlink(usize),
    /// Syncs and barriers: nothing that could be lost.
    Nothing,
}

/// A thread's steps. A step that is there was begun; the last may be under way.
#[derive(Debug, Default, Clone)]
pub struct History {
    pub ops: Vec<Op>,
    /// For each step, how many steps of each thread had been answered when it began.
    pub before: Vec<Vec<usize>>,
}

/// How far a thread's steps were durable: numbers of steps, all before which are.
#[derive(Debug, Default, Clone)]
pub struct Durable {
    /// Names, attributes, truncations.
    pub meta: usize,
    /// All that was written to a file.
    pub files: BTreeMap<NodeId, usize>,
    /// All that was written to any file.
    pub all: usize,
}

/// What a directory shows: the file below each name.
pub type Names = BTreeMap<String, NodeId>;

pub fn own_name(id: NodeId) -> String {
    format!("new-{:x}", id.0)
}

pub fn slot_name(slot: usize) -> String {
    format!("slot-{slot}")
}

impl History {
    /// The names after the first `count` steps.
    pub fn names(&self, count: usize) -> Names {
        let mut names = Names::new();
        for op in &self.ops[..count] {
            match op {
                Op::Create(id, _) => _ = names.insert(own_name(*id), *id),
                Op::Place(id, slot) | Op::Move(id, slot) => {
                    names.remove(&own_name(*id));
                    names.insert(slot_name(*slot), *id);
                }
                Op::Unlink(slot) => _ = names.remove(&slot_name(*slot)),
                _ => {}
            }
        }
        names
    }

    /// The steps up to the last of the first `count` that changed names: so many must be kept if these are.
    pub fn last_name(&self, count: usize) -> usize {
        let names = |op: &Op| {
            matches!(
                op,
                Op::Create(..) | Op::Place(..) | Op::Move(..) | Op::Unlink(_)
            )
        };
        self.ops[..count]
            .iter()
            .rposition(names)
            .map_or(0, |at| at + 1)
    }

    /// The steps up to the last that changed the file's name or cut it.
    pub fn named(&self, file: NodeId) -> usize {
        let named = |op: &Op| {
            matches!(
                op,
                Op::Create(..) | Op::Place(..) | Op::Move(..) | Op::Truncate(..)
            )
        };
        let last = self.of(file).filter(|(_, op)| named(op)).last();
        last.map_or(0, |(number, _)| number + 1)
    }

    /// The steps on one file, with their numbers.
    fn of(&self, file: NodeId) -> impl Iterator<Item = (usize, &Op)> {
        let ours = move |(_, op): &(usize, &Op)| match op {
            Op::Create(id, _)
            | Op::Write(id, ..)
            | Op::Truncate(id, _)
            | Op::Punch(id, ..)
            | Op::Place(id, _)
            | Op::Move(id, _) => *id == file,
            _ => false,
        };
        self.ops.iter().enumerate().filter(ours)
    }

    /// The steps on the file that must be there: all before this one. `kept`: names up to this step are there.
    fn must(&self, file: NodeId, durable: &Durable, kept: usize) -> usize {
        let synced = durable.files.get(&file).copied().unwrap_or(0);
        let mut must = synced.max(durable.all);
        for (number, op) in self.of(file) {
            // A rename over another file takes the bytes along, and so does a truncation.
            let placed = match op {
                Op::Create(..) => true,
                Op::Place(..) => number < kept,
                Op::Truncate(..) => number < durable.meta,
                _ => false,
            };
            if placed {
                must = must.max(number + 1);
            }
        }
        must
    }

    /// What the file may be.
    pub fn may_be(&self, file: NodeId, durable: &Durable, kept: usize) -> Possible {
        let must = self.must(file, durable, kept);
        let steps = self.of(file).map(|(number, op)| format!("{number} {op:?}"));
        let mut possible = Possible {
            story: format!(
                "steps up to {must} must be there ({:?}, names {}, all {}), names up to {kept} are: {:#?}",
                durable.files.get(&file),
                durable.meta,
                durable.all,
                steps.collect::<Vec<_>>()
            ),
            ..Possible::default()
        };
        let mut now = State::default();
        for (number, op) in self.of(file) {
            if number >= must && possible.sizes.is_empty() {
                possible.begin(&now);
            }
            now.apply(number, op);
            if number >= must {
                possible.also(&now, op);
            }
        }
        if possible.sizes.is_empty() {
            possible.begin(&now);
        }
        possible
    }
}

/// What a sector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sector {
    Zero,
    Source,
    /// By the step of this number.
    Written(usize),
}

/// A file after a step. Sectors that it does not name are zero.
#[derive(Debug, Default, Clone)]
struct State {
    size: u64,
    sectors: BTreeMap<u64, Sector>,
}

impl State {
    fn apply(&mut self, number: usize, op: &Op) {
        match *op {
            Op::Create(_, true) => {
                self.size = SOURCE;
                self.sectors = (0..SOURCE / SECTOR)
                    .map(|at| (at, Sector::Source))
                    .collect();
            }
            Op::Write(_, first, count) => {
                let written = (first..first + count).map(|at| (at, Sector::Written(number)));
                self.sectors.extend(written);
                self.size = self.size.max((first + count) * SECTOR);
            }
            Op::Truncate(_, size) => {
                self.size = size;
                self.sectors.retain(|at, _| *at < size / SECTOR);
            }
            Op::Punch(_, first, count) => {
                self.sectors
                    .retain(|at, _| !(first..first + count).contains(at));
            }
            _ => {}
        }
    }

    fn sector(&self, at: u64) -> Sector {
        self.sectors.get(&at).copied().unwrap_or(Sector::Zero)
    }
}

/// All that a file may be after a power cut.
#[derive(Debug, Default)]
pub struct Possible {
    pub sizes: Vec<u64>,
    /// For whoever reads a failure.
    pub story: String,
    sectors: BTreeMap<u64, Vec<Sector>>,
}

impl Possible {
    fn begin(&mut self, now: &State) {
        self.sizes.push(now.size);
        self.sectors = now
            .sectors
            .iter()
            .map(|(at, sector)| (*at, vec![*sector]))
            .collect();
    }

    /// The step may be there, in each of its sectors or none.
    fn also(&mut self, now: &State, op: &Op) {
        self.sizes.push(now.size);
        let touched: Vec<u64> = match *op {
            Op::Write(_, first, count) | Op::Punch(_, first, count) => {
                (first..first + count).collect()
            }
            Op::Truncate(_, size) => self
                .sectors
                .range(size / SECTOR..)
                .map(|(at, _)| *at)
                .collect(),
            Op::Create(..) => now.sectors.keys().copied().collect(),
            _ => Vec::new(),
        };
        for at in touched {
            let all = self.sectors.entry(at).or_insert_with(|| vec![Sector::Zero]);
            all.push(now.sector(at));
        }
    }

    pub fn allows(&self, at: u64, found: Sector) -> bool {
        match self.sectors.get(&at) {
            Some(all) => all.contains(&found),
            None => found == Sector::Zero,
        }
    }

    pub fn told(&self, at: u64) -> String {
        format!("{:?}; {}", self.sectors.get(&at), self.story)
    }
}

/// The bytes of a sector that a step wrote.
pub fn stamp(file: NodeId, at: u64, version: usize) -> [u8; SECTOR as usize] {
    let mut bytes = [0; SECTOR as usize];
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = (version * 31 + n * 7 + 1) as u8;
    }
    bytes[..8].copy_from_slice(&file.0.to_le_bytes());
    bytes[8..16].copy_from_slice(&at.to_le_bytes());
    bytes[16..24].copy_from_slice(&(version as u64).to_le_bytes());
    bytes
}

/// What these bytes are. None: nobody ever wrote them there.
pub fn sector_of(file: NodeId, at: u64, bytes: &[u8]) -> Option<Sector> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(Sector::Zero);
    }
    if bytes.iter().all(|byte| *byte == 7) {
        return Some(Sector::Source);
    }
    let version = u64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?);
    (bytes == stamp(file, at, version as usize)).then_some(Sector::Written(version as usize))
}
