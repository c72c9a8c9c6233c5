//! What a record does to the state. Recovery and a running store go through the same lines.

mod loans;

use std::cell::Cell;
use std::io;
use std::ops::{Bound, Range};

use rustix::io::Errno;

use super::codec::{Reader, Writer, damaged};
use super::content::{Chunk, Content, From, PAGE, pages};
use super::key;
use super::node::{Attributes, Kind, Name, Named, Node, NodeId, Origin, Time};
use super::record::{Change, Record, Written};
use super::state::{Puts, State};

/// How many keys are looked at in one step.
const STEP: usize = 1024;

/// The effects of one record: worked out before it is written, so that nothing can fail afterwards.
pub struct Effects<'a> {
    state: &'a State,
    /// The new values.
    pub puts: Puts,
    /// Data files that nobody needs once the record is durable.
    pub unused: Vec<(NodeId, u64)>,
    /// Files whose data file may be cut, or have holes punched, once the record is durable.
    pub shorter: Vec<NodeId>,
    /// By how much the bytes that count for a limit grow.
    pub growth: i64,
    looked_at: Cell<u64>,
}

impl<'a> Effects<'a> {
    /// Works out the effects of a record.
    ///
    /// # Errors
    /// EUCLEAN for a record or a state that no store writes, or that of a read.
    pub fn of(state: &'a State, record: &Record) -> io::Result<Self> {
        let mut effects = Self {
            state,
            puts: Puts::new(),
            unused: Vec::new(),
            shorter: Vec::new(),
            growth: 0,
            looked_at: Cell::new(0),
        };
        match record {
            Record::Meta(changes) => changes
                .iter()
                .try_for_each(|change| effects.change(change))?,
            Record::Written(written) => effects.written(written)?,
            Record::Whole { node, data } => effects.whole(*node, *data)?,
            Record::Lent { node, data, loan } => effects.lent(*node, *data, *loan)?,
            Record::Sync { .. } => {}
        }
        Ok(effects)
    }

    /// How many keys were looked at one by one.
    pub fn looked_at(&self) -> u64 {
        self.looked_at.get()
    }

    fn change(&mut self, change: &Change) -> io::Result<()> {
        match change {
            Change::Make(id, node) => self.make(*id, node),
            Change::Attributes(id, set) => self.attributes(*id, set),
            Change::Links(id, more) => {
                let mut node = self.node(*id)?;
                node.links = node.links.saturating_add(*more);
                if !node.is_sound() {
                    return Err(Errno::INVAL.into());
                }
                self.put_node(*id, &node)
            }
            Change::Origin(id, origin) => self.move_on(*id, origin),
            Change::Opaque(id, opaque) => {
                let mut node = self.node(*id)?;
                if node.kind != Kind::Directory {
                    return Err(Errno::NOTDIR.into());
                }
                node.opaque = *opaque;
                self.put_node(*id, &node)
            }
            Change::Name {
                directory,
                name,
                to,
                since,
                ..
            } => self.name(*directory, name, *to, *since),
            Change::Xattr(id, name, value) => {
                self.node(*id)?;
                self.put(
                    key::xattr(*id, name),
                    value.as_ref().map(|value| encoded(|to| value.put(to))),
                );
                Ok(())
            }
            Change::Truncate { .. } => self.truncate(change),
            Change::Orphan(id, orphan) => {
                self.node(*id)?;
                self.put(key::orphan(*id), orphan.then(Vec::new));
                Ok(())
            }
            Change::Remove(id) => self.remove(*id),
            Change::Reset(id) => {
                let mut node = self.node(*id)?;
                if node.origin.is_none() {
                    return Err(Errno::INVAL.into());
                }
                node.attributes = Attributes::default();
                self.put_node(*id, &node)
            }
            Change::Filesystem(number, identity) => {
                self.put(key::filesystem(*number), Some(identity.clone()));
                Ok(())
            }
        }
    }

    fn make(&mut self, id: NodeId, node: &Node) -> io::Result<()> {
        if self.get(&key::node(id))?.is_some() {
            return Err(Errno::EXIST.into());
        }
        if let Some(origin) = &node.origin {
            let key = key::origin(origin);
            if self.get(&key)?.is_some() {
                return Err(Errno::EXIST.into());
            }
            self.put(key, Some(encoded(|to| _ = to.u64(id.0))));
        }
        // Where a directory is, a name says.
        self.put_node(
            id,
            &Node {
                place: None,
                ..node.clone()
            },
        )
    }

    fn move_on(&mut self, id: NodeId, origin: &Origin) -> io::Result<()> {
        let mut node = self.node(id)?;
        let key = key::origin(origin);
        if self.get(&key)?.is_some() {
            return Err(Errno::EXIST.into());
        }
        let before = node.origin.replace(origin.clone()).ok_or(Errno::INVAL)?;
        self.put(key::origin(&before), None);
        self.put(key, Some(encoded(|to| _ = to.u64(id.0))));
        self.put_node(id, &node)
    }

