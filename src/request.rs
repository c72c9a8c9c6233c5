//! The contents of requests, in plain types.

use crate::attr::Time;
use rustix::fs::FileType;
use std::path::Path;

/// The largest READ or WRITE the kernel may send, in bytes.
pub const MAX_REQUEST: u32 = 1 << 20;

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The current time. Every user who may write the file may set it.
    Now,
    /// Another time. Only the owner may set it.
    To(Time),
}

/// The attributes to set by a SETATTR. `None` leaves an attribute unchanged.
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
    /// Whether no attribute is set.
    pub fn is_nothing(&self) -> bool {
        *self == SetAttr::default()
    }
}

/// An inode to create.
#[derive(Debug, Clone, Copy)]
pub enum New<'a> {
    /// A directory.
    Directory(Permissions),
    /// A symbolic link to this target.
    Symlink(&'a Path),
    /// An inode of any other type. The number is that of a device file.
    Other(FileType, Permissions, u64),
}

/// The permission bits of an inode to create.
#[derive(Debug, Clone, Copy)]
pub struct Permissions {
    /// The requested bits, in the lower 12 bits.
    pub mode: u32,
    /// The caller's umask. A default ACL of the directory overrides it.
    pub umask: u32,
}

/// The type of inode that a removal expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Anything but a directory, as unlink(2).
    Name,
    /// An empty directory, as rmdir(2).
    Directory,
}

/// Where the bytes of a write must be before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In the page cache.
    Cached,
    /// The bytes on the device (O_DSYNC).
    Data,
    /// The bytes and all attributes on the device (O_SYNC).
    Full,
}

/// One write.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// Offset of the first byte. For an append, the end of the file as the kernel has it in its cache.
    pub offset: u64,
    /// The bytes.
    pub data: &'a [u8],
    /// The descriptor has O_APPEND. The bytes go to the file's real end, unless the write has RWF_NOAPPEND.
    pub append: bool,
    /// The kernel writes back pages of a client's mapping. Such a write never extends the file and strips no suid or sgid bits.
    pub from_mapping: bool,
    /// The write bypasses the kernel's cache (O_DIRECT).
    pub direct: bool,
    /// Whether suid and sgid bits stay, as they do for root.
    pub keeps_setid: bool,
    /// Durability before the answer.
    pub durability: Durability,
}

/// The extended inode flags: `struct fsxattr` of linux/fs.h, passed through unchanged (ioctl_xfs_fsgetxattr(2)).
pub type ExtendedFlags = [u8; 28];

/// Where lseek(2) searches for data or a hole, in bytes from the beginning of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The first data at or after this offset.
    Data(u64),
    /// The first hole at or after this offset. The end of the file counts as a hole.
    Hole(u64),
}
