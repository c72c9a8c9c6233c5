//! Directory streams of the source. Offsets are the source's own (`d_off`), shown as [`Positions`] converts them. They are
//! stable, so a client may seek to them at any later time.

use super::positions::{Closing, Positions};
use crate::descriptors::Slot;
use crate::request::ExtendedFlags;
use crate::source::SourceDir;
use crate::sys::inode_flags::{fs_ioc_fsgetxattr, fs_ioc_fssetxattr};
use crate::view::{DirEntry, HasFlags, Listing};
use parking_lot::Mutex;
use rustix::fs::{self as sys, FileType, IFlags, OFlags, RawDir, SeekFrom};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// The buffer of one getdents64(2), in bytes.
const BUFFER: usize = 32 << 10;

/// One open of a directory.
#[derive(Debug)]
pub struct OpenDir {
    /// Its node id.
    node: u64,
    held: Held,
    _slots: [Option<Slot>; 2],
}

/// What one open of a directory keeps open.
#[derive(Debug)]
pub(super) enum Held {
    /// mmfs's own mount, which is shown empty.
    OwnMount,
    /// The directory being read.
    Stream(Stream),
    /// Nothing, because descriptors are scarce. The directory is opened with `flags` at each read.
    Nothing {
        /// Keeps the meaning of offsets. Dropped in this order.
        _positions: (Arc<Positions>, Closing),
        moves_atime: bool,
        flags: OFlags,
    },
}

/// A directory of the source being read.
#[derive(Debug)]
pub(super) struct Stream {
    fd: OwnedFd,
    /// The directory itself, if `fd` lies in a clone of its mount: a clone lacks what is mounted below. It also keeps the mount
    /// busy, which `fd` does not.
    place: Option<Arc<OwnedFd>>,
    source: Arc<SourceDir>,
    /// The directory's change stamp when it was opened.
    stamp: u64,
    /// Whether reading it moves its access time.
    moves_atime: bool,
    /// For one reader at a time. Held while entries are looked up.
    ahead: Mutex<Ahead>,
    /// Converts offsets.
    positions: Arc<Positions>,
    /// Behind `positions`, so that it is dropped later.
    _closing: Closing,
}

/// Entries read from the source that did not fit into a reply.
#[derive(Debug, Default)]
struct Ahead {
    entries: Vec<Raw>,
    names: Vec<u8>,
    /// The first of them, and its offset.
    next: usize,
    offset: u64,
}

#[derive(Debug, Clone, Copy)]
struct Raw {
    ino: u64,
    kind: FileType,
    /// The offset of the next entry.
    offset: u64,
    name: (usize, usize),
}

impl OpenDir {
    pub(super) fn new(node: u64, held: Held, slots: [Option<Slot>; 2]) -> Self {
        OpenDir {
            node,
            held,
            _slots: slots,
        }
    }

    pub(super) fn node(&self) -> u64 {
        self.node
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// The stream. EBADF for mmfs's own mount, ENFILE if descriptors are scarce.
    pub(super) fn stream(&self) -> Result<&Stream> {
        match &self.held {
            Held::Stream(stream) => Ok(stream),
            Held::Nothing { .. } => Err(Errno::NFILE),
            Held::OwnMount => Err(Errno::BADF),
        }
    }
}

impl Listing for OpenDir {
    fn stamp(&self) -> Option<u64> {
        match &self.held {
            // The stamp depends on the numbers of positions: a listing with other numbers must not be shown again.
            Held::Stream(stream) => Some(stream.stamp ^ stream.positions.mark()),
            Held::Nothing { .. } | Held::OwnMount => None,
        }
    }