    fn attributes(&mut self, id: NodeId, set: &Attributes) -> io::Result<()> {
        let mut node = self.node(id)?;
        node.attributes.set(set);
        self.put_node(id, &node)?;
        if set.mtime.is_none() && set.ctime.is_none() {
            return Ok(());
        }
        if let Some(mut content) = self.content(id)? {
            content.mtime = if set.mtime.is_some() {
                None
            } else {
                content.mtime
            };
            content.ctime = if set.ctime.is_some() {
                None
            } else {
                content.ctime
            };
            let before = content.bytes();
            self.put_content(id, &content, before);
        }
        Ok(())
    }

    fn name(
        &mut self,
        directory: NodeId,
        name: &[u8],
        to: Option<Name>,
        since: Option<Time>,
    ) -> io::Result<()> {
        if self.node(directory)?.kind != Kind::Directory {
            return Err(Errno::NOTDIR.into());
        }
        if let Some(Name::Node(id)) = to {
            let mut node = self.node(id)?;
            if node.kind == Kind::Directory {
                node.place = Some((directory, name.to_vec()));
                self.put_node(id, &node)?;
            }
        }
        let key = key::name(directory, name);
        let before = self.get(&key)?.map(|bytes| decoded(&bytes, Named::get));
        // The source's entry has been hidden since the first of them.
        let since = before
            .transpose()?
            .and_then(|before| before.since)
            .or(since);
        self.put(key, to.map(|to| encoded(|w| Named { to, since }.put(w))));
        Ok(())
    }

    fn truncate(&mut self, change: &Change) -> io::Result<()> {
        let Change::Truncate {
            node: id,
            data,
            size,
            source,
            time,
            lent,
        } = change
        else {
            return Ok(());
        };
        let mut content = self.content_or_new(*id, *data, *source)?;
        let before = content.bytes();
        if *lent && content.is_whole() && content.data == *data {
            // The data file is cut next, so each page is in it still.
        } else if *size == 0 {
            self.forget_bytes(*id, &content, *data)?;
            // What the source's file was stays known: a commit asks.
            content = Content {
                source: content.source,
                ..Content::new(*data, None)
            };
        } else if content.data != *data {
            return Err(damaged());
        } else if *size < content.size {
            // What the data file has beyond the new end is no part of the file from now on.
            content.dense = content.dense.min(pages(*size));
            self.clear_from(*id, &mut content, pages(*size))?;
            content.source_limit = content.source_limit.min(*size);
            self.shorter.push(*id);
        }
        content.size = *size;
        (content.mtime, content.ctime) = (Some(*time), Some(*time));
        self.put_content(*id, &content, before);
        Ok(())
    }

    fn written(&mut self, written: &Written) -> io::Result<()> {
        let id = written.node;
        let mut content = self.content_or_new(id, written.data, written.source)?;
        if content.data != written.data {
            return Err(damaged());
        }
        let before = content.bytes();
        let range = written.first.max(content.dense)..written.first.saturating_add(written.count);
        match written.from {
            _ if written.count == Written::SOURCE_ENDS => {
                let limit = written.first.saturating_mul(PAGE);
                content.source_limit = content.source_limit.min(limit);
            }
            From::Data => self.set_pages(id, &mut content, range, Some(From::Data))?,
            _ => {
                // Beyond the source's pages, a page that is not in the map is zero anyway.
                let limit =
                    pages(content.source_limit).clamp(range.start, range.end.max(range.start));
                self.set_pages(id, &mut content, range.start..limit, Some(From::Zero))?;
                self.set_pages(id, &mut content, limit..range.end, None)?;
            }
        }
        content.filed |= written.from == From::Data && written.count > 0;
        if written.count == 0 {
            self.seen(id, written)?;
        }
        content.size = content.size.max(written.size);
        (content.mtime, content.ctime) = (Some(written.time), Some(written.time));
        self.put_content(id, &content, before);
        Ok(())
    }

    fn whole(&mut self, id: NodeId, data: u64) -> io::Result<()> {
        let mut content = self.content(id)?.ok_or_else(damaged)?;
        if content.data != data {
            return Err(damaged());
        }
        let before = content.bytes();
        self.clear_from(id, &mut content, 0)?;
        content = Content {
            dense: Content::WHOLE,
            source_limit: 0,
            stored: 0,
            filed: true,
            ..content
        };
        self.put_content(id, &content, before);
        Ok(())
    }

    fn remove(&mut self, id: NodeId) -> io::Result<()> {
        let node = self.node(id)?;
        if let Some(content) = self.content(id)? {
            self.growth -= content.bytes() as i64;
            // No data file has number 0.
            self.forget_bytes(id, &content, 0)?;
            self.put(key::content(id), None);
        }
        if let Some(origin) = &node.origin {
            self.put(key::origin(origin), None);
        }
        for prefix in [key::xattrs(id), key::names(id)] {
            for key in self.keys(&prefix, None)? {
                self.put(key, None);
            }
        }
        self.put(key::orphan(id), None);
        self.put(key::loan(id), None);
        self.put(key::node(id), None);
        Ok(())
    }

