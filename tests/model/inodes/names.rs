//! Names: finding, making, moving and removing them.

use std::collections::BTreeMap;

use rustix::fs::RenameFlags;
use rustix::io::{Errno, Result};

use super::{Body, Ino, Inode, Inodes, NAME_MAX, ROOT, Stamp};

/// A directory and a name in it.
pub type Name<'a> = (Ino, &'a [u8]);

impl Inodes {
    pub fn entries(&self, dir: Ino) -> Result<&BTreeMap<Vec<u8>, Ino>> {
        match &self.get(dir)?.body {
            Body::Directory(entries) => Ok(entries),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub fn is_dir(&self, ino: Ino) -> bool {
        self.entries(ino).is_ok()
    }

    /// What is under a name, if anything.
    pub fn find(&self, (dir, name): Name<'_>) -> Result<Option<Ino>> {
        let entries = self.entries(dir)?;
        check_name(name)?;
        Ok(entries.get(name).copied())
    }

    pub fn existing(&self, at: Name<'_>) -> Result<Ino> {
        self.find(at)?.ok_or(Errno::NOENT)
    }

    /// The directory that a directory is in; the root is in itself.
    pub fn parent(&self, dir: Ino) -> Ino {
        let has = |at: &Ino| {
            let entries = self.entries(*at);
            entries.is_ok_and(|entries| entries.values().any(|child| *child == dir))
        };
        self.all().find(has).unwrap_or(ROOT)
    }

    /// All numbers, in their present lives.
    pub fn all(&self) -> impl Iterator<Item = Ino> {
        (1..).zip(&self.slots).map(|(number, slot)| Ino {
            number,
            life: slot.life,
        })
    }

    /// Puts the inode under this name, or takes the name away.
    fn enter(&mut self, (dir, name): Name<'_>, ino: Option<Ino>) -> Result<()> {
        let Body::Directory(entries) = &mut self.get_mut(dir)?.body else {
            return Err(Errno::NOTDIR);
        };
        match ino {
            Some(ino) => entries.insert(name.to_vec(), ino),
            None => entries.remove(name),
        };
        self.modified(dir, Stamp::Recent);
        Ok(())
    }

    /// Is the name free, in a directory that still has one itself?
    fn check_free(&self, at: Name<'_>) -> Result<()> {
        match self.find(at)? {
            Some(_) => Err(Errno::EXIST),
            None if self.get(at.0)?.links == 0 => Err(Errno::NOENT),
            None => Ok(()),
        }
    }

    /// Puts a new inode under a new name.
    pub fn make(&mut self, at: Name<'_>, inode: Inode) -> Result<Ino> {
        self.check_free(at)?;
        let ino = self.add(inode);
        self.enter(at, Some(ino))?;
        Ok(ino)
    }

    pub fn link(&mut self, ino: Ino, at: Name<'_>) -> Result<()> {
        self.check_free(at)?;
        match self.get(ino)?.links {
            _ if self.is_dir(ino) => return Err(Errno::PERM),
            0 => return Err(Errno::NOENT),
            _ => self.change(ino, |inode| inode.links += 1)?,
        }
        self.enter(at, Some(ino))
    }

    pub fn remove(&mut self, at: Name<'_>, directory: bool) -> Result<()> {
        let ino = self.existing(at)?;
        match (self.entries(ino), directory) {
            (Ok(_), false) => return Err(Errno::ISDIR),
            (Err(_), true) => return Err(Errno::NOTDIR),
            (Ok(entries), true) if !entries.is_empty() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.enter(at, None)?;
        self.unlink(ino)
    }

    pub fn rename(&mut self, from: Name<'_>, to: Name<'_>, flags: RenameFlags) -> Result<()> {
        // Both directories are found before either name is looked for.
        self.entries(from.0)?;
        self.entries(to.0)?;
        let ino = self.existing(from)?;
        let other = self.find(to)?;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        match other {
            Some(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EXIST),
            None if exchange || self.get(to.0)?.links == 0 => return Err(Errno::NOENT),
            _ if self.holds(ino, to.0) => return Err(Errno::INVAL),
            Some(other) if self.holds(other, from.0) => {
                return Err(if exchange {
                    Errno::INVAL
                } else {
                    Errno::NOTEMPTY
                });
            }
            Some(other) if other == ino => return Ok(()),
            Some(other) if !exchange => self.give_way(ino, other)?,
            _ => {}
        }
        self.enter(from, if exchange { other } else { None })?;
        self.enter(to, Some(ino))?;
        self.change(ino, |_| {})
    }

    /// May `other` be replaced by `ino`? If so it loses a name.
    fn give_way(&mut self, ino: Ino, other: Ino) -> Result<()> {
        match (self.is_dir(ino), self.entries(other)) {
            (true, Err(_)) => return Err(Errno::NOTDIR),
            (false, Ok(_)) => return Err(Errno::ISDIR),
            (true, Ok(entries)) if !entries.is_empty() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.unlink(other)
    }

    /// Is `ino` the directory `dir` or anywhere above it?
    fn holds(&self, ino: Ino, dir: Ino) -> bool {
        ino == dir
            || self
                .entries(ino)
                .is_ok_and(|entries| entries.values().any(|child| self.holds(*child, dir)))
    }
}

pub fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        Err(Errno::NAMETOOLONG)
    } else {
        Ok(())
    }
}
