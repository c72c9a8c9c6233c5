//! Random commands on a private view, held against a reference that is obviously right. The first half of each sequence goes to
//! the source, before the view is laid over it. Between the commands the view is mounted anew, or its daemon is killed.

mod common;
#[path = "model/mod.rs"]
mod model;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::Mount;
use model::Filesystem;
use model::command::{Answer, Command};
use model::directory::Directory;
use model::generate::{Kinds, SLOTS, sequence};
use model::reference::Reference;
use model::tree::difference;

const LIMIT: Duration = Duration::from_secs(120);
const LENGTH: usize = 100;
/// The view is mounted anew after so many commands.
const LIFE: usize = 20;

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What one sequence runs on.
struct Stage {
    mount: Mount,
    model: Reference,
    view: Directory,
    root: std::path::PathBuf,
}

impl Stage {
    fn apply(&mut self, number: usize, command: &Command) -> Result<(), String> {
        let expected = self.model.apply(command);
        if matches!(expected, Ok(Answer::Skipped)) {
            return Ok(());
        }
        let view = &mut self.view;
        let got = self.mount.within(LIMIT, || view.apply(command));
        if got == expected {
            return Ok(());
        }
        Err(format!(
            "{number}: {command:?}\n  expected {expected:?}\n  got      {got:?}"
        ))
    }

    fn close_all(&mut self) {
        for slot in 0..SLOTS {
            let _ = self.model.apply(&Command::Close { slot });
            let _ = self.view.apply(&Command::Close { slot });
        }
    }

    /// Ends the daemon, by a kill or by an unmount, and starts it again.
    fn remount(&mut self, kills: bool) {
        self.close_all();
        if kills {
            self.mount.kill_and_remount();
        } else {
            self.mount.remount();
        }
    }

    fn compare(&self, when: &str) -> Result<(), String> {
        let expected = self.model.tree()?;
        let tree = self.mount.within(LIMIT, || self.view.tree())?;
        match difference(&expected, &tree) {
            None => Ok(()),
            Some(difference) => Err(format!("{when}:\n    {difference}")),
        }
    }
}

fn play(seed: u64, commands: &[Command]) -> Result<(), String> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let place = tempfile::tempdir().unwrap();
    let (source, store) = (place.path().join("source"), place.path().join("store"));
    fs::create_dir_all(source.join("play")).unwrap();
    let play = source.join("play");
    let mut below = Directory::new(play.clone(), play.clone());
    let mut model = Reference::new();
    let (first, second) = commands.split_at(commands.len() / 2);
    for (number, command) in first.iter().enumerate() {
        let expected = model.apply(command);
        if !matches!(expected, Ok(Answer::Skipped)) && below.apply(command) != expected {
            return Err(format!("the source itself, {number}: {command:?}"));
        }
    }
    for slot in 0..SLOTS {
        let _ = model.apply(&Command::Close { slot });
        let _ = below.apply(&Command::Close { slot });
    }
    let before = below.tree()?;
    let mount = Mount::builder()
        .over(&source)
        .option("--private")
        .option(&store)
        .mount();
    let root = mount.mnt().join("play");
    let view = Directory::new(root.clone(), play);
    let mut stage = Stage {
        mount,
        model,
        view,
        root,
    };
    let outcome = second_half(&mut stage, seed, second);
    stage.close_all();
    outcome?;
    let after = below.tree()?;
    match difference(&before, &after) {
        None => Ok(()),
        Some(difference) => Err(format!("the source changed:\n    {difference}")),
    }
}

fn second_half(stage: &mut Stage, seed: u64, commands: &[Command]) -> Result<(), String> {
    stage.compare("at first")?;
    for (number, command) in commands.iter().enumerate() {
        stage.apply(number, command)?;
        if number % 10 == 9 {
            stage.compare(&format!("after {number}"))?;
        }
        if number % LIFE == LIFE - 1 {
            let kills = (seed as usize + number / LIFE) % 2 == 0;
            stage.remount(kills);
            stage.compare(&format!("after {number}, mounted anew (killed: {kills})"))?;
        }
    }
    assert!(Path::new(&stage.root).exists());
    stage.compare("at the end")
}

/// Makes a failing sequence shorter, from its end.
fn shortest(seed: u64, mut commands: Vec<Command>, mut reason: String) -> (Vec<Command>, String) {
    let mut piece = commands.len() / 4;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while piece > 0 && std::time::Instant::now() < deadline {
        let half = commands.len() / 2;
        let mut start = half;
        while start < commands.len() && std::time::Instant::now() < deadline {
            // Only the second half gets shorter: the split must stay where it is.
            let mut fewer = commands.clone();
            fewer.drain(start..(start + piece).min(commands.len()));
            let gone = commands.len() - fewer.len();
            fewer.splice(0..0, std::iter::repeat_n(Command::Close { slot: 0 }, 0));
            match play_split(seed, &fewer, half) {
                Err(why) => (commands, reason) = (fewer, why),
                Ok(()) => start += gone.max(1),
            }
        }
        piece /= 2;
    }
    (commands, reason)
}

fn play_split(seed: u64, commands: &[Command], half: usize) -> Result<(), String> {
    // A sequence is split in its middle: it is filled up with commands that do nothing.
    let mut all = commands.to_vec();
    while all.len() < 2 * half {
        all.push(Command::Close { slot: SLOTS - 1 });
    }
    play(seed, &all)
}

#[track_caller]
fn run(cases: u64) {
    let cases = number_from("MMFS_CASES").unwrap_or(cases);
    let seed =
        number_from("MMFS_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 ^ 0x5eed);
    println!("{cases} sequences from MMFS_SEED={seed}");
    for case in 0..cases {
        let seed = seed.wrapping_add(case);
        let commands = sequence(seed, LENGTH, Kinds::default());
        if let Err(reason) = play(seed, &commands) {
            let (commands, reason) = shortest(seed, commands, reason);
            let listing: Vec<String> = commands
                .iter()
                .enumerate()
                .map(|(n, c)| format!("  {n}: {c:?}"))
                .collect();
            panic!(
                "MMFS_SEED={seed} MMFS_CASES=1 repeats this:\n{}\n{reason}",
                listing.join("\n")
            );
        }
    }
}

#[test]
fn a_private_view_is_what_the_reference_says() {
    run(20);
}
