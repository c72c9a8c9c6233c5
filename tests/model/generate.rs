//! Random commands, thickest where things go wrong: at the edges of pages, windows and files.

use rustix::fs::{FallocateFlags, OFlags, RenameFlags, XattrFlags};

use super::command::{At, Command, Data, Place};

/// How many handles a sequence may hold at once.
pub const SLOTS: usize = 5;

const PAGE: u64 = 4096;
const WINDOW: u64 = 64 << 10;
const XATTRS: [&str; 3] = ["user.a", "user.b", "user.\u{e4}"];

/// A random sequence of numbers that a seed repeats (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

/// What the commands of a sequence may contain.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kinds {
    /// Changes of the source behind the mount, and forgetting.
    pub behind: bool,
    /// suid and sgid bits.
    pub special_bits: bool,
}

/// A sequence of up to this many commands, the same one for the same seed.
pub fn sequence(seed: u64, len: usize, kinds: Kinds) -> Vec<Command> {
    let mut this = Generator {
        random: Random::new(seed),
        kinds,
    };
    let mut commands = this.prologue();
    while commands.len() < len {
        commands.push(this.command());
    }
    commands
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).expect("an index")]
    }
}

struct Generator {
    random: Random,
    kinds: Kinds,
}

impl Generator {
    // Something to work with. These are commands like others: shrinking may take them away.
    fn prologue(&mut self) -> Vec<Command> {
        let mode = 0o755;
        let mut commands = vec![
            Command::Mkdir {
                path: place("d"),
                mode,
            },
            Command::Mkdir {
                path: place("d/e"),
                mode,
            },
        ];
        for (slot, path) in ["a", "d/b"].into_iter().enumerate() {
            let (flags, at, data) = (OFlags::RDWR | OFlags::CREATE, At::Byte(0), self.data());
            commands.push(Command::Open {
                slot,
                path: place(path),
                flags,
                mode: 0o644,
            });
            commands.push(Command::Write { slot, at, data });
        }
        commands
    }

    fn command(&mut self) -> Command {
        match self.random.below(100) {
            0..58 => self.with_handle(),
            58..92 => self.with_path(),
            92..99 if self.kinds.behind => self.behind(),
            99 if self.kinds.behind && self.random.one_in(5) => Command::Forget,
            _ => self.with_handle(),
        }
    }

    fn with_handle(&mut self) -> Command {
        let (slot, at) = (self.slot(), self.at());
        match self.random.below(100) {
            0..14 => self.open(slot),
            14..18 => Command::Close { slot },
            18..32 => Command::Read {
                slot,
                at,
                len: self.len(),
            },
            32..50 => Command::Write {
                slot,
                at,
                data: self.data(),
            },
            50..60 => Command::MapRead {
                slot,
                at,
                len: self.len(),
            },
            60..70 => Command::MapWrite {
                slot,
                at,
                data: self.data(),
            },
            70..79 => Command::Resize { slot, len: at },
            79..86 => Command::Allocate {
                slot,
                how: self.allocation(),
                at,
                len: self.len() as u64,
            },
            86..89 => Command::Seek {
                slot,
                at,
                hole: self.random.one_in(2),
            },
            89..94 => Command::Copy {
                from: self.slot(),
                from_at: self.at(),
                to: slot,
                to_at: at,
                len: self.len(),
            },
            94..97 => Command::Sync {
                slot,
                data_only: self.random.one_in(2),
            },
            _ => Command::Fstat { slot },
        }
    }

    fn with_path(&mut self) -> Command {
        let path = self.place();
        match self.random.below(100) {
            0..12 => Command::Stat { path },
            12..20 => Command::Truncate {
                path,
                len: self.at(),
            },
            20..26 => Command::Chmod {
                path,
                mode: self.mode(),
            },
            26..33 => self.touch(path),
            33..48 => self.xattr(path),
            48..54 => Command::Mkdir {
                path,
                mode: self.mode(),
            },
            54..57 => Command::Rmdir { path },
            57..64 => Command::Unlink { path },
            64..76 => Command::Rename {
                from: path,
                to: self.place(),
                flags: self.renaming(),
            },
            76..82 => Command::Link {
                from: path,
                to: self.place(),
            },
            82..86 => Command::Symlink {
                target: self.place(),
                path,
            },
            86..89 => Command::Readlink { path },
            89..93 => Command::List { path },
            93..97 => Command::WriteFile {
                path,
                at: self.at(),
                data: self.data(),
            },
            _ => Command::Replace {
                path,
                data: self.data(),
            },
        }
    }

    fn behind(&mut self) -> Command {
        let path = self.place();
        let command = match self.random.below(20) {
            0..6 => Command::WriteFile {
                path,
                at: self.at(),
                data: self.data(),
            },
            6..10 => Command::Truncate {
                path,
                len: self.at(),
            },
            10..14 => Command::Replace {
                path,
                data: self.data(),
            },
            14 => Command::Unlink { path },
            15 => Command::Rename {
                from: path,
                to: self.place(),
                flags: RenameFlags::empty(),
            },
            16 => Command::Link {
                from: path,
                to: self.place(),
            },
            17 => Command::Mkdir { path, mode: 0o755 },
            18 => self.touch(path),
            // With x: an ordinary user looks at what is in it afterwards.
            _ => Command::Chmod { path, mode: 0o750 },
        };
        Command::Behind(Box::new(command))
    }

