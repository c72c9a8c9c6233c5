//! A store and its model, side by side.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use mmfs::store::keeper::Keeper;
use mmfs::store::opening::Rule;
use mmfs::store::{Change, Kind, Name, NodeId, PAGE, SourceState, Store};
use rustix::io::Errno;

use super::changes::{self, Slots};
use super::model::{File, Model};
use super::operation::{Meta, Operation, SLOTS, Spot, Step};
use super::place::{Place, time};

type Outcome = Result<(), String>;

/// Fails with both values if they differ.
macro_rules! same {
    ($store:expr, $model:expr, $($what:tt)*) => {
        match (&$store, &$model) {
            (store, model) if store != model => {
                let what = format!($($what)*);
                return Err(format!("{what}: the store has {store:?}, the model {model:?}"));
            }
            _ => {}
        }
    };
}

/// The bytes of source file `number`.
fn source_bytes(number: u64, size: u64) -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        (0..(9 << 20) as u32)
            .map(|at| (at.wrapping_mul(0x9E37_79B9) >> 24) as u8 | 1)
            .collect()
    });
    &bytes[number as usize * 64..][..size as usize]
}

fn errno(done: io::Result<()>) -> Result<(), Option<i32>> {
    done.map_err(|error| error.raw_os_error())
}

fn expected(done: Result<(), Errno>) -> Result<(), Option<i32>> {
    done.map_err(|error| Some(error.raw_os_error()))
}

fn told(error: io::Error) -> String {
    format!("a look-up failed: {error}")
}

pub struct Run {
    place: Place,
    store: Option<Arc<Store>>,
    model: Model,
    slots: Slots,
    /// All numbers that were given.
    all: Vec<NodeId>,
    milliseconds: u64,
    writes: u64,
}

impl Run {
    pub fn new() -> Self {
        let place = Place::new();
        let (store, recovery) = place.open();
        assert_eq!(recovery.rule, Rule::Closed);
        let ids: Vec<_> = (0..SLOTS).map(|_| store.new_number()).collect();
        let mut run = Self {
            place,
            store: Some(store),
            model: Model::default(),
            slots: Slots::new(&ids),
            all: ids,
            milliseconds: 1_000_000,
            writes: 0,
        };
        let root = [Meta::Make {
            slot: 0,
            kind: Kind::Directory,
            origin: None,
        }];
        run.change(&root).unwrap();
        run
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open between two steps")
    }

    pub fn step(&mut self, step: &Step) -> Outcome {
        self.milliseconds += step.pause;
        match &step.operation {
            Operation::Change(steps) => self.change(steps)?,
            Operation::Write { slot, at, len } => self.write(*slot, *at, *len)?,
            Operation::Truncate { slot, to } => self.truncate(*slot, *to)?,
            Operation::Punch { slot, from, to } => self.punch(*slot, *from, *to)?,
            Operation::MakeWhole(slot) => self.make_whole(*slot)?,
            Operation::Read { slot, at, len } => {
                let at = self.resolve(*slot, *at);
                self.same_file(self.slots.ids[*slot], at..at.saturating_add(*len as u64))?;
            }
            Operation::Names { slot, limit } => {
                self.same_names(self.slots.ids[*slot], *limit)?;
            }
            Operation::Sync(slot, data_only) => {
                let done = self.store().sync(self.slots.ids[*slot], *data_only);
                same!(errno(done), Ok(()), "sync");
            }
            Operation::SyncNames => same!(errno(self.store().sync_names()), Ok(()), "sync_names"),
            Operation::Barrier => same!(errno(self.store().barrier()), Ok(()), "barrier"),
            Operation::Close => self.close()?,
            Operation::Kill => self.kill()?,
            Operation::Limit(more) => {
                self.model.limit = more.map(|pages| self.model.used() + pages * PAGE);
                self.store().set_limit(self.model.limit);
            }
        }
        same!(self.store().used(), self.model.used(), "used");
        Ok(())
    }

    /// Compares everything, and once more after a kill and a close.
    pub fn end(&mut self) -> Outcome {
        self.same_everything()?;
        self.kill()?;
        self.close()
    }