    fn may_be_cached(&self) -> bool {
        match &self.held {
            Held::Stream(Stream { moves_atime, .. }) | Held::Nothing { moves_atime, .. } => {
                !moves_atime
            }
            Held::OwnMount => true,
        }
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        match self.stream() {
            Ok(stream) if data_only => sys::fdatasync(&stream.fd),
            Ok(stream) => sys::fsync(&stream.fd),
            Err(Errno::BADF) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

impl HasFlags for OpenDir {
    fn flags(&self) -> Result<IFlags> {
        sys::ioctl_getflags(self.stream()?)
    }

    fn extended_flags(&self) -> Result<ExtendedFlags> {
        fs_ioc_fsgetxattr(self.stream()?)
    }

    fn set_flags(&self, flags: IFlags) -> Result<()> {
        sys::ioctl_setflags(self.stream()?, flags)
    }

    fn set_extended_flags(&self, attr: &ExtendedFlags) -> Result<()> {
        fs_ioc_fssetxattr(self.stream()?, attr)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Stream {
    /// The stream of a directory found as `place`, and opened as `fd` on `source`. `noatime`: reading it moves no access time.
    ///
    /// # Errors
    /// Those of statx(2).
    pub fn new(
        fd: OwnedFd,
        source: Arc<SourceDir>,
        place: Arc<OwnedFd>,
        noatime: bool,
        (positions, _closing): (Arc<Positions>, Closing),
    ) -> Result<Self> {
        let attr = source.stat(fd.as_fd())?;
        Ok(Stream {
            place: source.is_read_only().then_some(place),
            moves_atime: !noatime && source.atime.is_due(&attr),
            fd,
            source,
            stamp: attr.stamp(),
            ahead: Mutex::default(),
            positions,
            _closing,
        })
    }

    /// The directory to look names up in.
    pub fn names(&self) -> BorrowedFd<'_> {
        self.place.as_deref().unwrap_or(&self.fd).as_fd()
    }

    /// Closes it. It will be opened again with `flags`.
    pub fn close(self, flags: OFlags) -> Held {
        Held::Nothing {
            _positions: (self.positions, self._closing),
            moves_atime: self.moves_atime,
            flags,
        }
    }

    /// The filesystem it lies on.
    pub fn source(&self) -> &Arc<SourceDir> {
        &self.source
    }

    /// Calls `take` with each entry from `offset` on, with the source's inode numbers, until it returns that there is no room
    /// for the entry. True at the end of the directory.
    ///
    /// # Errors
    /// Those of getdents64(2), before the first entry.
    pub fn read(&self, offset: u64, mut take: impl FnMut(&DirEntry<'_>) -> bool) -> Result<bool> {
        let mut ahead = self.ahead.lock();
        if ahead.offset != offset || offset == 0 {
            let position = self.positions.of_source(offset);
            sys::seek(&self.fd, SeekFrom::Start(position))?;
            *ahead = Ahead {
                offset,
                ..Ahead::default()
            };
        }
        let mut any = false;
        loop {
            while let Some(raw) = ahead.entries.get(ahead.next).copied() {
                let entry = DirEntry {
                    ino: raw.ino,
                    offset: raw.offset,
                    kind: raw.kind,
                    name: OsStr::from_bytes(&ahead.names[raw.name.0..raw.name.1]),
                };
                if !take(&entry) {
                    return Ok(false);
                }
                any = true;
                ahead.next += 1;
                ahead.offset = raw.offset;
            }
            match ahead.refill(&self.fd, &self.positions) {
                Ok(true) => {}
                Ok(false) => return Ok(true),
                Err(_) if any => return Ok(false),
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl Ahead {
    /// Reads the next entries; false at the end.
    fn refill(&mut self, fd: &OwnedFd, positions: &Positions) -> Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut dir = RawDir::new(fd.as_fd(), &mut buffer);
        self.entries.clear();
        self.names.clear();
        self.next = 0;
        let mut showing = None;
        while let Some(entry) = dir.next() {
            let entry = entry?;
            let start = self.names.len();
            self.names.extend_from_slice(entry.file_name().to_bytes());
            let name = (start, self.names.len());
            // Not locked during getdents64(2), which may take long.
            let showing = showing.get_or_insert_with(|| positions.showing());
            let offset = showing.shown(entry.next_entry_cookie());
            let (ino, kind) = (entry.ino(), entry.file_type());
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
