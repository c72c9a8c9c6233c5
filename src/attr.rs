//! The attributes of an inode: statx(2) in plain types.

use rustix::fs::{FileType, RawMode, Statx, StatxAttributes, StatxFlags, StatxTimestamp, makedev};
use rustix::time::{ClockId, clock_gettime};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Seconds and nanoseconds since the epoch, negative seconds before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds, rounded towards the past.
    pub sec: i64,
    /// Nanoseconds to add, below 1,000,000,000.
    pub nsec: u32,
}

impl Time {
    /// The clock that the kernel stamps files with.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        Time {
            sec: now.tv_sec,
            nsec: now.tv_nsec as u32,
        }
    }

    /// Nanoseconds since the epoch. `None` outside of the years 1678 to 2261.
    pub fn nanoseconds(self) -> Option<i64> {
        self.sec
            .checked_mul(1_000_000_000)?
            .checked_add(self.nsec.into())
    }
}

impl From<StatxTimestamp> for Time {
    fn from(t: StatxTimestamp) -> Self {
        Time {
            sec: t.tv_sec,
            nsec: t.tv_nsec,
        }
    }
}

/// The attributes of one inode of the source.
#[derive(Debug, Clone, Copy)]
pub struct Attr {
    /// The source's device number, as in `st_dev`.
    pub dev: u64,
    /// The source's inode number. `fs` replaces it by the node id in replies.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Allocated blocks of 512 bytes.
    pub blocks: u64,
    /// Time of the last read.
    pub atime: Time,
    /// Time of the last change of the contents.
    pub mtime: Time,
    /// Time of the last change of contents or attributes.
    pub ctime: Time,
    /// Time of birth, if the source records it.
    pub btime: Option<Time>,
    /// Type and permission bits, as in `st_mode`.
    pub mode: RawMode,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device file.
    pub rdev: u64,
    /// Preferred size of requests in bytes.
    pub blksize: u32,
    /// Whether this is the root of a mount.
    pub mount_root: bool,
    /// The mount it was found in, if the kernel tells.
    pub mount: MountId,
}

/// Number of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct MountId {
    /// The number. 0: the kernel tells none (before Linux 5.8).
    pub id: u64,
    /// Whether the number is never used again (since Linux 6.8).
    pub is_unique: bool,
}

/// STATX_MNT_ID_UNIQUE of statx(2).
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

impl Attr {
    /// The fields to ask statx(2) for.
    pub const MASK: StatxFlags = StatxFlags::BASIC_STATS
        .union(StatxFlags::BTIME)
        .union(StatxFlags::MNT_ID)
        .union(MNT_ID_UNIQUE);

    /// The type of the inode.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Whether it has the suid or the sgid bit.
    pub fn has_setid(&self) -> bool {
        self.mode & 0o6000 != 0
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == FileType::RegularFile
    }

    /// Whether it has fewer blocks than its size: it has holes, or is compressed.
    pub fn is_sparse(&self) -> bool {
        self.blocks.saturating_mul(512) < self.size
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// Whether size, mtime and ctime are the same as `before`, so that the file has not changed.
    pub fn is_as(&self, before: &Attr) -> bool {
        (self.size, self.mtime, self.ctime) == (before.size, before.mtime, before.ctime)
    }

    /// The change stamp: a number that changes whenever size, mtime or ctime does. Never 0.
    pub fn stamp(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.size, self.mtime, self.ctime).hash(&mut hasher);
        hasher.finish() | 1
    }
}

impl From<Statx> for Attr {
    fn from(s: Statx) -> Self {
        let has = |field: StatxFlags| s.stx_mask & field.bits() != 0;
        let mount = MountId {
            id: match has(StatxFlags::MNT_ID | MNT_ID_UNIQUE) {
                true => s.stx_mnt_id,
                false => 0,
            },
            is_unique: has(MNT_ID_UNIQUE),
        };
        Attr {
            dev: makedev(s.stx_dev_major, s.stx_dev_minor),
            ino: s.stx_ino,
            size: s.stx_size,
            blocks: s.stx_blocks,
            atime: s.stx_atime.into(),
            mtime: s.stx_mtime.into(),
            ctime: s.stx_ctime.into(),
            btime: has(StatxFlags::BTIME).then(|| s.stx_btime.into()),
            mode: RawMode::from(s.stx_mode),
            nlink: s.stx_nlink,
            uid: s.stx_uid,
            gid: s.stx_gid,
            rdev: makedev(s.stx_rdev_major, s.stx_rdev_minor),
            blksize: s.stx_blksize,
            mount_root: s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            mount,
        }
    }
}
