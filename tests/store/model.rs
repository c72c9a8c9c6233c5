//! The reference model of a store: maps and byte vectors.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use mmfs::store::{
    Attributes, Change, Content, From, Kind, Name, Node, NodeId, Origin, PAGE, Piece, SourceState,
    Time, Xattr,
};
use rustix::io::Errno;

type Answer = Result<(), Errno>;

/// What a store knows of names, nodes and attributes.
#[derive(Clone, Default)]
pub struct Meta {
    pub nodes: BTreeMap<NodeId, Node>,
    pub names: BTreeMap<(NodeId, Vec<u8>), Name>,
    /// Of names: since when they hide the source's.
    pub since: BTreeMap<(NodeId, Vec<u8>), Time>,
    pub xattrs: BTreeMap<(NodeId, Vec<u8>), Xattr>,
    pub origins: Vec<(Origin, NodeId)>,
    pub filesystems: BTreeMap<u32, Vec<u8>>,
    pub orphans: BTreeSet<NodeId>,
}

/// A store.
#[derive(Default)]
pub struct Model {
    pub meta: Meta,
    pub files: BTreeMap<NodeId, File>,
    pub limit: Option<u64>,
}

impl Model {
    /// Bytes that count for a limit.
    pub fn used(&self) -> u64 {
        self.files.values().map(File::used).sum()
    }

    /// Bytes that can still be written.
    pub fn left(&self) -> u64 {
        self.limit
            .map_or(u64::MAX, |limit| limit.saturating_sub(self.used()))
    }

