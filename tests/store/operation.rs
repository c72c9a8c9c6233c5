//! One operation of a random sequence. It names no number that the store gives: so it means the same when others are dropped.

use mmfs::store::Kind;

use super::place::Random;

/// An operation, and how many milliseconds after the one before.
#[derive(Debug, Clone)]
pub struct Step {
    pub operation: Operation,
    pub pause: u64,
}

/// A position in a file: this far from a place where something ends.
#[derive(Debug, Clone, Copy)]
pub struct Spot {
    pub near: Near,
    pub delta: i64,
}

#[derive(Debug, Clone, Copy)]
pub enum Near {
    /// The first byte of this page.
    Page(u64),
    /// The end of the file.
    End,
    /// Where the source's bytes end.
    Limit,
    /// Behind the largest file.
    Huge,
}

/// A step of `Store::change`. Nodes are named by their slot.
#[derive(Debug, Clone)]
pub enum Meta {
    Make {
        slot: usize,
        kind: Kind,
        /// It began as this inode of the source, a file of this many bytes.
        origin: Option<(u64, usize)>,
    },
    Attributes(usize, u64),
    Links(usize, i64),
    Opaque(usize, bool),
    /// Shows the origin's attributes again.
    Reset(usize),
    /// Gives a name: a directory leaves its other one.
    Name {
        directory: usize,
        name: usize,
        to: usize,
        replaces: bool,
    },
    Unname {
        directory: usize,
        name: usize,
        hidden: bool,
    },
    Xattr {
        slot: usize,
        name: usize,
        value: XattrIs,
    },
    /// Takes all its names away first, if it is to be an orphan.
    Orphan(usize, bool),
    /// Takes all its names away first.
    Remove(usize),
    Filesystem(u32, usize),
    /// A change that no store takes.
    Bad(usize, u64),
}

#[derive(Debug, Clone, Copy)]
pub enum XattrIs {
    Set(usize),
    Hidden,
    AsBefore,
}

#[derive(Debug, Clone)]
pub enum Operation {
    Change(Vec<Meta>),
    Write {
        slot: usize,
        at: Spot,
        len: usize,
    },
    Truncate {
        slot: usize,
        to: Spot,
    },
    Punch {
        slot: usize,
        from: Spot,
        to: Spot,
    },
    MakeWhole(usize),
    Read {
        slot: usize,
        at: Spot,
        len: usize,
    },
    Names {
        slot: usize,
        limit: usize,
    },
    Sync(usize, bool),
    SyncNames,
    Barrier,
    Close,
    Kill,
    /// So many pages more than are used now.
    Limit(Option<u64>),
}

pub const SLOTS: usize = 9;
pub const NAMES: usize = 8;
/// Bytes of the source's files.
pub const SIZES: [usize; 12] = [
    0,
    1,
    100,
    4095,
    4096,
    4097,
    12_293,
    40_960,
    70_000,
    (4 << 20) - 4096,
    4 << 20,
    (8 << 20) + 5,
];
/// Those for sequences with small files only.
const SMALL_SIZES: usize = 9;

impl Spot {
    fn random(random: &mut Random, large: bool) -> Self {
        let near = match random.below(20) {
            0..8 => Near::Page(random.below(5)),
            8..11 if large => Near::Page(random.of(&[1023, 1024, 1025, 2048])),
            8..11 => Near::Page(random.below(24)),
            11..15 => Near::End,
            15..19 => Near::Limit,
            _ => Near::Huge,
        };
        let delta = random.of(&[
            -4097, -4096, -4095, -100, -1, 0, 0, 0, 1, 2, 511, 4095, 4096,
        ]);
        Self { near, delta }
    }

    /// As a number of bytes.
    pub fn resolve(self, size: u64, limit: u64) -> u64 {
        let base = match self.near {
            Near::Page(page) => page * 4096,
            Near::End => size,
            Near::Limit => limit,
            Near::Huge => return (1 << 63) + self.delta.unsigned_abs(),
        };
        base.saturating_add_signed(self.delta)
    }
}

