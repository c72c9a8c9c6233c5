//! The inodes of a filesystem that is obviously right: maps and byte vectors.
//!
//! The reference drives them by paths and compares them with a mount. The view in memory of the test `operations`
//! drives them by inode, below the operations of `mmfs::fs`.

pub mod bytes;
pub mod names;

use std::collections::BTreeMap;

use rustix::fs::{FileType, XattrFlags};
use rustix::io::{Errno, Result};

pub const NAME_MAX: usize = 255;
pub const ROOT: Ino = Ino { number: 1, life: 0 };

/// Times that nobody has set are this many seconds after the epoch, and one more for each change before them.
pub const FIRST_SECOND: i64 = 1_000_000_000;

/// An inode in one of its lives. A number is given again once its last name and its last open have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino {
    pub number: u64,
    pub life: u32,
}

/// One inode.
#[derive(Clone)]
pub struct Inode {
    pub body: Body,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Names; of a directory always one.
    pub links: u32,
    /// Last read: seconds and nanoseconds. Reading does not move it.
    pub atime: (i64, i64),
    /// Last change of the contents, as far as it can be foretold.
    pub mtime: Stamp,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The number of the last change of the contents, and of anything.
    pub modified: u64,
    pub changed: u64,
    opens: u32,
}

/// What an inode consists of.
#[derive(Debug, Clone)]
pub enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Ino>),
    Symlink(Vec<u8>),
    /// A FIFO, socket or device node, with the device's number.
    Special(FileType, u64),
}

/// A time, as far as it can be foretold.
#[derive(Debug, Clone, Copy)]
pub enum Stamp {
    /// Set by utimensat, long ago.
    Set(i64, i64),
    /// The time of some command of this sequence.
    Recent,
    /// Filesystems differ here.
    Unknown,
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Set(a, b), Self::Set(c, d)) => (a, b) == (c, d),
            (Self::Recent, Self::Recent) | (Self::Unknown, _) | (_, Self::Unknown) => true,
            _ => false,
        }
    }
}

/// All inodes of a filesystem.
#[derive(Clone)]
pub struct Inodes {
    /// By number, from 1 on.
    slots: Vec<Slot>,
    /// How many changes there were so far: the clock of this filesystem.
    changes: u64,
}

#[derive(Clone)]
struct Slot {
    life: u32,
    inode: Option<Inode>,
}

impl Body {
    pub fn directory() -> Self {
        Self::Directory(BTreeMap::new())
    }

    pub fn kind(&self) -> FileType {
        match self {
            Self::File(_) => FileType::RegularFile,
            Self::Directory(_) => FileType::Directory,
            Self::Symlink(_) => FileType::Symlink,
            Self::Special(kind, _) => *kind,
        }
    }

    /// The device number of a device node.
    pub fn device(&self) -> u64 {
        match self {
            Self::Special(_, device) => *device,
            _ => 0,
        }
    }

    /// Its length in bytes; directories and special files have none.
    pub fn size(&self) -> u64 {
        match self {
            Self::File(bytes) | Self::Symlink(bytes) => bytes.len() as u64,
            _ => 0,
        }
    }
}

impl Inode {
    /// An inode of root's with one name.
    pub fn new(body: Body, mode: u32) -> Self {
        Inode {
            body,
            mode,
            uid: 0,
            gid: 0,
            links: 1,
            atime: (FIRST_SECOND, 0),
            mtime: Stamp::Recent,
            xattrs: BTreeMap::new(),
            modified: 0,
            changed: 0,
            opens: 0,
        }
    }

    /// Last change of the contents: seconds and nanoseconds.
    pub fn mtime(&self) -> (i64, i64) {
        match self.mtime {
            Stamp::Set(seconds, nanoseconds) => (seconds, nanoseconds),
            Stamp::Recent | Stamp::Unknown => (FIRST_SECOND + self.modified as i64, 0),
        }
    }

    /// Last change of anything: seconds and nanoseconds.
    pub fn ctime(&self) -> (i64, i64) {
        (FIRST_SECOND + self.changed as i64, 0)
    }
}

impl Inodes {
    /// A filesystem with an empty root.
    pub fn new() -> Self {
        let mut this = Inodes {
            slots: Vec::new(),
            changes: 0,
        };
        this.add(Inode::new(Body::directory(), 0o755));
        this
    }

