//! What a store writes, written by the test: with right checksums around whatever values a case wants.

use mmfs::store::PAGE;
use twox_hash::XxHash3_64;

pub const FIRST: u64 = 1 << 62;
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// Bytes behind each other, numbers with their lowest byte first.
#[derive(Debug, Default, Clone)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub fn u16(self, value: u16) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    pub fn key(self, value: u64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn bytes(self, bytes: &[u8]) -> Self {
        self.u32(bytes.len() as u32).raw(bytes)
    }

    /// Time 7.
    pub fn time(self) -> Self {
        self.u64(7).u32(7)
    }

    /// With the checksum behind it.
    pub fn checked(self) -> Vec<u8> {
        let sum = crc32fast::hash(&self.0);
        self.u32(sum).0
    }
}

/// `kind`, and the number as keys have it.
pub fn key(kind: u8, id: u64) -> Vec<u8> {
    Bytes::default().u8(kind).key(id).0
}

/// The same with a name or a number behind it.
pub fn long_key(kind: u8, id: u64, rest: &[u8]) -> Vec<u8> {
    Bytes(key(kind, id)).raw(rest).0
}

pub fn origin_key(filesystem: u32, number: u64, identity: &[u8]) -> Vec<u8> {
    Bytes(b"o".to_vec())
        .u32(filesystem)
        .u64(number)
        .bytes(identity)
        .0
}

/// A node as a store writes it. What most cases leave as it is has a value that is sound.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    pub kind: u8,
    pub origin: Option<(u32, u64, &'a [u8])>,
    pub mode: u32,
    pub nanoseconds: u32,
    pub links: u64,
    pub opaque: u8,
    pub target: &'a [u8],
    pub place: Option<(u64, &'a [u8])>,
}

impl Default for Node<'_> {
    fn default() -> Self {
        Self {
            kind: 1,
            origin: None,
            mode: 0o644,
            nanoseconds: 7,
            links: 1,
            opaque: 0,
            target: b"",
            place: None,
        }
    }
}

impl Node<'_> {
    pub fn value(&self) -> Vec<u8> {
        let mut to = Bytes::default().u8(self.kind);
        to = match self.origin {
            None => to.u8(0),
            Some((filesystem, number, identity)) => {
                to.u8(1).u32(filesystem).u64(number).bytes(identity)
            }
        };
        to = to.u8(1).u32(self.mode).u8(1).u32(0).u8(1).u32(0);
        to = to.u8(1).u64(7).u32(self.nanoseconds).u8(0).u8(0).u8(0);
        to = to.u64(self.links).u8(self.opaque).u64(0).bytes(self.target);
        // How it was reached, and what was known of its origin.
        to = (0..7).fold(to.bytes(b""), |to, _| to.u8(0)).u64(0);
        match self.place {
            None => to.u8(0).0,
            Some((parent, name)) => to.u8(1).u64(parent).bytes(name).0,
        }
    }
}

/// A file's content. The default is a sparse file of the source.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    pub data: u64,
    pub size: u64,
    pub limit: u64,
    pub dense: u64,
    pub stored: u64,
    pub filed: u8,
    pub source: Option<u64>,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            data: FIRST + 900,
            size: 10 * PAGE,
            limit: 10 * PAGE,
            dense: 0,
            stored: 0,
            filed: 0,
            source: Some(10 * PAGE),
        }
    }
}

impl Content {
    pub fn value(self) -> Vec<u8> {
        let to = Bytes::default()
            .u64(self.data)
            .u64(self.size)
            .u64(self.limit)
            .u64(self.dense)
            .u64(self.stored)
            .u8(self.filed);
        let to = match self.source {
            None => to.u8(0),
            Some(size) => to.u8(1).u64(size).time(),
        };
        to.u8(0).u8(0).0
    }
}

/// A part of a page map: all pages stored, or of this word.
pub fn chunk(stored: Option<u64>, zero: Option<u64>) -> Vec<u8> {
    let mut to = Bytes::default();
    for word in [stored, zero] {
        to = match word {
            None => to.u8(0),
            Some(u64::MAX) => to.u8(1),
            Some(word) => (0..16).fold(to.u8(2), |to, _| to.u64(word)),
        };
    }
    to.0
}

