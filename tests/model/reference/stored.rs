//! What a private view has of a file's bytes, as far as it matters when the source's file changes.

use std::collections::BTreeSet;

use rustix::fs::{FallocateFlags, OFlags};

use super::super::command::Command;
use super::super::inodes::bytes::PAGE;
use super::super::inodes::{Ino, Stamp};
use super::Reference;

/// Files up to this size are copied at their first write.
const SMALL: usize = 64 << 10;

/// A file's bytes.
#[derive(Debug, Clone, Default)]
pub enum Bytes {
    /// They are the source's.
    #[default]
    Follow,
    Stored(Stored),
}

#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// Pages that the view has.
    own: BTreeSet<usize>,
    /// From here on, nothing comes from the source.
    limit: usize,
    /// What the source's file was.
    pub state: State,
}

/// What a change of the source's file changes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct State(usize, (i64, i64));

impl State {
    pub fn of(source: &Reference, ino: Ino) -> Self {
        let Ok(inode) = source.inodes.get(ino) else {
            return Self::default();
        };
        let time = match inode.mtime {
            Stamp::Set(seconds, nanoseconds) => (seconds, nanoseconds),
            _ => (i64::MAX, inode.modified as i64),
        };
        Self(inode.body.size() as usize, time)
    }
}

/// A change of a file's bytes.
#[derive(Debug, Clone, Copy)]
pub enum Edit {
    Write(usize, usize),
    Resize(usize),
    /// Zeros from here to there, and the end of the file.
    Zero(usize, usize, usize),
}

impl Bytes {
    /// Whether nothing comes from the source. `len`: the file's, if it follows.
    pub fn is_whole(&self, len: usize) -> bool {
        match self {
            Self::Follow => len == 0,
            Self::Stored(stored) => stored.limit == 0,
        }
    }

    /// Whether this page comes from the source.
    pub fn is_below(&self, page: usize) -> bool {
        match self {
            Self::Follow => true,
            Self::Stored(stored) => page * PAGE < stored.limit && !stored.own.contains(&page),
        }
    }

    /// Whether any page of this range comes from the source.
    pub fn are_below(&self, start: usize, end: usize) -> bool {
        start < end && (start / PAGE..end.div_ceil(PAGE)).any(|page| self.is_below(page))
    }

    /// The file, `len` bytes long until now, is changed. `state` is its source's.
    pub fn edit(&mut self, edit: Edit, len: usize, state: State) {
        if let Self::Follow = self {
            let copied = !matches!(edit, Edit::Resize(_)) && len <= SMALL;
            if matches!(edit, Edit::Zero(start, end, size) if !copied && start >= end && size <= len)
            {
                return;
            }
            *self = Self::Stored(Stored {
                own: BTreeSet::new(),
                limit: if copied { 0 } else { len },
                state,
            });
        }
        let Self::Stored(stored) = self else { return };
        let (start, end) = match edit {
            Edit::Resize(size) => {
                stored.limit = stored.limit.min(size);
                return;
            }
            Edit::Write(start, end) => (start, end),
            Edit::Zero(start, end, _) => (start, end.min(len)),
        };
        if start < end {
            stored.own.extend(start / PAGE..end.div_ceil(PAGE));
        }
    }
}

impl Reference {
    /// The file whose bytes a command is about to change, and how.
    pub fn edit_of(&self, command: &Command) -> Option<(Ino, Edit)> {
        let handle = |slot: usize| self.handles[slot];
        let edit = match *command {
            Command::Write { slot, at, data } | Command::MapWrite { slot, at, data } => {
                let handle = handle(slot)?;
                let size = self.inodes.size(handle.ino);
                let is_mapped = matches!(command, Command::MapWrite { .. });
                let start = match handle.flags.contains(OFlags::APPEND) && !is_mapped {
                    true => size,
                    false => at.in_file_of(size),
                };
                let mut end = start + data.bytes().len() as u64;
                if is_mapped {
                    end = end.min(size);
                }
                (handle.ino, Edit::Write(start as usize, end as usize))
            }
            Command::Copy {
                from,
                from_at,
                to,
                to_at,
                len,
            } => {
                let (from, to) = (handle(from)?, handle(to)?);
                let (size, room) = (self.inodes.size(to.ino), self.inodes.size(from.ino));
                let len = (len as u64).min(room.saturating_sub(from_at.in_file_of(room)));
                let start = to_at.in_file_of(size);
                (to.ino, Edit::Write(start as usize, (start + len) as usize))
            }
            Command::WriteFile { ref path, at, data } => {
                let ino = self.existing(path, true).ok()?;
                let start = at.in_file_of(self.inodes.size(ino));
                let end = start + data.bytes().len() as u64;
                (ino, Edit::Write(start as usize, end as usize))
            }
            Command::Resize { slot, len } => {
                let ino = handle(slot)?.ino;
                let len = len.in_file_of(self.inodes.size(ino));
                (ino, Edit::Resize(len as usize))
            }
            Command::Truncate { ref path, len } => {
                let ino = self.existing(path, true).ok()?;
                let len = len.in_file_of(self.inodes.size(ino));
                (ino, Edit::Resize(len as usize))
            }
            Command::Open {
                ref path, flags, ..
            } if flags.contains(OFlags::TRUNC) => {
                let follow = !flags.intersects(OFlags::NOFOLLOW | OFlags::EXCL);
                (self.existing(path, follow).ok()?, Edit::Resize(0))
            }
            Command::Allocate { slot, how, at, len } => {
                let ino = handle(slot)?.ino;
                let size = self.inodes.size(ino) as usize;
                let start = at.in_file_of(size as u64) as usize;
                let end = start + len as usize;
                let after = match how.contains(FallocateFlags::KEEP_SIZE) {
                    true => size,
                    false => end.max(size),
                };
                let zeroes =
                    how.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE);
                let (start, end) = if zeroes {
                    (start, end.min(size))
                } else {
                    (0, 0)
                };
                (ino, Edit::Zero(start, end, after))
            }
            _ => return None,
        };
        match edit.1 {
            Edit::Write(start, end) if start >= end => None,
            _ => Some(edit),
        }
    }

    /// The bytes that a command reads, or looks at.
    pub fn span_of(&self, command: &Command) -> Option<(Ino, usize, usize)> {
        let (slot, at, len) = match *command {
            Command::Read { slot, at, len } | Command::MapRead { slot, at, len } => (slot, at, len),
            Command::Seek { slot, at, .. } => (slot, at, usize::MAX >> 1),
            Command::Copy {
                from, from_at, len, ..
            } => (from, from_at, len),
            _ => return None,
        };
        let ino = self.handles[slot]?.ino;
        let start = at.in_file_of(self.inodes.size(ino)) as usize;
        Some((ino, start, start + len))
    }
}