    /// Gives an inode a number: one that is free again, in another life.
    pub fn add(&mut self, inode: Inode) -> Ino {
        let slot = match self.slots.iter().position(|slot| slot.inode.is_none()) {
            Some(free) => {
                self.slots[free].life += 1;
                free
            }
            None => {
                let (life, inode) = (0, None);
                self.slots.push(Slot { life, inode });
                self.slots.len() - 1
            }
        };
        self.slots[slot].inode = Some(inode);
        let ino = Ino {
            number: slot as u64 + 1,
            life: self.slots[slot].life,
        };
        self.modified(ino, Stamp::Recent);
        ino
    }

    /// An inode; ESTALE when its life is over.
    pub fn get(&self, ino: Ino) -> Result<&Inode> {
        let slot = self.slots.get(ino.number as usize - 1);
        let slot = slot.filter(|slot| slot.life == ino.life);
        slot.and_then(|slot| slot.inode.as_ref())
            .ok_or(Errno::STALE)
    }

    /// As `get`. What is changed in it is dated by `change` or `modified`.
    fn get_mut(&mut self, ino: Ino) -> Result<&mut Inode> {
        let slot = self.slots.get_mut(ino.number as usize - 1);
        let slot = slot.filter(|slot| slot.life == ino.life);
        slot.and_then(|slot| slot.inode.as_mut())
            .ok_or(Errno::STALE)
    }

    /// Changes anything but the contents.
    pub fn change(&mut self, ino: Ino, change: impl FnOnce(&mut Inode)) -> Result<()> {
        self.changes += 1;
        let now = self.changes;
        let inode = self.get_mut(ino)?;
        inode.changed = now;
        change(inode);
        Ok(())
    }

    /// The contents were changed just now.
    fn modified(&mut self, ino: Ino, stamp: Stamp) {
        self.changes += 1;
        let now = self.changes;
        if let Ok(inode) = self.get_mut(ino) {
            (inode.modified, inode.changed, inode.mtime) = (now, now, stamp);
        }
    }

    /// The time now: seconds and nanoseconds.
    pub fn now(&self) -> (i64, i64) {
        (FIRST_SECOND + self.changes as i64, 0)
    }

    /// Counts an open: the inode lives on without a name.
    pub fn hold(&mut self, ino: Ino) -> Result<()> {
        self.get_mut(ino)?.opens += 1;
        Ok(())
    }

    /// Takes an open back, and says whether it was the last one.
    pub fn release(&mut self, ino: Ino) -> bool {
        let Ok(inode) = self.get_mut(ino) else {
            return true;
        };
        inode.opens -= 1;
        let last = inode.opens == 0;
        self.end_if_gone(ino);
        last
    }

    /// Takes a name from an inode.
    fn unlink(&mut self, ino: Ino) -> Result<()> {
        self.change(ino, |inode| inode.links -= 1)?;
        self.end_if_gone(ino);
        Ok(())
    }

    fn end_if_gone(&mut self, ino: Ino) {
        let gone = |inode: &Inode| inode.links == 0 && inode.opens == 0;
        if self.get(ino).is_ok_and(gone) {
            self.slots[ino.number as usize - 1].inode = None;
        }
    }

    /// How many bytes all files have together.
    pub fn used(&self) -> u64 {
        let inodes = self.slots.iter().filter_map(|slot| slot.inode.as_ref());
        inodes.map(|inode| inode.body.size()).sum()
    }

    /// How many inodes there are.
    pub fn count(&self) -> u64 {
        let alive = self.slots.iter().filter(|slot| slot.inode.is_some());
        alive.count() as u64
    }

    pub fn read_link(&self, ino: Ino) -> Result<&[u8]> {
        match &self.get(ino)?.body {
            Body::Symlink(target) => Ok(target),
            _ => Err(Errno::INVAL),
        }
    }

    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<&[u8]> {
        let value = self.get(ino)?.xattrs.get(name).ok_or(Errno::NODATA)?;
        Ok(value)
    }

    pub fn set_xattr(
        &mut self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        match self.get(ino)?.xattrs.contains_key(name) {
            true if flags == XattrFlags::CREATE => Err(Errno::EXIST),
            false if flags == XattrFlags::REPLACE => Err(Errno::NODATA),
            _ => self.change(ino, |inode| {
                inode.xattrs.insert(name.to_vec(), value.to_vec());
            }),
        }
    }

    pub fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        self.xattr(ino, name)?;
        self.change(ino, |inode| {
            inode.xattrs.remove(name);
        })
    }
}
