//! The tail: a file of all records since the last barrier. Each barrier begins a new one.
//!
//! A header, then records: the length of the payload and its checksum, four bytes each, and the payload. The checksum covers the
//! tail's salt and the record's number too, so bytes of another tail, or of a record that was written over, are no record.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::codec::{Reader, Writer, damaged};
use super::disk::{Disk, DiskFile, How};
use super::table::{checked, with_checksum};

const MAGIC: &[u8; 8] = b"mmfstail";
const HEADER: usize = 8 + 16 + 8 + 8 + 8 + 4;
/// So many bytes beyond the records are allocated in advance, and only records that free something may use them: what
/// unlink(2), truncate(2) and fsync(2) record finds room in a full filesystem.
const RESERVE: u64 = 1 << 20;
/// What a record may use of the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserve {
    /// Nothing.
    None,
    /// Up to half of it: what frees nothing, and is to go on in a full filesystem.
    Half,
    /// Almost all: what frees something.
    Most,
    /// All: what makes other records durable, so that they free what they free.
    All,
}

impl Reserve {
    /// Bytes of the reserve that have to be left.
    fn left(self) -> u64 {
        match self {
            Self::None => RESERVE,
            Self::Half => RESERVE / 2,
            Self::Most => RESERVE / 16,
            Self::All => 0,
        }
    }
}

/// Bytes that are allocated in one call.
const STEP: u64 = 256 << 10;
/// Before each payload: length and checksum.
const FRAME: usize = 8;
/// The longest payload: many changes with an extended attribute of 64 KiB among them stay below it.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// No tail is longer: barriers keep it far below. A longer one was not written by mmfs.
const MAX_TAIL: u64 = 256 << 20;
/// A tail that barriers do not end is not made longer: two of them are read when the store is opened.
const FULL: u64 = 100 << 20;

/// Below `tails`, by its number.
pub fn path(number: u64) -> PathBuf {
    Path::new("tails").join(format!("{number:x}"))
}

/// The tail that is written to.
pub struct Tail {
    number: u64,
    file: Arc<dyn DiskFile>,
    salt: u64,
    /// The number of the next record.
    next: u64,
    end: u64,
    /// Bytes for which there is room. u64::MAX: the filesystem cannot allocate in advance.
    allocated: u64,
}

impl Tail {
    /// What stands for the tail of a store that has none yet: `file` is not written to.
    pub fn unwritten(number: u64, next: u64, file: Arc<dyn DiskFile>) -> Self {
        Self {
            number,
            file,
            salt: 0,
            next,
            end: HEADER as u64,
            allocated: 0,
        }
    }

    /// Makes the file of tail `number`, with its reserve. Its header is written by [`Tail::begin`].
    ///
    /// # Errors
    /// That of the call that failed. ENOSPC or EDQUOT: there is no room for the reserve, and it is needed.
    pub fn make(disk: &dyn Disk, number: u64, salt: u64, needs_reserve: bool) -> io::Result<Self> {
        let file = disk.open(&path(number), How::Empty)?;
        disk.sync_directory(Path::new("tails"))?;
        let mut tail = Self {
            number,
            file,
            salt,
            next: 0,
            end: HEADER as u64,
            allocated: 0,
        };
        match tail.allocate(0) {
            Err(error) if needs_reserve => return Err(error),
            Err(_) => tail.allocate_what_there_is(),
            Ok(()) => {}
        }
        Ok(tail)
    }

    /// A smaller reserve, on a disk that has no room for all of it: so there is one for what frees something.
    fn allocate_what_there_is(&mut self) {
        let fits = |len: &u64| self.file.allocate(self.end, *len).is_ok();
        if let Some(len) = [RESERVE / 2, RESERVE / 4, RESERVE / 8]
            .into_iter()
            .find(fits)
        {
            self.allocated = self.end + len;
        } else {
            self.give_back();
        }
    }

    /// Gives back what was allocated by a call that failed: on ext4 it keeps all that there was.
    fn give_back(&self) {
        // If that fails too, it goes with the file.
        let _ = self.file.set_len(self.allocated.max(self.end));
    }

    /// Writes the header: from now on the next record is record `first` of the store `uuid`.
    ///
    /// # Errors
    /// That of the write.
    pub fn begin(&mut self, uuid: &[u8; 16], first: u64) -> io::Result<()> {
        let mut to = Writer::default();
        let header = to
            .raw(MAGIC)
            .raw(uuid)
            .u64(self.number)
            .u64(self.salt)
            .u64(first)
            .done();
        self.file.write_all_at(&with_checksum(header), 0)?;
        self.next = first;
        Ok(())
    }

    /// Appends a record and returns its number. `reserve`: what it may use of it.
    ///
    /// # Errors
    /// That of the write, or of keeping the reserve. ENOSPC too for a tail that has grown too long. The record does not count then,
    /// and the next takes its place.
    pub fn append(&mut self, payload: &[u8], reserve: Reserve) -> io::Result<u64> {
        let len = (FRAME + payload.len()) as u64;
        if self.end + len > FULL {
            return Err(Errno::NOSPC.into());
        }
        if let Err(error) = self.allocate(len) {
            if reserve != Reserve::All && self.end + len + reserve.left() > self.allocated {
                return Err(error);
            }
        }
        let mut to = Writer::default();
        to.u32(payload.len() as u32)
            .u32(checksum(self.salt, self.next, payload))
            .raw(payload);
        self.file.write_all_at(&to.done(), self.end)?;
        self.end += (FRAME + payload.len()) as u64;
        self.next += 1;
        Ok(self.next - 1)
    }

