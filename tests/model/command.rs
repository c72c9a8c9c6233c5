//! Commands and their outcomes.

use std::fmt::{self, Debug};
use std::sync::OnceLock;

use rustix::fs::{FallocateFlags, OFlags, RenameFlags, XattrFlags};

use super::generate::Random;
pub use super::inodes::Stamp;

/// Offsets and lengths are cut here, so that files stay small enough to compare often.
pub const FARTHEST: u64 = 384 << 10;

/// A path below the root, or a single name: bytes, with `/` between names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub Vec<u8>);

/// An offset in a file, seen from its start or from its end.
#[derive(Debug, Clone, Copy)]
pub enum At {
    Byte(u64),
    End(i64),
}

/// Bytes to write: `len` of them, told apart from others' by `tag`.
#[derive(Debug, Clone, Copy)]
pub struct Data {
    pub tag: usize,
    pub len: usize,
}

/// One step of a sequence. `slot` names a handle; an empty slot makes the command do nothing.
#[derive(Debug, Clone)]
pub enum Command {
    Open {
        slot: usize,
        path: Place,
        flags: OFlags,
        mode: u32,
    },
    Close {
        slot: usize,
    },
    Read {
        slot: usize,
        at: At,
        len: usize,
    },
    Write {
        slot: usize,
        at: At,
        data: Data,
    },
    /// Map the file shared, copy out of the mapping, unmap.
    MapRead {
        slot: usize,
        at: At,
        len: usize,
    },
    /// Map the file shared, copy into the mapping, msync, unmap.
    MapWrite {
        slot: usize,
        at: At,
        data: Data,
    },
    /// SEEK_HOLE or SEEK_DATA: what is skipped must be data or zeros.
    Seek {
        slot: usize,
        at: At,
        hole: bool,
    },
    Resize {
        slot: usize,
        len: At,
    },
    Allocate {
        slot: usize,
        how: FallocateFlags,
        at: At,
        len: u64,
    },
    Copy {
        from: usize,
        from_at: At,
        to: usize,
        to_at: At,
        len: usize,
    },
    Sync {
        slot: usize,
        data_only: bool,
    },
    Fstat {
        slot: usize,
    },
    Stat {
        path: Place,
    },
    Truncate {
        path: Place,
        len: At,
    },
    Chmod {
        path: Place,
        mode: u32,
    },
    Touch {
        path: Place,
        seconds: i64,
        nanoseconds: i64,
    },
    SetXattr {
        path: Place,
        name: &'static str,
        value: Data,
        flags: XattrFlags,
    },
    GetXattr {
        path: Place,
        name: &'static str,
    },
    ListXattr {
        path: Place,
    },
    RemoveXattr {
        path: Place,
        name: &'static str,
    },
    Mkdir {
        path: Place,
        mode: u32,
    },
    Rmdir {
        path: Place,
    },
    Unlink {
        path: Place,
    },
    Rename {
        from: Place,
        to: Place,
        flags: RenameFlags,
    },
    Link {
        from: Place,
        to: Place,
    },
    Symlink {
        target: Place,
        path: Place,
    },
    Readlink {
        path: Place,
    },
    List {
        path: Place,
    },
    /// Open an existing file, write, close.
    WriteFile {
        path: Place,
        at: At,
        data: Data,
    },
    /// Write a new file and rename it over this place.
    Replace {
        path: Place,
        data: Data,
    },
    /// Done to the source directory, behind the mount's back.
    Behind(Box<Command>),
    /// The kernel drops what it remembers of names and inodes without need.
    Forget,
}

/// What a command came to: an answer or an error number.
pub type Outcome = Result<Answer, i32>;

/// What a command that succeeded gave back.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Done,
    /// It made no sense here (an empty slot, a mapping of nothing), so nothing was done.
    Skipped,
    Count(usize),
    Bytes(Bytes),
    Names(Vec<Place>),
    Attr(Attr),
    /// What no filesystem may answer.
    Wrong(String),
}

/// Bytes that print short.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

/// What stat(2) tells and the model knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Attr {
    pub kind: Kind,
    pub mode: u32,
    /// Of anything but directories, whose count is each filesystem's own affair.
    pub links: Option<u64>,
    /// Of anything but directories.
    pub size: Option<u64>,
    pub mtime: Stamp,
}

/// The types of files the commands make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Other,
}

impl At {
    /// The offset in a file of this size.
    pub fn in_file_of(self, size: u64) -> u64 {
        let at = match self {
            Self::Byte(at) => at,
            Self::End(delta) => size.saturating_add_signed(delta),
        };
        at.min(FARTHEST)
    }
}

impl Data {
    /// The bytes themselves: a piece of one fixed random text, so that no two offsets and tags look alike.
    pub fn bytes(self) -> &'static [u8] {
        static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
        let text = TEXT.get_or_init(|| {
            let mut random = Random::new(1);
            (0..(1 << 17))
                .flat_map(|_| random.next().to_le_bytes())
                .collect()
        });
        let start = self.tag % (text.len() / 2);
        &text[start..start + self.len.min(text.len() / 2)]
    }
}

impl Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0..60 => write!(f, "\"{}\"", self.0.escape_ascii()),
            len => write!(f, "\"{}...\"({len} bytes)", self.0[..8].escape_ascii()),
        }
    }
}

impl Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = self
            .0
            .iter()
            .fold(0u32, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte));
        write!(
            f,
            "[{} bytes {sum:08x} {:02x?}..]",
            self.0.len(),
            &self.0[..self.0.len().min(8)]
        )
    }
}
