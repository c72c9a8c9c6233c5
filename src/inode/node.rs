//! One remembered inode, and the numbers inodes are shown with.

use super::Entry;
use super::descriptors::Verdict;
use crate::attr::Attr;
use crate::mapping::Mapping;
use crate::source::Found;
use crate::sys::exported::ExportedHandle;
use parking_lot::Mutex;
use rustix::fs::FileType;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

/// An inode number within one of the source's filesystems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// `SourceDir::index`; `VEILED` for mounts of mmfs's own, numbered by device.
    pub source: u16,
    pub ino: u64,
}

const VEILED: u16 = 0x7ffe;

/// One life of an inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    pub key: Key,
    pub generation: u32,
    /// Where generations cannot tell (overlayfs), at least a FIFO is never opened for a file.
    pub kind: FileType,
}

impl Life {
    pub fn of(found: &Found) -> Self {
        let key = match found.veiled {
            true => Key {
                source: VEILED,
                ino: found.attr.dev,
            },
            false => Key {
                source: found.source.index,
                ino: found.attr.ino,
            },
        };
        Life {
            key,
            generation: found.generation(),
            kind: found.attr.kind(),
        }
    }
}

/// How an inode is found again without a descriptor.
#[derive(Debug, Clone)]
pub enum Locator {
    /// By its exported handle, whatever its names.
    Exported(ExportedHandle),
    /// By the name it was last met under, its identity checked.
    Named { parent: u64, name: Box<OsStr> },
}

/// Plain data that finds an inode again.
#[derive(Debug, Clone)]
pub struct Place {
    pub life: Life,
    pub locator: Locator,
    pub kind: FileType,
}

/// What is remembered of one inode.
#[derive(Debug)]
pub struct Node {
    pub key: Key,
    pub lookups: u64,
    pub locator: Locator,
    /// Kept open within the descriptor budget, or pinned.
    pub descriptor: Option<Arc<OwnedFd>>,
    /// Alive while somebody has the inode open.
    pub mapping: Weak<Mapping>,
    /// `Attr::stamp` as of which the kernel's cache of the contents, or of a directory's listing, is valid; 0
    /// when it is not.
    pub stamp: u64,
    /// The time of its last change, in nanoseconds since the epoch, when its exported handle was last seen; 0 where that
    /// was just then, or on a whole second, as with filesystems that count in seconds. Whoever is given the number of
    /// this inode later is stamped with a later tick of the clock, so the same time of change means the same inode
    /// without asking for the handle. Were the clock set back to that very tick, opening by handle would find out.
    settled: i64,
    /// When a directory was last listed, in milliseconds since the table was made.
    pub listed: u32,
    generation: u32,
    kind: FileType,
    pub veiled: bool,
    /// The descriptor is the only way back to the inode.
    pinned: bool,
    /// Used since the descriptor cache last asked.
    pub used: bool,
}

/// Longer than any tick of timestamps, FAT's two seconds included, and than looking at an inode takes.
const TICKS: Duration = Duration::from_secs(3);

/// Whether a time lies so far back that what happens from now on is stamped later.
fn is_past(nanoseconds: i64) -> bool {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    now.checked_sub(TICKS)
        .is_some_and(|then| i128::from(nanoseconds) < then.as_nanos() as i128)
}

impl Node {
    pub fn new(found: &Found, parent: u64, name: &OsStr) -> Self {
        let Life {
            key,
            generation,
            kind,
        } = Life::of(found);
        let locator = match &found.handle {
            Some(handle) if found.source.by_handle => Locator::Exported(handle.clone()),
            _ => Locator::Named {
                parent,
                name: name.into(),
            },
        };
        Node {
            key,
            lookups: 0,
            locator,
            descriptor: None,
            mapping: Weak::new(),
            stamp: 0,
            settled: 0,
            listed: 0,
            generation,
            kind,
            veiled: found.veiled,
            pinned: false,
            used: false,
        }
    }

    /// Whether what was found is the inode remembered here, in the same life.
    pub fn is(&self, life: &Life, found: &Found) -> bool {
        let same_handle = match (&self.locator, &found.handle) {
            (Locator::Exported(known), Some(met)) => known == met,
            _ => true,
        };
        self.key == life.key
            && self.generation == life.generation
            && same_handle
            && self.kind == life.kind
    }

    /// What the kernel is told of it.
    pub fn entry(&self, attr: Attr) -> Entry {
        Entry {
            attr,
            generation: self.generation,
            open: self.mapping.strong_count() > 0,
        }
    }

    pub fn kind(&self) -> FileType {
        self.kind
    }

    /// Hears that its exported handle was seen in the state of `found`.
    pub fn settle(&mut self, found: &Found) {
        let by_handle = matches!(self.locator, Locator::Exported(_)) && found.handle.is_some();
        let changed = found.attr.ctime.nanoseconds().filter(|_| by_handle);
        self.settled = changed
            .filter(|&changed| found.attr.ctime.nsec != 0 && is_past(changed))
            .unwrap_or(0);
    }

    /// Hears that its handle has led nowhere.
    pub fn unsettle(&mut self) {
        self.settled = 0;
    }