    /// `Store::change`: all of it or nothing.
    pub fn change(&mut self, changes: &[Change]) -> Answer {
        let mut meta = self.meta.clone();
        changes.iter().try_for_each(acceptable)?;
        for change in changes {
            meta.change(change)?;
        }
        self.meta = meta;
        for change in changes {
            match change {
                Change::Remove(id) => _ = self.files.remove(id),
                Change::Attributes(id, set) => {
                    if let Some(file) = self.files.get_mut(id) {
                        file.mtime = file.mtime.filter(|_| set.mtime.is_none());
                        file.ctime = file.ctime.filter(|_| set.ctime.is_none());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Changes a file's bytes, if there is such a file. `new`: what it is before its first change.
    pub fn file(
        &mut self,
        id: NodeId,
        new: impl FnOnce() -> File,
        work: impl FnOnce(&mut File, u64) -> Answer,
    ) -> Answer {
        let left = self.left();
        match self.meta.nodes.get(&id) {
            None => return Err(Errno::NOENT),
            Some(node) if node.kind != Kind::File => return Err(Errno::INVAL),
            Some(_) => {}
        }
        if let Some(file) = self.files.get_mut(&id) {
            let done = work(file, left);
            file.known = true;
            return done;
        }
        let mut file = new();
        let done = work(&mut file, left);
        // Without a time, nothing was recorded.
        if file.mtime.is_some() {
            file.known = true;
            self.files.insert(id, file);
        }
        done
    }
}

fn acceptable(change: &Change) -> Answer {
    let name_is_good = |name: &[u8]| {
        !name.is_empty()
            && name.len() <= 255
            && name != b"."
            && name != b".."
            && !name.contains(&b'/')
            && !name.contains(&0)
    };
    let attributes_are_good = |set: &Attributes| {
        let times = [set.atime, set.mtime, set.ctime, set.btime];
        set.mode.is_none_or(|mode| mode <= 0o7777)
            && times
                .iter()
                .flatten()
                .all(|time| time.nanoseconds < 1_000_000_000)
    };
    let good = match change {
        Change::Make(_, node) => {
            attributes_are_good(&node.attributes)
                && !node.target.contains(&0)
                && node.target.len() <= 4096
                && node.links.abs() < 1 << 40
                && (node.kind == Kind::Directory || !node.opaque)
        }
        Change::Attributes(_, set) => attributes_are_good(set),
        Change::Name { name, .. } => name_is_good(name),
        Change::Xattr(_, _, Some(Xattr::Set(value))) if value.len() > 65536 => {
            return Err(Errno::TOOBIG);
        }
        Change::Xattr(_, name, _) => !name.is_empty() && name.len() <= 255 && !name.contains(&0),
        _ => true,
    };
    if good { Ok(()) } else { Err(Errno::INVAL) }
}

impl Meta {
    fn node(&mut self, id: NodeId) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&id).ok_or(Errno::NOENT)
    }

    fn change(&mut self, change: &Change) -> Answer {
        match change {
            Change::Make(id, node) => {
                let origin = node.origin.clone();
                let known = origin
                    .as_ref()
                    .is_some_and(|origin| self.origins.iter().any(|(o, _)| o == origin));
                if known || self.nodes.contains_key(id) {
                    return Err(Errno::EXIST);
                }
                self.nodes.insert(*id, Node::clone(node));
                self.origins.extend(origin.map(|origin| (origin, *id)));
            }
            Change::Attributes(id, set) => {
                let old = &mut self.node(*id)?.attributes;
                *old = Attributes {
                    mode: set.mode.or(old.mode),
                    uid: set.uid.or(old.uid),
                    gid: set.gid.or(old.gid),
                    atime: set.atime.or(old.atime),
                    mtime: set.mtime.or(old.mtime),
                    ctime: set.ctime.or(old.ctime),
                    btime: set.btime.or(old.btime),
                };
            }
            Change::Links(id, more) => {
                let links = self.node(*id)?.links.saturating_add(*more);
                if links.abs() >= 1 << 40 {
                    return Err(Errno::INVAL);
                }
                self.node(*id)?.links = links;
            }
            Change::Origin(id, origin) => {
                if self.origins.iter().any(|(known, _)| known == &**origin) {
                    return Err(Errno::EXIST);
                }
                let node = self.node(*id)?;
                node.origin
                    .replace(Origin::clone(origin))
                    .ok_or(Errno::INVAL)?;
                self.origins.retain(|(_, of)| of != id);
                self.origins.push((Origin::clone(origin), *id));
            }
            Change::Reset(id) => {
                let node = self.node(*id)?;
                node.origin.as_ref().ok_or(Errno::INVAL)?;
                node.attributes = Attributes::default();
            }
            Change::Opaque(id, opaque) => {
                let node = self.node(*id)?;
                if node.kind != Kind::Directory {
                    return Err(Errno::NOTDIR);
                }
                node.opaque = *opaque;
            }
            Change::Name {
                directory,
                name,
                to,
                since,
                ..
            } => self.name(*directory, name, *to, *since)?,
            Change::Xattr(id, name, value) => {
                self.node(*id)?;
                put(&mut self.xattrs, (*id, name.clone()), value.clone());
            }
            Change::Orphan(id, orphan) => {
                self.node(*id)?;
                self.orphans.remove(id);
                self.orphans.extend(orphan.then_some(*id));
            }
            Change::Remove(id) => {
                self.node(*id)?;
                self.nodes.remove(id);
                self.names.retain(|(directory, _), _| directory != id);
                self.since.retain(|(directory, _), _| directory != id);
                self.xattrs.retain(|(node, _), _| node != id);
                self.origins.retain(|(_, node)| node != id);
                self.orphans.remove(id);
            }
            Change::Filesystem(number, identity) => {
                self.filesystems.insert(*number, identity.clone());
            }
            Change::Truncate { .. } => unreachable!("Store::truncate makes it"),
        }
        Ok(())
    }

    fn name(
        &mut self,
        directory: NodeId,
        name: &[u8],
        to: Option<Name>,
        since: Option<Time>,
    ) -> Answer {
        if self.node(directory)?.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        if let Some(Name::Node(id)) = to {
            let node = self.node(id)?;
            if node.kind == Kind::Directory {
                node.place = Some((directory, name.to_vec()));
            }
        }
        let key = (directory, name.to_vec());
        match (to, since) {
            (None, _) => _ = self.since.remove(&key),
            (Some(_), Some(since)) => _ = self.since.entry(key.clone()).or_insert(since),
            (Some(_), None) => {}
        }
        put(&mut self.names, key, to);
        Ok(())
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => _ = map.insert(key, value),
        None => _ = map.remove(&key),
    }
}

/// The bytes of a file, and from which side each page comes.
pub struct File {
    pub bytes: Vec<u8>,
    /// All pages are in the data file, those to come too. `sides` does not count then.
    whole: bool,
    sides: Vec<From>,
    /// Pages below this number never leave the data file.
    dense: u64,
    /// Behind it, a page of the source is zero.
    limit: u64,
    source: Option<SourceState>,
    filed: bool,
    /// The store knows of its bytes.
    known: bool,
    mtime: Option<Time>,
    ctime: Option<Time>,
}

fn pages(size: u64) -> u64 {
    size.div_ceil(PAGE)
}

fn room(growth: u64, left: u64) -> Answer {
    if growth > left {
        Err(Errno::NOSPC)
    } else {
        Ok(())
    }
}

impl File {
    /// What a file is before its first change.
    pub fn new(source: Option<SourceState>, bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.to_vec(),
            whole: bytes.is_empty(),
            sides: vec![From::Source; pages(bytes.len() as u64) as usize],
            dense: 0,
            limit: bytes.len() as u64,
            source,
            filed: false,
            known: false,
            mtime: None,
            ctime: None,
        }
    }

    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    pub fn used(&self) -> u64 {
        let stored = self.sides.iter().filter(|side| **side == From::Data);
        let pages = if self.whole {
            pages(self.size())
        } else {
            stored.count() as u64
        };
        pages * PAGE
    }

    fn resize(&mut self, size: u64) {
        self.bytes.resize(size as usize, 0);
        if !self.whole {
            self.sides.resize(pages(size) as usize, From::Zero);
        }
    }

    fn touch(&mut self, time: Time) {
        (self.mtime, self.ctime) = (Some(time), Some(time));
    }

    pub fn write(&mut self, at: u64, bytes: &[u8], time: Time, left: u64) -> Answer {
        let end = at + bytes.len() as u64;
        let range = (at / PAGE)..pages(end);
        let is_new =
            |page: &u64| !self.whole && self.sides.get(*page as usize) != Some(&From::Data);
        let new = range.clone().filter(is_new).count() as u64;
        let grown = if self.whole {
            pages(end).saturating_sub(pages(self.size()))
        } else {
            new
        };
        room(grown * PAGE, left)?;
        self.resize(end.max(self.size()));
        self.bytes[at as usize..end as usize].copy_from_slice(bytes);
        if !self.whole {
            self.sides[range.start as usize..range.end as usize].fill(From::Data);
        }
        self.filed = true;
        self.touch(time);
        Ok(())
    }

    pub fn truncate(&mut self, size: u64, time: Time, left: u64) -> Answer {
        if self.whole && size > self.size() {
            room((pages(size) - pages(self.size())) * PAGE, left)?;
        }
        if size == 0 {
            *self = Self::new(None, &[]).with_source(self.source);
        } else if size < self.size() {
            if self.whole {
                (self.whole, self.dense) = (false, u64::MAX);
                self.sides = vec![From::Data; pages(self.size()) as usize];
            }
            self.dense = self.dense.min(pages(size));
            self.limit = self.limit.min(size);
        }
        self.resize(size);
        self.touch(time);
        Ok(())
    }

    fn with_source(self, source: Option<SourceState>) -> Self {
        Self { source, ..self }
    }

    pub fn punch(&mut self, range: Range<u64>, time: Time, left: u64) -> Answer {
        let (start, end) = (range.start, range.end.min(self.size()));
        if start >= end {
            return Ok(());
        }
        // The last page of a file is a whole page, whatever its length.
        let full = pages(start)..if end == self.size() {
            pages(end)
        } else {
            end / PAGE
        };
        let zeros = [0; PAGE as usize];
        if full.start > full.end {
            return self.write(start, &zeros[..(end - start) as usize], time, left);
        }
        let before = self.used();
        let head = (full.start * PAGE).min(end) - start;
        if head > 0 {
            self.write(start, &zeros[..head as usize], time, left)?;
        }
        let tail = end.saturating_sub(full.end * PAGE);
        if tail > 0 {
            let left = left.saturating_sub(self.used() - before);
            self.write(end - tail, &zeros[..tail as usize], time, left)?;
        }
        if full.is_empty() {
            self.touch(time);
            return Ok(());
        }
        let end = (full.end * PAGE).min(self.size()) as usize;
        self.bytes[(full.start * PAGE) as usize..end].fill(0);
        for page in full.start.max(self.dense)..full.end {
            if !self.whole {
                self.sides[page as usize] = From::Zero;
            }
        }
        self.touch(time);
        Ok(())
    }

    pub fn make_whole(&mut self, time: Time, left: u64) -> Answer {
        if self.whole {
            return Ok(());
        }
        room(pages(self.size()) * PAGE - self.used(), left)?;
        if !self.known {
            self.touch(time);
        }
        (self.whole, self.filed, self.limit) = (true, true, 0);
        Ok(())
    }

    /// What `Store::content` says, but for the number of the data file.
    pub fn content(&self, data: u64) -> Content {
        let dense = if self.whole { u64::MAX } else { self.dense };
        let stored = self.sides.iter().skip(self.dense as usize);
        let stored = stored.filter(|side| **side == From::Data).count() as u64;
        Content {
            data,
            size: self.size(),
            source_limit: self.limit,
            source: self.source,
            dense,
            stored: if self.whole { 0 } else { stored },
            filed: self.filed,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }

    /// What `Store::pieces` says.
    pub fn pieces(&self, range: Range<u64>) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut at = range.start;
        while at < range.end.min(self.size()) {
            let page = at / PAGE;
            let mut end = ((page + 1) * PAGE).min(range.end).min(self.size());
            let from = match self.sides.get(page as usize) {
                _ if self.whole => From::Data,
                Some(From::Source) if at < self.limit => {
                    end = end.min(self.limit);
                    From::Source
                }
                Some(From::Data) => From::Data,
                _ => From::Zero,
            };
            match pieces.last_mut() {
                Some(last) if last.from == from => last.range.end = end,
                _ => pieces.push(Piece {
                    range: at..end,
                    from,
                }),
            }
            at = end;
        }
        pieces
    }
}
