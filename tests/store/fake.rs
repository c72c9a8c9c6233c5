//! A disk in memory. It records the calls that change something, makes one fail if it is told to, and can be full.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mmfs::store::{Disk, DiskFile, How, Time};
use parking_lot::Mutex;

use super::image::{Call, Entry, Image};

const BLOCK: u64 = 4096;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// With this errno. EOPNOTSUPP is for calls that allocate or punch only.
    Errno(i32),
    /// A write of one byte less, or of half of the bytes.
    Short,
}

/// What may be called, as far as failures differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Write,
    Sync,
    Room,
    Other,
}

/// Runs beside a call.
type Beside = Box<dyn FnMut(&str) + Send>;

#[derive(Default)]
struct Inner {
    image: Image,
    next_ino: u64,
    entries: Vec<Entry>,
    op: usize,
    /// The directory of cookies.
    cookies: Option<PathBuf>,
    /// Calls so far, and which one fails.
    calls: u64,
    fail: Option<(u64, Failure)>,
    failed: bool,
    /// The most blocks of all files; blocks that are taken beyond those with bytes; how often each file is open.
    capacity: Option<u64>,
    allocated: BTreeMap<u64, BTreeSet<u64>>,
    open: BTreeMap<u64, u64>,
    syncs_all: bool,
    /// How often each file was changed.
    changes: BTreeMap<u64, i64>,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    beside: Mutex<Option<Beside>>,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct FakeDisk(Arc<Shared>);

struct Open {
    disk: FakeDisk,
    ino: u64,
}

impl FakeDisk {
    /// A disk on which this lies.
    pub fn of(image: Image) -> Self {
        let disk = Self::default();
        {
            let mut inner = disk.0.inner.lock();
            inner.next_ino = image.names.values().max().map_or(1, |ino| ino + 1);
            inner.image = image;
            inner.syncs_all = true;
        }
        disk
    }

    /// What lies on it now.
    pub fn image(&self) -> Image {
        self.0.inner.lock().image.clone()
    }

    /// The cookie as it is now.
    pub fn cookie(&self) -> Option<(Arc<[u8]>, String)> {
        self.0.inner.lock().cookie()
    }

    /// The calls that were recorded since this was called last.
    pub fn take_entries(&self) -> Vec<Entry> {
        std::mem::take(&mut self.0.inner.lock().entries)
    }

    /// Calls from now on belong to this operation.
    pub fn set_op(&self, op: usize) {
        self.0.inner.lock().op = op;
    }

    pub fn set_cookies(&self, directory: &Path) {
        self.0.inner.lock().cookies = Some(directory.to_owned());
    }

    /// Whether syncfs(2) covers all.
    pub fn set_syncs_all(&self, all: bool) {
        self.0.inner.lock().syncs_all = all;
    }

    pub fn set_capacity(&self, blocks: Option<u64>) {
        self.0.inner.lock().capacity = blocks;
    }

    /// The call `number` from now on fails, counted from 0, if it is one that can fail so.
    pub fn fail(&self, number: u64, failure: Failure) {
        let mut inner = self.0.inner.lock();
        inner.fail = Some((inner.calls + number, failure));
        inner.failed = false;
    }

    /// Whether a call failed since [`FakeDisk::fail`].
    pub fn has_failed(&self) -> bool {
        self.0.inner.lock().failed
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.0.inner.lock().calls
    }

    /// Runs `beside` with the path of the file before each sync of a file, as another thread might.
    pub fn set_beside(&self, beside: Option<Beside>) {
        *self.0.beside.lock() = beside;
    }

    fn run_beside(&self, ino: u64) {
        // Taken out: what it does runs nothing beside it.
        let Some(mut beside) = self.0.beside.lock().take() else {
            return;
        };
        let inner = self.0.inner.lock();
        let names = inner.image.names.iter();
        let path = names
            .filter(|(_, named)| **named == ino)
            .map(|(path, _)| path.clone())
            .next();
        drop(inner);
        beside(&path.unwrap_or_default());
        *self.0.beside.lock() = Some(beside);
    }

    fn call(&self, sort: Sort) -> io::Result<Option<Failure>> {
        self.0.inner.lock().call(sort)
    }

    fn opened(&self, inner: &mut Inner, ino: u64) -> Arc<dyn DiskFile> {
        *inner.open.entry(ino).or_default() += 1;
        Arc::new(Open {
            disk: self.clone(),
            ino,
        })
    }
}

impl Inner {
    /// Counts a call, and fails if its turn has come. Some: the call does less than it should.
    fn call(&mut self, sort: Sort) -> io::Result<Option<Failure>> {
        let number = self.calls;
        self.calls += 1;
        let Some((_, failure)) = self.fail.filter(|(at, _)| *at == number) else {
            return Ok(None);
        };
        match failure {
            Failure::Errno(libc::EOPNOTSUPP) if sort != Sort::Room => Ok(None),
            Failure::Short if sort != Sort::Write => Ok(None),
            Failure::Errno(errno) => {
                self.failed = true;
                Err(io::Error::from_raw_os_error(errno))
            }
            Failure::Short => {
                self.failed = true;
                Ok(Some(failure))
            }
        }
    }

