//! The reference's files: opening them, and their bytes.

use rustix::fs::{FallocateFlags, OFlags, RenameFlags};
use rustix::io::Errno;

use super::super::command::{Answer, At, Bytes, Data, Place, Stamp};
use super::{Body, Handle, Reference, Result};

impl Reference {
    pub(super) fn open(
        &mut self,
        slot: usize,
        path: &Place,
        flags: OFlags,
        mode: u32,
    ) -> Result<()> {
        self.handles[slot] = None;
        let ino = self.find_or_create(path, flags, mode)?;
        self.handles[slot] = Some(Handle { ino, flags });
        Ok(())
    }

    pub(super) fn find_or_create(
        &mut self,
        path: &Place,
        flags: OFlags,
        mode: u32,
    ) -> Result<usize> {
        let create = flags.contains(OFlags::CREATE);
        let exclusive = create && flags.contains(OFlags::EXCL);
        let found = self.find(path, !exclusive && !flags.contains(OFlags::NOFOLLOW))?;
        let Some(ino) = found.ino else {
            if !create {
                return Err(Errno::NOENT);
            }
            let ino = self.create(Body::File(Vec::new()), mode & !0o022);
            self.enter(found.dir, &found.name, Some(ino));
            return Ok(ino);
        };
        let (write, truncate) = (is_writable(flags), flags.contains(OFlags::TRUNC));
        match &mut self.inodes[ino].body {
            _ if exclusive => return Err(Errno::EXIST),
            Body::Symlink(_) => return Err(Errno::LOOP),
            Body::Directory(_) if create || write || truncate => return Err(Errno::ISDIR),
            Body::File(bytes) if truncate => {
                bytes.clear();
                self.inodes[ino].mtime = Stamp::Recent;
            }
            _ => {}
        }
        Ok(ino)
    }

    // The bytes of a file; of a directory that was opened, none.
    pub(super) fn bytes(&self, ino: usize) -> &[u8] {
        match &self.inodes[ino].body {
            Body::File(bytes) => bytes,
            _ => &[],
        }
    }

    pub(super) fn size(&self, ino: usize) -> u64 {
        self.bytes(ino).len() as u64
    }

    // To write to; that moves mtime.
    pub(super) fn bytes_mut(&mut self, ino: usize) -> &mut Vec<u8> {
        let inode = &mut self.inodes[ino];
        inode.mtime = Stamp::Recent;
        match &mut inode.body {
            Body::File(bytes) => bytes,
            _ => unreachable!("no directory is open for writing"),
        }
    }

    pub(super) fn read(&self, handle: Handle, at: At, len: usize) -> Result<Bytes> {
        if !is_readable(handle.flags) {
            return Err(Errno::BADF);
        }
        if self.is_dir(handle.ino) {
            return Err(Errno::ISDIR);
        }
        Ok(Bytes(self.slice(handle.ino, at, len).to_vec()))
    }

    pub(super) fn slice(&self, ino: usize, at: At, len: usize) -> &[u8] {
        let bytes = self.bytes(ino);
        let start = index(at.in_file_of(bytes.len() as u64)).min(bytes.len());
        &bytes[start..(start + len).min(bytes.len())]
    }

    pub(super) fn write(&mut self, handle: Handle, at: At, data: Data) -> Result<usize> {
        if !is_writable(handle.flags) {
            return Err(Errno::BADF);
        }
        let size = self.size(handle.ino);
        let at = if handle.flags.contains(OFlags::APPEND) {
            size
        } else {
            at.in_file_of(size)
        };
        Ok(self.put(handle.ino, at, data.bytes()))
    }

    pub(super) fn put(&mut self, ino: usize, at: u64, data: &[u8]) -> usize {
        if !data.is_empty() {
            let (bytes, start) = (self.bytes_mut(ino), index(at));
            bytes.resize(bytes.len().max(start + data.len()), 0);
            bytes[start..start + data.len()].copy_from_slice(data);
        }
        data.len()
    }

    pub(super) fn map_read(&self, handle: Handle, at: At, len: usize) -> Result<Answer> {
        match self.slice(handle.ino, at, len) {
            [] => Ok(Answer::Skipped),
            _ if !is_readable(handle.flags) => Err(Errno::ACCESS),
            bytes => Ok(Answer::Bytes(Bytes(bytes.to_vec()))),
        }
    }

