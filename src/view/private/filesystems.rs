//! The store's numbers for the source's filesystems. This life may find them in another order than the last one, and with other
//! device numbers.

use std::collections::HashMap;
use std::io;

use parking_lot::RwLock;

use crate::source::Lasting;
use crate::store::{Change, Origin, Store};

/// By the source's index.
#[derive(Default)]
pub(super) struct Filesystems {
    /// None: the store knows nothing of it.
    numbers: RwLock<HashMap<u32, Option<u32>>>,
    /// Those that inode numbers are made of. None: they are made without. It does not change in this life.
    shown: RwLock<HashMap<u32, Option<u32>>>,
}

impl Filesystems {
    /// What this life knows of the filesystem with this index.
    pub fn known(&self, index: u32) -> Option<Option<u32>> {
        self.numbers.read().get(&index).copied()
    }

    /// The number that inode numbers are made of, if there is one.
    pub fn shown(&self, index: u32) -> Option<u32> {
        if let Some(shown) = self.shown.read().get(&index) {
            return *shown;
        }
        *self.shown.write().entry(index).or_insert(None)
    }

    /// Whether `shown` is decided.
    pub fn is_shown(&self, index: u32) -> bool {
        self.shown.read().contains_key(&index)
    }

    /// Inode numbers are made of this number from now on, unless there are some already.
    pub fn show(&self, index: u32, number: Option<u32>) {
        self.shown.write().entry(index).or_insert(number);
    }

    /// The store's number of a filesystem. None: the store knows nothing of it. `is_at`: whether another filesystem of this UUID begins at
    /// a path of the source now. That one is a copy of this one, or this one is a copy of it.
    pub fn find(
        &self,
        index: u32,
        lasting: &Lasting,
        store: &Store,
        is_at: impl Fn(&[u8]) -> io::Result<bool>,
    ) -> io::Result<Option<u32>> {
        let mut stored: Vec<(u32, Lasting)> = store
            .filesystems()?
            .iter()
            .map(|(number, bytes)| (*number, decoded(bytes)))
            .collect();
        if !stored.iter().any(|(_, other)| other == lasting) {
            let may_have_moved =
                |other: &Lasting| lasting.uuid.is_some() && other.uuid == lasting.uuid;
            // The source is asked without the lock: it may not answer.
            let mut free = Vec::new();
            for (number, other) in stored {
                if !may_have_moved(&other) || !is_at(&other.path)? {
                    free.push((number, other));
                }
            }
            stored = free;
        }
        let mut numbers = self.numbers.write();
        if let Some(known) = numbers.get(&index) {
            return Ok(*known);
        }
        let is_free = |number: u32| !numbers.values().any(|taken| *taken == Some(number));
        let free = stored.into_iter().filter(|(number, _)| is_free(*number));
        let number = best(lasting, index == 0, free);
        numbers.insert(index, number);
        Ok(number)
    }

    /// Gives the filesystem a number, unless it has one.
    pub fn add(&self, index: u32, lasting: &Lasting, store: &Store) -> io::Result<u32> {
        let mut numbers = self.numbers.write();
        if let Some(Some(number)) = numbers.get(&index) {
            return Ok(*number);
        }
        let last = store.filesystems()?.iter().map(|(number, _)| *number).max();
        let number = last.map_or(0, |last| last.saturating_add(1));
        store.change(vec![Change::Filesystem(number, encoded(lasting))])?;
        numbers.insert(index, Some(number));
        Ok(number)
    }
}

/// The number of the filesystem that is most likely this one. `is_root`: the source's root is on it.
fn best(
    lasting: &Lasting,
    is_root: bool,
    stored: impl Iterator<Item = (u32, Lasting)>,
) -> Option<u32> {
    let likely = |other: &Lasting| {
        let same_path = other.path == lasting.path;
        match (other.uuid, lasting.uuid) {
            (Some(one), Some(other)) if one == other => 3 + u32::from(same_path),
            // Filesystems without a UUID have one with a later kernel. The root may be a copy, with --base-moved.
            (Some(_), Some(_)) => u32::from(same_path && is_root),
            _ => 2 * u32::from(same_path),
        }
    };
    let likely = stored.map(|(number, other)| (likely(&other), number));
    let best = likely.max_by_key(|(likely, _)| *likely)?;
    (best.0 > 0).then_some(best.1)
}

