//! Converts outcomes of operations into replies of the FUSE library.

use super::convert::{bare_attr, file_attr, file_type, fuse_errno};
use crate::cache::Timeouts;
use crate::fs::{Entry, Listed, Shown};
use fuser::{
    Errno, FileHandle, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr,
};
use rustix::fs::StatVfs;
use rustix::io::Result;
use std::time::Duration;

/// A reply that carries a `T` or an errno. It is a tuple if the reply needs more than the outcome.
pub trait Answer<T>: Send + 'static {
    /// Sends the reply.
    fn answer(self, outcome: Result<T>);

    /// The errno that `answer` sends; 0 for success.
    fn errno(&self, outcome: &Result<T>) -> i32 {
        sent_errno(outcome)
    }
}

/// The errno in the reply for an outcome; 0 for success.
pub fn sent_errno<T>(outcome: &Result<T>) -> i32 {
    match outcome {
        Ok(_) => 0,
        Err(errno) => fuse_errno(*errno).code(),
    }
}

impl Answer<()> for ReplyEmpty {
    fn answer(self, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.ok(),
            Err(errno) => self.error(fuse_errno(errno)),
        }
    }
}

impl Answer<Entry> for (ReplyEntry, Timeouts) {
    fn answer(self, outcome: Result<Entry>) {
        let (reply, timeouts) = self;
        match outcome {
            Ok(entry) => {
                let Timeouts { attr, entry: name } = entry.timeouts(timeouts);
                let generation = Generation(entry.generation.into());
                reply.entry_with_ttls(&attr, &name, &file_attr(&entry.attr), generation);
            }
            Err(errno) => reply.error(fuse_errno(errno)),
        }
    }
}

impl Answer<Shown> for (ReplyAttr, Timeouts) {
    fn answer(self, outcome: Result<Shown>) {
        let (reply, timeouts) = self;
        match outcome {
            Ok(shown) => reply.attr(&shown.timeout(timeouts), &file_attr(&shown)),
            Err(errno) => reply.error(fuse_errno(errno)),
        }
    }
}

impl<B: AsRef<[u8]>> Answer<B> for ReplyData {
    fn answer(self, outcome: Result<B>) {
        match outcome {
            Ok(bytes) => self.data(bytes.as_ref()),
            Err(errno) => self.error(fuse_errno(errno)),
        }
    }
}

/// The number of bytes written or copied.
impl Answer<usize> for ReplyWrite {
    fn answer(self, outcome: Result<usize>) {
        match outcome {
            Ok(count) => self.written(count as u32),
            Err(errno) => self.error(fuse_errno(errno)),
        }
    }
}

/// An offset in a file.
impl Answer<u64> for ReplyLseek {
    fn answer(self, outcome: Result<u64>) {
        match outcome {
            Ok(found) => self.offset(found as i64),
            Err(errno) => self.error(fuse_errno(errno)),
        }
    }
}

/// A directory's handle, and whether the listing that the kernel has cached is still valid.
impl Answer<(u64, bool)> for ReplyOpen {
    fn answer(self, outcome: Result<(u64, bool)>) {
        match outcome {
            Ok((fh, fresh)) => {
                let mut flags = FopenFlags::FOPEN_CACHE_DIR;
                flags.set(FopenFlags::FOPEN_KEEP_CACHE, fresh);
                self.opened(FileHandle(fh), flags);
            }
            Err(errno) => self.error(fuse_errno(errno)),
        }
    }
}

impl Answer<()> for ReplyDirectory {
    fn answer(self, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.ok(),
            Err(errno) => self.error(fuse_errno(errno)),
        }
    }
}

impl Answer<()> for ReplyDirectoryPlus {
    fn answer(self, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.ok(),
            Err(errno) => self.error(fuse_errno(errno)),
        }
    }
}

impl Answer<StatVfs> for ReplyStatfs {
    fn answer(self, outcome: Result<StatVfs>) {
        match outcome {
            Ok(s) => self.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(errno) => self.error(fuse_errno(errno)),
        }
    }
}

/// A value's length and the value. The `u32` is the size of the caller's buffer. 0 asks for the length only.
impl Answer<(usize, Vec<u8>)> for (ReplyXattr, u32) {
    fn answer(self, outcome: Result<(usize, Vec<u8>)>) {
        let (reply, room) = self;
        match outcome {
            Ok((len, _)) if room == 0 => reply.size(len as u32),
            Ok((len, _)) if len > room as usize => reply.error(Errno::ERANGE),
            Ok((_, bytes)) => reply.data(&bytes),
            Err(errno) => reply.error(fuse_errno(errno)),
        }
    }

    fn errno(&self, outcome: &Result<(usize, Vec<u8>)>) -> i32 {
        match outcome {
            Ok((len, _)) if self.1 != 0 && *len > self.1 as usize => libc::ERANGE,
            outcome => sent_errno(outcome),
        }
    }
}

impl Answer<Vec<u8>> for ReplyIoctl {
    fn answer(self, outcome: Result<Vec<u8>>) {
        match outcome {
            Ok(bytes) => self.ioctl(0, &bytes),
            Err(errno) => self.error(fuse_errno(errno)),
        }
    }
}

/// Adds an entry to a listing. Returns false if there is no room for it.
pub fn list(reply: &mut ReplyDirectory, e: &Listed<'_>) -> bool {
    !reply.add(INodeNo(e.ino), e.offset, file_type(e.kind), e.name)
}

/// Adds an entry with its attributes to a listing. Returns false if there is no room for it.
pub fn list_plus(reply: &mut ReplyDirectoryPlus, e: &Listed<'_>, timeouts: Timeouts) -> bool {
    let (attr, timeout, generation) = match &e.entry {
        Some(entry) => {
            let timeout = entry.timeouts(timeouts).shorter();
            (file_attr(&entry.attr), timeout, entry.generation)
        }
        None => (bare_attr(e), Duration::ZERO, 0),
    };
    !reply.add(
        INodeNo(e.ino),
        e.offset,
        e.name,
        &timeout,
        &attr,
        Generation(generation.into()),
    )
}
