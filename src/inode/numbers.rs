//! The inode numbers that are shown: the view's own if possible, otherwise aliases.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The bit set in each number that is not the view's own.
pub const ENCODED: u64 = 1 << 63;

/// How many bits of an encoded number follow its prefix of 15 bits.
pub const LOW_BITS: u32 = 48;

/// The prefix of aliases.
pub const ALIAS_PREFIX: u64 = 0x7fff;

const ALIAS: u64 = ENCODED | ALIAS_PREFIX << LOW_BITS;

/// Node ids, by the keys of inodes.
pub struct Numbers<K> {
    /// The number of an inode that needs no alias.
    plain: Box<dyn Fn(K) -> Option<u64> + Send + Sync>,
    aliases: Mutex<Aliases<K>>,
    /// How many inodes have an alias although they have a number of their own (`renumber`).
    renumbered: AtomicUsize,
    /// How many numbers are in `Aliases::before`.
    superseded: AtomicUsize,
}

struct Aliases<K> {
    given: HashMap<K, u64>,
    /// Former numbers of keys, while inodes have entries under them.
    before: HashMap<K, Vec<u64>>,
    next: u64,
}

impl<K> std::fmt::Debug for Numbers<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Numbers")
    }
}

impl<K: Copy + Eq + Hash> Numbers<K> {
    /// Numbers made by `plain`, and aliases where it returns `None`. Its numbers never begin with bit 63 and [`ALIAS_PREFIX`].
    pub fn new(plain: impl Fn(K) -> Option<u64> + Send + Sync + 'static) -> Self {
        let aliases = Aliases {
            given: HashMap::new(),
            before: HashMap::new(),
            next: 0,
        };
        Numbers {
            plain: Box::new(plain),
            aliases: Mutex::new(aliases),
            renumbered: AtomicUsize::new(0),
            superseded: AtomicUsize::new(0),
        }
    }

    /// The number of `key`. A new alias if it has none.
    pub fn id(&self, key: K) -> u64 {
        let plain = (self.plain)(key);
        if let Some(plain) = plain.filter(|_| self.renumbered.load(Relaxed) == 0) {
            return plain;
        }
        let mut aliases = self.aliases.lock();
        let given = aliases.given.get(&key).copied();
        given.or(plain).unwrap_or_else(|| aliases.give(key).0)
    }

    /// Gives `key` another number: the table still has an entry of a removed inode under the present one.
    pub fn renumber(&self, key: K) {
        let plain = (self.plain)(key);
        let mut aliases = self.aliases.lock();
        let (_, before) = aliases.give(key);
        if let Some(number) = before.or(plain) {
            // The plain number may be among them already: the inode with the alias is removed, too, and the kernel has not
            // forgotten the first one.
            let superseded = aliases.before.entry(key).or_default();
            if !superseded.contains(&number) {
                superseded.push(number);
                self.superseded.fetch_add(1, Relaxed);
            }
        }
        if before.is_none() && plain.is_some() {
            self.renumbered.fetch_add(1, Relaxed);
        }
    }

    /// The former numbers of `key` under which inodes have entries.
    pub fn before(&self, key: K) -> Vec<u64> {
        if self.superseded.load(Relaxed) == 0 {
            return Vec::new();
        }
        let aliases = self.aliases.lock();
        aliases.before.get(&key).cloned().unwrap_or_default()
    }

    /// The inode number shown for the node id `id`.
    pub fn shown_for(&self, id: u64, key: K) -> u64 {
        match is_alias(id) {
            true => (self.plain)(key).unwrap_or(id),
            false => id,
        }
    }

    /// The inode number of a directory entry.
    pub fn shown(&self, key: K) -> u64 {
        (self.plain)(key)
            .or_else(|| self.aliases.lock().given.get(&key).copied())
            .unwrap_or(ALIAS)
    }

    /// Releases a number: no entry has it any more.
    pub fn release(&self, id: u64, key: K) {
        if !is_alias(id) && self.superseded.load(Relaxed) == 0 {
            return;
        }
        let mut aliases = self.aliases.lock();
        if aliases.forget_before(id, key) {
            self.superseded.fetch_sub(1, Relaxed);
        }
        if aliases.given.get(&key) == Some(&id) {
            aliases.given.remove(&key);
            if (self.plain)(key).is_some() {
                self.renumbered.fetch_sub(1, Relaxed);
            }
        }
    }
}

impl<K: Copy + Eq + Hash> Aliases<K> {
    /// Gives `key` a new alias. Returns it and the former one.
    fn give(&mut self, key: K) -> (u64, Option<u64>) {
        self.next += 1;
        let id = ALIAS | self.next;
        (id, self.given.insert(key, id))
    }

    /// Removes `id` from the former numbers of `key`. Returns whether it was there.
    fn forget_before(&mut self, id: u64, key: K) -> bool {
        let Some(before) = self.before.get_mut(&key) else {
            return false;
        };
        let Some(at) = before.iter().position(|&number| number == id) else {
            return false;
        };
        before.swap_remove(at);
        if before.is_empty() {
            self.before.remove(&key);
        }
        true
    }
}

/// Whether a node id is an alias.
pub fn is_alias(id: u64) -> bool {
    id & ALIAS == ALIAS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_lasts_until_it_is_released() {
        let numbers = Numbers::new(|key: u32| (key > 1).then_some(key.into()));
        let id = numbers.id(1);
        assert_eq!((numbers.id(1), numbers.shown(1)), (id, id));
        assert_eq!((numbers.id(7), numbers.shown(7)), (7, 7));
        numbers.release(id, 1);
        assert_ne!(numbers.id(1), id);
    }

    #[test]
    fn a_key_that_is_given_another_number_is_shown_with_its_own() {
        let numbers = Numbers::new(|key: u32| (key > 1).then_some(key.into()));
        numbers.renumber(7);
        let id = numbers.id(7);
        assert_ne!(id, 7);
        assert_eq!((numbers.shown(7), numbers.shown_for(id, 7)), (7, 7));
        assert_eq!((numbers.id(8), numbers.shown_for(8, 8)), (8, 8));
        numbers.renumber(7);
        assert_ne!(numbers.id(7), id);
        numbers.release(id, 7);
        assert_ne!(
            numbers.id(7),
            7,
            "it has gone, and the second one is in use"
        );
        numbers.release(numbers.id(7), 7);
        assert_eq!(numbers.id(7), 7);
        assert_eq!(numbers.renumbered.load(Relaxed), 0);
        assert_eq!(numbers.before(7), [7], "an inode is known by it");
        numbers.renumber(7);
        assert_eq!(numbers.before(7), [7], "once");
        numbers.release(numbers.id(7), 7);
        numbers.release(7, 7);
        assert!(numbers.before(7).is_empty());
        assert_eq!(numbers.superseded.load(Relaxed), 0);
    }
}
