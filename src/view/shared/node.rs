//! Nodes: plain data to find an inode of the source again, by its number, its life, and a handle or a name.

use crate::attr::Attr;
use crate::inode::{ENCODED, LOW_BITS, Place, ROOT};
use crate::source::{Inode, Kind};
use crate::sys::exported::ExportedHandle;
use rustix::fs::FileType;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// An inode number on one of the source's filesystems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// `SourceDir::index`, or `OWN_MOUNTS` for mmfs's own mounts, which are numbered by device.
    pub source: u32,
    /// The inode number there.
    pub ino: u64,
}

impl Key {
    /// The key with another number for its filesystem, unless that is the first one. None if there is none.
    pub fn renumbered(self, number: impl FnOnce(u32) -> Option<u32>) -> Option<Self> {
        let source = match self.source {
            0 | OWN_MOUNTS => self.source,
            source => number(source)?.checked_add(1)?,
        };
        Some(Self { source, ..self })
    }
}

const OWN_MOUNTS: u32 = u32::MAX;

/// The prefix of the numbers of mmfs's own mounts.
const OWN_PREFIX: u64 = 0x7ffe;

/// One life of an inode number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Life {
    pub key: Key,
    /// See `source::Inode::life`.
    pub life: u64,
    /// Where `life` is constant (overlayfs), the type at least keeps a FIFO from being opened as a file.
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

/// How to find an inode again without a descriptor.
#[derive(Debug, Clone)]
pub enum Locator {
    /// By its exported handle, independent of its names.
    Exported(ExportedHandle),
    /// By the name it was last found under. Its identity is then checked. The parent is a node id.
    Named { parent: u64, name: Arc<OsStr> },
}

/// What tells an inode from others that had or will have its number, in later mounts too.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lasting {
    /// The exported handle in its locator.
    Located,
    /// Its exported handle.
    Handle(Box<ExportedHandle>),
    /// Its time of birth: seconds and nanoseconds, in one number.
    Born(u64),
    /// Its number alone: the filesystem has nothing better.
    Number,
}

impl Lasting {
    fn of(inode: &Inode) -> Self {
        let handle = inode
            .handle
            .as_ref()
            .filter(|_| inode.source.has_lasting_handles);
        match handle {
            Some(_) if inode.source.by_handle => Self::Located,
            Some(handle) => Self::Handle(Box::new(handle.clone())),
            None => inode.born().map_or(Self::Number, Self::Born),
        }
    }
}

/// An inode of the source, as plain data to find it again.
#[derive(Debug, Clone)]
pub struct Node {
    life: Life,
    locator: Locator,
    lasting: Lasting,
    /// The time of the inode's last change when its exported handle was last read, in nanoseconds since the epoch. 0 if that
    /// time was too recent, or a whole second, as on filesystems that record seconds. A later inode with this number gets a
    /// later timestamp. So an equal time of change means the same inode, and the handle need not be read. If the clock was set
    /// back to that tick, opening by handle fails.
    confirmed: i64,
}

/// Longer than any granularity of timestamps, also FAT's two seconds, plus the time to read attributes.
const LONGEST_TICK: Duration = Duration::from_secs(3);

/// Whether a time is so long ago that later changes get a later timestamp.
fn is_past(nanoseconds: i64) -> bool {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    now.checked_sub(LONGEST_TICK)
        .is_some_and(|then| i128::from(nanoseconds) < then.as_nanos() as i128)
}

impl Node {
    /// The inode found as `name` in the directory with node id `parent`.
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
            lasting: Lasting::of(inode),
            confirmed,
        }
    }

    /// Its number and life.
    pub(super) fn life(&self) -> Life {
        self.life
    }

    /// The index of its filesystem, and its number there.
    pub fn number(&self) -> (u32, u64) {
        (self.life.key.source, self.life.key.ino)
    }

    /// What tells it from other inodes of its filesystem that had or will have its number, in later mounts too.
    pub fn identity(&self) -> Vec<u8> {
        let by = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
        match (&self.lasting, &self.locator) {
            (Lasting::Located, Locator::Exported(handle)) => by(b'h', handle.as_bytes()),
            (Lasting::Handle(handle), _) => by(b'h', handle.as_bytes()),
            (Lasting::Born(born), _) => by(b'b', &born.to_le_bytes()),
            (Lasting::Number | Lasting::Located, _) => vec![b'n'],
        }
    }

    /// Whether it is found by its exported handle, not by the node of its directory.
    pub fn is_found_by_handle(&self) -> bool {
        matches!(self.locator, Locator::Exported(_))
    }

    /// Whether it is mmfs's own mount, shown as an empty directory.
    pub fn is_own_mount(&self) -> bool {
        self.life.kind == Kind::OwnMount
    }

    /// How mmfs shows it.
    pub(super) fn kind(&self) -> Kind {
        self.life.kind
    }

    /// Whether it is a directory of the source.
    pub(super) fn is_dir(&self) -> bool {
        self.life.kind == Kind::Source(FileType::Directory)
    }

    /// How to find it again.
    pub(super) fn locator(&self) -> &Locator {
        &self.locator
    }

    /// Its exported handle failed, so the next lookup reads the handle again.
    pub(super) fn unconfirm(&mut self) {
        self.confirmed = 0;
    }

    /// Whether `attr`, of the inode with the number `key`, proves that it is this inode: its time of change is `confirmed`.
    pub(super) fn is_confirmed_by(&self, key: Key, attr: &Attr) -> bool {
        self.life.key == key
            && self.life.kind == Kind::Source(attr.kind())
            && self.confirmed != 0
            && attr.ctime.nanoseconds() == Some(self.confirmed)
    }

    /// It was found as `name` in the directory with node id `parent`.
    pub(super) fn renamed(&mut self, parent: u64, name: &OsStr) {
        match &mut self.locator {
            Locator::Named { parent: p, name: n } if *p != parent || **n != *name => {
                (*p, *n) = (parent, name.into());
            }
            _ => {}
        }
    }
}

/// `Node::confirmed` for an inode with these attributes, whose exported handle was just read.
fn confirmed_at(attr: &Attr) -> i64 {
    let changed = attr.ctime.nanoseconds();
    changed
        .filter(|&changed| attr.ctime.nsec != 0 && is_past(changed))
        .unwrap_or(0)
}

/// Equal: the same inode in the same life.
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
            // Its handle could not be read this time.
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
///  │ 1 │   0x7fff   │       counter        │  aliases: all others
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