/// What `state` says.
#[derive(Debug, Clone)]
pub struct State {
    pub uuid: [u8; 16],
    pub tail: u64,
    pub first: u64,
    pub next: u64,
    pub used: u64,
    pub closed: u8,
    pub life: u64,
    pub tables: Vec<u64>,
}

impl State {
    pub fn file(&self) -> Vec<u8> {
        self.lying(self.tables.len() as u32)
    }

    /// With another number of tables than there are.
    pub fn lying(&self, count: u32) -> Vec<u8> {
        let mut to = Bytes(b"mmfsstat".to_vec())
            .raw(&self.uuid)
            .u64(self.tail)
            .u64(self.first)
            .u64(self.next)
            .u64(self.used)
            .u8(self.closed)
            .u64(self.life)
            .u32(count);
        for table in &self.tables {
            to = to.u64(*table);
        }
        to.checked()
    }

    /// Reads one that is as it was written.
    pub fn parse(file: &[u8]) -> Self {
        let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        let tables = (69..file.len() - 4).step_by(8).map(number).collect();
        Self {
            uuid: file[8..24].try_into().unwrap(),
            tail: number(24),
            first: number(32),
            next: number(40),
            used: number(48),
            closed: file[56],
            life: number(57),
            tables,
        }
    }
}

pub type Entry = (Vec<u8>, Option<Vec<u8>>);

/// The parts of a table, before checksums. A case changes them and has a file made of them.
#[derive(Debug, Clone)]
pub struct Table {
    pub number: u64,
    pub count: u64,
    pub blocks: Vec<Vec<u8>>,
    /// The first key of each block, and how long the block says it is.
    pub index: Vec<(Vec<u8>, u32)>,
    pub bloom: Vec<u8>,
    /// The last four numbers of the footer, if they are to be others.
    pub footer: [Option<u64>; 4],
}

fn entry_bytes((key, value): &Entry) -> Vec<u8> {
    let to = Bytes::default().u16(key.len() as u16).raw(key);
    let len = value.as_ref().map_or(u32::MAX, |value| value.len() as u32);
    to.u32(len).raw(value.as_deref().unwrap_or_default()).0
}

impl Table {
    /// In the order given, with blocks of about this many bytes.
    pub fn new(number: u64, entries: &[Entry], block: usize) -> Self {
        let (mut blocks, mut index) = (Vec::<Vec<u8>>::new(), Vec::new());
        for entry in entries {
            let bytes = entry_bytes(entry);
            match blocks.last_mut() {
                Some(last) if last.len() + bytes.len() <= block => last.extend(bytes),
                _ => {
                    blocks.push(bytes);
                    index.push((entry.0.clone(), 0));
                }
            }
        }
        for (block, (_, len)) in blocks.iter().zip(&mut index) {
            *len = block.len() as u32 + 4;
        }
        Self {
            number,
            count: entries.len() as u64,
            blocks,
            index,
            bloom: bloom(entries),
            footer: [None; 4],
        }
    }

    pub fn file(&self) -> Vec<u8> {
        let mut file = Vec::new();
        for block in &self.blocks {
            file.extend(Bytes(block.clone()).checked());
        }
        let index_at = file.len() as u64;
        let index = self.index.iter().fold(Bytes::default(), |to, (key, len)| {
            to.u16(key.len() as u16).raw(key).u32(*len)
        });
        let index = index.checked();
        let bloom = Bytes(self.bloom.clone()).checked();
        let (index_len, bloom_len) = (index.len() as u64, bloom.len() as u64);
        file.extend(index);
        file.extend(bloom);
        let footer = footer_of(
            self.number,
            self.count,
            [
                self.footer[0].unwrap_or(index_at),
                self.footer[1].unwrap_or(index_len),
                self.footer[2].unwrap_or(bloom_len),
                self.footer[3].unwrap_or(file.len() as u64 + 60),
            ],
        );
        file.extend(footer);
        file
    }