    fn cookie(&self) -> Option<(Arc<[u8]>, String)> {
        let mut found = std::fs::read_dir(self.cookies.as_ref()?)
            .ok()?
            .filter_map(Result::ok);
        let cookie = found.find(|entry| entry.path().extension().is_none())?;
        let name = cookie.file_name().into_string().ok()?;
        Some((std::fs::read(cookie.path()).ok()?.into(), name))
    }

    fn record(&mut self, call: Call) {
        let cookie = self.cookie();
        if let Some(ino) = call.changes_file() {
            *self.changes.entry(ino).or_default() += 1;
        }
        self.image.apply(&call);
        self.entries.push(Entry {
            op: self.op,
            call,
            cookie,
        });
    }

    fn file(&mut self, ino: u64) -> &mut super::image::File {
        self.image.files.entry(ino).or_default()
    }

    /// Blocks that are taken.
    fn taken(&self) -> u64 {
        let of_file = |(ino, file): (&u64, &super::image::File)| {
            let none = BTreeSet::new();
            let allocated = self.allocated.get(ino).unwrap_or(&none);
            let beyond = allocated.len() as u64;
            beyond
                + file
                    .blocks()
                    .filter(|block| !allocated.contains(block))
                    .count() as u64
        };
        self.image.files.iter().map(of_file).sum()
    }

    /// How many of the bytes have room.
    fn room(&self, ino: u64, at: u64, len: u64) -> u64 {
        let Some(capacity) = self.capacity else {
            return len;
        };
        let mut left = capacity.saturating_sub(self.taken());
        let file = &self.image.files[&ino];
        let has: BTreeSet<u64> = file
            .blocks()
            .chain(self.allocated.get(&ino).into_iter().flatten().copied())
            .collect();
        let mut end = at;
        while end < at + len {
            if !has.contains(&(end / BLOCK)) {
                if left == 0 {
                    break;
                }
                left -= 1;
            }
            end = (end / BLOCK + 1) * BLOCK;
        }
        end.min(at + len) - at
    }

    /// A file without a name that nobody has open is gone.
    fn forget(&mut self, ino: u64) {
        let open = self.open.get(&ino).is_some_and(|count| *count > 0);
        if !open && !self.image.names.values().any(|named| *named == ino) {
            self.image.files.remove(&ino);
            self.allocated.remove(&ino);
        }
    }
}

fn errno<T>(errno: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(errno))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap_or_default().to_owned()
}

