//! The state: what the records add up to, as keys and values. The newest are in memory, the rest in tables.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

use super::bloom::hash;
use super::table::{Builder, Entry, Table};

/// What a set of records did: each key's new value, or None where the key is gone.
pub type Puts = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A key and its value.
pub type Live = (Vec<u8>, Vec<u8>);

/// The most keys that one step of a search through keys that are gone looks at.
const STEP: usize = 1024;
/// Bytes of memory for an entry, beside its key and value.
const ENTRY: u64 = 96;

/// The layers, the newest first: `active`, `frozen`, `tables`.
#[derive(Default, Clone)]
struct Layers {
    active: Puts,
    /// About how much memory `active` takes, in bytes.
    size: u64,
    /// What the barrier that is under way writes into a table.
    frozen: Option<Arc<Puts>>,
    tables: Arc<[Arc<Table>]>,
}

/// The state of a store.
#[derive(Default)]
pub struct State(RwLock<Layers>);

impl State {
    /// A state of these tables, the newest first.
    pub fn new(tables: Vec<Arc<Table>>) -> Self {
        Self(RwLock::new(Layers {
            tables: tables.into(),
            ..Layers::default()
        }))
    }

    /// The same state. What is put into one is not in the other.
    pub fn snapshot(&self) -> Self {
        Self(RwLock::new(self.0.read().clone()))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// EUCLEAN for a damaged table, or that of a read.
    pub fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let layers = self.0.read();
        let frozen = || layers.frozen.as_ref().and_then(|frozen| frozen.get(key));
        if let Some(value) = layers.active.get(key).or_else(frozen) {
            return Ok(value.clone());
        }
        let tables = Arc::clone(&layers.tables);
        drop(layers);
        let hash = hash(key);
        for table in &*tables {
            if let Some(value) = table.get(key, hash)? {
                return Ok(value);
            }
        }
        Ok(None)
    }

    /// Entries whose key begins with `prefix` and lies after `after`, in order: at least one and at most about `limit`, if there
    /// is one.
    ///
    /// # Errors
    /// EUCLEAN for a damaged table, or that of a read.
    pub fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> io::Result<Vec<Live>> {
        Ok(self.scan_counted(prefix, after, limit)?.0)
    }

    /// As [`State::scan`], with the number of keys that were looked at.
    ///
    /// # Errors
    /// As [`State::scan`].
    pub fn scan_counted(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        mut limit: usize,
    ) -> io::Result<(Vec<Live>, u64)> {
        let mut looked_at = 0;
        let mut after = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_vec()));
        loop {
            let (merged, end) = self.merged(prefix, &after, limit)?;
            looked_at += merged.len() as u64;
            let live: Vec<_> = merged
                .into_iter()
                .filter_map(|(key, value)| Some((key, value?)))
                .collect();
            match end {
                Some(end) if live.is_empty() => {
                    after = Bound::Excluded(end);
                    // Where many keys are gone, a block is not read once for each of them.
                    limit = limit.max(limit.saturating_mul(2).min(STEP));
                }
                _ => return Ok((live, looked_at)),
            }
        }
    }

    /// What all layers together say of the next keys, and the last of these keys if there are more.
    fn merged(
        &self,
        prefix: &[u8],
        after: &Bound<Vec<u8>>,
        limit: usize,
    ) -> io::Result<(Puts, Option<Vec<u8>>)> {
        let layers = self.0.read();
        let mut parts = vec![range(&layers.active, prefix, after, limit)];
        parts.extend(
            layers
                .frozen
                .as_ref()
                .map(|frozen| range(frozen, prefix, after, limit)),
        );
        let tables = Arc::clone(&layers.tables);
        drop(layers);
        for table in &*tables {
            parts.push(table.range(prefix, after, limit)?);
        }
        // A part that was cut says nothing of what lies beyond its last key.
        let ends = parts
            .iter()
            .filter(|(_, more)| *more)
            .filter_map(|(entries, _)| entries.last());
        let end = ends.map(|(key, _)| key.clone()).min();
        let mut merged = Puts::new();
        for (entries, _) in parts {
            for (key, value) in entries {
                if end.as_ref().is_none_or(|end| key <= *end) {
                    merged.entry(key).or_insert(value);
                }
            }
        }
        Ok((merged, end))
    }

    /// Lets the puts count.
    pub fn put(&self, puts: Puts) {
        let mut layers = self.0.write();
        for (key, value) in puts {
            let size = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len) as u64;
            layers.size += size(&value);
            let entry = Self::size_of_gone(&key);
            match layers.active.insert(key, value) {
                None => layers.size += entry,
                Some(old) => layers.size = layers.size.saturating_sub(size(&old)),
            }
        }
    }

    /// About how much memory the keys take that are gone and that tables still have, in bytes.
    ///
    /// # Errors
    /// EUCLEAN for a damaged table, or that of a read.
    pub fn gone_from_tables(&self) -> io::Result<u64> {
        let layers = self.0.read();
        let mut size = 0;
        for (key, _) in layers.active.iter().filter(|(_, value)| value.is_none()) {
            let hash = hash(key);
            for table in &*layers.tables {
                if let Some(found) = table.get(key, hash)? {
                    size += found.map_or(0, |_| Self::size_of_gone(key));
                    break;
                }
            }
        }
        Ok(size)
    }

    /// About how much memory a key takes that is gone, in bytes.
    fn size_of_gone(key: &[u8]) -> u64 {
        ENTRY + key.len() as u64
    }

    /// About how much memory the newest layer takes, in bytes.
    pub fn size(&self) -> u64 {
        self.0.read().size
    }

    /// Takes aside what a barrier is to write. What was frozen before is written by now.
    pub fn freeze(&self) {
        let mut layers = self.0.write();
        let active = std::mem::take(&mut layers.active);
        layers.size = 0;
        layers.frozen = Some(Arc::new(active));
    }

    /// What was frozen.
    pub fn frozen(&self) -> Arc<Puts> {
        self.0.read().frozen.clone().unwrap_or_default()
    }

    /// The tables, the newest first.
    pub fn tables(&self) -> Arc<[Arc<Table>]> {
        Arc::clone(&self.0.read().tables)
    }

    /// Other tables from now on, which have what was frozen.
    pub fn set_tables(&self, tables: Vec<Arc<Table>>) {
        let mut layers = self.0.write();
        layers.tables = tables.into();
        layers.frozen = None;
    }
}

