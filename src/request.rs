//! What requests ask for, in plain types.

use crate::attr::Time;
use rustix::fs::FileType;
use std::path::Path;

/// The largest READ or WRITE the kernel may send, in bytes.
pub const MAX_REQUEST: u32 = 1 << 20;

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The present, which whoever may write may set.
    Now,
    /// Any other, which is the owner's to set.
    To(Time),
}

/// What a SETATTR asks for; `None` leaves alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of the contents.
    pub mtime: Option<SetTime>,
}

impl SetAttr {
    /// Whether nothing is to be changed.
    pub fn is_nothing(&self) -> bool {
        *self == SetAttr::default()
    }
}

/// What is to be made under a new name.
#[derive(Debug, Clone, Copy)]
pub enum New<'a> {
    /// A directory.
    Directory(Permissions),
    /// A symbolic link to this target.
    Symlink(&'a Path),
    /// An inode of any other type, with the device number of a device node.
    Other(FileType, Permissions, u64),
}

/// The permission bits of what is made.
#[derive(Debug, Clone, Copy)]
pub struct Permissions {
    /// As asked for, in the lower 12 bits.
    pub mode: u32,
    /// Bits that the caller leaves out, where no default ACL says otherwise.
    pub umask: u32,
}

/// What may be removed under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Anything but a directory, as unlink(2).
    Name,
    /// An empty directory, as rmdir(2).
    Directory,
}

/// How far a write must have got before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Into the page cache.
    Cached,
    /// The bytes on the device (O_DSYNC).
    Data,
    /// The bytes and all attributes on the device (O_SYNC).
    Full,
}

/// One write.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// Where; of an append, where the kernel believes the end to be.
    pub offset: u64,
    /// What.
    pub data: &'a [u8],
    /// By a descriptor with O_APPEND: at the file's real end, if it is no write with RWF_NOAPPEND.
    pub append: bool,
    /// The kernel writes back a client's mapping: never beyond the end, no privilege is dropped.
    pub from_mapping: bool,
    /// It goes past the kernel's cache (O_DIRECT).
    pub direct: bool,
    /// Whether suid and sgid bits stay, as they do for root.
    pub keeps_setid: bool,
    /// How durable before the answer.
    pub durability: Durability,
}

/// The extended inode flags: `struct fsxattr` of linux/fs.h, which is passed on as it is (ioctl_xfs_fsgetxattr(2)).
pub type ExtendedFlags = [u8; 28];

/// Where data or a hole is looked for, as lseek(2) does, in bytes from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The first data at or after this offset.
    Data(u64),
    /// The first hole at or after this offset; the end of the file is one.
    Hole(u64),
}
