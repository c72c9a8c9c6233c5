//! What a file of a store should be: its length, where its pages come from, and each version of what was written there.

use std::collections::BTreeMap;
use std::sync::Arc;

use mmfs::store::{NodeId, PAGE, Time};

pub type PageBytes = Arc<[u8; PAGE as usize]>;

/// Each byte tells its node, page and version: in cells of 16 bytes. Version 0 is the source's.
pub fn pattern(id: NodeId, version: u32, at: u64, to: &mut [u8]) {
    for (n, byte) in to.iter_mut().enumerate() {
        let at = at + n as u64;
        let word = match at % 16 / 4 {
            0 => id.0 as u32 ^ 0xA5A5_0000,
            1 => (at / PAGE) as u32,
            2 => version,
            _ => (at % PAGE / 16) as u32 ^ 0x5A00_0000,
        };
        *byte = word.to_le_bytes()[(at % 4) as usize];
    }
}

/// Where a page comes from, if the map says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Data,
    Zero,
}

/// What the records that count make of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileState {
    /// Which of its data files.
    pub incarnation: usize,
    pub size: u64,
    pub limit: u64,
    pub dense: u64,
    pub filed: bool,
    pub map: BTreeMap<u64, Side>,
    pub mtime: Option<Time>,
    pub ctime: Option<Time>,
}

impl FileState {
    pub fn new(incarnation: usize, source: u64) -> Self {
        Self {
            incarnation,
            size: source,
            limit: source,
            dense: if source == 0 { u64::MAX } else { 0 },
            filed: false,
            map: BTreeMap::new(),
            mtime: None,
            ctime: None,
        }
    }

    pub fn is_whole(&self) -> bool {
        self.dense == u64::MAX
    }

    pub fn side(&self, page: u64) -> Side {
        if page < self.dense {
            return Side::Data;
        }
        let beyond = if page * PAGE < self.limit {
            Side::Source
        } else {
            Side::Zero
        };
        self.map.get(&page).copied().unwrap_or(beyond)
    }
}

/// A record, as far as it is about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Class M.
    Truncate {
        size: u64,
        incarnation: usize,
        time: Time,
    },
    /// Class M: which times an `Attributes` set.
    Times { mtime: bool, ctime: bool },
    /// Class M: anything else about the node.
    Other,
    /// Class M: the node takes a name from another.
    Placed,
    /// Class D.
    Written {
        incarnation: usize,
        first: u64,
        count: u64,
        side: Side,
        size: u64,
        time: Time,
    },
    /// Class D.
    Whole,
}

impl Event {
    pub fn is_data(&self) -> bool {
        matches!(self, Self::Written { .. } | Self::Whole)
    }

    pub fn is_time_only(&self) -> bool {
        matches!(
            self,
            Self::Written {
                count: 0,
                size: 0,
                ..
            }
        )
    }

    /// Whether what makes it durable makes the node's bytes durable before.
    pub fn places(&self) -> bool {
        matches!(self, Self::Placed | Self::Truncate { .. })
    }
}

/// All that happened to a file.
#[derive(Debug, Clone, Default)]
pub struct FileModel {
    /// The length of the source's file; 0: it has none.
    pub source: u64,
    /// What it was when this life of the store began.
    pub base: Option<FileState>,
    pub live: Option<FileState>,
    pub events: Vec<(u64, Event)>,
    /// What was written into each of its data files: the versions of each page. Before the first, it was zero.
    pub written: Vec<BTreeMap<u64, Vec<(u64, PageBytes)>>>,
    /// Its truncations to a smaller length but 0: positions and lengths.
    pub cuts: Vec<(u64, u64)>,
}

