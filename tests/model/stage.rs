//! Where two filesystems are given the same commands, and what happens when they part.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use super::Filesystem;
use super::command::{Answer, Command};
use super::directory::Directory;
use super::generate::{Kinds, sequence};
use super::reference::Reference;
use super::tree::difference;

/// Commands in one sequence.
const LENGTH: usize = 100;

/// Trees are compared after so many commands.
const OFTEN: usize = 10;

/// How long a failing sequence is made shorter.
const SHRINKING: Duration = Duration::from_secs(20);

/// What the filesystem under test is held against.
pub enum Against {
    Reference,
    /// A plain directory, in this parent.
    Plain(PathBuf),
}

/// The filesystem under test (`root`, showing `source`) and what it is held against.
pub struct Stage {
    root: PathBuf,
    source: PathBuf,
    against: Against,
    plays: usize,
}

impl Stage {
    pub fn new(root: &Path, source: &Path, against: Against) -> Self {
        // Both sides must make the same modes of the same arguments; every test of the binary agrees on this.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        Self {
            root: root.to_owned(),
            source: source.to_owned(),
            against,
            plays: 0,
        }
    }

    /// Plays random sequences: as many as `cases`, or MMFS_CASES; from a new seed, or MMFS_SEED. The first one
    /// where the two part is made short, shown, and fails the test.
    #[track_caller]
    pub fn run(&mut self, cases: u64, kinds: Kinds) {
        let (seed, cases) = (
            from_env("MMFS_SEED").unwrap_or_else(new_seed),
            from_env("MMFS_CASES").unwrap_or(cases),
        );
        println!("{cases} sequences from MMFS_SEED={seed}");
        for case in 0..cases {
            let seed = seed.wrapping_add(case);
            let commands = sequence(seed, LENGTH, kinds);
            if let Err(reason) = self.play(&commands) {
                let (commands, reason) = self.shrink(commands, reason);
                panic!(
                    "MMFS_SEED={seed} MMFS_CASES=1 repeats this:\n{}{reason}",
                    listing(&commands)
                );
            }
        }
    }

    /// Gives the commands to both, in new directories; how they part is the error.
    pub fn play(&mut self, commands: &[Command]) -> Result<(), String> {
        self.plays += 1;
        let name = format!("play{}", self.plays);
        let (root, source) = (self.root.join(&name), self.source.join(&name));
        fs::create_dir(&source).map_err(|e| format!("mkdir {}: {e}", source.display()))?;
        let model: Box<dyn Filesystem> = match &self.against {
            Against::Reference => Box::new(Reference::new()),
            Against::Plain(parent) => {
                let plain = parent.join(&name);
                fs::create_dir(&plain).map_err(|e| format!("mkdir {}: {e}", plain.display()))?;
                Box::new(Directory::new(plain.clone(), plain))
            }
        };
        let real = Directory::new(root.clone(), source.clone());
        let outcome = Pair {
            model,
            real,
            source: Directory::new(source.clone(), source),
        }
        .play(commands);
        let removed =
            fs::remove_dir_all(&root).map_err(|e| format!("rm -r {}: {e}", root.display()));
        if let Against::Plain(parent) = &self.against {
            fs::remove_dir_all(parent.join(&name))
                .map_err(|e| format!("rm -r of the plain directory: {e}"))?;
        }
        outcome.and(removed)
    }

    // Takes commands out, in ever smaller pieces, as long as the two still part.
    fn shrink(&mut self, mut commands: Vec<Command>, mut reason: String) -> (Vec<Command>, String) {
        let deadline = Instant::now() + SHRINKING;
        let mut piece = commands.len().div_ceil(2);
        loop {
            let before = commands.len();
            let mut start = 0;
            while start < commands.len() && Instant::now() < deadline {
                let mut fewer = commands.clone();
                fewer.drain(start..(start + piece).min(commands.len()));
                match self.play(&fewer) {
                    Err(why) => (commands, reason) = (fewer, why),
                    Ok(()) => start += piece,
                }
            }
            if (piece == 1 && commands.len() == before) || Instant::now() >= deadline {
                return (commands, reason);
            }
            piece = piece.div_ceil(2);
        }
    }
}

// What should be, what is, and what lies behind the latter.
struct Pair {
    model: Box<dyn Filesystem>,
    real: Directory,
    source: Directory,
}

impl Pair {
    fn play(mut self, commands: &[Command]) -> Result<(), String> {
        for (number, command) in commands.iter().enumerate() {
            let expected = self.model.apply(command);
            if matches!(expected, Ok(Answer::Skipped)) {
                continue;
            }
            let mut got = self.real.apply(command);
            let is_moved = |command: &Command| matches!(command, Command::Behind(behind) if matches!(**behind, Command::Rename { .. }));
            if got == Err(Errno::STALE.raw_os_error()) && commands[..number].iter().any(is_moved) {
                got = self.rename_after_a_look(command).unwrap_or(got);
            }
            if got != expected {
                return Err(format!(
                    "{number}: {command:?}\n  expected {expected:?}\n  got      {got:?}"
                ));
            }
            if number % OFTEN == OFTEN - 1 {
                self.compare(&format!("after {number}"))?;
            }
        }
        self.compare("at the end")
    }

    // The kernel cannot move a directory's name within rename(2), when the directory was moved behind the mount: ESTALE (docs/semantics.md,
    // "Changes behind the mount"). Looking at the name before, as mv(1) does, moves it.
    fn rename_after_a_look(&mut self, command: &Command) -> Option<Result<Answer, i32>> {
        let Command::Rename { from, to, .. } = command else {
            return None;
        };
        for path in [from, to] {
            let _ = fs::symlink_metadata(self.real.path(path));
        }
        Some(self.real.apply(command))
    }

    // Through the mount first: showing attributes is what makes the daemon settle them in the source.
    fn compare(&self, when: &str) -> Result<(), String> {
        let expected = self.model.tree()?;
        for (side, filesystem) in [("the tree", &self.real), ("the source", &self.source)] {
            let tree = filesystem
                .tree()
                .map_err(|why| format!("{side} {when}: {why}"))?;
            if let Some(difference) = difference(&expected, &tree) {
                return Err(format!("{side} {when}:\n    {difference}"));
            }
        }
        Ok(())
    }
}

fn listing(commands: &[Command]) -> String {
    let mut text = String::new();
    for (number, command) in commands.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {number}: {command:?}");
    }
    text
}

fn from_env(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|e| panic!("{name}={value}: {e}")),
    )
}

fn new_seed() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970");
    u64::from(now.subsec_nanos()) ^ now.as_secs().rotate_left(20)
}
