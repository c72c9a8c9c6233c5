//! Whether what recovery shows is what the model allows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use mmfs::store::{Content, NodeId, PAGE, Store};

use super::file_model::{FileModel, FileState, PageBytes, Side, pattern, source_page};
use super::image::SECTOR;
use super::meta::Meta;
use super::promise::Promise;
use super::recorded::Model;

/// What was found to count: class M up to a position, class D of each file up to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub meta: u64,
    pub data: BTreeMap<NodeId, u64>,
}

/// What a recovered store may show.
pub struct Bounds<'a> {
    pub model: &'a Model,
    pub promise: &'a Promise,
    /// What lies behind this position was not begun.
    pub max: u64,
    /// Files of which a sync failed: their bytes may be lost.
    pub lost: BTreeSet<NodeId>,
    /// Nothing was recovered: files that were deleted while open are there.
    pub live: bool,
    /// Writes are torn at so many bytes.
    pub grain: u64,
}

impl<'a> Bounds<'a> {
    /// After a recovery.
    pub fn new(model: &'a Model, promise: &'a Promise, max: u64) -> Self {
        Self {
            model,
            promise,
            max,
            lost: BTreeSet::new(),
            live: false,
            grain: SECTOR,
        }
    }

    /// Finds which records count.
    ///
    /// # Errors
    /// A sentence if no allowed set of records explains what the store shows.
    pub fn judge(&self, store: &Store) -> Result<Choice, String> {
        let model = self.model;
        let found = Meta::read(store, model.ids.iter().copied())
            .map_err(|error| format!("names or attributes cannot be read: {error}"))?;
        let mut problem = "names and attributes are of no moment since the last sync".to_owned();
        for (n, (meta, expected)) in model.metas.iter().enumerate() {
            if *meta < self.promise.meta || *meta > self.max {
                continue;
            }
            let expected = match self.live {
                true => Meta {
                    orphans: BTreeSet::new(),
                    ..(**expected).clone()
                },
                false => expected.without_orphans(),
            };
            if expected != found {
                continue;
            }
            let next = model.metas.get(n + 1).map_or(u64::MAX, |(next, _)| *next);
            match self.judge_files(store, &found, *meta, next.min(self.max + 1)) {
                Ok(data) => {
                    used(store, &found)?;
                    return Ok(Choice { meta: *meta, data });
                }
                Err(error) => problem = format!("with names of position {meta}: {error}"),
            }
        }
        let (promise, max) = (self.promise, self.max);
        Err(format!("{problem}\npromised: {promise:?}, at most {max}"))
    }

    fn judge_files(
        &self,
        store: &Store,
        found: &Meta,
        meta: u64,
        next: u64,
    ) -> Result<BTreeMap<NodeId, u64>, String> {
        let mut data = BTreeMap::new();
        for (id, file) in self
            .model
            .files
            .iter()
            .filter(|(id, _)| found.nodes.contains_key(id))
        {
            let content = store
                .content(*id)
                .map_err(|error| format!("{id:?}: {error}"))?;
            let seen = Seen {
                store,
                id: *id,
                file,
                content,
                grain: self.grain,
            };
            data.insert(*id, self.judge_file(&seen, meta, next)?);
        }
        Ok(data)
    }

    /// Up to where class D of the file counts.
    fn judge_file(&self, seen: &Seen<'_>, meta: u64, next: u64) -> Result<u64, String> {
        let (id, file) = (seen.id, seen.file);
        let promised = |of: &BTreeMap<NodeId, u64>| of.get(&id).copied().unwrap_or(0);
        let mut placed = file
            .events
            .iter()
            .filter(|(pos, event)| event.places() && *pos <= meta);
        let placed = placed.next_back().map_or(0, |(pos, _)| *pos);
        let records = || {
            file.events
                .iter()
                .filter(|(pos, event)| event.is_data() && *pos < next)
        };
        // What takes the place of other bytes comes with its bytes. Its times may be older.
        let bytes = records().rfind(|(pos, event)| *pos <= placed && !event.is_time_only());
        let promised_data = promised(&self.promise.data);
        let needed = records().rfind(|(pos, _)| *pos <= promised_data);
        let needed = [bytes, needed]
            .into_iter()
            .flatten()
            .map(|(pos, _)| *pos)
            .max()
            .unwrap_or(0);
        let records: Vec<u64> = records().map(|(pos, _)| *pos).collect();
        let mut problem = format!("{id:?} shows {:?}, not one of its states", seen.content);
        let begin = std::iter::once(0).filter(|_| needed == 0);
        for data in begin.chain(records).filter(|data| *data >= needed) {
            let state = file.state(meta, data);
            if !same(state.as_ref(), seen.content.as_ref()) {
                continue;
            }
            let Some(state) = state.filter(|_| !self.lost.contains(&id)) else {
                return Ok(data);
            };
            let durable = promised(&self.promise.bytes).max(placed).max(data);
            let cut = file.cuts.iter().find(|(pos, _)| *pos > meta).copied();
            match seen.bytes(&state, durable, self.max, cut) {
                Ok(()) => return Ok(data),
                Err(error) => problem = format!("{id:?} with records up to {data}: {error}"),
            }
        }
        Err(format!(
            "{problem}\nneeded: {needed}\nevents: {:?}\nbase: {:?}",
            file.events, file.base
        ))
    }
}

