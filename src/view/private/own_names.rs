//! Names that the store has in a directory, as listings show them: each has its position as long as somebody lists the directory.
//!
//! They are read from the store as listings come to them, so no request reads a whole directory.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::Result;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::node::Key;
use crate::store::{Name, NodeId, Store};

/// So many names are read from the store at once.
const STEP: usize = 1024;

/// A table with so many names that are gone is given up at the next beginning, if nobody else has it.
const MOST_GONE: usize = 64 << 10;

/// All opens of directories remember so many names of the source: 18 bytes each.
const MOST_PLACED: usize = 512 << 10;

/// The tables of directories that are being listed.
#[derive(Default)]
pub(super) struct OwnNames {
    tables: Mutex<HashMap<Key, Weak<Table>>>,
    hasher: RandomState,
    /// How many names of the source all opens of directories remember.
    placed: AtomicUsize,
}

/// The names of one directory. All its open listings share it.
#[derive(Default)]
pub(super) struct Table(Mutex<Names>);

#[derive(Default)]
struct Names {
    /// One after the other, in the order in which listings first came to them.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
    /// The position of each, by its hash.
    known: HashMap<u64, u32>,
    hasher: RandomState,
    /// Reading the store goes on behind this name. None: it has come to the end.
    after: Option<Vec<u8>>,
    /// How many names the store had when it was last read to the end, and now as far as it is read.
    lived: usize,
    living: usize,
}

impl OwnNames {
    /// The table of a directory.
    pub fn of(&self, directory: Key) -> Arc<Table> {
        let mut tables = self.tables.lock();
        if let Some(table) = tables.get(&directory).and_then(Weak::upgrade) {
            return table;
        }
        let table = Arc::default();
        tables.insert(directory, Arc::downgrade(&table));
        table
    }

    /// An open is about to remember one more name. False: all together remember enough.
    pub fn may_place(&self) -> bool {
        let may = self.placed.fetch_add(1, Relaxed) < MOST_PLACED;
        if !may {
            self.forget_placed(1);
        }
        may
    }

    /// An open forgets so many names.
    pub fn forget_placed(&self, count: usize) {
        self.placed.fetch_sub(count, Relaxed);
    }

    /// A hash of a name that nobody can foresee.
    pub fn hash(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }

    /// A listing of the directory has ended.
    pub fn ended(&self, directory: Key) {
        let mut tables = self.tables.lock();
        if tables
            .get(&directory)
            .is_some_and(|table| table.strong_count() == 0)
        {
            tables.remove(&directory);
        }
    }
}

impl Table {
    /// A listing begins, or begins again: it shows names that are new, too.
    pub fn begin(self: &Arc<Self>) {
        let mut names = self.0.lock();
        if Arc::strong_count(self) == 1 && names.ends.len() > names.lived + MOST_GONE {
            *names = Names::default();
        }
        names.after = Some(Vec::new());
        names.living = 0;
    }

    /// The name at a position, counted from 0. None: there are no more.
    ///
    /// # Errors
    /// Those of the store.
    pub fn at(&self, position: usize, store: &Store, directory: NodeId) -> Result<Option<Vec<u8>>> {
        let mut names = self.0.lock();
        // Now and then, so that reading has come to the end when the listing does.
        if position % (STEP / 4) == 0 {
            names.read_on(store, directory)?;
        }
        while position >= names.ends.len() && names.after.is_some() {
            names.read_on(store, directory)?;
        }
        Ok(names.get(position).map(<[u8]>::to_vec))
    }
}

impl Names {
    fn get(&self, position: usize) -> Option<&[u8]> {
        let end = *self.ends.get(position)?;
        let begin = position
            .checked_sub(1)
            .map_or(0, |before| self.ends[before]);
        Some(&self.bytes[begin..end])
    }

    /// Reads the next names of the store.
    fn read_on(&mut self, store: &Store, directory: NodeId) -> Result<()> {
        let Some(after) = &self.after else {
            return Ok(());
        };
        let found = store.names(directory, after, STEP)?;
        self.after = found.last().map(|(name, _)| name.clone());
        if self.after.is_none() {
            self.lived = self.living;
        }
        for (name, leads) in found {
            if matches!(leads, Name::Node(_)) {
                self.living += 1;
                self.add(&name);
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &[u8]) {
        let hash = self.hasher.hash_one(name);
        let position = self.ends.len() as u32;
        if *self.known.entry(hash).or_insert(position) == position {
            self.bytes.extend_from_slice(name);
            self.ends.push(self.bytes.len());
        }
    }
}
