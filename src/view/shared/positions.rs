//! Positions in directories, as clients see them. They fit into 31 bits: a 32-bit program without large files holds no more.
//!
//! Small positions of the source are shown unchanged. Others, such as the hashes of ext4, are numbered. All streams of a
//! directory use the same numbers, because the kernel may answer one stream from the listing of another. For the same reason
//! the numbers are kept after the last stream is closed.

use super::node::Life;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Shown positions from here on are numbers.
const NUMBERS: u64 = 1 << 30;

/// Positions from here on need more than 31 bits.
const TOO_LARGE: u64 = 1 << 31;

/// How many positions of one directory are numbered. Further ones are shown unchanged.
const MAX_NUMBERED: usize = 1 << 20;

/// How many positions of closed directories are kept, 8 bytes each.
const MAX_KEPT: usize = 1 << 20;

/// The size of a directory without positions, counted in positions.
const DIRECTORY: usize = 24;

/// The positions of one directory.
#[derive(Debug)]
pub struct Positions {
    id: u64,
    numbered: Mutex<Numbered>,
}

#[derive(Debug, Default)]
struct Numbered {
    /// The source's positions, by number.
    positions: Vec<u64>,
    /// How many of these are in the order in which the source lists them when read once.
    in_order: usize,
    /// The numbers of the others.
    others: HashMap<u64, usize>,
}

/// Converts positions to shown ones, in the source's order.
#[derive(Debug)]
pub struct Showing<'a> {
    numbered: MutexGuard<'a, Numbered>,
    /// The next number, if the directory was read in this order before.
    next: usize,
}

impl Positions {
    fn new(id: u64) -> Arc<Self> {
        let numbered = Mutex::default();
        Arc::new(Positions { id, numbered })
    }

    /// Begins converting positions of the source.
    pub fn showing(&self) -> Showing<'_> {
        let numbered = self.numbered.lock();
        let next = numbered.positions.len();
        Showing { numbered, next }
    }

    /// The source's position for a shown one.
    pub fn of_source(&self, shown: u64) -> u64 {
        match shown {
            NUMBERS..TOO_LARGE => {
                let number = (shown - NUMBERS) as usize;
                // A client may seek to any offset.
                *self.numbered.lock().positions.get(number).unwrap_or(&shown)
            }
            _ => shown,
        }
    }

    /// A value that differs between listings with other numbers. 0 if no position is numbered.
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
    /// The shown position for `position`.
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

/// The positions of all open directories, and of some closed ones.
#[derive(Debug, Default)]
pub struct PositionTables {
    kept: Mutex<Kept>,
    next_id: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    directories: HashMap<Life, Directory>,
    /// Closed directories, the earliest first.
    closed: VecDeque<Life>,
    /// The size of the closed ones, in positions.
    size: usize,
}

#[derive(Debug)]
struct Directory {
    positions: Arc<Positions>,
    /// Its share of `Kept::size`, while it is in `closed`.
    size: usize,
}

/// Ends one open of a directory when dropped.
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
    /// The positions of a directory that is opened. They have to be dropped before the `Closing`.
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

    /// The kernel has forgotten a directory, and its cached listing.
    pub fn forget(&self, life: &Life) {
        self.kept.lock().remove(life);
    }

    /// Returns memory of removed entries to the system.
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

    /// Removes a directory that is not open. False if it is open.
    fn remove(&mut self, life: &Life) -> bool {
        if self.directories.get(life).is_some_and(Directory::is_open) {
            return false;
        }
        if let Some(directory) = self.directories.remove(life) {
            self.size -= directory.size;
        }
        true
    }

    /// Subtracts a directory's size, because it is open again.
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
