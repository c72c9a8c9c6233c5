//! What a store knows of a file's bytes: which pages are its own, and where the source's end.

use std::io;
use std::ops::Range;

use super::codec::{Reader, Writer, damaged};
use super::node::Time;

/// Pages of a store have 4096 bytes, whatever the host's pages are.
pub const PAGE: u64 = 4096;

/// The largest file, in bytes: `off_t` counts no further.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// The page in which `at` lies.
pub fn page_of(at: u64) -> u64 {
    at / PAGE
}

/// The first page that begins at `at` or after it: so many pages hold `at` bytes.
pub fn pages(at: u64) -> u64 {
    at.div_ceil(PAGE)
}

/// What the source's file was when the store took its first page: another size or time later is a change of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceState {
    /// Bytes.
    pub size: u64,
    /// Its time of last modification.
    pub mtime: Time,
}

impl SourceState {
    /// Whether a store takes it.
    pub(super) fn is_sound(self) -> bool {
        self.size <= MAX_SIZE && self.mtime.is_sound()
    }

    pub(super) fn put(self, to: &mut Writer) {
        self.mtime.put(to.u64(self.size));
    }

    pub(super) fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        let state = Self {
            size: from.u64()?,
            mtime: Time::get(from)?,
        };
        if state.is_sound() {
            Ok(state)
        } else {
            Err(damaged())
        }
    }
}

/// The bytes of a file that has bytes of the store. Byte `at` of the file is byte `at` of its data file, if it is the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The number of its data file. Each truncation to nothing takes a new one.
    pub data: u64,
    /// The length in bytes.
    pub size: u64,
    /// A page at or beyond it never comes from the source; the rest of the page in which it lies is zero.
    pub source_limit: u64,
    /// The source's file, as it was when the store took its first page. None: nothing comes from the source.
    pub source: Option<SourceState>,
    /// Pages below this number are in the data file, without a map. [`Content::WHOLE`]: all pages, those to come too.
    pub dense: u64,
    /// Pages that the map has in the data file. The map says nothing of pages below `dense`.
    pub stored: u64,
    /// The data file is there. Until then the file is empty, or one hole.
    pub filed: bool,
    /// When bytes were last written. None: the node's attributes tell.
    pub mtime: Option<Time>,
    /// When it was last changed by a write. None: the node's attributes tell.
    pub ctime: Option<Time>,
}

impl Content {
    /// [`Content::dense`] of a whole file.
    pub const WHOLE: u64 = u64::MAX;

    /// Whether each page is in the data file, which is so long as the file then.
    pub fn is_whole(&self) -> bool {
        self.dense == Self::WHOLE
    }

    /// What a file of the source is before its first change. `source` is None for a file that was made in the view.
    pub fn new(data: u64, source: Option<SourceState>) -> Self {
        let size = source.map_or(0, |source| source.size);
        let dense = if size == 0 { Self::WHOLE } else { 0 };
        Self {
            data,
            size,
            source_limit: size,
            source,
            dense,
            stored: 0,
            filed: false,
            mtime: None,
            ctime: None,
        }
    }

    /// Whether pages left their places between this and `now`: what was looked up with this content may mix the two.
    pub fn has_moved(&self, now: &Self) -> bool {
        (self.data, self.dense, self.source_limit) != (now.data, now.dense, now.source_limit)
            || now.size < self.size
    }

    /// Bytes that count for a limit: the pages in the data file.
    pub fn bytes(&self) -> u64 {
        let pages = self.dense.min(pages(self.size)).saturating_add(self.stored);
        pages.saturating_mul(PAGE).min(Self::MOST)
    }

    /// More of one file does not count: sums stay far below 2^63.
    const MOST: u64 = 1 << 44;

    pub(super) fn put(&self, to: &mut Writer) {
        to.u64(self.data)
            .u64(self.size)
            .u64(self.source_limit)
            .u64(self.dense)
            .u64(self.stored)
            .u8(u8::from(self.filed));
        to.option(self.source, |to, source| source.put(to));
        to.option(self.mtime, |to, time| time.put(to));
        to.option(self.ctime, |to, time| time.put(to));
    }

