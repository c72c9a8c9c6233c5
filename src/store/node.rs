//! What a store knows of an inode, and of a name.

use std::io;

use rustix::io::Errno;

use super::codec::{Reader, Writer, damaged};

/// The number of a node of a store. It is never given to a second node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The lowest number: no source has numbers as high, so `st_ino` stays unique in a view.
    pub const FIRST: u64 = 1 << 62;

    /// The id with this number.
    ///
    /// # Errors
    /// EUCLEAN if no store gives such a number.
    pub fn checked(number: u64) -> io::Result<Self> {
        if (Self::FIRST..1 << 63).contains(&number) {
            Ok(Self(number))
        } else {
            Err(damaged())
        }
    }
}

/// The kinds of inodes. Their numbers are those in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    File = 1,
    Directory = 2,
    Symlink = 3,
    Fifo = 4,
    CharDevice = 5,
    BlockDevice = 6,
    Socket = 7,
}

impl Kind {
    fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        Ok(match from.u8()? {
            1 => Self::File,
            2 => Self::Directory,
            3 => Self::Symlink,
            4 => Self::Fifo,
            5 => Self::CharDevice,
            6 => Self::BlockDevice,
            7 => Self::Socket,
            _ => return Err(damaged()),
        })
    }
}

/// A moment, as statx(2) gives it: seconds since 1970, and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970. Below zero: before.
    pub seconds: i64,
    /// Nanoseconds, less than 10^9.
    pub nanoseconds: u32,
}

impl Time {
    pub(super) fn put(self, to: &mut Writer) {
        to.i64(self.seconds).u32(self.nanoseconds);
    }

    /// Whether a store takes it.
    pub(super) fn is_sound(self) -> bool {
        self.nanoseconds < 1_000_000_000
    }

    pub(super) fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        let time = Self {
            seconds: from.i64()?,
            nanoseconds: from.u32()?,
        };
        if time.is_sound() {
            Ok(time)
        } else {
            Err(damaged())
        }
    }
}

/// The inode of the source that a node began as.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Which filesystem: a number of [`super::Change::Filesystem`].
    pub filesystem: u32,
    /// Its `st_ino`, which the view goes on showing.
    pub number: u64,
    /// What tells it from other inodes that had or will have this number: an exported handle, a birth time or a path.
    pub identity: Vec<u8>,
}

impl Origin {
    /// Identities are shorter than this. The longest is a path.
    pub const MAX_IDENTITY: usize = 4096;

    pub(super) fn put(&self, to: &mut Writer) {
        to.u32(self.filesystem)
            .u64(self.number)
            .bytes(&self.identity);
    }

    fn is_sound(&self) -> bool {
        self.identity.len() <= Self::MAX_IDENTITY
    }

    pub(super) fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        let origin = Self {
            filesystem: from.u32()?,
            number: from.u64()?,
            identity: from.bytes()?.to_vec(),
        };
        if origin.is_sound() {
            Ok(origin)
        } else {
            Err(damaged())
        }
    }
}

/// The attributes that a store overrides. None: the origin's attribute shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits, with setuid, setgid and sticky: at most 0o7777.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The time of the last access.
    pub atime: Option<Time>,
    /// The time of the last change of the bytes, unless [`super::Content::mtime`] has a later one.
    pub mtime: Option<Time>,
    /// The time of the last change, likewise.
    pub ctime: Option<Time>,
    /// The time of birth.
    pub btime: Option<Time>,
}

impl Attributes {
    /// Overrides what `with` has.
    pub fn set(&mut self, with: &Self) {
        self.mode = with.mode.or(self.mode);
        self.uid = with.uid.or(self.uid);
        self.gid = with.gid.or(self.gid);
        self.atime = with.atime.or(self.atime);
        self.mtime = with.mtime.or(self.mtime);
        self.ctime = with.ctime.or(self.ctime);
        self.btime = with.btime.or(self.btime);
    }

    pub(super) fn put(&self, to: &mut Writer) {
        for number in [self.mode, self.uid, self.gid] {
            to.option(number, |to, number| _ = to.u32(number));
        }
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            to.option(time, |to, time| time.put(to));
        }
    }

    pub(super) fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        let attributes = Self {
            mode: from.option(Reader::u32)?,
            uid: from.option(Reader::u32)?,
            gid: from.option(Reader::u32)?,
            atime: from.option(Time::get)?,
            mtime: from.option(Time::get)?,
            ctime: from.option(Time::get)?,
            btime: from.option(Time::get)?,
        };
        if attributes.is_sound() {
            Ok(attributes)
        } else {
            Err(damaged())
        }
    }

    /// Whether a store takes them.
    pub(super) fn is_sound(&self) -> bool {
        let mut times = [self.atime, self.mtime, self.ctime, self.btime]
            .into_iter()
            .flatten();
        self.mode.is_none_or(|mode| mode <= 0o7777) && times.all(Time::is_sound)
    }
}

/// What a store knows of an inode, but for its bytes, names and extended attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// File, directory and so on. It never changes.
    pub kind: Kind,
    /// Where it came from. None: it was made in the view.
    pub origin: Option<Origin>,
    /// What differs from the origin. A node without origin has them all but `btime`.
    pub attributes: Attributes,
    /// Links of a node without origin; else those that came or went since.
    pub links: i64,
    /// A directory: nothing of the source's directory of this name shows.
    pub opaque: bool,
    /// The device number of a device.
    pub device: u64,
    /// Where a symbolic link leads.
    pub target: Vec<u8>,
    /// The path below the source's root by which the origin was reached at its first change. Empty: the root, no origin, or its name
    /// was another file's already.
    pub reached: Vec<u8>,
    /// The origin's attributes at its first change: they show if the source has lost it.
    pub known: Attributes,
    /// The origin's length then, in bytes.
    pub known_size: u64,
    /// A directory's one name: it is found below this name only. The store keeps it, by [`super::Change::Name`].
    pub place: Option<(NodeId, Vec<u8>)>,
}

