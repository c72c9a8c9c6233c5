//! Directory streams of the source. Offsets are the source's own (`d_off`): stable, and good for seeking at any later
//! time.

use super::node::{Key, Node};
use super::view::Shared;
use crate::inode::{Place, ROOT};
use crate::source::{Kind, SourceDir, reopen};
use crate::sys::inode_flags::{FsXattr, fs_ioc_fsgetxattr, fs_ioc_fssetxattr};
use crate::view::{DirEntry, Directories, Found, HasFlags, Listing};
use parking_lot::Mutex;
use rustix::fs::{self as sys, FileType, IFlags, OFlags, RawDir, SeekFrom};
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
pub struct OpenDir {
    /// Its node id.
    node: u64,
    /// `None` for a mount of mmfs's own, which is shown empty.
    stream: Option<Stream>,
}

#[derive(Debug)]
struct Stream {
    fd: OwnedFd,
    source: Arc<SourceDir>,
    /// The directory's stamp when it was opened.
    stamp: u64,
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

impl OpenDir {
    /// The stream; EBADF for a mount of mmfs's own, which has none.
    fn stream(&self) -> Result<&Stream> {
        self.stream.as_ref().ok_or(Errno::BADF)
    }
}

impl Listing for OpenDir {
    fn stamp(&self) -> Option<u64> {
        self.stream.as_ref().map(|stream| stream.stamp)
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        match &self.stream {
            Some(stream) if data_only => sys::fdatasync(&stream.fd),
            Some(stream) => sys::fsync(&stream.fd),
            None => Ok(()),
        }
    }
}

impl HasFlags for OpenDir {
    fn flags(&self) -> Result<IFlags> {
        sys::ioctl_getflags(&self.stream()?.fd)
    }

    fn extended_flags(&self) -> Result<FsXattr> {
        fs_ioc_fsgetxattr(&self.stream()?.fd)
    }

    fn set_flags(&self, flags: IFlags) -> Result<()> {
        sys::ioctl_setflags(&self.stream()?.fd, flags)
    }

    fn set_extended_flags(&self, attr: &FsXattr) -> Result<()> {
        fs_ioc_fssetxattr(&self.stream()?.fd, attr)
    }
}

impl Directories for Shared {
    fn open_dir(&self, node: &Node) -> Result<OpenDir> {
        let stream = match node.kind() {
            Kind::OwnMount => None,
            Kind::Source(_) => Some(self.open_stream(node)?),
        };
        let node = self.nodes.number(node.key());
        Ok(OpenDir { node, stream })
    }

    fn list(
        &self,
        listing: &OpenDir,
        offset: u64,
        mut take: impl FnMut(&DirEntry<'_>) -> bool,
    ) -> Result<bool> {
        let Some(stream) = &listing.stream else {
            return Ok(true);
        };
        let mut ahead = stream.ahead.lock();
        if ahead.offset != offset || offset == 0 {
            sys::seek(&stream.fd, SeekFrom::Start(offset))?;
            *ahead = Ahead {
                offset,
                ..Ahead::default()
            };
        }
        let mut any = false;
        loop {
            while let Some(raw) = ahead.entries.get(ahead.next).copied() {
                let name = OsStr::from_bytes(&ahead.names[raw.name.0..raw.name.1]);
                let entry = DirEntry {
                    ino: self.listed_number(listing.node, &stream.source, raw.ino, name),
                    offset: raw.offset,
                    kind: raw.kind,
                    name,
                };
                if !take(&entry) {
                    return Ok(false);
                }
                any = true;
                ahead.next += 1;
                ahead.offset = raw.offset;
            }
            match ahead.refill(&stream.fd) {
                Ok(true) => {}
                Ok(false) => return Ok(true),
                Err(_) if any => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn lookup_listed(&self, listing: &OpenDir, name: &OsStr) -> Result<Found<Node>> {
        let stream = listing.stream()?;
        self.lookup_in(stream.fd.as_fd(), &stream.source, listing.node, name)
    }

    fn sync_names(&self, dir: &Node) -> Result<()> {
        let dir = self.directory(dir)?;
        sys::fsync(reopen(dir, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }
}

impl Shared {
    fn open_stream(&self, node: &Node) -> Result<Stream> {
        let dir = self.locate(node)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        // Through its descriptor: the name "." inside takes permission to search.
        let open = |flags| self.in_use.with_room(|| reopen(&dir, flags));
        let quiet = self.context.no_atime.then(|| open(flags | OFlags::NOATIME));
        let fd = match quiet {
            Some(Ok(fd)) => fd,
            _ => open(flags)?,
        };
        let stamp = dir.source.stat(fd.as_fd())?.stamp();
        Ok(Stream {
            fd,
            source: dir.source,
            stamp,
            ahead: Mutex::default(),
        })
    }

    /// The root's parent lies outside, and is shown as the root itself.
    fn listed_number(&self, dir: u64, source: &SourceDir, ino: u64, name: &OsStr) -> u64 {
        if dir == ROOT && name == ".." {
            return ROOT;
        }
        let source = source.index;
        self.nodes.listed_number(Key { source, ino })
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