    /// Whether what frees nothing may use the reserve for a small record.
    pub fn has_half(&self) -> bool {
        const SMALL: u64 = 1 << 10;
        let needed = self.end + SMALL;
        needed + Reserve::Half.left() <= self.allocated && needed <= FULL
    }

    /// Keeps the reserve beyond the next `len` bytes.
    fn allocate(&mut self, len: u64) -> io::Result<()> {
        let needed = self.end + len + RESERVE;
        if needed <= self.allocated {
            return Ok(());
        }
        // Records may be beyond what was allocated, which would make zeros of them.
        let from = self.allocated.max(self.end);
        let len = (needed - from).next_multiple_of(STEP);
        match self.file.allocate(from, len) {
            Ok(()) => self.allocated = from + len,
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                self.allocated = u64::MAX
            }
            Err(error) => {
                self.give_back();
                return Err(error);
            }
        }
        Ok(())
    }

    /// As if no room had been allocated, for tests.
    #[cfg(test)]
    pub fn forget_allocated(&mut self) {
        self.allocated = 0;
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The number of the record that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Bytes of its records.
    pub fn size(&self) -> u64 {
        self.end - HEADER as u64
    }

    /// Its file, to make it durable.
    pub fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }
}

fn checksum(salt: u64, number: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&number.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// A tail as it was found.
pub struct Found {
    /// The header and the whole records.
    bytes: Vec<u8>,
    torn: u64,
    /// The number of its first record. None: the header is not there or not whole, and so there are no records.
    pub first: Option<u64>,
}

/// Bytes of a tail that are read in one step.
const READ: usize = 1 << 20;

impl Found {
    /// Reads tail `number` up to the first record that is not whole: what lies behind, and may be a hole, takes no memory. One
    /// that is not there has no records.
    ///
    /// # Errors
    /// EUCLEAN if it is longer than any tail, or that of the read.
    pub fn read(disk: &dyn Disk, uuid: &[u8; 16], number: u64) -> io::Result<Self> {
        let mut found = Self {
            bytes: Vec::new(),
            torn: 0,
            first: None,
        };
        let file = match disk.open(&path(number), How::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            other => other?,
        };
        let len = file.size()?;
        if len > MAX_TAIL {
            return Err(damaged());
        }
        let mut bytes = vec![0; HEADER];
        if file.read_full_at(&mut bytes, 0)? < HEADER {
            return Ok(found);
        }
        let Ok(header) = checked(&bytes) else {
            return Ok(found);
        };
        let mut from = Reader(header);
        let ours = from.raw(8)? == MAGIC && from.raw(16)? == uuid && from.u64()? == number;
        let (salt, first) = (from.u64()?, from.u64()?);
        if !ours {
            return Ok(found);
        }
        found.first = Some(first);
        let (mut whole, mut next) = (HEADER, first);
        loop {
            let mut buffer = vec![0; READ.min(len as usize)];
            let read = file.read_full_at(&mut buffer, bytes.len() as u64)?;
            bytes.extend_from_slice(&buffer[..read]);
            let at = whole;
            for (number, payload) in frames(&bytes[whole..], Some(next)) {
                if checksum(salt, number, payload.1) != payload.0 {
                    break;
                }
                whole += FRAME + payload.1.len();
                next = number.saturating_add(1);
            }
            // A record is not longer than what was read twice.
            if read < buffer.len() || (whole == at && bytes.len() - whole > FRAME + MAX_PAYLOAD) {
                break;
            }
        }
        // What was allocated and not used yet reads as zeros.
        let torn = bytes[whole..].iter().rposition(|byte| *byte != 0);
        found.torn = torn.map_or(0, |last| last as u64 + 1);
        bytes.truncate(whole);
        bytes.shrink_to_fit();
        found.bytes = bytes;
        Ok(found)
    }

    /// The payloads of its records, each with its number, up to the first that is not whole.
    pub fn records(&self) -> impl Iterator<Item = (u64, &[u8])> {
        frames(self.bytes.get(HEADER..).unwrap_or_default(), self.first)
            .map(|(number, (_, payload))| (number, payload))
    }

    /// Bytes behind its last whole record.
    pub fn torn(&self) -> u64 {
        self.torn
    }

    /// Bytes of memory that it takes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// The records in these bytes, the first of which has the number `next`: checksum and payload, which may not fit each other.
fn frames(bytes: &[u8], mut next: Option<u64>) -> impl Iterator<Item = (u64, (u32, &[u8]))> {
    let mut from = Reader(bytes);
    std::iter::from_fn(move || {
        let number = next?;
        let (len, sum) = (from.u32().ok()?, from.u32().ok()?);
        if len == 0 || len as usize > MAX_PAYLOAD {
            return None;
        }
        let payload = from.raw(len as usize).ok()?;
        next = number.checked_add(1);
        Some((number, (sum, payload)))
    })
}