impl Disk for FakeDisk {
    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn DiskFile>> {
        let path = text(path);
        let mut inner = self.0.inner.lock();
        inner.call(Sort::Other)?;
        match (inner.image.names.get(&path).copied(), how) {
            (Some(_), How::Make) => errno(libc::EEXIST),
            (None, How::Read | How::Write) => errno(libc::ENOENT),
            (None, _) if !inner.image.has_directory(super::image::parent(&path)) => {
                errno(libc::ENOENT)
            }
            (Some(ino), how) => {
                if how == How::Empty && inner.file(ino).len > 0 {
                    inner.record(Call::SetLen { ino, len: 0 });
                    inner.allocated.remove(&ino);
                }
                Ok(self.opened(&mut inner, ino))
            }
            (None, _) => {
                let ino = inner.next_ino;
                inner.next_ino += 1;
                inner.record(Call::Create { path, ino });
                Ok(self.opened(&mut inner, ino))
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.0.inner.lock();
        inner.call(Sort::Other)?;
        let (from, to) = (text(from), text(to));
        let Some(ino) = inner.image.names.get(&from).copied() else {
            return errno(libc::ENOENT);
        };
        let old = inner.image.names.get(&to).copied();
        inner.record(Call::Rename { from, to, ino });
        old.into_iter().for_each(|old| inner.forget(old));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.0.inner.lock();
        inner.call(Sort::Other)?;
        let path = text(path);
        let Some(ino) = inner.image.names.get(&path).copied() else {
            return errno(libc::ENOENT);
        };
        inner.record(Call::Remove { path });
        inner.forget(ino);
        Ok(())
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.0.inner.lock();
        inner.call(Sort::Other)?;
        let path = text(path);
        if !inner.image.has_directory(&path) {
            inner.record(Call::MakeDirectory { path });
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut inner = self.0.inner.lock();
        inner.call(Sort::Other)?;
        let path = text(path);
        if !inner.image.has_directory(&path) {
            return errno(libc::ENOENT);
        }
        let all = inner.image.names.keys().chain(&*inner.image.directories);
        Ok(all
            .filter(|name| super::image::parent(name) == path)
            .map(|name| name.rsplit('/').next().unwrap_or_default().into())
            .collect())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.0.inner.lock();
        let path = text(path);
        if let Err(error) = inner.call(Sort::Sync) {
            inner.record(Call::FailedSyncDirectory { path });
            return Err(error);
        }
        if !inner.image.has_directory(&path) {
            return errno(libc::ENOENT);
        }
        inner.record(Call::SyncDirectory { path });
        Ok(())
    }

    fn sync_filesystem(&self) -> io::Result<bool> {
        let mut inner = self.0.inner.lock();
        inner.call(Sort::Sync)?;
        if inner.syncs_all {
            inner.record(Call::SyncAll);
        }
        Ok(inner.syncs_all)
    }

    fn free(&self) -> io::Result<u64> {
        let mut inner = self.0.inner.lock();
        inner.call(Sort::Other)?;
        let capacity = inner.capacity.unwrap_or(1 << 40);
        Ok(capacity.saturating_sub(inner.taken()) * BLOCK)
    }
}

impl DiskFile for Open {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut inner = self.disk.0.inner.lock();
        inner.call(Sort::Other)?;
        Ok(inner.file(self.ino).read(buffer, at))
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        let mut inner = self.disk.0.inner.lock();
        let short = inner.call(Sort::Write)?.is_some() && bytes.len() > 1;
        let bytes = if short {
            &bytes[..bytes.len() / 2]
        } else {
            bytes
        };
        let len = inner.room(self.ino, at, bytes.len() as u64) as usize;
        if len == 0 && !bytes.is_empty() {
            return errno(libc::ENOSPC);
        }
        inner.record(Call::Write {
            ino: self.ino,
            at,
            bytes: bytes[..len].into(),
        });
        Ok(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.run_beside(self.ino);
        let done = self.disk.call(Sort::Sync);
        let mut inner = self.disk.0.inner.lock();
        inner.record(match done {
            Ok(_) => Call::Sync { ino: self.ino },
            Err(_) => Call::FailedSync { ino: self.ino },
        });
        done.map(drop)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.0.inner.lock();
        inner.call(Sort::Other)?;
        inner.record(Call::SetLen { ino: self.ino, len });
        let end = len.div_ceil(BLOCK);
        if let Some(allocated) = inner.allocated.get_mut(&self.ino) {
            allocated.retain(|block| *block < end);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let mut inner = self.disk.0.inner.lock();
        inner.call(Sort::Other)?;
        Ok(inner.file(self.ino).len)
    }

    /// Each change takes a second.
    fn state(&self) -> io::Result<(u64, Time)> {
        let mut inner = self.disk.0.inner.lock();
        inner.call(Sort::Other)?;
        let seconds = inner.changes.get(&self.ino).copied().unwrap_or(0);
        let time = Time {
            seconds,
            nanoseconds: 0,
        };
        Ok((inner.file(self.ino).len, time))
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        let mut inner = self.disk.0.inner.lock();
        inner.call(Sort::Room)?;
        // As ext4: what there is stays allocated.
        let room = inner.room(self.ino, at, len);
        let blocks = at / BLOCK..(at + room).div_ceil(BLOCK);
        inner.allocated.entry(self.ino).or_default().extend(blocks);
        inner.record(Call::Allocate);
        if room < len {
            return errno(libc::ENOSPC);
        }
        Ok(())
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        let mut inner = self.disk.0.inner.lock();
        inner.call(Sort::Room)?;
        let end = (at + len).min(inner.file(self.ino).len.next_multiple_of(BLOCK));
        let len = end.saturating_sub(at);
        let ino = self.ino;
        inner.record(Call::Punch { ino, at, len });
        let gone = at.div_ceil(BLOCK)..end / BLOCK;
        if let Some(allocated) = inner.allocated.get_mut(&ino) {
            allocated.retain(|block| !gone.contains(block));
        }
        Ok(())
    }

    fn seek_data(&self, at: u64) -> io::Result<Option<u64>> {
        let mut inner = self.disk.0.inner.lock();
        inner.call(Sort::Other)?;
        let file = inner.file(self.ino);
        let found = file.blocks().find(|block| (block + 1) * BLOCK > at);
        Ok(found
            .map(|block| at.max(block * BLOCK))
            .filter(|at| *at < file.len))
    }

    fn seek_hole(&self, at: u64) -> io::Result<u64> {
        let mut inner = self.disk.0.inner.lock();
        inner.call(Sort::Other)?;
        let file = inner.file(self.ino);
        let blocks: BTreeSet<u64> = file.blocks().collect();
        let mut hole = at;
        while hole < file.len && blocks.contains(&(hole / BLOCK)) {
            hole = (hole / BLOCK + 1) * BLOCK;
        }
        Ok(hole.min(file.len))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut inner = self.disk.0.inner.lock();
        if let Some(count) = inner.open.get_mut(&self.ino) {
            *count -= 1;
        }
        inner.forget(self.ino);
    }
}
