//! The bytes of one file of a private view: the source's, the store's, or both, page by page.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::{Errno, Result};

use super::layers::{Layers, errno, to_store};
use super::node::Node;
use super::passed::{InUse, Program};
use super::source_state::moved_on;
use crate::actor::Actor;
use crate::attr::{Attr, Time};
use crate::cache::MayKeep;
use crate::config::OnSourceChange;
use crate::inode::Place as _;
use crate::request::{Durability, Seek, Write};
use crate::store::{Access, Content as Stored, From, NodeId};
use crate::view::{Content, Files as _, HasFlags, shared};

/// Files of the source up to this length are copied at their first change, in bytes: then nothing of them depends on the source.
const SMALL: u64 = 64 << 10;

/// The most that the store punches out of the middle of a file at once, in bytes, and how often.
const PUNCH: u64 = 32 << 30;
const MOST_PUNCHES: u64 = 256;

/// The parts of a range that are to be punched. To the end of the file, and if there are too many, it is one.
fn parts(range: Range<u64>, size: u64) -> impl Iterator<Item = Range<u64>> {
    let len = range.end - range.start;
    let part = match range.end < size && len <= PUNCH * MOST_PUNCHES {
        true => PUNCH,
        false => len.max(1),
    };
    let begins = (range.start..range.end).step_by(part as usize);
    begins.map(move |begin| begin..(begin + part).min(range.end))
}

/// The most that one copy_file_range(2) copies in one piece, in bytes.
const COPY: usize = 1 << 20;

/// One open of a regular file.
pub struct OpenFile {
    pub(super) layers: Arc<Layers>,
    pub(super) node: Node,
    /// The source's file, if the view's file has one.
    pub(super) below: Option<Arc<shared::OpenFile>>,
    pub(super) in_use: Arc<InUse>,
    pub(super) program: Option<Program>,
    pub(super) access: Access,
    pub(super) opener: Actor,
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFile")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Calls `fill` with `len` bytes of a buffer of this thread, which hold what was read last. The mapping has another, which is used
/// while this one is filled.
fn with_buffer<R>(len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        fill(&mut buffer[..len])
    })
}

impl OpenFile {
    pub(super) fn id(&self) -> Result<Option<NodeId>> {
        self.layers.id(&self.node)
    }

    fn content(&self, id: NodeId) -> Result<Option<Stored>> {
        self.layers.store.content_now(id).map_err(errno)
    }

    /// Fills the buffer with bytes of the source, and zeros behind its end.
    pub(super) fn read_source(&self, at: u64, to: &mut [u8]) -> Result<()> {
        let opened;
        let below = match (&self.below, self.node.source()) {
            (Some(below), _) => &**below,
            (None, Some(source)) => {
                opened = self
                    .layers
                    .below
                    .open(&self.opener, source, OFlags::RDONLY)?;
                &opened
            }
            (None, None) => return Err(Errno::IO),
        };
        let len = below.read_into(to, at)?;
        to[len..].fill(0);
        Ok(())
    }

    /// As the store asks for bytes of the source. If the source's file has changed since the store took its first page, the two do
    /// not fit together.
    fn source_bytes(
        &self,
        content: Option<&Stored>,
    ) -> impl FnMut(u64, &mut [u8]) -> io::Result<()> {
        let stops = self.layers.on_source_change != OnSourceChange::Follow;
        let expected = content.and_then(|content| content.source).filter(|_| stops);
        move |at, to| {
            if expected.is_some() && expected != self.layers.source_state(&self.node)? {
                return Err(Errno::IO.into());
            }
            Ok(self.read_source(at, to)?)
        }
    }

    fn read_mixed(
        &self,
        id: NodeId,
        content: &Stored,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let mut source = self.source_bytes(Some(content));
        let read = self.layers.store.read(id, offset, buffer, &mut source);
        read.map_err(errno)
    }

    /// Runs a change of the file's bytes, alone.
    /// `strips`: for whom suid, sgid and capabilities go, and whether he may keep the bits.
    fn changing<T>(
        &self,
        strips: Option<(&Actor, bool)>,
        change: impl FnOnce(NodeId, Option<Stored>) -> Result<T>,
    ) -> Result<T> {
        if !self.is_writable() {
            return Err(Errno::BADF);
        }
        let id = self.layers.adopt(&self.node)?;
        let lock = self.layers.lock(id);
        let _alone = lock.write();
        let mut content = self.content(id)?;
        let is_first = content.is_none();
        self.layers.begin_change(strips, &self.node, id, is_first)?;
        let state = self.layers.first_state(&self.node, id)?;
        let most = match self.layers.on_source_change {
            OnSourceChange::Copy => u64::MAX,
            _ => SMALL,
        };
        if content.is_none() && state.is_some_and(|state| state.size > 0 && state.size <= most) {
            self.copy_whole(id, state)?;
            content = self.content(id)?;
        }
        change(id, content)
    }

    /// Copies the source's bytes if it is to be done at the first change.
    pub fn copy_first(&self) -> Result<()> {
        self.changing(None, |_, _| Ok(()))
    }

