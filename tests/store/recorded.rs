//! What a store should hold: what each record did, and what each sync promised.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use mmfs::store::{Change, Name, NodeId, PAGE, SourceState, Store, Time};

use super::file_model::{Event, FileModel, FileState, Side, pattern};
use super::judge::{read_page, same};
use super::meta::Meta;
use super::promise::Promise;

/// An operation on a store.
#[derive(Debug, Clone)]
pub enum Op {
    Open,
    Change(Vec<Change>),
    Write {
        id: NodeId,
        at: u64,
        len: u64,
        version: u32,
    },
    Truncate {
        id: NodeId,
        size: u64,
        /// What the same record says of the file's attributes.
        more: Vec<Change>,
    },
    Punch {
        id: NodeId,
        range: Range<u64>,
    },
    MakeWhole {
        id: NodeId,
    },
    Sync {
        id: NodeId,
        data_only: bool,
    },
    SyncNames,
    Barrier,
    Reopen,
    /// Not closed, and opened again with its cookie.
    Kill,
}

/// The model of one life of a store.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// The position of what happened last.
    pub pos: u64,
    /// Names and attributes after each record of class M.
    pub metas: Vec<(u64, Arc<Meta>)>,
    pub files: BTreeMap<NodeId, FileModel>,
    /// All nodes that there ever were.
    pub ids: BTreeSet<NodeId>,
    /// After each operation: what is promised, and the position.
    pub ends: Vec<(Arc<Promise>, u64)>,
    pub ops: Vec<Op>,
    /// When each of them was done.
    pub times: Vec<Time>,
    pub promise: Promise,
    /// The last record of class M that is about each node.
    pub touched: BTreeMap<NodeId, u64>,
    /// What happened before may be durable without a promise.
    pub maybe: u64,
    pub time: Time,
}

impl Model {
    /// A store in which this lies.
    pub fn new(meta: Meta, files: BTreeMap<NodeId, FileModel>) -> Self {
        Self {
            pos: 1,
            ids: meta.nodes.keys().copied().collect(),
            metas: vec![(0, Arc::new(meta))],
            files,
            time: Time {
                seconds: 1_000,
                nanoseconds: 0,
            },
            ..Self::default()
        }
    }

    pub fn meta(&self) -> &Meta {
        &self.metas.last().expect("there is a first one").1
    }

    /// The source's file, as the caller of a store tells it.
    pub fn source(&self, id: NodeId) -> Option<SourceState> {
        let size = self.files.get(&id).map_or(0, |file| file.source);
        let mtime = Time::default();
        (size > 0).then_some(SourceState { size, mtime })
    }

    /// The operation failed. What of it happened, the store tells; what it wrote may be there or not.
    pub fn apply_failed(&mut self, op: &Op, store: &Store) -> Result<(), String> {
        let (Op::Write { id, .. } | Op::Punch { id, .. } | Op::MakeWhole { id }) = op else {
            self.doubt();
            return Ok(());
        };
        let before = self.pos;
        self.apply(op);
        let content = store.content(*id).map_err(|error| error.to_string())?;
        let file = self.file(*id);
        let mut ends: Vec<u64> = file.events.iter().map(|(pos, _)| *pos).collect();
        ends.retain(|pos| *pos > before);
        ends.insert(0, before);
        let matches = |pos: &&u64| same(file.state(**pos, **pos).as_ref(), content.as_ref());
        let end = *ends.iter().rfind(matches).ok_or_else(|| {
            format!(
                "a failed {op:?} left {content:?}, before: {:?}",
                file.state(before, before)
            )
        })?;
        file.undo_after(end);
        self.doubt();
        self.read_back(*id, store)
    }

    /// What is in the data file now is the newest version.
    fn read_back(&mut self, id: NodeId, store: &Store) -> Result<(), String> {
        let pos = self.step();
        let Some(live) = self.files[&id].live.clone() else {
            return Ok(());
        };
        for page in self.files[&id].pages(&live) {
            if live.side(page) == Side::Data {
                let bytes: [u8; PAGE as usize] =
                    read_page(store, id, page)?.try_into().expect("a page");
                self.file(id)
                    .land(pos, live.incarnation, page, Arc::new(bytes));
            }
        }
        Ok(())
    }

