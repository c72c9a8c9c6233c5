//! What lies on a disk, and what a power cut can leave of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Disks write so many bytes at once, or not at all.
pub const SECTOR: u64 = 512;
const BLOCK: u64 = 4096;

/// A call that changes something, or makes durable.
#[derive(Debug, Clone)]
pub enum Call {
    Create {
        path: String,
        ino: u64,
    },
    Write {
        ino: u64,
        at: u64,
        bytes: Arc<[u8]>,
    },
    SetLen {
        ino: u64,
        len: u64,
    },
    Punch {
        ino: u64,
        at: u64,
        len: u64,
    },
    Allocate,
    Rename {
        from: String,
        to: String,
        ino: u64,
    },
    Remove {
        path: String,
    },
    MakeDirectory {
        path: String,
    },
    Sync {
        ino: u64,
    },
    /// What was written before may be lost, whatever later syncs answer.
    FailedSync {
        ino: u64,
    },
    SyncDirectory {
        path: String,
    },
    FailedSyncDirectory {
        path: String,
    },
    SyncAll,
}

impl Call {
    /// The file whose bytes or length it changes.
    pub fn changes_file(&self) -> Option<u64> {
        match self {
            Self::Write { ino, .. } | Self::SetLen { ino, .. } | Self::Punch { ino, .. } => {
                Some(*ino)
            }
            _ => None,
        }
    }

    /// The directory of whose names it changes one.
    pub fn changes_names_of(&self) -> Option<&str> {
        match self {
            Self::Create { path, .. } | Self::Remove { path } | Self::MakeDirectory { path } => {
                Some(parent(path))
            }
            Self::Rename { from, to, .. } => {
                assert_eq!(parent(from), parent(to), "a rename between directories");
                Some(parent(to))
            }
            _ => None,
        }
    }
}

/// A recorded call.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The number of the script's operation that made it.
    pub op: usize,
    pub call: Call,
    /// The cookie as it was before the call, and its name.
    pub cookie: Option<(Arc<[u8]>, String)>,
}

/// The directory in which a path lies.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The bytes of a file.
#[derive(Debug, Clone, Default)]
pub struct File {
    pub len: u64,
    blocks: BTreeMap<u64, Arc<[u8; BLOCK as usize]>>,
}

impl File {
    pub fn read(&self, to: &mut [u8], at: u64) -> usize {
        let end = self.len.min(at + to.len() as u64);
        let mut from = at;
        while from < end {
            let (block, begin) = (from / BLOCK, (from % BLOCK) as usize);
            let len = (BLOCK as usize - begin).min((end - from) as usize);
            let part = &mut to[(from - at) as usize..][..len];
            match self.blocks.get(&block) {
                Some(bytes) => part.copy_from_slice(&bytes[begin..begin + len]),
                None => part.fill(0),
            }
            from += len as u64;
        }
        end.saturating_sub(at) as usize
    }

    pub fn write(&mut self, bytes: &[u8], at: u64) {
        let mut done = 0;
        while done < bytes.len() {
            let from = at + done as u64;
            let (block, begin) = (from / BLOCK, (from % BLOCK) as usize);
            let len = (BLOCK as usize - begin).min(bytes.len() - done);
            let new = || Arc::new([0; BLOCK as usize]);
            let to = Arc::make_mut(self.blocks.entry(block).or_insert_with(new));
            to[begin..begin + len].copy_from_slice(&bytes[done..done + len]);
            done += len;
        }
        self.len = self.len.max(at + bytes.len() as u64);
    }

    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len.next_multiple_of(BLOCK));
        }
        self.len = len;
    }

    /// Makes bytes zero. Blocks that are zero as a whole are given back.
    pub fn zero(&mut self, from: u64, to: u64) {
        let (first, last) = (from / BLOCK, to.div_ceil(BLOCK));
        for block in self
            .blocks
            .range(first..last)
            .map(|(n, _)| *n)
            .collect::<Vec<_>>()
        {
            let begin = from.max(block * BLOCK) - block * BLOCK;
            let end = to.min((block + 1) * BLOCK) - block * BLOCK;
            if (begin, end) == (0, BLOCK) {
                self.blocks.remove(&block);
            } else if let Some(bytes) = self.blocks.get_mut(&block) {
                Arc::make_mut(bytes)[begin as usize..end as usize].fill(0);
            }
        }
    }

    /// The numbers of its blocks that have room.
    pub fn blocks(&self) -> impl Iterator<Item = u64> + '_ {
        self.blocks.keys().copied()
    }

    fn apply(&mut self, call: &Call) {
        match call {
            Call::Write { at, bytes, .. } => self.write(bytes, *at),
            Call::SetLen { len, .. } => self.set_len(*len),
            Call::Punch { at, len, .. } => self.zero(*at, at + len),
            _ => {}
        }
    }

    /// A call of which any part may have reached the disk.
    fn apply_torn(&mut self, call: &Call, random: &mut Random) {
        let Call::Write { at, bytes, .. } = call else {
            return self.apply(call);
        };
        let end = at + bytes.len() as u64;
        if random.chance(10) {
            // The length, and none of the bytes.
            self.len = self.len.max(end);
            return;
        }
        let (mut from, begins, per_cent) = (*at, random.chance(50), 10 + random.below(80));
        while from < end {
            let to = ((from / SECTOR + 1) * SECTOR).min(end);
            let lands = random.chance(per_cent);
            if lands {
                self.write(&bytes[(from - at) as usize..(to - at) as usize], from);
            } else if begins {
                return;
            }
            from = to;
        }
    }
}