impl Operation {
    pub fn random(random: &mut Random, large: bool) -> Step {
        let pause = random.of(&[0, 0, 1, 5, 9, 10, 11, 5000]);
        Step {
            operation: Self::one(random, large),
            pause,
        }
    }

    fn one(random: &mut Random, large: bool) -> Self {
        let slot = random.below(SLOTS as u64) as usize;
        let spot = |random: &mut Random| Spot::random(random, large);
        let len = |random: &mut Random| {
            let pages = random.of(&[0, 0, 1, 1, 2, 17]) * 4096;
            (pages + random.of(&[0, 0, 1, 5, 1000, 4095])) as usize
        };
        match random.below(100) {
            0..34 => {
                let count = random.of(&[1, 1, 1, 2, 3]);
                let change = |_| Meta::random(random, large);
                Self::Change((0..count).map(change).collect())
            }
            34..52 => Self::Write {
                slot,
                at: spot(random),
                len: len(random),
            },
            52..60 => Self::Truncate {
                slot,
                to: if random.below(4) == 0 {
                    Spot {
                        near: Near::Page(0),
                        delta: 0,
                    }
                } else {
                    spot(random)
                },
            },
            60..67 => Self::Punch {
                slot,
                from: spot(random),
                to: spot(random),
            },
            67..70 => Self::MakeWhole(slot),
            70..73 => Self::Read {
                slot,
                at: spot(random),
                len: len(random),
            },
            73..76 => Self::Names {
                slot,
                limit: random.of(&[1, 2, 3, 100]),
            },
            76..80 => Self::Sync(slot, random.below(2) == 0),
            80..82 => Self::SyncNames,
            82..90 => Self::Barrier,
            90..93 => Self::Close,
            93..97 => Self::Kill,
            _ => Self::Limit(random.of(&[None, None, Some(0), Some(1), Some(3)])),
        }
    }
}

impl Meta {
    fn random(random: &mut Random, large: bool) -> Self {
        let slot = random.below(SLOTS as u64) as usize;
        let directory = random.below(3) as usize;
        let name = random.below(NAMES as u64) as usize;
        let kinds = [
            Kind::File,
            Kind::File,
            Kind::File,
            Kind::Directory,
            Kind::Directory,
            Kind::Symlink,
            Kind::Socket,
        ];
        let sizes = if large { SIZES.len() } else { SMALL_SIZES };
        match random.below(31) {
            30 => Self::Reset(slot),
            0..9 => Self::Make {
                slot,
                kind: random.of(&kinds),
                origin: (random.below(3) > 0)
                    .then(|| (random.below(12), random.below(sizes as u64) as usize)),
            },
            9..12 => Self::Attributes(slot, random.next()),
            12 => Self::Links(slot, random.of(&[1, -1, 5, 1 << 39, 1 << 40, i64::MAX])),
            13 => Self::Opaque(slot, random.below(2) == 0),
            14..19 => Self::Name {
                directory,
                name,
                to: slot,
                replaces: random.below(2) == 0,
            },
            19..21 => Self::Unname {
                directory,
                name,
                hidden: random.below(2) == 0,
            },
            21..24 => Self::Xattr {
                slot,
                name,
                value: random.of(&[
                    XattrIs::Set(0),
                    XattrIs::Set(9),
                    XattrIs::Set(5000),
                    XattrIs::Set(65536),
                    XattrIs::Hidden,
                    XattrIs::AsBefore,
                ]),
            },
            24 => Self::Orphan(slot, random.below(3) > 0),
            25..28 => Self::Remove(slot),
            28 => Self::Filesystem(random.below(4) as u32, random.of(&[0, 16, 300])),
            _ => Self::Bad(slot, random.below(16)),
        }
    }
}