impl Node {
    /// Symbolic links lead to at most so many bytes: PATH_MAX.
    pub const MAX_TARGET: usize = 4096;

    pub(super) fn put(&self, to: &mut Writer) {
        to.u8(self.kind as u8);
        to.option(self.origin.as_ref(), |to, origin| origin.put(to));
        self.attributes.put(to);
        to.i64(self.links)
            .u8(u8::from(self.opaque))
            .u64(self.device)
            .bytes(&self.target)
            .bytes(&self.reached);
        self.known.put(to);
        to.u64(self.known_size);
        to.option(self.place.as_ref(), |to, (parent, name)| {
            _ = to.u64(parent.0).bytes(name)
        });
    }

    pub(super) fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        let node = Self {
            kind: Kind::get(from)?,
            origin: from.option(Origin::get)?,
            attributes: Attributes::get(from)?,
            links: from.i64()?,
            opaque: from.bool()?,
            device: from.u64()?,
            target: from.bytes()?.to_vec(),
            reached: from.bytes()?.to_vec(),
            known: Attributes::get(from)?,
            known_size: from.u64()?,
            place: from.option(|from| {
                let parent = NodeId::checked(from.u64()?)?;
                Ok((parent, check_name(from.bytes()?)?.to_vec()))
            })?,
        };
        if node.is_sound() && (node.kind == Kind::Directory || node.place.is_none()) {
            Ok(node)
        } else {
            Err(damaged())
        }
    }

    /// Whether a store takes it. Its place does not count: the store sets it.
    pub(super) fn is_sound(&self) -> bool {
        self.origin.as_ref().is_none_or(Origin::is_sound)
            && self.attributes.is_sound()
            && self.known.is_sound()
            && self.reached.len() <= Self::MAX_TARGET
            && !self.reached.contains(&0)
            && self.target.len() <= Self::MAX_TARGET
            && !self.target.contains(&0)
            && (self.kind == Kind::Directory || !self.opaque)
            && self.links.unsigned_abs() < 1 << 40
    }
}

/// What a name of the store leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// A node.
    Node(NodeId),
    /// Nothing: the source's entry of this name does not show.
    Hidden,
}

impl Name {
    pub(super) fn put(self, to: &mut Writer) {
        match self {
            Self::Hidden => to.u64(0),
            Self::Node(id) => to.u64(id.0),
        };
    }

    pub(super) fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        match from.u64()? {
            0 => Ok(Self::Hidden),
            number => Ok(Self::Node(NodeId::checked(number)?)),
        }
    }
}

/// The value of a name in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    /// Where it leads.
    pub to: Name,
    /// Since when the source's entry of this name does not show. It comes last, and stores of earlier versions do not have it.
    pub since: Option<Time>,
}

impl Named {
    pub fn put(self, to: &mut Writer) {
        self.to.put(to);
        if let Some(since) = self.since {
            since.put(to);
        }
    }

    pub fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        Ok(Self {
            to: Name::get(from)?,
            since: (!from.0.is_empty()).then(|| Time::get(from)).transpose()?,
        })
    }
}

/// What a store says of an extended attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Xattr {
    /// It has this value.
    Set(Vec<u8>),
    /// The origin's attribute of this name does not show.
    Hidden,
}

impl Xattr {
    /// XATTR_SIZE_MAX of Linux.
    pub const MAX_VALUE: usize = 65536;

    pub(super) fn put(&self, to: &mut Writer) {
        match self {
            Self::Hidden => to.u8(0),
            Self::Set(value) => to.u8(1).bytes(value),
        };
    }

    pub(super) fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        match from.u8()? {
            0 => Ok(Self::Hidden),
            1 => {
                let value = from.bytes()?;
                if value.len() <= Self::MAX_VALUE {
                    Ok(Self::Set(value.to_vec()))
                } else {
                    Err(damaged())
                }
            }
            _ => Err(damaged()),
        }
    }
}

/// The longest name: NAME_MAX of Linux.
pub const MAX_NAME: usize = 255;

/// Checks that `name` can stand in a directory.
///
/// # Errors
/// EUCLEAN for what a path would take for something else: empty, `.`, `..`, with a slash or a zero byte, or too long.
pub fn check_name(name: &[u8]) -> io::Result<&[u8]> {
    let strange = name.is_empty() || name.len() > MAX_NAME || name == b"." || name == b"..";
    if strange || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        Err(damaged())
    } else {
        Ok(name)
    }
}

/// Checks that `name` can be that of an extended attribute.
///
/// # Errors
/// EUCLEAN if it is empty, has a zero byte or is longer than XATTR_NAME_MAX (255).
pub fn check_xattr_name(name: &[u8]) -> io::Result<&[u8]> {
    if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) {
        Err(damaged())
    } else {
        Ok(name)
    }
}

/// Checks the value of an extended attribute.
///
/// # Errors
/// E2BIG above 64 KiB.
pub fn check_xattr(value: &Xattr) -> io::Result<()> {
    match value {
        Xattr::Set(bytes) if bytes.len() > Xattr::MAX_VALUE => Err(Errno::TOOBIG.into()),
        _ => Ok(()),
    }
}
