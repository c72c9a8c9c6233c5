//! A table: keys and values of the state, sorted, in a file that is written once and never changed.
//!
//! Blocks of about 4 KiB, each with its checksum; then the index (each block's first key), a Bloom filter and a footer. The index
//! and the filter are in memory: the filter has ten bits for each key.

use std::cmp::Ordering;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bloom::{Bloom, hash};
use super::codec::{Reader, Writer, damaged};
use super::disk::{Disk, DiskFile, How};

/// A key with its value. None: the key is gone, whatever an older table says.
pub type Entry = (Vec<u8>, Option<Vec<u8>>);

const MAGIC: &[u8; 8] = b"mmfstabl";
const FOOTER: usize = 60;
const BLOCK: usize = 4096;
const GONE: u32 = u32::MAX;
/// No block is longer: a value has 64 KiB and a little at most.
const MAX_BLOCK: u32 = 1 << 20;

/// Below `tables`, by its number.
pub fn path(number: u64) -> PathBuf {
    Path::new("tables").join(format!("{number:x}"))
}

/// An open table.
pub struct Table {
    number: u64,
    file: Arc<dyn DiskFile>,
    len: u64,
    count: u64,
    index: Index,
    bloom: Bloom,
}

impl Table {
    /// Opens table `number` of this store, and checks its index and filter. Blocks are checked when they are read.
    ///
    /// # Errors
    /// EUCLEAN if it is not as it was written.
    pub fn open(disk: &dyn Disk, number: u64) -> io::Result<Self> {
        let file = disk.open(&path(number), How::Read)?;
        let len = file.size()?;
        let mut footer = [0; FOOTER];
        let at = len.checked_sub(FOOTER as u64).ok_or_else(damaged)?;
        if file.read_full_at(&mut footer, at)? != FOOTER {
            return Err(damaged());
        }
        let mut from = Reader(checked(&footer)?);
        let (magic, own, count) = (from.raw(8)?, from.u64()?, from.u64()?);
        let (index_at, index_len, bloom_len, file_len) =
            (from.u64()?, from.u64()?, from.u64()?, from.u64()?);
        let adds_up = index_at
            .checked_add(index_len)
            .and_then(|n| n.checked_add(bloom_len))
            == Some(at);
        if magic != MAGIC
            || own != number
            || file_len != len
            || !adds_up
            || bloom_len > len
            || index_len > len
            // A hole costs a hostile store nothing, and would take memory here.
            || file.seek_hole(index_at).is_ok_and(|hole| hole < len)
        {
            return Err(damaged());
        }
        let index = Index::decode(&read(&*file, index_at, index_len)?, index_at)?;
        let bloom = Bloom::decode(&read(&*file, index_at + index_len, bloom_len)?)?;
        Ok(Self {
            number,
            file,
            len,
            count,
            index,
            bloom,
        })
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// How many keys it has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What the table says of a key. None: nothing.
    ///
    /// # Errors
    /// EUCLEAN for a damaged block, or that of the read.
    pub fn get(&self, key: &[u8], hash: u64) -> io::Result<Option<Option<Vec<u8>>>> {
        if !self.bloom.may_have(hash) {
            return Ok(None);
        }
        let Some(block) = self.index.find(key) else {
            return Ok(None);
        };
        let bytes = self.block(block)?;
        let mut from = Reader(&bytes);
        while !from.0.is_empty() {
            let (found, value) = entry(&mut from)?;
            match found.cmp(key) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(value.map(<[u8]>::to_vec))),
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// The entries with a key that begins with `prefix` and lies after `after`: up to `limit`, or so many KiB, but at least one.
    /// True: there are more.
    ///
    /// # Errors
    /// EUCLEAN for a damaged block, or that of the read.
    pub fn range(
        &self,
        prefix: &[u8],
        after: &Bound<Vec<u8>>,
        limit: usize,
    ) -> io::Result<(Vec<Entry>, bool)> {
        let start = match after {
            Bound::Included(key) | Bound::Excluded(key) => key.as_slice(),
            Bound::Unbounded => prefix,
        };
        let (mut found, mut size) = (Vec::new(), 0usize);
        for block in self.index.find(start).unwrap_or(0)..self.index.len() {
            let bytes = self.block(block)?;
            let mut from = Reader(&bytes);
            while !from.0.is_empty() {
                let (key, value) = entry(&mut from)?;
                let before = match after {
                    Bound::Included(after) => key < after.as_slice(),
                    Bound::Excluded(after) => key <= after.as_slice(),
                    Bound::Unbounded => false,
                };
                if before || (key < prefix && !key.starts_with(prefix)) {
                    continue;
                }
                if !key.starts_with(prefix) {
                    return Ok((found, false));
                }
                if found.len() == limit || size >= limit.saturating_mul(1024) {
                    return Ok((found, true));
                }
                size += key.len() + value.map_or(0, <[u8]>::len);
                found.push((key.to_vec(), value.map(<[u8]>::to_vec)));
            }
        }
        Ok((found, false))
    }

    /// All entries, block by block.
    pub fn entries(self: &Arc<Self>) -> Entries {
        Entries {
            table: Arc::clone(self),
            block: 0,
            bytes: Vec::new(),
            at: 0,
            last: None,
        }
    }

    /// The bytes of a block, which are as they were written.
    fn block(&self, number: usize) -> io::Result<Vec<u8>> {
        let (at, len) = self.index.place(number);
        read(&*self.file, at, len)
    }
}

/// The entries of one table in order, for a merge and for `check`.
pub struct Entries {
    table: Arc<Table>,
    block: usize,
    /// The block before `block`, and how far it was taken.
    bytes: Vec<u8>,
    at: usize,
    last: Option<Vec<u8>>,
}

impl Entries {
    /// Whether a look-up of `key`, which was the last entry, comes to it.
    pub fn is_found(&self, key: &[u8]) -> bool {
        self.table.bloom.may_have(hash(key))
            && self.table.index.find(key).map(|block| block + 1) == Some(self.block)
    }

    fn take(&mut self) -> io::Result<Entry> {
        let mut from = Reader(&self.bytes[self.at..]);
        let (key, value) = entry(&mut from)?;
        // A table whose keys are not in order would hide some of them.
        if self.last.as_deref().is_some_and(|last| last >= key) {
            return Err(damaged());
        }
        let (key, value) = (key.to_vec(), value.map(<[u8]>::to_vec));
        self.at = self.bytes.len() - from.0.len();
        self.last = Some(key.clone());
        Ok((key, value))
    }
}

impl Iterator for Entries {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.at < self.bytes.len() {
                return Some(self.take());
            }
            if self.block == self.table.index.len() {
                return None;
            }
            self.block += 1;
            match self.table.block(self.block - 1) {
                Ok(bytes) => (self.bytes, self.at) = (bytes, 0),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn entry<'a>(from: &mut Reader<'a>) -> io::Result<(&'a [u8], Option<&'a [u8]>)> {
    let len = from.u16()?;
    let key = from.raw(len.into())?;
    let value = match from.u32()? {
        GONE => None,
        len => Some(from.raw(len as usize)?),
    };
    Ok((key, value))
}

/// Writes a table.
pub struct Builder<'a> {
    disk: &'a dyn Disk,
    number: u64,
    file: Arc<dyn DiskFile>,
    /// Bytes that wait to be written, and where.
    buffer: Vec<u8>,
    at: u64,
    block: Writer,
    first_key: Vec<u8>,
    block_len: usize,
    index: Writer,
    hashes: Vec<u64>,
}

impl<'a> Builder<'a> {
    /// Begins table `number`. What had this number before is no table of the state, and goes.
    ///
    /// # Errors
    /// That of the call that failed.
    pub fn new(disk: &'a dyn Disk, number: u64) -> io::Result<Self> {
        let file = disk.open(&path(number), How::Empty)?;
        let (buffer, block, index) = (Vec::new(), Writer::default(), Writer::default());
        let (first_key, hashes) = (Vec::new(), Vec::new());
        Ok(Self {
            disk,
            number,
            file,
            buffer,
            at: 0,
            block,
            first_key,
            block_len: 0,
            index,
            hashes,
        })
    }

    /// Adds an entry. Keys come in order.
    ///
    /// # Errors
    /// That of the write.
    pub fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        let len = 6 + key.len() + value.map_or(0, <[u8]>::len);
        if self.block_len > 0 && self.block_len + len > BLOCK - 4 {
            self.end_block()?;
        }
        if self.block_len == 0 {
            self.first_key = key.to_vec();
        }
        self.block
            .u16(key.len() as u16)
            .raw(key)
            .u32(value.map_or(GONE, |value| value.len() as u32));
        self.block.raw(value.unwrap_or_default());
        self.block_len += len;
        self.hashes.push(hash(key));
        Ok(())
    }

    /// Writes the rest, makes the table durable and opens it.
    ///
    /// # Errors
    /// That of the call that failed.
    pub fn finish(mut self) -> io::Result<Table> {
        if self.block_len > 0 {
            self.end_block()?;
        }
        let index_at = self.at + self.buffer.len() as u64;
        let index = with_checksum(self.index.done());
        let bloom = with_checksum(Bloom::new(&self.hashes).encode());
        let mut footer = Writer::default();
        footer
            .raw(MAGIC)
            .u64(self.number)
            .u64(self.hashes.len() as u64);
        footer
            .u64(index_at)
            .u64(index.len() as u64)
            .u64(bloom.len() as u64);
        footer.u64(index_at + (index.len() + bloom.len() + FOOTER) as u64);
        self.buffer.extend(index);
        self.buffer.extend(bloom);
        self.buffer.extend(with_checksum(footer.done()));
        self.write()?;
        self.file.sync()?;
        self.disk.sync_directory(Path::new("tables"))?;
        Table::open(self.disk, self.number)
    }

    fn end_block(&mut self) -> io::Result<()> {
        let block = with_checksum(self.block.done());
        self.index
            .u16(self.first_key.len() as u16)
            .raw(&self.first_key)
            .u32(block.len() as u32);
        self.buffer.extend(block);
        self.block_len = 0;
        if self.buffer.len() >= 1 << 20 {
            self.write()
        } else {
            Ok(())
        }
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Where the blocks are, and the first key of each.
struct Index {
    keys: Vec<u8>,
    /// Of each block: where its first key begins in `keys`, and its place in the file. One more for the end.
    blocks: Vec<(u32, u64)>,
    /// Of each block the first bytes of its first key. Most comparisons end here, in a few lines of the processor's cache: a
    /// lookup among a million nodes took 6.0 us without, and 2.8 among a thousand.
    heads: Vec<u128>,
}

/// The first bytes of a key as a number that is sorted as they are.
fn head(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let len = key.len().min(16);
    bytes[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(bytes)
}

impl Index {
    fn decode(bytes: &[u8], blocks_len: u64) -> io::Result<Self> {
        let (mut from, mut at) = (Reader(bytes), 0);
        let mut index = Self {
            keys: Vec::new(),
            blocks: Vec::new(),
            heads: Vec::new(),
        };
        while !from.0.is_empty() {
            let len = from.u16()?;
            index
                .blocks
                .push((u32::try_from(index.keys.len()).map_err(|_| damaged())?, at));
            let key = from.raw(len.into())?;
            index.keys.extend_from_slice(key);
            index.heads.push(head(key));
            let len = from.u32()?;
            if !(4..=MAX_BLOCK).contains(&len) {
                return Err(damaged());
            }
            at += u64::from(len);
        }
        index
            .blocks
            .push((u32::try_from(index.keys.len()).map_err(|_| damaged())?, at));
        let in_order = (1..index.len()).all(|block| index.key(block - 1) < index.key(block));
        if at == blocks_len && in_order {
            Ok(index)
        } else {
            Err(damaged())
        }
    }

    fn len(&self) -> usize {
        self.blocks.len() - 1
    }

    fn key(&self, block: usize) -> &[u8] {
        &self.keys[self.blocks[block].0 as usize..self.blocks[block + 1].0 as usize]
    }

    fn place(&self, block: usize) -> (u64, u64) {
        let (at, end) = (self.blocks[block].1, self.blocks[block + 1].1);
        (at, end - at)
    }

    /// The block that has this key, if any has.
    fn find(&self, key: &[u8]) -> Option<usize> {
        let wanted = head(key);
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            let before = match self.heads[middle].cmp(&wanted) {
                Ordering::Equal => self.key(middle) <= key,
                other => other == Ordering::Less,
            };
            if before {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }
}

/// `bytes` with their checksum behind them.
pub fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// What stands before the checksum.
///
/// # Errors
/// EUCLEAN if the checksum is another.
pub fn checked(bytes: &[u8]) -> io::Result<&[u8]> {
    let len = bytes.len().checked_sub(4).ok_or_else(damaged)?;
    let (bytes, mut checksum) = (&bytes[..len], Reader(&bytes[len..]));
    if crc32fast::hash(bytes) == checksum.u32()? {
        Ok(bytes)
    } else {
        Err(damaged())
    }
}

fn read(file: &dyn DiskFile, at: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| damaged())?];
    if file.read_full_at(&mut bytes, at)? != bytes.len() {
        return Err(damaged());
    }
    let len = checked(&bytes)?.len();
    bytes.truncate(len);
    Ok(bytes)
}