impl FileModel {
    /// The state of which this event makes another.
    pub fn after(&self, state: Option<FileState>, event: &Event) -> Option<FileState> {
        match event {
            Event::Other | Event::Placed => state,
            Event::Times { mtime, ctime } => state.map(|state| FileState {
                mtime: state.mtime.filter(|_| !mtime),
                ctime: state.ctime.filter(|_| !ctime),
                ..state
            }),
            Event::Truncate {
                size,
                incarnation,
                time,
            } => {
                let mut new = match state {
                    _ if *size == 0 => FileState::new(*incarnation, 0),
                    Some(state) => state,
                    None => FileState::new(*incarnation, self.source),
                };
                if *size < new.size {
                    let end = size.div_ceil(PAGE);
                    new.dense = new.dense.min(end);
                    new.map.retain(|page, _| *page < end);
                    new.limit = new.limit.min(*size);
                }
                (new.size, new.mtime, new.ctime) = (*size, Some(*time), Some(*time));
                Some(new)
            }
            Event::Written {
                incarnation,
                first,
                count,
                side,
                size,
                time,
            } => {
                let mut new = state.unwrap_or_else(|| FileState::new(*incarnation, self.source));
                for page in *first..first + count {
                    if page < new.dense {
                    } else if *side == Side::Data || page * PAGE < new.limit {
                        new.map.insert(page, *side);
                    } else {
                        new.map.remove(&page);
                    }
                }
                new.filed |= *side == Side::Data && *count > 0;
                new.size = new.size.max(*size);
                (new.mtime, new.ctime) = (Some(*time), Some(*time));
                Some(new)
            }
            Event::Whole => state.map(|state| FileState {
                dense: u64::MAX,
                limit: 0,
                filed: true,
                map: BTreeMap::new(),
                ..state
            }),
        }
    }

    /// The state if records of class M count up to `meta`, and of class D up to `data`.
    pub fn state(&self, meta: u64, data: u64) -> Option<FileState> {
        let mut state = self.base.clone();
        for (pos, event) in &self.events {
            if *pos <= if event.is_data() { data } else { meta } {
                state = self.after(state, event);
            }
        }
        state
    }

    pub fn happen(&mut self, pos: u64, event: Event) {
        let size_now = self.live.as_ref().map_or(self.source, |live| live.size);
        if let Event::Truncate { size, .. } = &event {
            if *size > 0 && *size < size_now {
                self.cuts.push((pos, *size));
            }
        }
        self.live = self.after(self.live.clone(), &event);
        self.events.push((pos, event));
    }

    /// Forgets events that did not happen.
    pub fn undo_after(&mut self, pos: u64) {
        self.events.retain(|(at, _)| *at <= pos);
        self.cuts.retain(|(at, _)| *at <= pos);
        self.live = self.state(pos, pos);
    }

    /// What was last written to a page of a data file.
    pub fn newest(&self, incarnation: usize, page: u64) -> PageBytes {
        let versions = self
            .written
            .get(incarnation)
            .and_then(|pages| pages.get(&page));
        versions.and_then(|versions| versions.last()).map_or_else(
            || Arc::new([0; PAGE as usize]),
            |(_, bytes)| Arc::clone(bytes),
        )
    }

    pub fn land(&mut self, pos: u64, incarnation: usize, page: u64, bytes: PageBytes) {
        while self.written.len() <= incarnation {
            self.written.push(BTreeMap::new());
        }
        let versions = self.written[incarnation].entry(page).or_default();
        versions.push((pos, bytes));
    }

    /// The page as a reader of this state sees it, if each write landed.
    pub fn page(&self, id: NodeId, state: &FileState, page: u64) -> PageBytes {
        match state.side(page) {
            Side::Data => self.newest(state.incarnation, page),
            Side::Zero => Arc::new([0; PAGE as usize]),
            Side::Source => source_page(id, state.limit, page),
        }
    }

    /// The pages of which something is known, and the first and last ones.
    pub fn pages(&self, state: &FileState) -> Vec<u64> {
        let end = state.size.div_ceil(PAGE);
        let mut pages: Vec<u64> = (0..end.min(16)).collect();
        pages.extend(self.written.iter().flat_map(|pages| pages.keys()));
        pages.extend(state.map.keys());
        pages.extend([end.saturating_sub(1), state.limit / PAGE]);
        pages.retain(|page| *page < end);
        pages.sort_unstable();
        pages.dedup();
        pages
    }
}

/// A page of the source, with zeros from its limit on.
pub fn source_page(id: NodeId, limit: u64, page: u64) -> PageBytes {
    let mut bytes = [0; PAGE as usize];
    let len = limit.saturating_sub(page * PAGE).min(PAGE);
    pattern(id, 0, page * PAGE, &mut bytes[..len as usize]);
    Arc::new(bytes)
}
