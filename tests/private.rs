//! Random commands on a private view, held against a reference that is obviously right. The first half of each sequence goes to
//! the source, before the view is laid over it. Between the commands the source changes, the view is mounted anew, or its daemon
//! is killed.

mod common;
#[path = "model/mod.rs"]
mod model;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::Mount;
use model::Filesystem;
use model::command::{Answer, At, Command, Data, Place};
use model::directory::Directory;
use model::generate::{Kinds, SLOTS, sequence};
use model::reference::Reference;
use model::reference::layered::Layered;
use model::tree::difference;
use rustix::fs::RenameFlags;

const LIMIT: Duration = Duration::from_secs(120);
const LENGTH: usize = 100;
/// The view is mounted anew after so many commands.
const LIFE: usize = 20;
/// What the source has now is asked for, not what the kernel remembers.
const AT_ONCE: [&str; 4] = ["--attr-timeout", "0", "--entry-timeout", "0"];

fn number_from(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What one sequence runs on.
struct Stage {
    mount: Mount,
    model: Layered,
    view: Directory,
    root: std::path::PathBuf,
    changes: usize,
}

/// What the sequences have come to, so that a run that tries nothing is seen.
#[derive(Debug, Default)]
struct Figures {
    changes_of_the_source: usize,
    lost: usize,
    stopped: usize,
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
            self.changes += usize::from(matches!(command, Command::Behind(_)) && got.is_ok());
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

/// The first half of what was generated goes to the source.
const HALF: usize = LENGTH / 2;

fn play(seed: u64, commands: &[Command], figures: &mut Figures) -> Result<(), String> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let place = tempfile::tempdir().unwrap();
    let (source, store) = (place.path().join("source"), place.path().join("store"));
    fs::create_dir_all(source.join("play")).unwrap();
    let play = source.join("play");
    let mut below = Directory::new(play.clone(), play.clone());
    let mut model = Reference::new();
    let (first, second) = commands.split_at(HALF);
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
    let model = Layered::over(model);
    let mount = Mount::builder()
        .over(&source)
        .option("--private")
        .option(&store)
        .options(AT_ONCE)
        .mount();
    let root = mount.mnt().join("play");
    let view = Directory::new(root.clone(), play);
    let mut stage = Stage {
        mount,
        model,
        view,
        root,
        changes: 0,
    };
    let outcome = second_half(&mut stage, seed, second);
    stage.close_all();
    outcome?;
    let (lost, stopped) = stage.model.conflicts();
    figures.changes_of_the_source += stage.changes;
    figures.lost += lost;
    figures.stopped += stopped;
    match difference(&stage.model.source_tree()?, &below.tree()?) {
        None => Ok(()),
        Some(difference) => Err(format!("the view changed the source:\n    {difference}")),
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
    let deadline =
        std::time::Instant::now() + Duration::from_secs(number_from("MMFS_SHRINK").unwrap_or(30));
    while piece > 0 && std::time::Instant::now() < deadline {
        // Only the second half gets shorter.
        let mut start = HALF;
        while start < commands.len() && std::time::Instant::now() < deadline {
            let mut fewer = commands.clone();
            fewer.drain(start..(start + piece).min(commands.len()));
            match play(seed, &fewer, &mut Figures::default()) {
                Err(why) => (commands, reason) = (fewer, why),
                Ok(()) => start += piece,
            }
        }
        piece /= 2;
    }
    (commands, reason)
}

/// A file is changed in the view, then in the source.
fn both_sides(dice: u64) -> Vec<Command> {
    let path = Place(["a", "b", "d/a", "d/b"][(dice % 4) as usize].into());
    let data = |len| Data {
        tag: (dice % 100_000) as usize,
        len,
    };
    let write = |at, len| Command::WriteFile {
        path: path.clone(),
        at: At::Byte(at),
        data: data(len),
    };
    let end = At::End(-(dice as i64 % 5000) - 1);
    let beneath = match dice / 4 % 4 {
        0 => write(dice % 150_000, 300),
        1 => Command::Truncate {
            path: path.clone(),
            len: end,
        },
        2 => Command::Replace {
            path: path.clone(),
            data: data(100_000),
        },
        _ => Command::Unlink { path: path.clone() },
    };
    let ours = match dice / 16 % 4 {
        0 => Command::Chmod {
            path: path.clone(),
            mode: 0o700,
        },
        1 => Command::Truncate {
            path: path.clone(),
            len: end,
        },
        _ => write(dice / 64 % 150_000, 5000),
    };
    let mut all = vec![ours];
    all.extend((0..SLOTS).map(|slot| Command::Close { slot }));
    all.push(Command::Behind(Box::new(beneath)));
    all.extend([Command::Stat { path }]);
    all
}

/// Has some commands of the second half done in the source, and directories replaced there.
fn with_changes_of_the_source(seed: u64, commands: Vec<Command>) -> Vec<Command> {
    let behind = |command: Command| Command::Behind(Box::new(command));
    let rename = |from: &str, to: &str| Command::Rename {
        from: Place(from.into()),
        to: Place(to.into()),
        flags: RenameFlags::empty(),
    };
    let mkdir = |path: &str| Command::Mkdir {
        path: Place(path.into()),
        mode: 0o755,
    };
    let mut all = Vec::new();
    for (number, command) in commands.into_iter().enumerate() {
        let dice = (seed
            .wrapping_mul(0x9e37_79b9)
            .wrapping_add(number as u64 * 0x85eb_ca6b))
            >> 7;
        let may_be_behind = match &command {
            Command::Rename { flags, .. } => flags.is_empty(),
            Command::WriteFile { .. }
            | Command::Truncate { .. }
            | Command::Replace { .. }
            | Command::Unlink { .. }
            | Command::Rmdir { .. }
            | Command::Link { .. }
            | Command::Mkdir { .. }
            | Command::Touch { .. }
            | Command::Chmod { .. } => true,
            _ => false,
        };
        if number >= HALF && dice % 13 == 0 {
            let path = ["d", "d/e", "e"][(dice / 13 % 3) as usize];
            all.push(behind(rename(path, "old")));
            all.push(behind(mkdir(path)));
        }
        if number >= HALF && dice % 7 == 0 {
            all.extend(both_sides(dice / 7));
        }
        if number >= HALF && dice % 29 == 0 {
            all.push(behind(rename("old", "d")));
        }
        let is_behind = number >= HALF && may_be_behind && dice % 2 == 0;
        all.push(if is_behind { behind(command) } else { command });
    }
    all
}

#[track_caller]
fn run(cases: u64) {
    let cases = number_from("MMFS_CASES").unwrap_or(cases);
    let seed =
        number_from("MMFS_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 ^ 0x5eed);
    println!("{cases} sequences from MMFS_SEED={seed}");
    let kinds = Kinds {
        behind: true,
        ..Kinds::default()
    };
    let mut figures = Figures::default();
    for case in 0..cases {
        let seed = seed.wrapping_add(case);
        let commands = with_changes_of_the_source(seed, sequence(seed, LENGTH, kinds));
        if let Err(reason) = play(seed, &commands, &mut figures) {
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
    println!("{figures:?}");
    // One sequence may have none.
    if cases >= 20 {
        assert!(figures.lost > 0 && figures.stopped > 0, "{figures:?}");
    }
}

#[test]
fn a_private_view_is_what_the_reference_says() {
    run(20);
}