/// One byte that says whether there is a UUID, the UUID, the path.
fn encoded(lasting: &Lasting) -> Vec<u8> {
    let mut bytes = match lasting.uuid {
        Some(uuid) => [&[1], &uuid[..]].concat(),
        None => vec![0],
    };
    bytes.extend(&lasting.path);
    bytes.truncate(Origin::MAX_IDENTITY);
    bytes
}

fn decoded(bytes: &[u8]) -> Lasting {
    match bytes.split_first() {
        Some((1, rest)) => {
            let (uuid, path) = rest.split_at(rest.len().min(16));
            Lasting {
                uuid: uuid.try_into().ok(),
                path: path.to_vec(),
            }
        }
        Some((_, path)) => Lasting {
            uuid: None,
            path: path.to_vec(),
        },
        None => Lasting::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Base;

    fn lasting(uuid: Option<u8>, path: &str) -> Lasting {
        Lasting {
            uuid: uuid.map(|byte| [byte; 16]),
            path: path.into(),
        }
    }

    #[test]
    fn a_filesystem_is_found_by_its_uuid_then_by_its_path() {
        let stored = [
            lasting(Some(1), ""),
            lasting(Some(2), "a"),
            lasting(Some(2), "b"),
            lasting(None, "c"),
            lasting(Some(4), "d"),
        ];
        let found = |one: Lasting, is_root| {
            let numbered = (0..).zip(stored.iter().cloned());
            best(&one, is_root, numbered)
        };
        assert_eq!(found(lasting(Some(2), "a"), false), Some(1));
        assert_eq!(found(lasting(Some(2), "b"), false), Some(2));
        assert_eq!(found(lasting(Some(4), "moved"), false), Some(4));
        assert_eq!(found(lasting(None, "c"), false), Some(3));
        assert_eq!(found(lasting(Some(9), "c"), false), Some(3));
        assert_eq!(found(lasting(Some(9), "d"), false), None);
        assert_eq!(found(lasting(Some(9), ""), true), Some(0));
        assert_eq!(found(lasting(None, "elsewhere"), false), None);
    }

    #[test]
    fn a_copy_does_not_get_the_number_of_the_filesystem_that_is_still_there() {
        let place = tempfile::tempdir().unwrap();
        let base = Base {
            path: place.path().into(),
            filesystem: String::new(),
            root: 1,
            born: None,
        };
        let (opened, _) = Store::make_directory(place.path(), &base).unwrap();
        let store = opened.store;
        let last = Filesystems::default();
        for (index, path) in [(0, ""), (1, "one")] {
            let number = last.add(index, &lasting(Some(index as u8 + 1), path), &store);
            assert_eq!(number.unwrap(), index);
        }
        let (copy, one) = (lasting(Some(2), "copy"), lasting(Some(2), "one"));
        let is_at_one = |path: &[u8]| Ok(path == b"one");
        // The copy comes first.
        let now = Filesystems::default();
        assert_eq!(now.find(1, &copy, &store, is_at_one).unwrap(), None);
        assert_eq!(now.add(1, &copy, &store).unwrap(), 2);
        assert_eq!(now.find(2, &one, &store, |_| Ok(true)).unwrap(), Some(1));
        // It has moved.
        let now = Filesystems::default();
        let moved = lasting(Some(2), "moved");
        let is_at_copy = |path: &[u8]| Ok(path == b"copy");
        assert_eq!(now.find(1, &moved, &store, is_at_copy).unwrap(), Some(1));
        // Both have their own path.
        let now = Filesystems::default();
        assert_eq!(now.find(1, &copy, &store, |_| Ok(true)).unwrap(), Some(2));
        assert_eq!(now.find(2, &one, &store, |_| Ok(true)).unwrap(), Some(1));
    }

    #[test]
    fn what_is_stored_is_read_again() {
        for one in [
            lasting(Some(7), "a/b"),
            lasting(None, "c"),
            lasting(None, ""),
        ] {
            assert_eq!(decoded(&encoded(&one)), one);
        }
    }
}
