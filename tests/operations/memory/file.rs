//! Open files in memory.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use mmfs::actor::Actor;
use mmfs::attr::Attr;
use mmfs::cache::{FileCache, MayKeep};
use mmfs::request::ExtendedFlags;
use mmfs::request::{Seek, Write};
use mmfs::view::{Content, Files, HasFlags};
use rustix::fs::{FallocateFlags, FileType, IFlags, OFlags};
use rustix::io::{Errno, Result};

use super::{Contents, Flags, Memory, OpenInode};
use crate::inodes::Ino;

/// One open of a file.
pub struct MemoryFile {
    view: Memory,
    ino: Ino,
    access: OFlags,
    shared: Arc<OpenInode>,
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryFile({})", self.ino)
    }
}

impl Files for Memory {
    fn open(&self, _by: &Actor, node: &Ino, flags: OFlags) -> Result<MemoryFile> {
        self.called("open", node)?;
        let mut contents = self.contents();
        match contents.inodes.get(*node)?.body.kind() {
            FileType::RegularFile => self.opened(&mut contents, *node, flags),
            FileType::Directory => Err(Errno::ISDIR),
            FileType::Symlink => Err(Errno::LOOP),
            _ => Err(Errno::NXIO),
        }
    }

    fn close(&self, open: Arc<MemoryFile>) {
        self.note(format!("close {}", open.ino));
        let mut contents = self.contents();
        if contents.inodes.release(open.ino) {
            contents.open.remove(&open.ino);
            // With the last open, what is known of the kernel's cache is remembered with the node.
            let closed =
                |cache_state: &mut mmfs::cache::CacheState| open.shared.cache.closed(cache_state);
            self.0.nodes.update_cache_state_of(&open.ino, closed);
        }
    }
}

impl Memory {
    pub(super) fn opened(
        &self,
        contents: &mut Contents,
        ino: Ino,
        flags: OFlags,
    ) -> Result<MemoryFile> {
        contents.inodes.hold(ino)?;
        let make = || {
            let cache_state = self.0.nodes.cache_state_of(&ino);
            let node = self.0.nodes.number(ino.number);
            Arc::new(OpenInode {
                cache: FileCache::new(node, cache_state, self.0.kernel.clone()),
                passed_through: OnceLock::new(),
            })
        };
        let shared = contents.open.entry(ino).or_insert_with(make).clone();
        Ok(MemoryFile {
            view: self.clone(),
            ino,
            access: flags & OFlags::RWMODE,
            shared,
        })
    }

    pub(super) fn flags_of(&self, ino: Ino) -> Flags {
        let flags = self.contents().flags.get(&ino).copied();
        flags.unwrap_or(Flags {
            flags: IFlags::empty(),
            extended: [0; 28],
        })
    }

    pub(super) fn change_flags(&self, ino: Ino, change: impl FnOnce(&mut Flags)) -> Result<()> {
        let mut flags = self.flags_of(ino);
        change(&mut flags);
        let keeps_bytes = true;
        self.change(ino, keeps_bytes, |contents| {
            contents.flags.insert(ino, flags);
            contents.inodes.change(ino, |_| {})
        })
    }
}

impl MemoryFile {
    fn check_writable(&self) -> Result<()> {
        match self.is_writable() {
            true => Ok(()),
            false => Err(Errno::BADF),
        }
    }
}

impl Content for MemoryFile {
    fn attr(&self) -> Result<Attr> {
        self.view.called("Content::attr", self.ino)?;
        let changes = self.shared.cache.changes();
        let attr = self.view.contents().attr(self.ino)?;
        self.shared.cache.seen(attr.stamp(), changes);
        Ok(attr)
    }

    fn is_writable(&self) -> bool {
        self.access != OFlags::RDONLY
    }

    fn is_cacheable(&self) -> bool {
        self.view.contents().knobs.is_cacheable
    }

    fn may_keep(&self, reads: bool) -> Result<MayKeep> {
        let purpose = if reads { "to read" } else { "to write only" };
        let given = format!("{} {purpose}", self.ino);
        self.view.called("may_keep", given)?;
        let contents = self.view.contents();
        let found = (contents.stamp(self.ino), contents.inodes.size(self.ino));
        let kept = self.shared.cache.before_open(found, false, || None);
        Ok(match contents.knobs.keeps_always {
            true => MayKeep::All,
            false => kept,
        })
    }