    fn write_alone(&self, id: NodeId, content: Option<Stored>, write: &Write<'_>) -> Result<usize> {
        let state = self.layers.first_state(&self.node, id)?;
        let size = match &content {
            Some(content) => content.size,
            None => state.map_or(0, |state| state.size),
        };
        let offset = if write.append { size } else { write.offset };
        let mut data = write.data;
        if write.from_mapping {
            // Pages of a mapping never make the file longer.
            data = &data[..data.len().min(size.saturating_sub(offset) as usize)];
        }
        let mut source = self.source_bytes(content.as_ref());
        let now = to_store(Time::now());
        self.layers
            .store
            .write(id, offset, data, state, now, &mut source)
            .map_err(errno)?;
        Ok(write.data.len())
    }
}

impl Content for OpenFile {
    fn attr(&self) -> Result<Attr> {
        self.layers.attr(&self.node)
    }

    fn is_writable(&self) -> bool {
        self.access != Access::Reads
    }

    fn is_cacheable(&self) -> bool {
        self.below.as_ref().is_none_or(|below| below.is_cacheable())
    }

    fn may_keep(&self, moves_atime: bool) -> Result<MayKeep> {
        if self.layers.renamed.lock().is_stale(self.node.key()) {
            return Ok(MayKeep::Nothing);
        }
        let content = match self.id()? {
            Some(id) => self.content(id)?,
            None => None,
        };
        match (&self.below, content) {
            (Some(below), None) => below.may_keep(moves_atime),
            (None, None) => Ok(self.kept()),
            (_, Some(content)) => {
                let now = self.layers.source_state(&self.node);
                let moved = content.source_limit > 0 && moved_on(&content, now.unwrap_or(None));
                Ok(if moved { MayKeep::Nothing } else { self.kept() })
            }
        }
    }

    fn read<R>(
        &self,
        offset: u64,
        len: usize,
        flags: OFlags,
        lend: impl FnOnce(Result<&[u8]>) -> R,
    ) -> R {
        let direct = flags.contains(OFlags::DIRECT);
        self.in_use.cache.reading(offset + len as u64, direct);
        let id = match self.id() {
            Err(errno) => return lend(Err(errno)),
            Ok(id) => id,
        };
        let lock = id.map(|id| self.layers.lock(id));
        let shared = lock.as_ref().map(|lock| lock.read());
        let content = match id.map(|id| self.content(id)).transpose() {
            Err(errno) => return lend(Err(errno)),
            Ok(content) => content.flatten(),
        };
        match (content, id, &self.below) {
            (None, _, Some(below)) => below.read(offset, len, flags, lend),
            (Some(content), Some(id), _) => {
                let len = (len as u64).min(content.size.saturating_sub(offset));
                with_buffer(len as usize, |buffer| {
                    let done = self.read_mixed(id, &content, offset, buffer);
                    drop(shared);
                    lend(done.map(|done| &buffer[..done]))
                })
            }
            // The source has lost it, and the store has none of its bytes.
            _ => lend(
                self.layers
                    .attr(&self.node)
                    .and_then(|attr| match attr.size {
                        0 => Ok(&[][..]),
                        _ => Err(Errno::IO),
                    }),
            ),
        }
    }

    fn write(&self, write: &Write<'_>) -> Result<usize> {
        let strips = (!write.from_mapping).then_some((&self.opener, write.keeps_setid));
        let written = self.changing(strips, |id, content| self.write_alone(id, content, write))?;
        if write.direct && !write.from_mapping {
            self.in_use.cache.bypassed();
        }
        match write.durability {
            Durability::Cached => {}
            Durability::Data => self.sync(true)?,
            Durability::Full => self.sync(false)?,
        }
        Ok(written)
    }

    fn flush(&self, sync: bool) -> Result<()> {
        self.take_over()?;
        if sync && self.is_writable() {
            self.sync(false)
        } else {
            Ok(())
        }
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        match self.id()? {
            Some(id) => self.layers.store.sync(id, data_only).map_err(errno),
            None => Ok(()),
        }
    }