    /// The file's data file is no longer needed, unless it is `keep`.
    fn forget_bytes(&mut self, id: NodeId, content: &Content, keep: u64) -> io::Result<()> {
        // What is whole has no map.
        let chunks = if content.is_whole() {
            Vec::new()
        } else {
            self.keys(&key::chunks(id), None)?
        };
        for key in chunks {
            self.put(key, None);
        }
        if content.data != keep {
            self.unused.push((id, content.data));
        }
        Ok(())
    }

    /// Takes the pages from `first` on out of the map.
    fn clear_from(&mut self, id: NodeId, content: &mut Content, first: u64) -> io::Result<()> {
        let number = first / Chunk::PAGES;
        for found in self.keys(
            &key::chunks(id),
            number.checked_sub(1).map(|n| key::chunk(id, n)),
        )? {
            let key::Key::Chunk(_, number) = key::Key::decode(&found)? else {
                return Err(damaged());
            };
            let begin = number.checked_mul(Chunk::PAGES).ok_or_else(damaged)?;
            self.set_in_chunk(
                id,
                content,
                number,
                first.saturating_sub(begin)..Chunk::PAGES,
                None,
            )?;
        }
        Ok(())
    }

    fn set_pages(
        &mut self,
        id: NodeId,
        content: &mut Content,
        range: Range<u64>,
        from: Option<From>,
    ) -> io::Result<()> {
        let mut page = range.start;
        while page < range.end {
            let number = page / Chunk::PAGES;
            let begin = number * Chunk::PAGES;
            let end = range.end.min(begin + Chunk::PAGES);
            self.set_in_chunk(id, content, number, page - begin..end - begin, from)?;
            page = end;
        }
        Ok(())
    }

    fn set_in_chunk(
        &mut self,
        id: NodeId,
        content: &mut Content,
        number: u64,
        range: Range<u64>,
        from: Option<From>,
    ) -> io::Result<()> {
        let key = key::chunk(id, number);
        let mut chunk = self
            .get(&key)?
            .map_or(Ok(Chunk::default()), |bytes| Chunk::decode(&bytes))?;
        let before = chunk.stored();
        chunk.set(range, from);
        content.stored = (content.stored + chunk.stored())
            .checked_sub(before)
            .ok_or_else(damaged)?;
        self.put(key, (!chunk.is_empty()).then(|| chunk.encode()));
        Ok(())
    }

    fn node(&self, id: NodeId) -> io::Result<Node> {
        let bytes = self.get(&key::node(id))?.ok_or(Errno::NOENT)?;
        decoded(&bytes, Node::get)
    }

    fn put_node(&mut self, id: NodeId, node: &Node) -> io::Result<()> {
        self.put(key::node(id), Some(encoded(|to| node.put(to))));
        Ok(())
    }

    fn content(&self, id: NodeId) -> io::Result<Option<Content>> {
        self.get(&key::content(id))?
            .map(|bytes| decoded(&bytes, Content::get))
            .transpose()
    }

    fn content_or_new(
        &self,
        id: NodeId,
        data: u64,
        source: Option<super::content::SourceState>,
    ) -> io::Result<Content> {
        if self.node(id)?.kind != Kind::File {
            return Err(Errno::INVAL.into());
        }
        Ok(self
            .content(id)?
            .unwrap_or_else(|| Content::new(data, source)))
    }

    /// `before`: bytes that counted for the limit until now.
    fn put_content(&mut self, id: NodeId, content: &Content, before: u64) {
        self.growth += content.bytes() as i64 - before as i64;
        self.put(key::content(id), Some(encoded(|to| content.put(to))));
    }

    fn put(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.puts.insert(key, value);
    }

    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self.puts.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.state.get(key),
        }
    }

    /// All keys that begin with `prefix`, those of this record too.
    fn keys(&self, prefix: &[u8], after: Option<Vec<u8>>) -> io::Result<Vec<Vec<u8>>> {
        let (mut keys, mut last) = (Vec::new(), after.clone());
        loop {
            let (found, looked_at) = self.state.scan_counted(prefix, last.as_deref(), STEP)?;
            self.looked_at.set(self.looked_at.get() + looked_at);
            let Some((end, _)) = found.last() else { break };
            last = Some(end.clone());
            keys.extend(found.into_iter().map(|(key, _)| key));
        }
        let begin = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix.to_vec()),
        };
        let own = self
            .puts
            .range((begin, Bound::Unbounded))
            .map(|(key, _)| key);
        let before = keys.len();
        keys.extend(own.take_while(|key| key.starts_with(prefix)).cloned());
        self.looked_at
            .set(self.looked_at.get() + (keys.len() - before) as u64);
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| self.puts.get(key).is_none_or(Option::is_some));
        Ok(keys)
    }
}

/// A value as bytes.
pub fn encoded(put: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut to = Writer::default();
    put(&mut to);
    to.done()
}

/// The value that these bytes are, all of them.
///
/// # Errors
/// EUCLEAN if they are none.
pub fn decoded<T>(
    bytes: &[u8],
    get: impl FnOnce(&mut Reader<'_>) -> io::Result<T>,
) -> io::Result<T> {
    let mut from = Reader(bytes);
    let value = get(&mut from)?;
    from.end()?;
    Ok(value)
}
