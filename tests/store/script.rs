//! Random operations on a store, each on its model too.

use std::io;
use std::sync::Arc;

use mmfs::store::opening::{OpenError, Options};
use mmfs::store::{Attributes, Change, Kind, Name, NodeId, PAGE, Store, Time, Xattr};

use super::fake::FakeDisk;
use super::image::{Entry, Image, Random};
use super::meta::Meta;
use super::recorded::{Model, Op};
use super::setup::{SINCE, new_image, node, perform, to};

/// A store on a disk in memory, with its model.
pub struct Run {
    /// What lay on the disk before.
    pub start: Image,
    pub disk: FakeDisk,
    pub store: Option<Arc<Store>>,
    pub model: Model,
    pub entries: Vec<Entry>,
    /// The cookie behind the last of the calls.
    pub last_cookie: Option<(Arc<[u8]>, String)>,
    pub options: Options,
    pub random: Random,
    version: u32,
}

impl Run {
    /// Opens the store that lies there.
    pub fn new(start: &Image, model: Model, options: &Options, seed: u64) -> Self {
        let disk = FakeDisk::of(start.clone());
        let mut run = Self {
            start: start.clone(),
            disk,
            store: None,
            model,
            entries: Vec::new(),
            last_cookie: None,
            options: options.clone(),
            random: Random(seed),
            version: seed as u32 & 0xFFFF_0000,
        };
        run.open().unwrap();
        run.model.apply(&Op::Open);
        run.model.end(Op::Open);
        run
    }

    /// A new store.
    pub fn first(options: &Options, seed: u64) -> Self {
        Self::new(
            &new_image(),
            Model::new(Meta::default(), Default::default()),
            options,
            seed,
        )
    }

