//! Positions in directories, as clients are told them: they fit into 31 bits, the most that a 32-bit program without large files can hold.
//!
//! A position of the source that is small enough is shown as it is. Others, such as the hashes of ext4, are numbered. All streams of
//! a directory use one numbering, since the kernel shows one stream what another has listed; it is kept after the last one is closed, for
//! the kernel may go on showing that.

use super::node::Life;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Shown positions from here on are numbers.
const NUMBERS: u64 = 1 << 30;

/// Positions from here on are too large.
const TOO_LARGE: u64 = 1 << 31;

/// So many positions of one directory are numbered. Further ones are shown as they are.
const MAX_NUMBERED: usize = 1 << 20;

/// Positions of directories that nobody has open that are kept, 8 bytes each.
const MAX_KEPT: usize = 1 << 20;

/// What a directory without positions takes, in positions.
const DIRECTORY: usize = 24;

/// The positions of one directory.
#[derive(Debug)]
pub struct Positions {
    id: u64,
    numbered: Mutex<Numbered>,
}

#[derive(Debug, Default)]
struct Numbered {
    /// By number, positions of the source.
    positions: Vec<u64>,
    /// So many of them are in ascending order, as the source has them when it is read once.
    in_order: usize,
    /// The numbers of the others.
    others: HashMap<u64, usize>,
}

/// Shows positions in the order in which the source has them.
#[derive(Debug)]
pub struct Showing<'a> {
    numbered: MutexGuard<'a, Numbered>,
    /// The number that comes next if the directory was read like this before.
    next: usize,
}

impl Positions {
    fn new(id: u64) -> Arc<Self> {
        let numbered = Mutex::default();
        Arc::new(Positions { id, numbered })
    }

    /// Shows positions of the source.
    pub fn showing(&self) -> Showing<'_> {
        let numbered = self.numbered.lock();
        let next = numbered.positions.len();
        Showing { numbered, next }
    }

    /// The position of the source that is shown so.
    pub fn of_source(&self, shown: u64) -> u64 {
        match shown {
            NUMBERS..TOO_LARGE => {
                let number = (shown - NUMBERS) as usize;
                // A client may seek to what it was never told.
                *self.numbered.lock().positions.get(number).unwrap_or(&shown)
            }
            _ => shown,
        }
    }

    /// Tells listings with these numbers from others; 0 where none is used.
    pub fn mark(&self) -> u64 {
        match self.len() {
            0 => 0,
            _ => self.id.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    fn len(&self) -> usize {
        self.numbered.lock().positions.len()
    }
}

impl Showing<'_> {
    /// What `position` is shown as.
    pub fn shown(&mut self, position: u64) -> u64 {
        if position < NUMBERS {
            return position;
        }
        let number = match self.numbered.positions.get(self.next) {
            Some(&expected) if expected == position => Some(self.next),
            _ => self.numbered.find(position),
        };
        let number = match number {
            Some(number) => number,
            None if position >= TOO_LARGE && self.numbered.positions.len() >= MAX_NUMBERED => {
                return position;
            }
            None => self.numbered.add(position),
        };
        self.next = number + 1;
        NUMBERS + number as u64
    }
}

impl Numbered {
    fn find(&self, position: u64) -> Option<usize> {
        let ordered = &self.positions[..self.in_order];
        if ordered.last().is_none_or(|last| *last < position) {
            return self.others.get(&position).copied();
        }
        let found = ordered.binary_search(&position).ok();
        found.or_else(|| self.others.get(&position).copied())
    }

    fn add(&mut self, position: u64) -> usize {
        let number = self.positions.len();
        let last = self.positions.last();
        if number == self.in_order && last.is_none_or(|last| *last < position) {
            self.in_order += 1;
        } else {
            self.others.insert(position, number);
        }
        self.positions.push(position);
        number
    }
}

/// The positions of all directories that are open, and of some that were.
#[derive(Debug, Default)]
pub struct PositionTables {
    kept: Mutex<Kept>,
    next_id: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    directories: HashMap<Life, Directory>,
    /// Those that were closed, the longest ago first.
    closed: VecDeque<Life>,
    /// What those take that were closed, in positions.
    size: usize,
}

#[derive(Debug)]
struct Directory {
    positions: Arc<Positions>,
    /// What of `size` is this one's, while it is in `closed`.
    size: usize,
}

/// One open of a directory is over when this is dropped.
#[derive(Debug)]
pub struct Closing {
    tables: Arc<PositionTables>,
    life: Life,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.tables.kept.lock().closed(&self.life);
    }
}

impl PositionTables {
    /// The positions of a directory that is opened. They have to be dropped before the other one.
    pub fn open(self: &Arc<Self>, life: Life) -> (Arc<Positions>, Closing) {
        let new = || Directory {
            positions: Positions::new(self.next_id.fetch_add(1, Relaxed) + 1),
            size: 0,
        };
        let mut kept = self.kept.lock();
        let directory = kept.directories.entry(life).or_insert_with(new);
        let positions = directory.positions.clone();
        let tables = self.clone();
        (positions, Closing { tables, life })
    }

    /// The kernel has forgotten a directory, and with it what was listed.
    pub fn forget(&self, life: &Life) {
        self.kept.lock().remove(life);
    }

    /// Gives the memory of what is gone back.
    pub fn trim(&self) {
        let mut kept = self.kept.lock();
        let Kept {
            directories,
            closed,
            ..
        } = &mut *kept;
        closed.retain(|life| directories.contains_key(life));
        closed.shrink_to_fit();
        let room = 2 * directories.len();
        directories.shrink_to(room);
    }
}

impl Kept {
    fn closed(&mut self, life: &Life) {
        let Some(directory) = self.directories.get_mut(life) else {
            return;
        };
        if directory.is_open() {
            return;
        }
        if directory.positions.len() == 0 {
            self.remove(life);
            return;
        }
        let before = directory.size;
        directory.size = directory.positions.len() + DIRECTORY;
        self.size += directory.size - before;
        if before == 0 {
            self.closed.push_back(*life);
        }
        while self.size > MAX_KEPT {
            let Some(oldest) = self.closed.pop_front() else {
                return;
            };
            if !self.remove(&oldest) {
                self.uncount(&oldest);
            }
        }
    }

    /// Removes a directory that nobody has open; false where somebody has.
    fn remove(&mut self, life: &Life) -> bool {
        if self.directories.get(life).is_some_and(Directory::is_open) {
            return false;
        }
        if let Some(directory) = self.directories.remove(life) {
            self.size -= directory.size;
        }
        true
    }

    /// It is counted again when it is closed.
    fn uncount(&mut self, life: &Life) {
        if let Some(directory) = self.directories.get_mut(life) {
            self.size -= std::mem::take(&mut directory.size);
        }
    }
}

impl Directory {
    fn is_open(&self) -> bool {
        Arc::strong_count(&self.positions) > 1
    }
}

#[cfg(test)]
mod tests;