    fn open(&mut self, slot: usize) -> Command {
        let access = self.random.pick(&[
            OFlags::RDONLY,
            OFlags::RDWR,
            OFlags::RDWR,
            OFlags::RDWR,
            OFlags::WRONLY,
        ]);
        let mut flags = access;
        for (flag, n) in [
            (OFlags::CREATE, 2),
            (OFlags::EXCL, 8),
            (OFlags::TRUNC, 6),
            (OFlags::APPEND, 8),
            (OFlags::NOFOLLOW, 10),
            (OFlags::DSYNC, 20),
        ] {
            if self.random.one_in(n) {
                flags |= flag;
            }
        }
        if !flags.contains(OFlags::CREATE) {
            // Without O_CREAT, O_EXCL has no meaning.
            flags.remove(OFlags::EXCL);
        }
        Command::Open {
            slot,
            path: self.place(),
            flags,
            mode: self.mode(),
        }
    }

    fn xattr(&mut self, path: Place) -> Command {
        let name = self.random.pick(&XATTRS);
        let value = Data {
            tag: self.tag(),
            len: self.random.pick(&[0, 1, 20, 200]),
        };
        let flags =
            self.random
                .pick(&[XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE]);
        match self.random.below(6) {
            0..3 => Command::SetXattr {
                path,
                name,
                value,
                flags,
            },
            3 => Command::GetXattr { path, name },
            4 => Command::ListXattr { path },
            _ => Command::RemoveXattr { path, name },
        }
    }

    // Long ago, so that a time that was set differs from one that the kernel has just set.
    fn touch(&mut self, path: Place) -> Command {
        let seconds = 1_000_000_000 + i64::try_from(self.random.below(100_000_000)).expect("small");
        let nanoseconds = i64::try_from(self.random.below(1_000_000_000)).expect("small");
        Command::Touch {
            path,
            seconds,
            nanoseconds,
        }
    }

    // The owner keeps reading, writing and searching: what is refused without has tests of its own.
    fn mode(&mut self) -> u32 {
        let special = if self.kinds.special_bits {
            self.random.pick(&[0, 0, 0o2000, 0o4000, 0o6000])
        } else {
            0
        };
        0o700 | special | u32::try_from(self.random.below(0o100)).expect("small")
    }

    fn allocation(&mut self) -> FallocateFlags {
        let keep = FallocateFlags::KEEP_SIZE;
        let (punch, zero) = (FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE);
        self.random.pick(&[
            FallocateFlags::empty(),
            keep,
            punch | keep,
            punch | keep,
            zero,
            zero | keep,
        ])
    }

    fn renaming(&mut self) -> RenameFlags {
        let none = RenameFlags::empty();
        self.random
            .pick(&[none, none, RenameFlags::NOREPLACE, RenameFlags::EXCHANGE])
    }

    fn slot(&mut self) -> usize {
        usize::try_from(self.random.below(SLOTS as u64)).expect("small")
    }

    fn tag(&mut self) -> usize {
        usize::try_from(self.random.below(1 << 20)).expect("small")
    }

    fn data(&mut self) -> Data {
        Data {
            tag: self.tag(),
            len: self.len(),
        }
    }

    fn len(&mut self) -> usize {
        let some = usize::try_from(self.random.below(20_000)).expect("small");
        self.random.pick(&[
            0, 1, 10, 100, 511, 4095, 4096, 4097, 8192, 65_535, 65_536, 65_537, 131_073, some, some,
        ])
    }

    fn at(&mut self) -> At {
        match self.random.below(10) {
            0..3 => At::End(
                self.random
                    .pick(&[0, 0, -1, 1, -10, 100, -4096, 4096, -65_536, 65_536]),
            ),
            3 => At::Byte(self.random.below(4) * WINDOW),
            4 => At::Byte(self.random.below(4) * WINDOW + WINDOW - 1 + self.random.below(3)),
            5 => At::Byte(self.random.below(40) * PAGE),
            6 => At::Byte(self.random.below(40) * PAGE + PAGE - 1 + self.random.below(3)),
            7 => At::Byte(0),
            _ => At::Byte(self.random.below(200_000)),
        }
    }

    fn place(&mut self) -> Place {
        if self.random.one_in(40) {
            let odd: [&[u8]; 5] = [
                b"line\nbreak",
                b"\xff\xfe",
                b"-",
                &[b'x'; 255],
                &[b'y'; 256],
            ];
            return Place(self.random.pick(&odd).to_vec());
        }
        let places = [
            "a", "a", "b", "b", "c", "d", "e", "d/a", "d/b", "d/b", "d/e", "d/e/a", "e/a", "a/b",
        ];
        place(self.random.pick(&places))
    }
}

fn place(path: &str) -> Place {
    Place(path.as_bytes().to_vec())
}
