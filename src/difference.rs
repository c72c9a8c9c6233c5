//! What a private view shows otherwise than its source: the lines of `mmfs diff`.

use std::ops::Range;

use rustix::fs::FileType;

/// How a path differs. The first that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What was changed in the view was changed, replaced or removed in the source, too.
    Conflict,
    /// It had another name in the source.
    Renamed,
    /// The source has nothing there.
    Added,
    /// The view has nothing there.
    Deleted,
    /// The source has something of another type there.
    Type,
    /// Other bytes, or another target of a symbolic link.
    Modified,
    /// Another mode, owner or group, or other extended attributes.
    Permissions,
}

impl Kind {
    /// The letter that stands for it.
    pub fn letter(self) -> char {
        match self {
            Self::Conflict => 'C',
            Self::Renamed => 'R',
            Self::Added => 'A',
            Self::Deleted => 'D',
            Self::Type => 'T',
            Self::Modified => 'M',
            Self::Permissions => 'P',
        }
    }
}

/// What there is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Its type.
    pub kind: FileType,
    /// Its length in bytes.
    pub size: u64,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// How.
    pub kind: Kind,
    /// The path below the root, in the view. Of what was deleted: in the source. The root itself is `.`.
    pub path: Vec<u8>,
    /// Of what was renamed: its path in the source.
    pub from: Option<Vec<u8>>,
    /// What the view has there.
    pub now: Option<Shape>,
    /// What the source has there, or at `from`.
    pub before: Option<Shape>,
    /// Of a regular file: where its bytes differ, in whole pages, up to its end. What was cut off is not among them.
    pub ranges: Vec<Range<u64>>,
}

/// The path of a name in a directory, from the directory's. The root's is empty.
pub fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, name].join(&b'/'),
    }
}

/// How much is to be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// Whether bytes differ. `ranges` stays empty.
    Kinds,
    /// Where bytes differ, too.
    Pages,
    /// As `Kinds`, with all that a commit has to know.
    Commit,
}
