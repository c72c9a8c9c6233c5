//! Kinds of filesystems, by the magic numbers of statfs(2).

/// overlayfs.
pub const OVERLAY: u64 = 0x794c_7630;
/// overlayfs and ecryptfs.
pub const STACKED: [u64; 2] = [OVERLAY, 0xf15f];
/// tmpfs and hugetlbfs.
pub const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x9584_58f6];
/// ext4, xfs, btrfs, f2fs, tmpfs and NFS.
pub const LASTING: [u64; 6] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0x0102_1994,
    0x6969,
];
/// Those whose attributes may change on another machine.
pub const REMOTE: [u64; 8] = [
    0x6573_5546,
    0x6969,
    0xff53_4d42,
    0xfe53_4d42,
    0x517b,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
];