    pub fn open(&mut self) -> io::Result<()> {
        let opened = Store::open(Arc::new(self.disk.clone()), &self.options);
        let opened = opened.map_err(|error| match error {
            OpenError::Failed(_, error) => error,
            error => panic!("it does not open: {error:?}"),
        });
        self.store = Some(Arc::new(opened?.store));
        Ok(())
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// Does it on the store alone.
    pub fn perform(&mut self, op: &Op) -> io::Result<()> {
        self.disk.set_op(self.model.ops.len());
        if let Op::Reopen | Op::Kill = op {
            if let (Some(store), Op::Reopen) = (&self.store, op) {
                store.close()?;
            }
            self.store = None;
            return self.open();
        }
        perform(self.store(), &self.model, op)
    }

    /// Does an operation that cannot fail.
    pub fn must(&mut self, op: Op) {
        if let Err(error) = self.perform(&op) {
            panic!("{op:?}: {error}\nbefore:\n{}", self.model.told());
        }
        self.model.apply(&op);
        self.model.end(op);
    }

    pub fn tick(&mut self) {
        if self.random.chance(80) {
            self.model.time.seconds += 1;
        }
    }

    /// Does so many random operations.
    pub fn go_on(&mut self, count: usize) {
        for _ in 0..count {
            if self.model.meta().nodes.is_empty() {
                let root = self.store().new_number();
                self.must(Op::Change(vec![Change::Make(
                    root,
                    node(Kind::Directory, 0),
                )]));
            }
            self.tick();
            let op = self.choose();
            self.must(op);
        }
    }

    /// Makes and writes so many files.
    pub fn make_many(&mut self, count: u32) {
        self.go_on(1);
        for version in 0..count {
            let id = self.store().new_number();
            let directory = self.choose_directory();
            let name = to(directory, format!("many{version}").as_bytes(), id, false);
            self.must(Op::Change(vec![
                Change::Make(id, node(Kind::File, 0)),
                name,
            ]));
            self.must(Op::Write {
                id,
                at: 0,
                len: 10,
                version: 1000 + version,
            });
        }
    }

    /// Ends without closing: what was recorded is in `entries` now.
    pub fn end(&mut self) {
        self.store = None;
        self.last_cookie = self.disk.cookie();
        self.entries = self.disk.take_entries();
    }

    /// A random operation.
    pub fn choose(&mut self) -> Op {
        for _ in 0..100 {
            let op = match self.random.below(100) {
                0..12 => self.choose_make(),
                12..24 => self.choose_names(),
                24..32 => self.choose_attributes(),
                32..80 => self.choose_bytes(),
                80..97 => Some(self.choose_sync()),
                97 => Some(Op::Reopen),
                98 => self.options.cookies.as_ref().map(|_| Op::Kill),
                _ => self.choose_orphan(),
            };
            if let Some(op) = op {
                return op;
            }
        }
        Op::Barrier
    }

    /// A sync of something, or of all.
    pub fn choose_sync(&mut self) -> Op {
        match self.random.below(17) {
            0..4 => Op::SyncNames,
            4..7 => Op::Barrier,
            _ => match self.choose_node() {
                Some(id) => Op::Sync {
                    id,
                    data_only: self.random.chance(30),
                },
                None => Op::SyncNames,
            },
        }
    }

    fn choose_node(&mut self) -> Option<NodeId> {
        let ids: Vec<_> = self.model.meta().nodes.keys().copied().collect();
        Some(self.random.of(&ids))
    }

    pub fn choose_file(&mut self) -> Option<NodeId> {
        let meta = self.model.meta();
        let files = self
            .model
            .files
            .keys()
            .filter(|id| meta.nodes.contains_key(id));
        let files: Vec<_> = files.copied().collect();
        (!files.is_empty()).then(|| self.random.of(&files))
    }

    fn choose_orphan(&mut self) -> Option<Op> {
        let orphan = *self.model.meta().orphans.first()?;
        Some(Op::Change(vec![Change::Remove(orphan)]))
    }

    fn choose_directory(&mut self) -> NodeId {
        let nodes = &self.model.meta().nodes;
        let all = nodes
            .iter()
            .filter(|(_, node)| node.kind == Kind::Directory);
        let all: Vec<_> = all.map(|(id, _)| *id).collect();
        self.random.of(&all)
    }

    fn free_name(&mut self) -> (NodeId, Vec<u8>) {
        let directory = self.choose_directory();
        loop {
            let name = format!("n{}", self.random.below(40)).into_bytes();
            if !self
                .model
                .meta()
                .names
                .contains_key(&(directory, name.clone()))
            {
                return (directory, name);
            }
        }
    }

    fn choose_make(&mut self) -> Option<Op> {
        let count = self.model.meta().nodes.len();
        if count > 12 {
            return None;
        }
        let (directory, name) = self.free_name();
        let id = self.store().new_number();
        let sizes = [1, 100, 4096, 5000, 8192, 10_000, 20_000, 40_960, 70_000];
        let made = match self.random.below(10) {
            0 if count > 3 => node(Kind::Directory, 0),
            1..5 => node(Kind::File, 0),
            _ => {
                let mut new = node(Kind::File, self.random.of(&sizes));
                new.origin.as_mut()?.identity = id.0.to_le_bytes().to_vec();
                new
            }
        };
        let mut changes = vec![Change::Make(id, made), to(directory, &name, id, false)];
        if self.random.chance(20) {
            changes.push(Change::Xattr(
                id,
                b"user.first".to_vec(),
                Some(Xattr::Hidden),
            ));
        }
        Some(Op::Change(changes))
    }

    fn choose_names(&mut self) -> Option<Op> {
        let meta = self.model.meta().clone();
        let files = meta.names.iter().filter_map(|(place, leads)| match leads {
            Name::Node(id) if self.model.files.contains_key(id) => Some((place.clone(), *id)),
            _ => None,
        });
        let files: Vec<_> = files.collect();
        if files.is_empty() {
            return None;
        }
        let ((directory, name), id) = &files[self.random.below(files.len() as u64) as usize];
        let gone = |hidden: bool| Change::Name {
            directory: *directory,
            name: name.clone(),
            to: hidden.then_some(Name::Hidden),
            replaces: false,
            since: Some(SINCE),
        };
        let hidden = self.random.chance(50);
        let mut changes = Vec::new();
        match self.random.below(10) {
            0..2 => {
                let (directory, name) = self.free_name();
                changes.extend([to(directory, &name, *id, false), Change::Links(*id, 1)]);
            }
            2..5 => {
                changes.push(gone(hidden));
                self.unlink(&meta, *id, &mut changes);
            }
            5..7 => {
                let (directory, name) = self.free_name();
                let replaces = self.random.chance(50);
                changes.extend([gone(hidden), to(directory, &name, *id, replaces)]);
            }
            _ => {
                let ((other, name), old) = &files[self.random.below(files.len() as u64) as usize];
                if old == id {
                    return None;
                }
                changes.extend([gone(hidden), to(*other, name, *id, true)]);
                self.unlink(&meta, *old, &mut changes);
            }
        }
        Some(Op::Change(changes))
    }

    /// The node lost a name.
    fn unlink(&mut self, meta: &Meta, id: NodeId, changes: &mut Vec<Change>) {
        if meta.nodes[&id].links > 1 {
            changes.push(Change::Links(id, -1));
        } else if self.random.chance(50) {
            changes.extend([Change::Links(id, -1), Change::Orphan(id, true)]);
        } else {
            changes.push(Change::Remove(id));
        }
    }

    fn choose_attributes(&mut self) -> Option<Op> {
        let id = self.choose_node()?;
        let number = self.random.below(1000);
        let time = Some(Time {
            seconds: number as i64,
            nanoseconds: 5,
        });
        let change = match self.random.below(8) {
            0..3 => {
                let value = match self.random.below(4) {
                    0 => None,
                    1 => Some(Xattr::Hidden),
                    _ => Some(Xattr::Set(vec![
                        number as u8;
                        (number * number / 300) as usize
                    ])),
                };
                Change::Xattr(id, format!("user.{}", number % 3).into_bytes(), value)
            }
            3..6 => {
                let mode = Some(0o600 + number as u32 % 64);
                Change::Attributes(
                    id,
                    Attributes {
                        mode,
                        ..Attributes::default()
                    },
                )
            }
            6 => Change::Attributes(
                id,
                Attributes {
                    mtime: time,
                    ctime: time,
                    ..Attributes::default()
                },
            ),
            _ => Change::Filesystem(number as u32 % 5, number.to_le_bytes().to_vec()),
        };
        let directory = self.choose_directory();
        let opaque = Change::Opaque(directory, self.random.chance(50));
        Some(Op::Change(if self.random.chance(10) {
            vec![change, opaque]
        } else {
            vec![change]
        }))
    }

    fn choose_bytes(&mut self) -> Option<Op> {
        let id = self.choose_file()?;
        let file = &self.model.files[&id];
        let size = file.live.as_ref().map_or(file.source, |live| live.size);
        self.version += 1;
        let version = self.version;
        Some(match self.random.below(20) {
            0..12 => {
                let (at, len) = self.choose_range(size);
                Op::Write {
                    id,
                    at,
                    len,
                    version,
                }
            }
            12..17 => {
                let size = match self.random.below(8) {
                    0..2 => 0,
                    2..5 => self.random.below(size + 1),
                    5 => self.random.below(size + 1) / PAGE * PAGE,
                    _ => size + 1 + self.random.below(3 * PAGE),
                };
                let more = self.taken_by_cut(id);
                Op::Truncate { id, size, more }
            }
            17..19 => {
                let (at, len) = self.choose_range(size);
                Op::Punch {
                    id,
                    range: at..at + len,
                }
            }
            _ if size > 200_000 && self.random.chance(90) => return None,
            _ => Op::MakeWhole { id },
        })
    }

    /// What a truncation says of the file's attributes, in its own record.
    fn taken_by_cut(&self, id: NodeId) -> Vec<Change> {
        let mode = Some(0o700 + self.version % 64);
        let ctime = (self.version % 8 == 2).then_some(self.model.time);
        let attributes = Attributes {
            mode,
            ctime,
            ..Attributes::default()
        };
        let attributes = Change::Attributes(id, attributes);
        let hidden = Change::Xattr(id, b"user.0".to_vec(), Some(Xattr::Hidden));
        match self.version % 4 {
            0 => vec![attributes],
            1 => vec![hidden],
            2 => vec![hidden, attributes],
            _ => Vec::new(),
        }
    }

    /// Where to write: in the middle, at the edges of pages, behind the end, far behind it.
    fn choose_range(&mut self, size: u64) -> (u64, u64) {
        let end = size.min(100_000);
        let at = match self.random.below(20) {
            0..6 => self.random.below(end + 1),
            6..10 => self.random.below(end + 1) / PAGE * PAGE,
            10..13 => (self.random.below(end + 1).next_multiple_of(PAGE))
                .saturating_sub(1 + self.random.below(20)),
            13..16 => size,
            16..19 => size + self.random.below(2 * PAGE),
            _ if self.random.chance(20) => 1024 * PAGE - self.random.below(3 * PAGE),
            _ => size + self.random.below(20 * PAGE),
        };
        let len = match self.random.below(10) {
            0..3 => 1 + self.random.below(100),
            3..6 => 1 + self.random.below(PAGE),
            6..8 => PAGE * (1 + self.random.below(3)),
            8 => 1 + self.random.below(4 * PAGE),
            _ => 1 + self.random.below(20 * PAGE),
        };
        (at, len)
    }
}