    fn allocate(&self, by: &Actor, mode: FallocateFlags, offset: u64, len: u64) -> Result<()> {
        let keeps = mode.contains(FallocateFlags::KEEP_SIZE);
        let what = mode - FallocateFlags::KEEP_SIZE;
        let zeroes = match what {
            FallocateFlags::ZERO_RANGE => true,
            FallocateFlags::PUNCH_HOLE if keeps => true,
            flags if flags.is_empty() => false,
            _ => return Err(Errno::OPNOTSUPP),
        };
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= i64::MAX as u64)
            .ok_or(Errno::FBIG)?;
        let store = &self.layers.store;
        self.changing(Some((by, by.is_root())), |id, content| {
            let state = self.layers.first_state(&self.node, id)?;
            let now = to_store(Time::now());
            let size = content.as_ref().map_or_else(
                || state.map_or(0, |state| state.size),
                |content| content.size,
            );
            if !zeroes {
                self.must_have_room(id, content.as_ref(), offset..end)?;
            }
            let grows = !keeps && end > size;
            if zeroes && offset < size {
                let mut source = self.source_bytes(content.as_ref());
                for part in parts(offset..end, size) {
                    store
                        .punch(id, part, state, now, &mut source)
                        .map_err(errno)?;
                }
            } else if !grows {
                self.layers.touch(id, now)?;
            }
            if grows {
                let state = self.layers.first_state(&self.node, id)?;
                store.truncate(id, end, state, now).map_err(errno)?;
            }
            Ok(())
        })
    }

    fn seek(&self, to: Seek) -> Result<u64> {
        let id = self.id()?;
        let content = match id {
            Some(id) => self.content(id)?,
            None => None,
        };
        match (content, id, &self.below) {
            (None, _, Some(below)) => below.seek(to),
            (Some(content), Some(id), _) => self.seek_mixed(id, &content, to),
            _ => Err(Errno::NXIO),
        }
    }

    fn copy_from(
        &self,
        by: &Actor,
        (from, at): (&Self, u64),
        offset: u64,
        len: usize,
    ) -> Result<usize> {
        let mut done = 0;
        while done < len {
            let part = (len - done).min(COPY);
            let bytes = from.read(at + done as u64, part, OFlags::empty(), |bytes| {
                bytes.map(<[u8]>::to_vec)
            });
            let bytes = match bytes {
                Ok(bytes) if bytes.is_empty() => break,
                Ok(bytes) => bytes,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            };
            let write = Write {
                offset: offset + done as u64,
                data: &bytes,
                append: false,
                from_mapping: false,
                direct: false,
                keeps_setid: by.is_root(),
                durability: Durability::Cached,
            };
            match self.write(&write) {
                Ok(n) => done += n,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn pass_through<H: Any + Send + Sync>(
        &self,
        _by: &Actor,
        register: impl FnOnce(BorrowedFd<'_>) -> Option<H>,
    ) -> Option<&H> {
        self.in_use.pass_through(&self.layers.store, |access| {
            let id = self.id().ok()??;
            Some((id, self.lend(id, access, register).ok()??))
        })
    }

    fn is_passed_through(&self) -> bool {
        self.in_use.is_passed_through()
    }
}

impl OpenFile {
    /// What the kernel may keep of a file whose bytes change through the view only: all, unless a write has bypassed its cache.
    fn kept(&self) -> MayKeep {
        const ALWAYS: u64 = 0;
        let bytes = (ALWAYS, 0);
        self.in_use.cache.before_open(bytes, false, || None)
    }

    /// Checks that the store has room for a range of the file. It cannot set room aside.
    fn must_have_room(
        &self,
        id: NodeId,
        content: Option<&Stored>,
        range: Range<u64>,
    ) -> Result<()> {
        let store = &self.layers.store;
        let mut wanted = range.end - range.start;
        if let Some(content) = content {
            for piece in store.pieces(id, content, range) {
                let piece = piece.map_err(errno)?;
                if piece.from == From::Data {
                    wanted -= piece.range.end - piece.range.start;
                }
            }
        }
        match wanted > store.free().map_err(errno)? {
            true => Err(Errno::NOSPC),
            false => Ok(()),
        }
    }

    fn seek_mixed(&self, id: NodeId, content: &Stored, to: Seek) -> Result<u64> {
        let (Seek::Data(begin) | Seek::Hole(begin)) = to;
        if begin >= content.size {
            return Err(Errno::NXIO);
        }
        let wants_data = matches!(to, Seek::Data(_));
        let pieces = self.layers.store.pieces(id, content, begin..content.size);
        for piece in pieces {
            let piece = piece.map_err(errno)?;
            let found = match piece.from {
                From::Zero if wants_data => None,
                From::Zero => Some(piece.range.start),
                From::Data => self.seek_data_file(id, content, to, piece.range.start)?,
                From::Source => self.seek_source(to, piece.range.start)?,
            };
            if let Some(found) = found.filter(|found| *found < piece.range.end) {
                return Ok(found.max(begin));
            }
        }
        if wants_data {
            Err(Errno::NXIO)
        } else {
            Ok(content.size)
        }
    }

    fn seek_data_file(
        &self,
        id: NodeId,
        content: &Stored,
        to: Seek,
        at: u64,
    ) -> Result<Option<u64>> {
        let Some(file) = self.layers.store.data_file(id, content).map_err(errno)? else {
            return Ok(matches!(to, Seek::Hole(_)).then_some(at));
        };
        match to {
            Seek::Data(_) => file.seek_data(at).map_err(errno),
            Seek::Hole(_) => match file.seek_hole(at) {
                Ok(found) => Ok(Some(found)),
                Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(Some(at)),
                Err(error) => Err(errno(error)),
            },
        }
    }

    fn seek_source(&self, to: Seek, at: u64) -> Result<Option<u64>> {
        let Some(below) = &self.below else {
            return Err(Errno::IO);
        };
        let to = if matches!(to, Seek::Data(_)) {
            Seek::Data(at)
        } else {
            Seek::Hole(at)
        };
        match below.seek(to) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(matches!(to, Seek::Hole(_)).then_some(at)),
            Err(errno) => Err(errno),
        }
    }
}

impl HasFlags for OpenFile {}
