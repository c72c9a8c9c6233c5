//! The file `state`: which tables and which tail count. Each barrier replaces it as a whole.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use super::codec::{Reader, Writer, damaged};
use super::disk::{Disk, How};
use super::table::{checked, with_checksum};

const MAGIC: &[u8; 8] = b"mmfsstat";
/// More tables than a store ever has: each is three times as long as all newer ones together.
pub const MAX_TABLES: usize = 64;
/// Tails, tables and records are counted from 1, and none has a number as high.
const MAX_NUMBER: u64 = 1 << 62;
/// Where numbers of nodes and data files end for a store that is opened. What lies behind is left for that opening.
const LAST: u64 = (1 << 63) - (1 << 32);

/// What the file `state` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The numbers of the tables, the newest first.
    pub tables: Vec<u64>,
    /// The number of the first tail that counts. Those with the next numbers follow it.
    pub tail: u64,
    /// The number of the first record of that tail.
    pub first: u64,
    /// The next number for a node or data file.
    pub next: u64,
    /// Bytes that count for a limit.
    pub used: u64,
    /// The store was closed, and no tail counts.
    pub closed: bool,
    /// A random number for each opening. The cookie of that opening has it too.
    pub life: u64,
}

impl Manifest {
    /// Reads the file `state` of the store `uuid`.
    ///
    /// # Errors
    /// EUCLEAN if it is not as it was written.
    pub fn read(disk: &dyn Disk, uuid: &[u8; 16]) -> io::Result<Self> {
        let file = disk.open(Path::new("state"), How::Read)?;
        let mut bytes = vec![0; 128 + 8 * MAX_TABLES];
        let len = file.read_full_at(&mut bytes, 0)?;
        let mut from = Reader(checked(&bytes[..len])?);
        if from.raw(8)? != MAGIC || from.raw(16)? != uuid {
            return Err(damaged());
        }
        let (tail, first, next, used) = (from.u64()?, from.u64()?, from.u64()?, from.u64()?);
        let (closed, life, count) = (from.bool()?, from.u64()?, from.u32()?);
        let tables: Vec<u64> = (0..count).map(|_| from.u64()).collect::<io::Result<_>>()?;
        from.end()?;
        let counted = |number: &u64| (1..MAX_NUMBER).contains(number);
        let distinct: HashSet<_> = tables.iter().collect();
        let sound = count as usize <= MAX_TABLES
            && distinct.len() == tables.len()
            && tables.iter().chain([&tail, &first]).all(counted)
            && (super::NodeId::FIRST..LAST).contains(&next);
        if !sound {
            return Err(damaged());
        }
        Ok(Self {
            tables,
            tail,
            first,
            next,
            used,
            closed,
            life,
        })
    }

    /// Replaces the file `state`, durably.
    ///
    /// # Errors
    /// That of the call that failed. The old file counts then, unless the last sync was what failed: either may count.
    pub fn write(&self, disk: &dyn Disk, uuid: &[u8; 16]) -> io::Result<()> {
        let mut to = Writer::default();
        to.raw(MAGIC)
            .raw(uuid)
            .u64(self.tail)
            .u64(self.first)
            .u64(self.next)
            .u64(self.used);
        to.u8(u8::from(self.closed))
            .u64(self.life)
            .u32(self.tables.len() as u32);
        for table in &self.tables {
            to.u64(*table);
        }
        let new = Path::new("state.new");
        let file = disk.open(new, How::Empty)?;
        file.write_all_at(&with_checksum(to.done()), 0)?;
        file.sync()?;
        disk.rename(new, Path::new("state"))?;
        disk.sync_directory(Path::new(""))
    }
}