    pub(super) fn map_write(&mut self, handle: Handle, at: At, data: Data) -> Result<Answer> {
        let len = self.slice(handle.ino, at, data.bytes().len()).len();
        if len == 0 {
            return Ok(Answer::Skipped);
        }
        if !is_readable(handle.flags) || !is_writable(handle.flags) {
            return Err(Errno::ACCESS);
        }
        let at = at.in_file_of(self.size(handle.ino));
        Ok(Answer::Count(self.put(
            handle.ino,
            at,
            &data.bytes()[..len],
        )))
    }

    pub(super) fn seek(&self, handle: Handle, at: At) -> Result<Answer> {
        let size = self.size(handle.ino);
        match at.in_file_of(size) {
            _ if self.is_dir(handle.ino) => Ok(Answer::Skipped),
            at if at >= size => Err(Errno::NXIO),
            _ => Ok(Answer::Done),
        }
    }

    pub(super) fn resize(&mut self, handle: Handle, len: At) -> Result<()> {
        if !is_writable(handle.flags) {
            return Err(Errno::INVAL);
        }
        let len = len.in_file_of(self.size(handle.ino));
        self.bytes_mut(handle.ino).resize(index(len), 0);
        Ok(())
    }

    pub(super) fn truncate(&mut self, path: &Place, len: At) -> Result<()> {
        let (_, ino) = self.existing(path, true)?;
        if self.is_dir(ino) {
            return Err(Errno::ISDIR);
        }
        let (old, len) = (self.size(ino), len.in_file_of(self.size(ino)));
        self.bytes_mut(ino).resize(index(len), 0);
        if len == old {
            self.inodes[ino].mtime = Stamp::Unknown;
        }
        Ok(())
    }

    pub(super) fn allocate(
        &mut self,
        handle: Handle,
        how: FallocateFlags,
        at: At,
        len: u64,
    ) -> Result<()> {
        if len == 0 {
            return Err(Errno::INVAL);
        }
        if !is_writable(handle.flags) {
            return Err(Errno::BADF);
        }
        let size = self.size(handle.ino);
        let (start, keep) = (at.in_file_of(size), how.contains(FallocateFlags::KEEP_SIZE));
        let bytes = self.bytes_mut(handle.ino);
        if !keep {
            bytes.resize(index(size.max(start + len)), 0);
        }
        if how.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
            let end = bytes.len().min(index(start + len));
            bytes[index(start).min(end)..end].fill(0);
        }
        self.inodes[handle.ino].mtime = Stamp::Unknown;
        Ok(())
    }

    pub(super) fn copy(
        &mut self,
        from: Handle,
        from_at: At,
        to: Handle,
        to_at: At,
        len: usize,
    ) -> Result<usize> {
        if self.is_dir(from.ino) || self.is_dir(to.ino) {
            return Err(Errno::ISDIR);
        }
        if !is_readable(from.flags) || !is_writable(to.flags) || to.flags.contains(OFlags::APPEND) {
            return Err(Errno::BADF);
        }
        let data = self.slice(from.ino, from_at, len).to_vec();
        let start = from_at.in_file_of(self.size(from.ino));
        let target = to_at.in_file_of(self.size(to.ino));
        let count = data.len() as u64;
        if from.ino == to.ino && target + count > start && target < start + count {
            return Err(Errno::INVAL);
        }
        Ok(self.put(to.ino, target, &data))
    }

    pub(super) fn write_file(&mut self, path: &Place, at: At, data: Data) -> Result<usize> {
        let ino = self.find_or_create(path, OFlags::WRONLY, 0)?;
        let at = at.in_file_of(self.size(ino));
        Ok(self.put(ino, at, data.bytes()))
    }

    // A file is made beside the place, then renamed to it.
    pub(super) fn replace(&mut self, path: &Place, data: Data) -> Result<()> {
        let mut beside = path.clone();
        beside.0.truncate(
            beside
                .0
                .iter()
                .rposition(|byte| *byte == b'/')
                .map_or(0, |slash| slash + 1),
        );
        beside.0.extend_from_slice(b"new");
        let ino = self.find_or_create(
            &beside,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
            0o644,
        )?;
        self.put(ino, 0, data.bytes());
        let renamed = self.rename(&beside, path, RenameFlags::empty());
        if renamed.is_err() {
            self.remove(&beside, false)?;
        }
        renamed
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("files are small")
}

fn is_readable(flags: OFlags) -> bool {
    flags & OFlags::RWMODE != OFlags::WRONLY
}

fn is_writable(flags: OFlags) -> bool {
    flags & OFlags::RWMODE != OFlags::RDONLY
}