    fn read<R>(
        &self,
        offset: u64,
        len: usize,
        flags: OFlags,
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R {
        let direct = flags.contains(OFlags::DIRECT);
        let way = if direct { "direct" } else { "cached" };
        let called = self.view.called("read", format!("{} {way}", self.ino));
        self.shared.cache.reading(offset + len as u64, direct);
        let contents = self.view.contents();
        let bytes = called.and_then(|()| contents.inodes.slice(self.ino, offset, len));
        lend(bytes)
    }

    fn write(&self, write: &Write<'_>) -> Result<usize> {
        let given = format!("{} {}", self.ino, describe(write));
        self.view.called("write", given)?;
        self.check_writable()?;
        let written = self
            .view
            .change(self.ino, false, |contents| contents.write(self.ino, write));
        if write.direct && !write.from_mapping {
            self.shared.cache.bypassed();
        }
        written
    }

    fn flush(&self, sync: bool) -> Result<()> {
        let how = if sync { "synced" } else { "not synced" };
        self.view.called("flush", format!("{} {how}", self.ino))
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        let what = if data_only { "data" } else { "all" };
        self.view.called("sync", format!("{} {what}", self.ino))
    }

    fn allocate(&self, by: &Actor, mode: FallocateFlags, offset: u64, len: u64) -> Result<()> {
        self.view.called("allocate", self.ino)?;
        self.check_writable()?;
        self.view.change(self.ino, false, |contents| {
            if !mode.contains(FallocateFlags::KEEP_SIZE) {
                contents.check_length(self.ino, offset.saturating_add(len))?;
            }
            contents.inodes.allocate(self.ino, mode, offset, len)?;
            match by.is_root() {
                true => Ok(()),
                false => contents.drop_setid(self.ino),
            }
        })
    }

    fn seek(&self, to: Seek) -> Result<u64> {
        self.view.called("seek", format!("{} {to:?}", self.ino))?;
        let contents = self.view.contents();
        match to {
            Seek::Data(at) => contents.inodes.seek(self.ino, at, false),
            Seek::Hole(at) => contents.inodes.seek(self.ino, at, true),
        }
    }

    fn copy_from(
        &self,
        by: &Actor,
        (from, start): (&Self, u64),
        offset: u64,
        len: usize,
    ) -> Result<usize> {
        let given = format!("{} to {} {len}", from.ino, self.ino);
        self.view.called("copy_from", given)?;
        self.check_writable()?;
        if from.access == OFlags::WRONLY {
            return Err(Errno::BADF);
        }
        self.view.change(self.ino, false, |contents| {
            let there = contents.inodes.slice(from.ino, start, len)?.len() as u64;
            let end = contents.reach(self.ino, offset, offset + there)?;
            let (source, target) = ((from.ino, start), (self.ino, offset));
            let len = (end - offset) as usize;
            let copied = contents.inodes.copy(source, target, len)?;
            if !by.is_root() {
                contents.drop_setid(self.ino)?;
            }
            Ok(copied)
        })
    }

    fn settle(&self) {
        self.view.note(format!("settle {}", self.ino));
    }

    fn pass_through<H: Any + Send + Sync>(
        &self,
        _by: &Actor,
        register: impl FnOnce(BorrowedFd<'_>) -> Option<H>,
    ) -> Option<&H> {
        let decide = || -> Option<Box<dyn Any + Send + Sync>> {
            let nothing = File::open("/dev/null").expect("it is always there");
            let hold = register(nothing.as_fd())?;
            self.shared.cache.passed_through();
            Some(Box::new(hold))
        };
        let decided = self.shared.passed_through.get_or_init(decide);
        decided.as_ref()?.downcast_ref()
    }

    fn is_passed_through(&self) -> bool {
        matches!(self.shared.passed_through.get(), Some(Some(_)))
    }
}

impl Contents {
    fn write(&mut self, ino: Ino, write: &Write<'_>) -> Result<usize> {
        let size = self.inodes.size(ino);
        if write.from_mapping {
            // Never beyond the end: it would bring back what a truncation has taken.
            let room = usize::try_from(size.saturating_sub(write.offset)).expect("files are small");
            let inside = &write.data[..write.data.len().min(room)];
            self.inodes.write(ino, write.offset, inside)?;
            return Ok(write.data.len());
        }
        let at = if write.append { size } else { write.offset };
        let end = self.reach(ino, at, at + write.data.len() as u64)?;
        let written = self
            .inodes
            .write(ino, at, &write.data[..(end - at) as usize])?;
        if !write.keeps_setid {
            self.drop_setid(ino)?;
        }
        Ok(written)
    }
}

/// The flags of a write, then how durable it is to be.
fn describe(write: &Write<'_>) -> String {
    let flags = [
        (write.append, "append"),
        (write.from_mapping, "mapped"),
        (write.direct, "direct"),
        (write.keeps_setid, "keeps_setid"),
    ];
    let words: String = flags
        .iter()
        .filter(|(is_set, _)| *is_set)
        .map(|(_, word)| format!("{word} "))
        .collect();
    format!("{words}{:?}", write.durability)
}

impl HasFlags for MemoryFile {
    fn flags(&self) -> Result<IFlags> {
        self.view.called("flags", self.ino)?;
        Ok(self.view.flags_of(self.ino).flags)
    }

    fn extended_flags(&self) -> Result<ExtendedFlags> {
        self.view.called("extended_flags", self.ino)?;
        Ok(self.view.flags_of(self.ino).extended)
    }

    fn set_flags(&self, flags: IFlags) -> Result<()> {
        self.view.called("set_flags", self.ino)?;
        self.view.change_flags(self.ino, |set| set.flags = flags)
    }

    fn set_extended_flags(&self, attr: &ExtendedFlags) -> Result<()> {
        self.view.called("set_extended_flags", self.ino)?;
        self.view.change_flags(self.ino, |set| set.extended = *attr)
    }
}
