//! Directory streams.
//!
//! Offsets are the source's own (`d_off`): stable, and good for seeking at any later time.

use super::Fs;
use crate::inode::{Entry, ROOT};
use crate::source::{SourceDir, reopen};
use parking_lot::Mutex;
use rustix::fs::{self as sys, FileType, OFlags, RawDir, SeekFrom};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// How much one getdents64(2) asks for, in bytes.
const BUFFER: usize = 32 << 10;

/// One open of a directory.
#[derive(Debug)]
pub struct DirHandle {
    node: u64,
    /// The directory's stamp when it was opened.
    stamp: u64,
    /// `None` for a veiled mount of mmfs's own.
    stream: Option<Stream>,
}

#[derive(Debug)]
struct Stream {
    fd: Arc<OwnedFd>,
    source: Arc<SourceDir>,
    /// One reader at a time; held while entries are looked up.
    ahead: Mutex<Ahead>,
}

/// Entries read from the source that did not fit into a reply yet.
#[derive(Debug, Default)]
struct Ahead {
    entries: Vec<Raw>,
    names: Vec<u8>,
    /// The first entry not handed out, and the offset it is found at.
    next: usize,
    offset: u64,
}

#[derive(Debug, Clone, Copy)]
struct Raw {
    ino: u64,
    kind: FileType,
    /// Where the entry after this one is found.
    offset: u64,
    name: (usize, usize),
}

/// An entry as it is listed.
#[derive(Debug)]
pub struct Listed<'a> {
    /// The number it is shown with.
    pub ino: u64,
    /// Where the next one is found.
    pub offset: u64,
    /// Its type, as far as the source's directory knows.
    pub kind: FileType,
    /// Its name.
    pub name: &'a OsStr,
    /// With attributes asked for: the inode, one lookup counted, where it could be looked at.
    pub entry: Option<Entry>,
}

impl DirHandle {
    /// The description being listed; EBADF for a veiled mount, which has none.
    pub(super) fn descriptor(&self) -> Result<Arc<OwnedFd>> {
        self.stream
            .as_ref()
            .map(|stream| stream.fd.clone())
            .ok_or(Errno::BADF)
    }
}