    /// Whether `attr` shows it in the state in which its exported handle was last seen, long enough after.
    pub fn is_settled(&self, key: Key, attr: &Attr) -> bool {
        self.key == key
            && self.kind == attr.kind()
            && self.settled != 0
            && attr.ctime.nanoseconds() == Some(self.settled)
    }

    /// Takes the name it was just met under, where names are what finds it again.
    pub fn found_again(&mut self, parent: u64, name: &OsStr) {
        match &mut self.locator {
            Locator::Named { parent: p, name: n } if *p != parent || **n != *name => {
                (*p, *n) = (parent, name.into());
            }
            _ => {}
        }
    }

    /// Keeps `fd` open until the inode is forgotten.
    pub fn pin(&mut self, fd: Arc<OwnedFd>) {
        self.descriptor.get_or_insert(fd);
        self.pinned = true;
    }

    pub fn give_up_descriptor(&mut self) -> Verdict {
        if std::mem::take(&mut self.used) && self.descriptor.is_some() && !self.pinned {
            return Verdict::Used;
        }
        if !self.pinned {
            self.descriptor = None;
        }
        Verdict::Gone
    }

    /// What is at hand already.
    pub fn known(&self) -> (Option<Arc<OwnedFd>>, Option<Arc<Mapping>>) {
        (self.descriptor.clone(), self.mapping.upgrade())
    }

    pub fn place(&self) -> Place {
        let life = Life {
            key: self.key,
            generation: self.generation,
            kind: self.kind,
        };
        Place {
            life,
            locator: self.locator.clone(),
            kind: self.kind,
        }
    }

    /// Where to find it, when no descriptor is at hand.
    pub fn place_if_unheld(&self) -> Option<Place> {
        (self.descriptor.is_none() && self.mapping.strong_count() == 0).then(|| self.place())
    }
}

/// The numbers inodes are shown with: the source's own wherever that is possible.
#[derive(Debug)]
pub struct Numbers {
    root_ino: u64,
    aliases: Mutex<Aliases>,
}

#[derive(Debug, Default)]
struct Aliases {
    given: HashMap<Key, u64>,
    next: u64,
}

/// Set in every number that is not the source's own.
const ENCODED: u64 = 1 << 63;
const INO_BITS: u32 = 48;
const ALIAS: u64 = ENCODED | 0x7fff << INO_BITS;

impl Numbers {
    pub fn new(root_ino: u64) -> Self {
        Numbers {
            root_ino,
            aliases: Mutex::default(),
        }
    }

    /// The number of `key`, an alias being given where it has none.
    pub fn id(&self, key: Key) -> u64 {
        self.plain(key).unwrap_or_else(|| {
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
    pub fn shown(&self, key: Key) -> u64 {
        self.plain(key)
            .or_else(|| self.aliases.lock().given.get(&key).copied())
            .unwrap_or(ALIAS)
    }

    /// Takes back an alias.
    pub fn release(&self, id: u64, key: Key) {
        if id & ALIAS == ALIAS {
            let mut aliases = self.aliases.lock();
            if aliases.given.get(&key) == Some(&id) {
                aliases.given.remove(&key);
            }
        }
    }

    /// Numbers that need no table:
    ///
    /// ```text
    ///   63  62        48 47                   0
    ///  ┌───┬────────────┬──────────────────────┐
    ///  │ 0 │            source's ino           │  first filesystem, ino above 1
    ///  │ 1 │ filesystem │      source's ino    │  others, ino below 2^48
    ///  │ 1 │   0x7fff   │       counter        │  aliases: whatever does not fit
    ///  └───┴────────────┴──────────────────────┘
    /// ```
    fn plain(&self, key: Key) -> Option<u64> {
        match key {
            Key { source: 0, ino } if ino == self.root_ino => Some(super::ROOT),
            Key { source: 0, ino } => (ino > super::ROOT && ino < ENCODED).then_some(ino),
            Key { source, ino } if source < 0x7fff && ino >> INO_BITS == 0 => {
                Some(ENCODED | u64::from(source) << INO_BITS | ino)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_collide() {
        let numbers = Numbers::new(2);
        let keys = [
            (0, 2),
            (0, 1),
            (0, 7),
            (0, u64::MAX),
            (1, 1),
            (1, 2),
            (1, 7),
            (1, 1 << 50),
            (2, 7),
            (VEILED, 52),
        ];
        let ids: Vec<u64> = keys
            .iter()
            .map(|&(source, ino)| numbers.id(Key { source, ino }))
            .collect();
        let distinct: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), keys.len(), "{ids:x?}");
        assert_eq!(
            (ids[0], ids[2]),
            (1, 7),
            "the root is 1, the first filesystem's numbers are its own"
        );
    }

    #[test]
    fn an_alias_lasts_until_it_is_released() {
        let numbers = Numbers::new(2);
        let key = Key { source: 0, ino: 1 };
        let id = numbers.id(key);
        assert_eq!((numbers.id(key), numbers.shown(key)), (id, id));
        numbers.release(id, key);
        assert_ne!(numbers.id(key), id);
    }
}