/// A file of a recovered store.
struct Seen<'a> {
    store: &'a Store,
    id: NodeId,
    file: &'a FileModel,
    content: Option<Content>,
    grain: u64,
}

impl Seen<'_> {
    /// Compares the bytes. What was written up to `durable` is there. `cut`: a truncation that does not count, with its length:
    /// behind that length nothing was written over before it was durable.
    fn bytes(
        &self,
        state: &FileState,
        durable: u64,
        max: u64,
        cut: Option<(u64, u64)>,
    ) -> Result<(), String> {
        for page in self.file.pages(state) {
            let bytes = read_page(self.store, self.id, page)?;
            let visible = (state.size - page * PAGE).min(PAGE);
            let expected = match state.side(page) {
                Side::Source => source_page(self.id, state.limit, page),
                Side::Zero => source_page(self.id, 0, page),
                Side::Data => {
                    self.data_page(state, page, &bytes[..visible as usize], (durable, max), cut)?;
                    continue;
                }
            };
            if bytes[..visible as usize] != expected[..visible as usize] {
                return Err(format!(
                    "page {page} is not {:?}: {}",
                    state.side(page),
                    shown(&bytes)
                ));
            }
        }
        Ok(())
    }

    fn data_page(
        &self,
        state: &FileState,
        page: u64,
        bytes: &[u8],
        (durable, max): (u64, u64),
        cut: Option<(u64, u64)>,
    ) -> Result<(), String> {
        let none = Vec::new();
        let zero = source_page(self.id, 0, page);
        let written = self.file.written.get(state.incarnation);
        let versions = written.and_then(|pages| pages.get(&page)).unwrap_or(&none);
        let sure = versions.iter().rposition(|(pos, _)| *pos <= durable);
        let (oldest, later) = match sure {
            Some(n) => (&versions[n].1, &versions[n + 1..]),
            None => (&zero, &versions[..]),
        };
        for begin in (0..bytes.len()).step_by(SECTOR as usize) {
            let range = begin..(begin + SECTOR as usize).min(bytes.len());
            let limit = match cut {
                Some((pos, len)) if page * PAGE + begin as u64 >= len => max.min(pos),
                _ => max,
            };
            let mut allowed: Vec<&PageBytes> = vec![oldest];
            let counts = later.iter().filter(|(pos, _)| *pos <= limit);
            allowed.extend(counts.map(|(_, version)| version));
            let is = |range: Range<usize>| {
                let found = &bytes[range.clone()];
                allowed
                    .iter()
                    .any(|version| version[range.clone()] == *found)
            };
            let parts = || range.clone().step_by(self.grain as usize);
            let allowed = is(range.clone())
                || (self.grain < SECTOR
                    && parts().all(|at| is(at..(at + self.grain as usize).min(range.end))));
            if !allowed {
                let at: Vec<u64> = versions.iter().map(|(pos, _)| *pos).collect();
                return Err(format!(
                    "byte {begin} of page {page} is of no version since {durable}: {}\nversions: {at:?}, cut {cut:?}",
                    shown(&bytes[range])
                ));
            }
        }
        Ok(())
    }
}

fn shown(bytes: &[u8]) -> String {
    let word =
        |n: usize| u32::from_le_bytes(bytes[n * 4..n * 4 + 4].try_into().unwrap_or_default());
    match bytes.len() {
        16.. => format!(
            "node {:x} page {} version {} cell {:x}",
            word(0),
            word(1),
            word(2),
            word(3)
        ),
        _ => format!("{bytes:x?}"),
    }
}

/// A page as the store shows it.
pub fn read_page(store: &Store, id: NodeId, page: u64) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0xEE; PAGE as usize];
    let mut source = |at: u64, to: &mut [u8]| {
        pattern(id, 0, at, to);
        Ok(())
    };
    let read = store.read(id, page * PAGE, &mut bytes, &mut source);
    let len = read.map_err(|error| format!("page {page}: {error}"))?;
    bytes[len..].fill(0);
    Ok(bytes)
}

/// Whether the store's content is what the records make of it.
pub fn same(state: Option<&FileState>, content: Option<&Content>) -> bool {
    match (state, content) {
        (None, None) => true,
        (Some(state), Some(content)) => {
            let stored = state
                .map
                .values()
                .filter(|side| **side == Side::Data)
                .count();
            state.size == content.size
                && state.limit == content.source_limit
                && state.dense == content.dense
                && state.filed == content.filed
                && stored as u64 == content.stored
                && (state.mtime, state.ctime) == (content.mtime, content.ctime)
        }
        _ => false,
    }
}

/// What counts for the limit is what the files have.
fn used(store: &Store, found: &Meta) -> Result<(), String> {
    let mut sum = 0;
    for id in found.nodes.keys() {
        let content = store.content(*id).map_err(|error| error.to_string())?;
        sum += content.map_or(0, |content| content.bytes());
    }
    match store.used() == sum {
        true => Ok(()),
        false => Err(format!(
            "{} bytes are used, and files have {sum}",
            store.used()
        )),
    }
}