    fn change(&mut self, steps: &[Meta]) -> Outcome {
        let changes = changes::of(steps, &self.slots, &self.model, self.milliseconds);
        let done = errno(self.store().change(changes.clone()));
        let wanted = expected(self.model.change(&changes));
        same!(done, wanted, "{changes:?}");
        for change in &changes {
            match change {
                Change::Make(id, node) if wanted.is_ok() => {
                    self.slots.made(*id, node);
                    self.same_node(*id)?;
                }
                Change::Remove(id) => {
                    self.same_node(*id)?;
                    self.renew();
                }
                Change::Make(id, _)
                | Change::Attributes(id, _)
                | Change::Links(id, _)
                | Change::Opaque(id, _)
                | Change::Reset(id)
                | Change::Origin(id, _)
                | Change::Xattr(id, ..)
                | Change::Orphan(id, _) => self.same_node(*id)?,
                Change::Name { directory, to, .. } => {
                    self.same_node(*directory)?;
                    self.same_names(*directory, 2)?;
                    if let Some(Name::Node(id)) = to {
                        self.same_node(*id)?;
                    }
                }
                Change::Filesystem(..) => self.same_filesystems()?,
                Change::Truncate { .. } => {}
            }
        }
        Ok(())
    }

    /// Slots whose node is gone get a new number: none is given twice.
    fn renew(&mut self) {
        for slot in 0..SLOTS {
            let id = self.slots.ids[slot];
            if self.slots.was_made(slot) && !self.model.meta.nodes.contains_key(&id) {
                let new = self.store().new_number();
                assert!(!self.all.contains(&new), "{new:?} was given twice");
                self.all.push(new);
                self.slots.renew(slot, new);
            }
        }
    }

    fn source(&self, slot: usize) -> (Option<SourceState>, &'static [u8]) {
        match self.slots.sources[slot] {
            Some((number, state)) => (Some(state), source_bytes(number, state.size)),
            None => (None, &[]),
        }
    }

    /// A spot as a number.
    fn resolve(&self, slot: usize, spot: Spot) -> u64 {
        let file = self.model.files.get(&self.slots.ids[slot]);
        let size = self.source(slot).1.len() as u64;
        spot.resolve(
            file.map_or(size, File::size),
            file.map_or(size, File::limit),
        )
    }

