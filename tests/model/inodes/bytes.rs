//! The bytes of files.

use std::ops::Range;

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, Result};

use super::{Body, Ino, Inodes, Stamp};

/// Holes and data are distinguished in units of this many bytes.
pub const PAGE: usize = 4096;

impl Inodes {
    /// The bytes of a file.
    pub fn bytes(&self, ino: Ino) -> Result<&[u8]> {
        match &self.get(ino)?.body {
            Body::File(bytes) => Ok(bytes),
            Body::Directory(_) => Err(Errno::ISDIR),
            _ => Err(Errno::INVAL),
        }
    }

    /// The length of a file; of anything else, nothing.
    pub fn size(&self, ino: Ino) -> u64 {
        self.bytes(ino).map_or(0, |bytes| bytes.len() as u64)
    }

    /// Changes the bytes of a file.
    fn modify(&mut self, ino: Ino, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        self.bytes(ino)?;
        if let Body::File(bytes) = &mut self.get_mut(ino)?.body {
            change(bytes);
        }
        self.modified(ino, Stamp::Recent);
        Ok(())
    }

    /// Up to `len` bytes from `at` on, fewer at the end.
    pub fn slice(&self, ino: Ino, at: u64, len: usize) -> Result<&[u8]> {
        let bytes = self.bytes(ino)?;
        let start = index(at).min(bytes.len());
        Ok(&bytes[start..start.saturating_add(len).min(bytes.len())])
    }

    pub fn write(&mut self, ino: Ino, at: u64, data: &[u8]) -> Result<usize> {
        if !data.is_empty() {
            let start = index(at);
            self.modify(ino, |bytes| {
                bytes.resize(bytes.len().max(start + data.len()), 0);
                bytes[start..start + data.len()].copy_from_slice(data);
            })?;
        }
        Ok(data.len())
    }

    pub fn resize(&mut self, ino: Ino, len: u64) -> Result<()> {
        self.modify(ino, |bytes| bytes.resize(index(len), 0))
    }

    pub fn allocate(&mut self, ino: Ino, how: FallocateFlags, start: u64, len: u64) -> Result<()> {
        let (punch, zero) = (FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE);
        let keep = how.contains(FallocateFlags::KEEP_SIZE);
        let known = punch | zero | FallocateFlags::KEEP_SIZE;
        if how.intersects(known.complement()) || how.contains(punch) && !keep {
            return Err(Errno::OPNOTSUPP);
        }
        if len == 0 {
            return Err(Errno::INVAL);
        }
        let (start, end) = (index(start), index(start.saturating_add(len)));
        self.modify(ino, |bytes| {
            if !keep {
                bytes.resize(bytes.len().max(end), 0);
            }
            if how.intersects(punch | zero) {
                let end = bytes.len().min(end);
                bytes[start.min(end)..end].fill(0);
            }
        })?;
        // Filesystems differ here.
        self.change(ino, |inode| inode.mtime = Stamp::Unknown)
    }

    pub fn copy(
        &mut self,
        (from, start): (Ino, u64),
        (to, target): (Ino, u64),
        len: usize,
    ) -> Result<usize> {
        let data = self.slice(from, start, len)?.to_vec();
        let count = data.len() as u64;
        if from == to && target + count > start && target < start + count {
            return Err(Errno::INVAL);
        }
        self.write(to, target, &data)
    }

    /// The first data, or the first hole, from `at` on. A page of zeros is a hole, and so is the end.
    pub fn seek(&self, ino: Ino, at: u64, hole: bool) -> Result<u64> {
        let bytes = self.bytes(ino)?;
        let at = index(at);
        if at >= bytes.len() {
            return Err(Errno::NXIO);
        }
        let is_hole = |page: &Range<usize>| bytes[page.clone()].iter().all(|byte| *byte == 0);
        let starts = (at / PAGE * PAGE..bytes.len()).step_by(PAGE);
        let mut pages = starts.map(|start| start..(start + PAGE).min(bytes.len()));
        match pages.find(|page| is_hole(page) == hole) {
            Some(page) => Ok(page.start.max(at) as u64),
            None if hole => Ok(bytes.len() as u64),
            None => Err(Errno::NXIO),
        }
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("files are small")
}
