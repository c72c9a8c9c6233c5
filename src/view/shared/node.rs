//! What finds an inode of the source again: its number, its life, and a handle or a name.

use crate::attr::Attr;
use crate::inode::{ENCODED, LOW_BITS, Place, ROOT};
use crate::source::{Inode, Kind};
use crate::sys::exported::ExportedHandle;
use rustix::fs::FileType;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// An inode number within one of the source's filesystems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// `SourceDir::index`; `OWN_MOUNTS` for mounts of mmfs's own, numbered by device.
    pub source: u32,
    /// The number there.
    pub ino: u64,
}

const OWN_MOUNTS: u32 = u32::MAX;

/// The prefix of their numbers.
const OWN_PREFIX: u64 = 0x7ffe;

/// One life of an inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Life {
    pub key: Key,
    /// `source::Inode::life`.
    pub life: u64,
    /// Where generations cannot tell (overlayfs), at least a FIFO is never opened for a file.
    pub kind: Kind,
}

impl Life {
    pub fn of(inode: &Inode) -> Self {
        let key = match inode.kind {
            Kind::OwnMount => Key {
                source: OWN_MOUNTS,
                ino: inode.attr.dev,
            },
            Kind::Source(_) => Key {
                source: inode.source.index,
                ino: inode.attr.ino,
            },
        };
        Life {
            key,
            life: inode.life(),
            kind: inode.kind,
        }
    }
}

/// How an inode is found again without a descriptor.
#[derive(Debug, Clone)]
pub enum Locator {
    /// By its exported handle, whatever its names.
    Exported(ExportedHandle),
    /// By the name it was last met under, its identity checked. The parent is a node id.
    Named { parent: u64, name: Arc<OsStr> },
}

/// An inode of the source: plain data that finds it again.
#[derive(Debug, Clone)]
pub struct Node {
    life: Life,
    locator: Locator,
    /// The time of its last change, in nanoseconds since the epoch, when its exported handle was last seen; 0 where that
    /// was just then, or on a whole second, as with filesystems that count in seconds. Whoever is given the number of
    /// this inode later is stamped with a later tick of the clock, so the same time of change means the same inode
    /// without asking for the handle. Were the clock set back to that very tick, opening by handle would find out.
    confirmed: i64,
}

/// Longer than any tick of timestamps, FAT's two seconds included, and than looking at an inode takes.
const LONGEST_TICK: Duration = Duration::from_secs(3);

/// Whether a time lies so far back that what happens from now on is stamped later.
fn is_past(nanoseconds: i64) -> bool {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    now.checked_sub(LONGEST_TICK)
        .is_some_and(|then| i128::from(nanoseconds) < then.as_nanos() as i128)
}

impl Node {
    /// The inode that was met as `name` in the directory with node id `parent`.
    pub(super) fn new(inode: &Inode, parent: u64, name: &OsStr) -> Self {
        let handle = inode.handle.as_ref().filter(|_| inode.source.by_handle);
        let confirmed = match handle {
            Some(_) => confirmed_at(&inode.attr),
            None => 0,
        };
        let locator = match handle {
            Some(handle) => Locator::Exported(handle.clone()),
            None => Locator::Named {
                parent,
                name: name.into(),
            },
        };
        Node {
            life: Life::of(inode),
            locator,
            confirmed,
        }
    }

    /// The life it is in.
    pub(super) fn life(&self) -> Life {
        self.life
    }

    /// What it is to us.
    pub(super) fn kind(&self) -> Kind {
        self.life.kind
    }

    /// Whether it is a directory of the source.
    pub(super) fn is_dir(&self) -> bool {
        self.life.kind == Kind::Source(FileType::Directory)
    }

    /// How it is found again.
    pub(super) fn locator(&self) -> &Locator {
        &self.locator
    }

    /// Its exported handle has led nowhere: it is looked at more closely next time.
    pub(super) fn doubt(&mut self) {
        self.confirmed = 0;
    }

    /// Whether `attr`, of the inode numbered `key`, shows this one in the state in which its exported handle was last
    /// seen, long enough after.
    pub(super) fn is_confirmed_by(&self, key: Key, attr: &Attr) -> bool {
        self.life.key == key
            && self.life.kind == Kind::Source(attr.kind())
            && self.confirmed != 0
            && attr.ctime.nanoseconds() == Some(self.confirmed)
    }

    /// It was met as `name` in the directory with node id `parent`.
    pub(super) fn renamed(&mut self, parent: u64, name: &OsStr) {
        match &mut self.locator {
            Locator::Named { parent: p, name: n } if *p != parent || **n != *name => {
                (*p, *n) = (parent, name.into());
            }
            _ => {}
        }
    }
}

/// What `Node::confirmed` is for an inode with these attributes, whose exported handle was just seen.
fn confirmed_at(attr: &Attr) -> i64 {
    let changed = attr.ctime.nanoseconds();
    changed
        .filter(|&changed| attr.ctime.nsec != 0 && is_past(changed))
        .unwrap_or(0)
}

/// The same inode in the same life.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        let same_handle = match (&self.locator, &other.locator) {
            (Locator::Exported(one), Locator::Exported(other)) => one == other,
            _ => true,
        };
        self.life == other.life && same_handle
    }
}

impl Eq for Node {}

impl Place for Node {
    type Key = Key;

    fn key(&self) -> Key {
        self.life.key
    }

    fn generation(&self) -> u32 {
        self.life.life as u32
    }

    fn found_again(&mut self, found: Self) {
        match (&self.locator, &found.locator) {
            // Its handle could not be had this time.
            (Locator::Exported(_), Locator::Named { .. }) => self.confirmed = 0,
            _ => *self = found,
        }
    }
}

/// Numbers that need no table, in a source whose root has the number `root_ino`:
///
/// ```text
///   63  62        48 47                   0
///  ┌───┬────────────┬──────────────────────┐
///  │ 0 │            source's ino           │  first filesystem, ino above 1
///  │ 1 │ filesystem │      source's ino    │  others, ino below 2^48
///  │ 1 │   0x7fff   │       counter        │  aliases: whatever does not fit
///  └───┴────────────┴──────────────────────┘
/// ```
pub fn plain_number(root_ino: u64, key: Key) -> Option<u64> {
    match key {
        Key { source: 0, ino } if ino == root_ino => Some(ROOT),
        Key { source: 0, ino } => (ino > ROOT && ino < ENCODED).then_some(ino),
        Key { source, ino } if ino >> LOW_BITS == 0 => {
            let prefix = match source {
                OWN_MOUNTS => OWN_PREFIX,
                source => Some(u64::from(source)).filter(|&source| source < OWN_PREFIX)?,
            };
            Some(ENCODED | prefix << LOW_BITS | ino)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inode::Numbers;

    #[test]
    fn numbers_never_collide() {
        let numbers = Numbers::new(|key| plain_number(2, key));
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
            (0x7ffe, 52),
            (0x7fff, 52),
            (0x8001, 52),
            (OWN_MOUNTS, 52),
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
}