    pub(super) fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        let content = Self {
            data: from.u64()?,
            size: from.u64()?,
            source_limit: from.u64()?,
            dense: from.u64()?,
            stored: from.u64()?,
            filed: from.bool()?,
            source: from.option(SourceState::get)?,
            mtime: from.option(Time::get)?,
            ctime: from.option(Time::get)?,
        };
        let below = content.source.map_or(0, |source| source.size);
        let sound = content.size <= MAX_SIZE
            && content.source_limit <= below
            && content.stored <= pages(MAX_SIZE)
            && (content.filed || content.stored == 0)
            && (!content.is_whole() || (content.source_limit == 0 && content.stored == 0))
            && (content.is_whole() || content.dense <= pages(content.size));
        if sound { Ok(content) } else { Err(damaged()) }
    }
}

/// Where a page comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The source's file, cut at [`Content::source_limit`].
    Source,
    /// The data file.
    Data,
    /// Nowhere: it is zero.
    Zero,
}

/// Reads the source's file: fills the buffer from this offset, with zeros beyond its end.
pub type ReadSource<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

/// Bytes of a file that come from one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where in the file, in bytes.
    pub range: Range<u64>,
    /// From which side.
    pub from: From,
}

/// The map of [`Chunk::PAGES`] pages of a file. A page in neither set is the source's below the limit, and zero beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chunk {
    stored: Bits,
    zero: Bits,
}

impl Chunk {
    /// Pages of one chunk: 4 MiB of a file.
    pub const PAGES: u64 = 1024;

    /// Where the page comes from. `index` counts from the chunk's first page.
    pub fn get(&self, index: u64) -> Option<From> {
        match (self.stored.has(index), self.zero.has(index)) {
            (true, _) => Some(From::Data),
            (_, true) => Some(From::Zero),
            _ => None,
        }
    }

    /// How far pages come from where page `index` comes from: the index behind the last of them.
    pub fn run(&self, index: u64) -> u64 {
        let from = self.get(index);
        (index..Self::PAGES)
            .find(|next| self.get(*next) != from)
            .unwrap_or(Self::PAGES)
    }

    /// Says where the pages come from: None is as if never set.
    pub fn set(&mut self, range: Range<u64>, from: Option<From>) {
        for index in range {
            self.stored.put(index, from == Some(From::Data));
            self.zero.put(index, from == Some(From::Zero));
        }
    }

    /// Pages in the data file.
    pub fn stored(&self) -> u64 {
        self.stored
            .0
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        self.stored.encode(&mut to);
        self.zero.encode(&mut to);
        to.done()
    }

    pub(super) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut from = Reader(bytes);
        let chunk = Self {
            stored: Bits::decode(&mut from)?,
            zero: Bits::decode(&mut from)?,
        };
        from.end()?;
        let both = chunk
            .stored
            .0
            .iter()
            .zip(chunk.zero.0)
            .any(|(a, b)| a & b != 0);
        if both || chunk.is_empty() {
            Err(damaged())
        } else {
            Ok(chunk)
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Bits([u64; 16]);

impl Bits {
    fn has(&self, index: u64) -> bool {
        self.0[index as usize / 64] >> (index % 64) & 1 == 1
    }

    fn put(&mut self, index: u64, value: bool) {
        let bit = 1 << (index % 64);
        let word = &mut self.0[index as usize / 64];
        *word = if value { *word | bit } else { *word & !bit };
    }

    /// 0: none, 1: all, 2: the words.
    fn encode(&self, to: &mut Writer) {
        if self.0 == [0; 16] {
            to.u8(0);
        } else if self.0 == [u64::MAX; 16] {
            to.u8(1);
        } else {
            to.u8(2);
            for word in self.0 {
                to.u64(word);
            }
        }
    }

    fn decode(from: &mut Reader<'_>) -> io::Result<Self> {
        let mut words = [0; 16];
        match from.u8()? {
            0 => {}
            1 => words = [u64::MAX; 16],
            2 => {
                for word in &mut words {
                    *word = from.u64()?;
                }
            }
            _ => return Err(damaged()),
        }
        Ok(Self(words))
    }
}