/// All that lies on a disk.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub names: BTreeMap<String, u64>,
    pub directories: Arc<BTreeSet<String>>,
    pub files: BTreeMap<u64, File>,
}

impl Image {
    pub fn has_directory(&self, path: &str) -> bool {
        path.is_empty() || self.directories.contains(path)
    }

    /// Does what the call does when nothing fails.
    pub fn apply(&mut self, call: &Call) {
        if let Some(ino) = call.changes_file() {
            self.files.entry(ino).or_default().apply(call);
        }
        match call {
            Call::Create { path, ino } => {
                self.files.entry(*ino).or_default();
                self.names.insert(path.clone(), *ino);
            }
            Call::Rename { from, to, ino } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *ino);
            }
            Call::Remove { path } => _ = self.names.remove(path),
            Call::MakeDirectory { path } => {
                Arc::make_mut(&mut self.directories).insert(path.clone());
            }
            _ => {}
        }
    }

    /// Leaves out files without a name, and names in directories that are not there.
    fn tidy(mut self) -> Self {
        let directories = Arc::clone(&self.directories);
        self.names
            .retain(|path, _| parent(path).is_empty() || directories.contains(parent(path)));
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|ino, _| named.contains(ino));
        for ino in named {
            self.files.entry(ino).or_default();
        }
        self
    }
}

/// Goes along a list of calls, and builds what a cut at this point can leave.
pub struct Cutter {
    /// All calls so far.
    live: Image,
    /// What syncs cover.
    durable: Image,
    /// What no sync covers: of each file, and of each directory.
    pending: BTreeMap<u64, Vec<Call>>,
    pending_names: BTreeMap<String, Vec<Call>>,
    last: Option<Call>,
    /// A failed sync loses what it was to make durable; else it may still be there.
    loses: bool,
}

impl Cutter {
    pub fn new(from: &Image, loses: bool) -> Self {
        Self {
            live: from.clone(),
            durable: from.clone(),
            pending: BTreeMap::new(),
            pending_names: BTreeMap::new(),
            last: None,
            loses,
        }
    }

    pub fn advance(&mut self, call: &Call) {
        self.live.apply(call);
        self.last = Some(call.clone());
        if let Some(ino) = call.changes_file() {
            let call = self.in_sectors(call);
            self.pending.entry(ino).or_default().push(call);
        }
        if let Some(directory) = call.changes_names_of() {
            let names = self.pending_names.entry(directory.to_owned());
            names.or_default().push(call.clone());
        }
        let landed = match call {
            Call::Sync { ino } => self.pending.remove(ino).unwrap_or_default(),
            Call::SyncDirectory { path } => self.pending_names.remove(path).unwrap_or_default(),
            Call::SyncAll => {
                let names = std::mem::take(&mut self.pending_names).into_values();
                names
                    .chain(std::mem::take(&mut self.pending).into_values())
                    .flatten()
                    .collect()
            }
            Call::FailedSync { ino } => {
                if self.loses {
                    self.pending.remove(ino);
                }
                Vec::new()
            }
            _ => Vec::new(),
        };
        landed.iter().for_each(|call| self.durable.apply(call));
    }

    /// Whole sectors reach the disk, as they are in the page cache.
    fn in_sectors(&self, call: &Call) -> Call {
        let Call::Write { ino, at, bytes } = call else {
            return call.clone();
        };
        let file = &self.live.files[ino];
        let end = (at + bytes.len() as u64)
            .next_multiple_of(SECTOR)
            .min(file.len);
        let begin = at / SECTOR * SECTOR;
        let mut sectors = vec![0; (end - begin) as usize];
        file.read(&mut sectors, begin);
        Call::Write {
            ino: *ino,
            at: begin,
            bytes: sectors.into(),
        }
    }

    /// All landed: what a kill leaves.
    pub fn landed(&self) -> Image {
        self.live.clone().tidy()
    }

    /// Only what is synced landed.
    pub fn strict(&self) -> Image {
        self.durable.clone().tidy()
    }

    /// All landed but the last write, of which a part did.
    pub fn torn(&self, random: &mut Random) -> Image {
        let mut image = self.durable.clone();
        for call in self.pending_names.values().flatten() {
            image.apply(call);
        }
        for (ino, calls) in &self.pending {
            let file = image.files.entry(*ino).or_default();
            for (n, call) in calls.iter().enumerate() {
                let is_last = n + 1 == calls.len()
                    && self.last.as_ref().and_then(Call::changes_file) == Some(*ino);
                if is_last {
                    file.apply_torn(call, random)
                } else {
                    file.apply(call)
                }
            }
        }
        image.tidy()
    }

    /// Any part of what is not synced landed.
    pub fn random(&self, random: &mut Random) -> Image {
        let mut image = self.durable.clone();
        for calls in self.pending_names.values() {
            let per_cent = random.of(&[0, 20, 50, 80, 100]);
            for call in calls {
                if random.chance(per_cent) {
                    image.apply(call);
                }
            }
        }
        for (ino, calls) in &self.pending {
            let (per_cent, torn) = (random.of(&[0, 20, 50, 80, 100]), random.of(&[0, 30, 100]));
            let file = image.files.entry(*ino).or_default();
            for call in calls {
                if random.chance(per_cent) {
                    match random.chance(torn) {
                        true => file.apply_torn(call, random),
                        false => file.apply(call),
                    }
                }
            }
        }
        image.tidy()
    }
}

/// Numbers that look random and are the same for each seed: splitmix64.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn chance(&mut self, per_cent: u64) -> bool {
        self.below(100) < per_cent
    }

    pub fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}
