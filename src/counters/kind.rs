//! The kinds of requests that are counted.

macro_rules! kinds {
    ($($kind:ident $name:literal,)*) => {
        /// A kind of request, named as in linux/fuse.h.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind {
            $(#[doc = $name] $kind,)*
        }

        impl Kind {
            /// All kinds, in the order of their numbers.
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            /// The name in answers of the control channel: lower case, without `FUSE_`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    Lookup "lookup",
    Forget "forget",
    GetAttr "getattr",
    SetAttr "setattr",
    ReadLink "readlink",
    MkNod "mknod",
    MkDir "mkdir",
    Unlink "unlink",
    RmDir "rmdir",
    Symlink "symlink",
    Rename "rename",
    Link "link",
    Open "open",
    Create "create",
    Read "read",
    Write "write",
    Flush "flush",
    Release "release",
    Fsync "fsync",
    OpenDir "opendir",
    ReadDir "readdir",
    ReadDirPlus "readdirplus",
    ReleaseDir "releasedir",
    FsyncDir "fsyncdir",
    StatFs "statfs",
    SetXattr "setxattr",
    GetXattr "getxattr",
    ListXattr "listxattr",
    RemoveXattr "removexattr",
    Access "access",
    Fallocate "fallocate",
    Lseek "lseek",
    CopyFileRange "copy_file_range",
    Ioctl "ioctl",
    Poll "poll",
    Bmap "bmap",
    // GETXATTR of the control channel.
    Control "control",
}

/// The kind and the byte range of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct What {
    /// The kind of the request.
    pub kind: Kind,
    /// The offset in the request, or 0.
    pub offset: u64,
    /// The length in the request, in bytes, or 0.
    pub length: u64,
}

impl Kind {
    /// A request of this kind for `length` bytes at `offset`.
    pub fn at(self, offset: u64, length: u64) -> What {
        What {
            kind: self,
            offset,
            length,
        }
    }
}

impl From<Kind> for What {
    fn from(kind: Kind) -> What {
        kind.at(0, 0)
    }
}