    /// The entries of a table's file that is as it was written.
    pub fn entries(file: &[u8]) -> Vec<Entry> {
        let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
        let short = |at: usize| u16::from_le_bytes(file[at..at + 2].try_into().unwrap()) as usize;
        let long = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let (index_at, index_len) = (number(file.len() - 36), number(file.len() - 28));
        let (mut at, mut block, mut entries) = (index_at, 0, Vec::new());
        while at < index_at + index_len - 4 {
            at += 2 + short(at);
            let end = block + long(at) as usize;
            while block < end - 4 {
                let key = file[block + 2..block + 2 + short(block)].to_vec();
                block += 2 + key.len();
                let len = long(block);
                block += 4;
                let value = (len != u32::MAX).then(|| file[block..block + len as usize].to_vec());
                block += value.as_ref().map_or(0, Vec::len);
                entries.push((key, value));
            }
            (at, block) = (at + 4, end);
        }
        entries
    }
}

pub fn footer_of(number: u64, count: u64, places: [u64; 4]) -> Vec<u8> {
    let to = Bytes(b"mmfstabl".to_vec()).u64(number).u64(count);
    places.iter().fold(to, |to, place| to.u64(*place)).checked()
}

fn bloom(entries: &[Entry]) -> Vec<u8> {
    let words = (entries.len() as u64 * 10).div_ceil(64).max(1);
    let mut bits = vec![0u8; words as usize * 8];
    for (key, _) in entries {
        let hash = XxHash3_64::oneshot(key);
        let step = hash.rotate_right(32) | 1;
        for n in 0..6u64 {
            let bit = hash.wrapping_add(n.wrapping_mul(step)) % (words * 64);
            bits[bit as usize / 8] |= 1 << (bit % 8);
        }
    }
    bits
}

/// A tail of these payloads.
pub fn tail(uuid: &[u8; 16], number: u64, first: u64, payloads: &[Vec<u8>]) -> Vec<u8> {
    let salt = 0x5a17;
    let header = Bytes(b"mmfstail".to_vec())
        .raw(uuid)
        .u64(number)
        .u64(salt)
        .u64(first);
    let mut file = header.checked();
    for (payload, number) in payloads.iter().zip(first..) {
        let sum = Bytes::default().u64(salt).u64(number).raw(payload).0;
        let frame = Bytes::default()
            .u32(payload.len() as u32)
            .u32(crc32fast::hash(&sum));
        file.extend(frame.raw(payload).0);
    }
    file
}

/// The payloads of a tail that is as it was written, and the number of its first record.
pub fn payloads(file: &[u8]) -> (u64, Vec<Vec<u8>>) {
    let first = u64::from_le_bytes(file[40..48].try_into().unwrap());
    let (mut at, mut all) = (52, Vec::new());
    while at + 8 <= file.len() {
        let len = u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        if len == 0 || at + 8 + len > file.len() {
            break;
        }
        all.push(file[at + 8..at + 8 + len].to_vec());
        at += 8 + len;
    }
    (first, all)
}

/// Records, as payloads.
pub mod record {
    use super::Bytes;

    /// Class M, of changes that are encoded.
    pub fn meta(changes: &[Bytes]) -> Vec<u8> {
        let to = Bytes(vec![1]).u16(changes.len() as u16);
        changes.iter().fold(to, |to, change| to.raw(&change.0)).0
    }

    pub fn make(id: u64, node: &super::Node<'_>) -> Bytes {
        Bytes(vec![1]).u64(id).raw(&node.value())
    }

    pub fn name(directory: u64, name: &[u8], to: Option<u64>) -> Bytes {
        let bytes = Bytes(vec![5]).u64(directory).bytes(name).u8(0);
        match to {
            None => bytes.u8(0),
            Some(id) => bytes.u8(1).u64(id),
        }
    }

    pub fn truncate(id: u64, data: u64, size: u64) -> Bytes {
        Bytes(vec![7]).u64(id).u64(data).u64(size).u8(0).time()
    }

    /// Class D: pages.
    pub fn written(id: u64, data: u64, first: u64, count: u64, stored: u8, size: u64) -> Vec<u8> {
        let to = Bytes(vec![2]).u64(id).u64(data).u64(first).u64(count);
        to.u8(stored).u64(size).u8(0).time().0
    }

    pub fn whole(id: u64, data: u64) -> Vec<u8> {
        Bytes(vec![3]).u64(id).u64(data).0
    }

    pub fn sync(upto: u64, count: u32, nodes: &[u64]) -> Vec<u8> {
        let to = Bytes(vec![4]).u64(upto).u32(count);
        nodes.iter().fold(to, |to, node| to.u64(*node)).0
    }
}
