//! The reference's files: opening them, and their bytes.

use rustix::fs::{FallocateFlags, OFlags, RenameFlags};
use rustix::io::Errno;

use super::super::command::{Answer, At, Bytes, Data, Place, Stamp};
use super::super::inodes::{Body, Ino, Inode};
use super::{Handle, Reference, Result};

impl Reference {
    pub(super) fn open(
        &mut self,
        slot: usize,
        path: &Place,
        flags: OFlags,
        mode: u32,
    ) -> Result<()> {
        self.close(slot);
        let ino = self.find_or_create(path, flags, mode)?;
        self.inodes.hold(ino)?;
        self.handles[slot] = Some(Handle { ino, flags });
        Ok(())
    }

    pub(super) fn close(&mut self, slot: usize) -> Answer {
        let Some(handle) = self.handles[slot].take() else {
            return Answer::Skipped;
        };
        self.inodes.release(handle.ino);
        Answer::Done
    }

    pub(super) fn find_or_create(&mut self, path: &Place, flags: OFlags, mode: u32) -> Result<Ino> {
        let create = flags.contains(OFlags::CREATE);
        let exclusive = create && flags.contains(OFlags::EXCL);
        let found = self.find(path, !exclusive && !flags.contains(OFlags::NOFOLLOW))?;
        let Some(ino) = found.ino else {
            if !create {
                return Err(Errno::NOENT);
            }
            let new = Inode::new(Body::File(Vec::new()), mode & !0o022);
            return self.inodes.make(found.place(), new);
        };
        let (write, truncate) = (is_writable(flags), flags.contains(OFlags::TRUNC));
        match self.inodes.get(ino)?.body {
            _ if exclusive => return Err(Errno::EXIST),
            Body::Symlink(_) => return Err(Errno::LOOP),
            Body::Directory(_) if create || write || truncate => return Err(Errno::ISDIR),
            Body::File(_) if truncate => self.inodes.resize(ino, 0)?,
            _ => {}
        }
        Ok(ino)
    }

    fn size(&self, ino: Ino) -> u64 {
        self.inodes.size(ino)
    }

    pub(super) fn read(&self, handle: Handle, at: At, len: usize) -> Result<Bytes> {
        if !is_readable(handle.flags) {
            return Err(Errno::BADF);
        }
        let at = at.in_file_of(self.size(handle.ino));
        Ok(Bytes(self.inodes.slice(handle.ino, at, len)?.to_vec()))
    }

    // Of a directory that was opened, none.
    fn slice(&self, ino: Ino, at: At, len: usize) -> &[u8] {
        let at = at.in_file_of(self.size(ino));
        self.inodes.slice(ino, at, len).unwrap_or_default()
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
        self.inodes.write(handle.ino, at, data.bytes())
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
        let written = self.inodes.write(handle.ino, at, &data.bytes()[..len]);
        written.map(Answer::Count)
    }

    pub(super) fn seek(&self, handle: Handle, at: At) -> Result<Answer> {
        let size = self.size(handle.ino);
        match at.in_file_of(size) {
            _ if self.inodes.is_dir(handle.ino) => Ok(Answer::Skipped),
            at if at >= size => Err(Errno::NXIO),
            _ => Ok(Answer::Done),
        }
    }

    pub(super) fn resize(&mut self, handle: Handle, len: At) -> Result<()> {
        if !is_writable(handle.flags) {
            return Err(Errno::INVAL);
        }
        let len = len.in_file_of(self.size(handle.ino));
        self.inodes.resize(handle.ino, len)
    }

    pub(super) fn truncate(&mut self, path: &Place, len: At) -> Result<()> {
        let ino = self.existing(path, true)?;
        let (old, len) = (self.size(ino), len.in_file_of(self.size(ino)));
        self.inodes.resize(ino, len)?;
        if len == old {
            // Filesystems differ here.
            self.inodes
                .change(ino, |inode| inode.mtime = Stamp::Unknown)?;
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
        let start = at.in_file_of(self.size(handle.ino));
        self.inodes.allocate(handle.ino, how, start, len)
    }

    pub(super) fn copy(
        &mut self,
        from: Handle,
        from_at: At,
        to: Handle,
        to_at: At,
        len: usize,
    ) -> Result<usize> {
        if self.inodes.is_dir(from.ino) || self.inodes.is_dir(to.ino) {
            return Err(Errno::ISDIR);
        }
        if !is_readable(from.flags) || !is_writable(to.flags) || to.flags.contains(OFlags::APPEND) {
            return Err(Errno::BADF);
        }
        let start = from_at.in_file_of(self.size(from.ino));
        let target = to_at.in_file_of(self.size(to.ino));
        self.inodes.copy((from.ino, start), (to.ino, target), len)
    }

    pub(super) fn write_file(&mut self, path: &Place, at: At, data: Data) -> Result<usize> {
        let ino = self.find_or_create(path, OFlags::WRONLY, 0)?;
        let at = at.in_file_of(self.size(ino));
        self.inodes.write(ino, at, data.bytes())
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
        self.inodes.write(ino, 0, data.bytes())?;
        let renamed = self.rename(&beside, path, RenameFlags::empty());
        if renamed.is_err() {
            self.remove(&beside, false)?;
        }
        renamed
    }
}

fn is_readable(flags: OFlags) -> bool {
    flags & OFlags::RWMODE != OFlags::WRONLY
}

fn is_writable(flags: OFlags) -> bool {
    flags & OFlags::RWMODE != OFlags::RDONLY
}
