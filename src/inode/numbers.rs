//! The numbers inodes are shown with: the view's own wherever that is possible, an alias elsewhere.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;

/// Set in every number that is not the view's own.
pub const ENCODED: u64 = 1 << 63;

/// An encoded number is a prefix of 15 bits and so many bits more.
pub const LOW_BITS: u32 = 48;

/// The prefix of aliases.
pub const ALIAS_PREFIX: u64 = 0x7fff;

const ALIAS: u64 = ENCODED | ALIAS_PREFIX << LOW_BITS;

/// Node ids by what an inode is numbered by.
pub struct Numbers<K> {
    /// The number of an inode that needs no alias.
    plain: Box<dyn Fn(K) -> Option<u64> + Send + Sync>,
    aliases: Mutex<Aliases<K>>,
}

struct Aliases<K> {
    given: HashMap<K, u64>,
    next: u64,
}

impl<K> std::fmt::Debug for Numbers<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Numbers")
    }
}

impl<K: Copy + Eq + Hash> Numbers<K> {
    /// Numbers given by `plain`, and aliases where it has none. Its numbers never begin with bit 63 and
    /// [`ALIAS_PREFIX`].
    pub fn new(plain: impl Fn(K) -> Option<u64> + Send + Sync + 'static) -> Self {
        let given = HashMap::new();
        Numbers {
            plain: Box::new(plain),
            aliases: Mutex::new(Aliases { given, next: 0 }),
        }
    }

    /// The number of `key`, an alias being given where it has none.
    pub fn id(&self, key: K) -> u64 {
        (self.plain)(key).unwrap_or_else(|| {
            let mut aliases = self.aliases.lock();
            if let Some(&id) = aliases.given.get(&key) {
                return id;
            }
            aliases.next += 1;
            let id = ALIAS | aliases.next;
            aliases.given.insert(key, id);
            id
        })
    }

    /// The number a directory entry of `key` is listed with.
    pub fn shown(&self, key: K) -> u64 {
        (self.plain)(key)
            .or_else(|| self.aliases.lock().given.get(&key).copied())
            .unwrap_or(ALIAS)
    }

    /// Takes back an alias.
    pub fn release(&self, id: u64, key: K) {
        if id & ALIAS == ALIAS {
            let mut aliases = self.aliases.lock();
            if aliases.given.get(&key) == Some(&id) {
                aliases.given.remove(&key);
            }
        }
    }
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
}