    /// Does it to the store and to the model: `range` is what may look different.
    fn on_file(
        &mut self,
        slot: usize,
        what: &str,
        range: Range<u64>,
        store: impl FnOnce(&Store, NodeId, Option<SourceState>, &mut ReadAll<'_>) -> io::Result<()>,
        model: impl FnOnce(&mut File, u64) -> Result<(), Errno>,
    ) -> Outcome {
        let (id, (now, bytes)) = (self.slots.ids[slot], self.source(slot));
        let done = errno(store(self.store(), id, now, &mut reader(bytes)));
        let new = || File::new(now, bytes);
        let wanted = expected(self.model.file(id, new, model));
        same!(done, wanted, "{what} {range:?} of {id:?}");
        self.same_file(id, range)
    }

    fn write(&mut self, slot: usize, at: Spot, len: usize) -> Outcome {
        let at = self.resolve(slot, at);
        self.writes += 1;
        let salt = (self.writes as u8) << 1 | 1;
        let bytes: Vec<u8> = (0..len).map(|n| salt.wrapping_add(n as u8)).collect();
        let now = time(self.milliseconds);
        let end = at + len as u64;
        if len > 0 && end <= i64::MAX as u64 {
            return self.on_file(
                slot,
                "write",
                at..end,
                |store, id, state, source| store.write(id, at, &bytes, state, now, source),
                |file, left| file.write(at, &bytes, now, left),
            );
        }
        let id = self.slots.ids[slot];
        let done = self
            .store()
            .write(id, at, &bytes, None, now, &mut reader(&[]));
        let wanted = if len == 0 { Ok(()) } else { Err(Errno::FBIG) };
        same!(errno(done), expected(wanted), "write at {at}");
        self.same_file(id, 0..PAGE)
    }

    fn truncate(&mut self, slot: usize, to: Spot) -> Outcome {
        let to = self.resolve(slot, to);
        let now = time(self.milliseconds);
        let id = self.slots.ids[slot];
        if to > i64::MAX as u64 {
            let done = self.store().truncate(id, to, None, now);
            same!(errno(done), expected(Err(Errno::FBIG)), "truncate to {to}");
            return self.same_file(id, 0..PAGE);
        }
        let data = |store: &Store| store.content(id).map(|c| c.map(|content| content.data));
        let before = data(self.store()).map_err(told)?;
        self.on_file(
            slot,
            "truncate",
            to..to,
            |store, id, state, _| store.truncate(id, to, state, now),
            |file, left| file.truncate(to, now, left),
        )?;
        let after = data(self.store()).map_err(told)?;
        if before.is_some() && (before == after) == (to == 0) {
            return Err(format!(
                "truncate to {to}: data file {before:?}, then {after:?}"
            ));
        }
        Ok(())
    }

    fn punch(&mut self, slot: usize, from: Spot, to: Spot) -> Outcome {
        let range = self.resolve(slot, from)..self.resolve(slot, to);
        let now = time(self.milliseconds);
        self.on_file(
            slot,
            "punch",
            range.clone(),
            |store, id, state, source| store.punch(id, range.clone(), state, now, source),
            |file, left| file.punch(range.clone(), now, left),
        )
    }

    fn make_whole(&mut self, slot: usize) -> Outcome {
        let now = time(self.milliseconds);
        self.on_file(
            slot,
            "make_whole",
            0..u64::MAX,
            |store, id, state, source| store.make_whole(id, state, now, source),
            |file, left| file.make_whole(now, left),
        )
    }

    fn close(&mut self) -> Outcome {
        let store = self.store.take().expect("it is open between two steps");
        // Its thread sweeps before it ends.
        drop(Keeper::start(&store, true).map_err(told)?);
        same!(errno(store.close()), Ok(()), "close");
        for file in self.place.data_files() {
            let (id, data) = file.split_once('-').ok_or("a data file of another name")?;
            let number = |digits| u64::from_str_radix(digits, 16).map_err(|e| e.to_string());
            let content = store.content(NodeId(number(id)?)).map_err(told)?;
            same!(
                content.map(|c| c.data),
                Some(number(data)?),
                "{file} is left over"
            );
        }
        drop(store);
        self.open(Rule::Closed)
    }

    fn kill(&mut self) -> Outcome {
        self.store = None;
        self.open(Rule::Killed)
    }

    fn open(&mut self, rule: Rule) -> Outcome {
        let report = self.place.check();
        same!(
            report.problems,
            Vec::<String>::new(),
            "check after {rule:?}"
        );
        same!(report.bytes, self.model.used(), "bytes that check counts");
        same!(report.nodes, self.model.meta.nodes.len() as u64, "nodes");
        let (store, recovery) = self.place.open();
        same!(recovery.rule, rule, "rule");
        let orphans = std::mem::take(&mut self.model.meta.orphans);
        same!(recovery.orphans, orphans.len() as u64, "orphans");
        for id in orphans {
            self.model
                .change(&[Change::Remove(id)])
                .map_err(|e| e.to_string())?;
        }
        store.set_limit(self.model.limit);
        self.store = Some(store);
        self.renew();
        same!(
            self.store().used(),
            self.model.used(),
            "used after {rule:?}"
        );
        self.same_everything()
    }

    fn same_everything(&self) -> Outcome {
        for id in &self.all {
            self.same_node(*id)?;
            self.same_names(*id, 3)?;
            self.same_file(*id, 0..u64::MAX)?;
        }
        self.same_filesystems()
    }

    fn same_filesystems(&self) -> Outcome {
        let found = self.store().filesystems().map_err(told)?;
        let wanted: Vec<_> = self.model.meta.filesystems.clone().into_iter().collect();
        same!(found, wanted, "filesystems");
        Ok(())
    }

    fn same_node(&self, id: NodeId) -> Outcome {
        let (store, meta) = (self.store(), &self.model.meta);
        let node = meta.nodes.get(&id);
        same!(store.node(id).map_err(told)?.as_ref(), node, "{id:?}");
        if let Some(origin) = node.and_then(|node| node.origin.as_ref()) {
            same!(
                store.by_origin(origin).map_err(told)?,
                Some(id),
                "{origin:?}"
            );
        }
        let wanted = meta.xattrs.iter().filter(|((node, _), _)| *node == id);
        let wanted: Vec<_> = wanted
            .map(|((_, name), value)| (name.clone(), value.clone()))
            .collect();
        for (name, value) in &wanted {
            same!(
                store.xattr(id, name).map_err(told)?.as_ref(),
                Some(value),
                "xattr"
            );
        }
        same!(store.xattrs(id).map_err(told)?, wanted, "xattrs of {id:?}");
        same!(store.xattr(id, b"not there").map_err(told)?, None, "xattr");
        self.same_content(id)
    }

    fn same_content(&self, id: NodeId) -> Outcome {
        let found = self.store().content(id).map_err(told)?;
        let data = found.map_or(0, |content| content.data);
        let wanted = self.model.files.get(&id).map(|file| file.content(data));
        same!(found, wanted, "content of {id:?}");
        Ok(())
    }

    fn same_names(&self, directory: NodeId, limit: usize) -> Outcome {
        let wanted = self
            .model
            .meta
            .names
            .iter()
            .filter(|((d, _), _)| *d == directory);
        let wanted: Vec<_> = wanted.map(|((_, name), to)| (name.clone(), *to)).collect();
        let (mut found, mut last) = (Vec::new(), Vec::new());
        loop {
            let names = self.store().names(directory, &last, limit).map_err(told)?;
            let Some((name, _)) = names.last() else { break };
            last = name.clone();
            found.extend(names);
        }
        same!(found, wanted, "names of {directory:?}");
        for (name, to) in wanted {
            let since = self.model.meta.since.get(&(directory, name.clone()));
            same!(
                self.store()
                    .hidden_since(directory, &name)
                    .map_err(told)?
                    .as_ref(),
                since,
                "since when {name:?} hides the source's"
            );
            same!(
                self.store().name(directory, &name).map_err(told)?,
                Some(to),
                "name"
            );
        }
        same!(
            self.store().name(directory, b"nothing").map_err(told)?,
            None,
            "name"
        );
        Ok(())
    }

    /// Compares the bytes around this range, and where they come from.
    fn same_file(&self, id: NodeId, range: Range<u64>) -> Outcome {
        self.same_content(id)?;
        let store = self.store();
        let Some(file) = self.model.files.get(&id) else {
            let read = store.read(id, 0, &mut [0], &mut reader(&[]));
            same!(errno(read.map(drop)), expected(Err(Errno::NOENT)), "read");
            return Ok(());
        };
        let source = self
            .slots
            .bytes_of(id)
            .map_or(&[][..], |(n, size)| source_bytes(n, size));
        let start = range.start.min(file.size()).saturating_sub(2 * PAGE);
        let end = range.end.saturating_add(2 * PAGE).min(file.size() + 10);
        let end = end.max(start);
        let mut found = vec![0x55; (end - start) as usize];
        let len = store
            .read(id, start, &mut found, &mut reader(source))
            .map_err(told)?;
        let wanted = &file.bytes[start as usize..end.min(file.size()).max(start) as usize];
        same!(len, wanted.len(), "length of a read of {id:?}");
        if found[..len] != *wanted {
            let at = (0..len).find(|at| found[*at] != wanted[*at]).unwrap_or(0);
            let (at, found, wanted) = (start + at as u64, found[at], wanted[at]);
            return Err(format!(
                "byte {at} of {id:?} is {found}, and should be {wanted}"
            ));
        }
        let content = store.content(id).map_err(told)?.ok_or("no content")?;
        let pieces: io::Result<Vec<_>> = store.pieces(id, &content, start..end).collect();
        let pieces = pieces.map_err(told)?;
        same!(
            pieces,
            file.pieces(start..end),
            "pieces {start}..{end} of {id:?}"
        );
        Ok(())
    }
}

type ReadAll<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

/// Reads a file of the source, with zeros behind its end.
fn reader(bytes: &[u8]) -> impl FnMut(u64, &mut [u8]) -> io::Result<()> + '_ {
    move |at, to| {
        let rest = bytes.get(at as usize..).unwrap_or_default();
        let len = rest.len().min(to.len());
        to[..len].copy_from_slice(&rest[..len]);
        to[len..].fill(0);
        Ok(())
    }
}