    /// The operation is done. What it does may happen in several steps.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Open => {}
            Op::Change(changes) => self.change(changes),
            Op::Write {
                id,
                at,
                len,
                version,
            } => {
                let mut bytes = vec![0; *len as usize];
                pattern(*id, *version, *at, &mut bytes);
                self.grow(*id, at + len);
                self.write(*id, *at, &bytes);
            }
            Op::Truncate { id, size, more } => self.truncate(*id, *size, more),
            Op::Punch { id, range } => self.punch(*id, range.clone()),
            Op::MakeWhole { id } => self.make_whole(*id),
            Op::Sync { id, data_only } => self.sync(*id, *data_only),
            Op::SyncNames => self.sync_names(),
            Op::Barrier => self.promise_all(),
            Op::Reopen | Op::Kill => {
                self.promise_all();
                for id in self.meta().orphans.clone() {
                    self.change(&[Change::Remove(id)]);
                }
            }
        }
    }

    /// The operations, for people: one in each line, nodes counted from 0.
    pub fn told(&self) -> String {
        let mut told = String::new();
        for (n, op) in self.ops.iter().enumerate() {
            let pos = self.ends.get(n).map_or(0, |(_, pos)| *pos);
            let line = format!("{n}, up to {pos}: {op:?}\n").replace("46116860184273", "");
            told += &line.replace("NodeId", "").replace("None", "-");
        }
        told
    }

    /// The operation is answered.
    pub fn end(&mut self, op: Op) {
        self.ops.push(op);
        self.times.push(self.time);
        self.ends.push((Arc::new(self.promise.clone()), self.pos));
    }

    fn step(&mut self) -> u64 {
        self.pos += 1;
        self.pos
    }

    pub fn last_meta(&self) -> u64 {
        self.metas.last().map_or(0, |(pos, _)| *pos)
    }

    fn change(&mut self, changes: &[Change]) {
        let pos = self.step();
        self.change_at(pos, changes);
    }

    /// The record at `pos` says this.
    fn change_at(&mut self, pos: u64, changes: &[Change]) {
        let mut meta = self.meta().clone();
        for change in changes {
            meta.change(change);
            let mut events = Vec::new();
            match change {
                Change::Make(id, node) => {
                    self.ids.insert(*id);
                    if node.kind == mmfs::store::Kind::File {
                        let source = node.origin.as_ref().map_or(0, |origin| origin.number);
                        let new = FileModel {
                            source,
                            ..FileModel::default()
                        };
                        self.files.insert(*id, new);
                    }
                    events.push((*id, Event::Other));
                }
                Change::Attributes(id, set) => {
                    let (mtime, ctime) = (set.mtime.is_some(), set.ctime.is_some());
                    events.push((*id, Event::Times { mtime, ctime }));
                }
                Change::Name {
                    directory,
                    to,
                    replaces,
                    ..
                } => {
                    events.push((*directory, Event::Other));
                    if let Some(Name::Node(id)) = to {
                        let event = if *replaces {
                            Event::Placed
                        } else {
                            Event::Other
                        };
                        events.push((*id, event));
                    }
                }
                Change::Links(id, _)
                | Change::Opaque(id, _)
                | Change::Reset(id)
                | Change::Origin(id, _)
                | Change::Xattr(id, ..)
                | Change::Orphan(id, _)
                | Change::Remove(id) => events.push((*id, Event::Other)),
                Change::Truncate { .. } | Change::Filesystem(..) => {}
            }
            for (id, event) in events {
                self.touched.insert(id, pos);
                if let Some(file) = self.files.get_mut(&id) {
                    file.happen(pos, event);
                }
            }
        }
        self.metas.push((pos, Arc::new(meta)));
    }

    fn file(&mut self, id: NodeId) -> &mut FileModel {
        self.files.get_mut(&id).expect("a file that is there")
    }

    /// The file's state, or what its first change begins with.
    fn state(&self, id: NodeId) -> FileState {
        let file = &self.files[&id];
        let new = || FileState::new(file.written.len().max(file.events.len()), file.source);
        file.live.clone().unwrap_or_else(new)
    }

    fn data(&mut self, id: NodeId, event: Event) {
        let pos = self.step();
        self.file(id).happen(pos, event);
    }

    fn grow(&mut self, id: NodeId, to: u64) {
        let state = self.state(id);
        let (page, rest) = (state.size / PAGE, (state.size % PAGE) as usize);
        if to <= state.size {
            return;
        }
        if !self.files[&id].cuts.is_empty() {
            self.maybe = self.pos;
        }
        if rest > 0 && state.side(page) == Side::Data {
            let mut bytes = self.files[&id].newest(state.incarnation, page);
            Arc::make_mut(&mut bytes)[rest..].fill(0);
            let pos = self.step();
            self.file(id).land(pos, state.incarnation, page, bytes);
        }
    }

    fn write(&mut self, id: NodeId, at: u64, bytes: &[u8]) {
        let (state, end) = (self.state(id), at + bytes.len() as u64);
        let range = at / PAGE..end.div_ceil(PAGE);
        if !self.files[&id].cuts.is_empty() {
            self.maybe = self.pos;
        }
        let new = range.clone().any(|page| state.side(page) != Side::Data);
        let pos = self.step();
        for page in range.clone() {
            let mut to = self.files[&id].page(id, &state, page);
            let (from, until) = (at.max(page * PAGE), end.min((page + 1) * PAGE));
            let part = &mut Arc::make_mut(&mut to)[(from % PAGE) as usize..];
            part[..(until - from) as usize]
                .copy_from_slice(&bytes[(from - at) as usize..(until - at) as usize]);
            self.file(id).land(pos, state.incarnation, page, to);
        }
        if new || end > state.size || !state.filed {
            let (first, count) = (range.start, range.end - range.start);
            self.data(
                id,
                Event::Written {
                    incarnation: state.incarnation,
                    first,
                    count,
                    side: Side::Data,
                    size: end.max(state.size),
                    time: self.time,
                },
            );
        } else {
            self.written_at(id, &state);
        }
    }

    /// A write whose time alone is new.
    fn written_at(&mut self, id: NodeId, state: &FileState) {
        if state.mtime.min(state.ctime) != Some(self.time) {
            self.data(
                id,
                Event::Written {
                    incarnation: state.incarnation,
                    first: 0,
                    count: 0,
                    side: Side::Data,
                    size: 0,
                    time: self.time,
                },
            );
        }
    }

    fn truncate(&mut self, id: NodeId, size: u64, more: &[Change]) {
        let mut state = self.state(id);
        self.grow(id, size);
        if size == 0 {
            // Higher than that of each data file before.
            state.incarnation = self.files[&id]
                .written
                .len()
                .max(self.files[&id].events.len() + 1);
        }
        let (pos, incarnation, time) = (self.step(), state.incarnation, self.time);
        self.touched.insert(id, pos);
        self.file(id).happen(
            pos,
            Event::Truncate {
                size,
                incarnation,
                time,
            },
        );
        self.change_at(pos, more);
    }

    fn punch(&mut self, id: NodeId, range: Range<u64>) {
        let state = self.state(id);
        let range = range.start..range.end.min(state.size);
        if range.is_empty() {
            return;
        }
        if !self.files[&id].cuts.is_empty() {
            self.doubt();
        }
        let inner_end = match range.end == state.size {
            true => range.end.div_ceil(PAGE),
            false => range.end / PAGE,
        };
        let inner = range.start.div_ceil(PAGE)..inner_end;
        if inner.start > inner.end {
            if range.start < range.end {
                self.write(
                    id,
                    range.start,
                    &vec![0; (range.end - range.start) as usize],
                );
            }
            return;
        }
        let edges = [
            range.start..range.end.min(inner.start * PAGE),
            range.start.max(inner.end * PAGE)..range.end,
        ];
        for edge in edges.into_iter().filter(|edge| edge.start < edge.end) {
            self.write(id, edge.start, &vec![0; (edge.end - edge.start) as usize]);
        }
        let state = self.state(id);
        if inner.is_empty() {
            return self.written_at(id, &state);
        }
        let pos = self.step();
        for page in inner.clone() {
            let known = self.files[&id].written.get(state.incarnation);
            if known.is_some_and(|known| known.contains_key(&page)) {
                self.file(id)
                    .land(pos, state.incarnation, page, Arc::new([0; PAGE as usize]));
            }
        }
        self.data(
            id,
            Event::Written {
                incarnation: state.incarnation,
                first: inner.start,
                count: inner.end - inner.start,
                side: Side::Zero,
                size: state.size,
                time: self.time,
            },
        );
    }

    fn make_whole(&mut self, id: NodeId) {
        let state = self.state(id);
        if state.is_whole() {
            return;
        }
        self.maybe = self.pos;
        let (pos, end) = (self.step(), state.size.div_ceil(PAGE));
        for page in 0..end {
            let mut bytes = self.files[&id].page(id, &state, page);
            let rest = state.size.saturating_sub(page * PAGE).min(PAGE);
            Arc::make_mut(&mut bytes)[rest as usize..].fill(0);
            if bytes != self.files[&id].newest(state.incarnation, page) {
                self.file(id).land(pos, state.incarnation, page, bytes);
            }
        }
        let known = self.files[&id].written.get(state.incarnation);
        let behind: Vec<u64> = known.map_or(Vec::new(), |known| {
            known.range(end..).map(|(page, _)| *page).collect()
        });
        for page in behind {
            self.file(id)
                .land(pos, state.incarnation, page, Arc::new([0; PAGE as usize]));
        }
        if self.files[&id].live.is_none() {
            self.data(
                id,
                Event::Written {
                    incarnation: state.incarnation,
                    first: 0,
                    count: 0,
                    side: Side::Data,
                    size: state.size,
                    time: self.time,
                },
            );
        }
        self.data(id, Event::Whole);
    }
}
