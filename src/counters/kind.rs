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

            /// Its name in answers: lower case, without `FUSE_`.
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

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct What {
    /// Its kind.
    pub kind: Kind,
    /// The offset it names, or 0.
    pub offset: u64,
    /// The bytes it is about, or 0.
    pub length: u64,
}

impl Kind {
    /// A request of this kind about `length` bytes from `offset` on.
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