fn range(puts: &Puts, prefix: &[u8], after: &Bound<Vec<u8>>, limit: usize) -> (Vec<Entry>, bool) {
    let start = match after {
        Bound::Unbounded => Bound::Included(prefix.to_vec()),
        after => after.clone(),
    };
    let (mut found, mut size) = (Vec::new(), 0usize);
    for (key, value) in puts
        .range((start, Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(prefix))
    {
        if found.len() == limit || size >= limit.saturating_mul(1024) {
            return (found, true);
        }
        size += key.len() + value.as_ref().map_or(0, Vec::len);
        found.push((key.clone(), value.clone()));
    }
    (found, false)
}

/// How many of the newest tables are to become one with the new one of `len` bytes: each table is more than three times as
/// long as all newer ones together, so that there are few of them, and what is written once is written again a few times.
pub fn to_merge(tables: &[Arc<Table>], len: u64) -> usize {
    let (mut count, mut sum) = (0, len);
    for (n, table) in tables.iter().enumerate() {
        if table.len() < 3 * sum {
            count = n + 1;
        }
        sum += table.len();
    }
    count
}

/// Writes a table of `puts` and, below it, of `tables`, the newest first. `all`: there is no older table, and keys that are gone
/// are left out.
///
/// # Errors
/// EUCLEAN for a damaged table, or that of the call that failed.
pub fn merge(
    mut builder: Builder<'_>,
    puts: &Puts,
    tables: &[Arc<Table>],
    all: bool,
) -> io::Result<Table> {
    type Part<'a> = Box<dyn Iterator<Item = io::Result<Entry>> + 'a>;
    let newest: Part<'_> = Box::new(
        puts.iter()
            .map(|(key, value)| Ok((key.clone(), value.clone()))),
    );
    let older = tables
        .iter()
        .map(|table| Box::new(table.entries()) as Part<'_>);
    let mut parts: Vec<_> = std::iter::once(newest)
        .chain(older)
        .map(Iterator::peekable)
        .collect();
    loop {
        let mut next: Option<Vec<u8>> = None;
        for part in &mut parts {
            match part.peek() {
                Some(Ok((key, _))) if next.as_ref().is_none_or(|next| key < next) => {
                    next = Some(key.clone())
                }
                Some(Err(_)) => {
                    return Err(part
                        .next()
                        .and_then(Result::err)
                        .unwrap_or_else(super::codec::damaged));
                }
                _ => {}
            }
        }
        let Some(key) = next else {
            return builder.finish();
        };
        let mut value = None;
        for part in &mut parts {
            if let Some(Ok((_, found))) =
                part.next_if(|entry| entry.as_ref().is_ok_and(|(found, _)| *found == key))
            {
                value.get_or_insert(found);
            }
        }
        let value = value.flatten();
        if value.is_some() || !all {
            builder.add(&key, value.as_deref())?;
        }
    }
}