impl Fs {
    /// Opens a directory for listing; also says whether the kernel's memory of its last listing is true.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn opendir(&self, node: u64) -> Result<(u64, bool)> {
        if self.inodes.is_veiled(node) {
            let stream = None;
            let stamp = 0;
            let handle = DirHandle {
                node,
                stamp,
                stream,
            };
            return Ok((self.dirs.insert(handle), false));
        }
        let stream = self.open_stream(node)?;
        let stamp = stream.source.stat(stream.fd.as_fd())?.stamp();
        let fresh = self
            .inodes
            .is_listing_fresh(node, stamp, self.listing_timeout);
        let stream = Some(stream);
        let handle = DirHandle {
            node,
            stamp,
            stream,
        };
        Ok((self.dirs.insert(handle), fresh))
    }

    fn open_stream(&self, node: u64) -> Result<Stream> {
        let dir = self.inodes.locate(node)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        // Through its descriptor: the name "." inside takes permission to search.
        let open = |flags| self.inodes.with_room(|| reopen(&dir, flags));
        let quiet = self.flags.no_atime.then(|| open(flags | OFlags::NOATIME));
        let fd = match quiet {
            Some(Ok(fd)) => fd,
            _ => open(flags)?,
        };
        Ok(Stream {
            fd: Arc::new(fd),
            source: dir.source,
            ahead: Mutex::default(),
        })
    }

    /// Hands entries from `offset` on to `take` until it says that there is no room for the one offered.
    ///
    /// # Errors
    /// Those of getdents64(2), when nothing was handed out before.
    pub fn readdir(
        &self,
        fh: u64,
        offset: u64,
        mut take: impl FnMut(&Listed<'_>) -> bool,
    ) -> Result<()> {
        self.list(fh, offset, |listed, _, _| take(listed))
    }

    /// As `readdir`, each entry looked up and its lookup counted if `take` accepts it.
    ///
    /// # Errors
    /// Those of `readdir`.
    pub fn readdirplus(
        &self,
        fh: u64,
        offset: u64,
        mut take: impl FnMut(&Listed<'_>) -> bool,
    ) -> Result<()> {
        self.list(fh, offset, |listed, parent, stream| {
            if matches!(listed.name.as_bytes(), b"." | b"..") {
                return take(listed);
            }
            let (dir, source) = (stream.fd.as_fd(), &stream.source);
            match self.inodes.lookup_in(dir, source, parent, listed.name) {
                Ok(entry) => {
                    let entry = self.settled(entry);
                    let ino = entry.attr.ino;
                    let taken = take(&Listed {
                        ino,
                        entry: Some(entry),
                        ..*listed
                    });
                    if !taken {
                        self.forget(ino, 1);
                    }
                    taken
                }
                // Removed since the directory was read.
                Err(Errno::NOENT) => true,
                Err(_) => {
                    let taken = take(listed);
                    if taken {
                        self.inodes.count(listed.ino);
                    }
                    taken
                }
            }
        })
    }

    fn list(
        &self,
        fh: u64,
        offset: u64,
        mut take: impl FnMut(&Listed<'_>, u64, &Stream) -> bool,
    ) -> Result<()> {
        let handle = self.dirs.get(fh)?;
        let Some(stream) = &handle.stream else {
            return Ok(());
        };
        let mut ahead = stream.ahead.lock();
        if ahead.offset != offset || offset == 0 {
            sys::seek(&*stream.fd, SeekFrom::Start(offset))?;
            *ahead = Ahead {
                offset,
                ..Ahead::default()
            };
        }
        let mut any = false;
        loop {
            while let Some(raw) = ahead.entries.get(ahead.next).copied() {
                let name = OsStr::from_bytes(&ahead.names[raw.name.0..raw.name.1]);
                let ino = self.listed_number(handle.node, &stream.source, raw.ino, name);
                let listed = Listed {
                    ino,
                    offset: raw.offset,
                    kind: raw.kind,
                    name,
                    entry: None,
                };
                if !take(&listed, handle.node, stream) {
                    return Ok(());
                }
                any = true;
                ahead.next += 1;
                ahead.offset = raw.offset;
            }
            match ahead.refill(&stream.fd) {
                Ok(true) => {}
                Ok(false) => {
                    self.inodes.listed(handle.node, handle.stamp);
                    return Ok(());
                }
                Err(_) if any => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The root's parent lies outside, and is shown as the root itself.
    fn listed_number(&self, dir: u64, source: &SourceDir, ino: u64, name: &OsStr) -> u64 {
        if dir == ROOT && name == ".." {
            ROOT
        } else {
            self.inodes.number(source, ino)
        }
    }

    /// Makes a directory's changes durable.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn fsyncdir(&self, fh: u64, data_only: bool) -> Result<()> {
        match &self.dirs.get(fh)?.stream {
            Some(stream) if data_only => sys::fdatasync(&stream.fd),
            Some(stream) => sys::fsync(&stream.fd),
            None => Ok(()),
        }
    }

    /// Ends a listing.
    ///
    /// # Errors
    /// EBADF when there is no such handle.
    pub fn releasedir(&self, fh: u64) -> Result<()> {
        self.dirs.remove(fh).map(drop)
    }
}

impl Ahead {
    /// Reads the next entries; false at the end.
    fn refill(&mut self, fd: &OwnedFd) -> Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut dir = RawDir::new(fd.as_fd(), &mut buffer);
        self.entries.clear();
        self.names.clear();
        self.next = 0;
        while let Some(entry) = dir.next() {
            let entry = entry?;
            let start = self.names.len();
            self.names.extend_from_slice(entry.file_name().to_bytes());
            let name = (start, self.names.len());
            let (ino, kind, offset) = (entry.ino(), entry.file_type(), entry.next_entry_cookie());
            self.entries.push(Raw {
                ino,
                kind,
                offset,
                name,
            });
            if dir.is_buffer_empty() {
                break;
            }
        }
        Ok(!self.entries.is_empty())
    }
}
