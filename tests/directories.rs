//! Reading directories: large ones, changing ones, positions, and syncing.

mod common;
mod stage;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::DirEntryExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use stage::{on_mount, printed, tree};

const ENTRIES: usize = 5000;

/// 5,000 files whose names start with `stays`.
fn fill(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    for number in 0..ENTRIES {
        File::create(directory.join(format!("stays-{number}"))).unwrap();
    }
}

/// How often each name comes in one reading.
fn counted(directory: &Path) -> HashMap<OsString, usize> {
    let mut counts = HashMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        *counts.entry(entry.unwrap().file_name()).or_default() += 1;
    }
    counts
}

/// "Thousands of entries in a directory, changed while it is read": entries that exist the whole time appear exactly
/// once in every reading, while others are created, renamed and deleted on the mount and behind it.
/// (proves: S7)
#[test]
fn a_changing_directory_shows_the_lasting_entries_once() {
    on_mount(&[], |stage| {
        fill(&stage.source("large"));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| churn(&stage.mount("large"), "mounted", &stop));
            scope.spawn(|| churn(&stage.source("large"), "behind", &stop));
            for reading in 0..8 {
                let counts = counted(&stage.mount("large"));
                let lasting = counts
                    .iter()
                    .filter(|(name, _)| name.to_string_lossy().starts_with("stays"));
                let wrong: Vec<_> = lasting.clone().filter(|(_, count)| **count != 1).collect();
                if lasting.count() != ENTRIES || !wrong.is_empty() {
                    stop.store(true, Ordering::Relaxed);
                    panic!(
                        "reading {reading}: {} names, of them more than once: {wrong:?}",
                        counts.len()
                    );
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(
            tree::names_in(&stage.mount("large")),
            tree::names_in(&stage.source("large"))
        );
    });
}

fn churn(directory: &Path, name: &str, stop: &AtomicBool) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let paths = [0, 1, 2].map(|n| directory.join(format!("{name}-{round}-{n}")));
        File::create(&paths[0]).unwrap();
        File::create(&paths[1]).unwrap();
        fs::rename(&paths[0], &paths[2]).unwrap();
        fs::remove_file(&paths[1]).unwrap();
        fs::remove_file(&paths[2]).unwrap();
        round += 1;
    }
}

/// "readdir and readdirplus with stable seekable offsets": telldir's positions lead back to the same entries, in any
/// order, in directories of no, few and many entries, and while one that was read already goes away.
/// (proves: S8)
#[test]
fn positions_lead_back_to_their_entries() {
    on_mount(&[], |stage| {
        fill(&stage.source("large"));
        fs::create_dir(stage.source("empty")).unwrap();
        fs::create_dir(stage.source("small")).unwrap();
        fs::write(stage.source("small/one"), "1").unwrap();
        for (name, entries) in [("empty", 2), ("small", 3), ("large", ENTRIES + 2)] {
            let checked =
                printed(Command::new(stage.program("directory_positions")).arg(stage.mount(name)));
            assert_eq!(checked, entries.to_string(), "{name}, with `.` and `..`");
        }
    });
}

/// `rm -r` deletes while it reads: nothing is left, and nothing is missed.
/// (proves: S7)
#[test]
fn a_directory_can_be_emptied_while_it_is_read() {
    on_mount(&[], |stage| {
        fill(&stage.source("large"));
        for entry in fs::read_dir(stage.mount("large")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        fs::remove_dir(stage.mount("large")).unwrap();
        assert_eq!(tree::names_in(&stage.source("")), Vec::<OsString>::new());
    });
}

/// Readdirplus brings attributes along: they are those that stat finds, types included, and `.` and `..` are right.
#[test]
fn listed_attributes_are_the_true_ones() {
    on_mount(&[], |stage| {
        let directory = stage.source("mixed");
        fs::create_dir(&directory).unwrap();
        for number in 0..50 {
            fs::write(directory.join(format!("file-{number}")), vec![0; number]).unwrap();
            fs::create_dir(directory.join(format!("directory-{number}"))).unwrap();
            std::os::unix::fs::symlink("nowhere", directory.join(format!("link-{number}")))
                .unwrap();
        }
        let long = |root: &Path| {
            let mut ls = Command::new("ls");
            ls.current_dir(root)
                .args(["-lian", "--time-style=full-iso", "mixed"]);
            printed(&mut ls)
                .lines()
                .filter(|line| !line.ends_with(" .."))
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(long(&stage.mount("")), long(&stage.source("")));
        for entry in fs::read_dir(stage.mount("mixed"))
            .unwrap()
            .map(Result::unwrap)
        {
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            assert_eq!(
                (entry.file_type().unwrap(), entry.ino()),
                (meta.file_type(), std::os::unix::fs::MetadataExt::ino(&meta))
            );
        }
    });
}

/// "fsyncdir": a directory can be synced, a removed one too.
#[test]
fn directories_can_be_synced() {
    on_mount(&[], |stage| {
        stage.twins("fsync of directories", |dir| {
            fs::create_dir(dir.join("kept")).unwrap();
            fs::create_dir(dir.join("removed")).unwrap();
            let (kept, removed) = (
                File::open(dir.join("kept")).unwrap(),
                File::open(dir.join("removed")).unwrap(),
            );
            fs::write(dir.join("kept/file"), "x").unwrap();
            fs::remove_dir(dir.join("removed")).unwrap();
            let results = [kept.sync_all(), kept.sync_data(), removed.sync_all()];
            let after = fs::read_dir(dir.join("removed"))
                .map(drop)
                .unwrap_err()
                .raw_os_error();
            (
                results.map(|result| result.map_err(|error| error.raw_os_error())),
                after,
            )
        });
    });
}

/// Renames of directories, with every flag, and the errors of impossible ones are the source's.
/// (proves: S9)
#[test]
fn renames_answer_as_natively() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let flags = [
        RenameFlags::empty(),
        RenameFlags::NOREPLACE,
        RenameFlags::EXCHANGE,
        RenameFlags::WHITEOUT,
    ];
    let pairs = [
        ("file", "other"),
        ("file", "absent"),
        ("absent", "file"),
        ("directory", "full"),
        ("directory", "empty"),
        ("file", "empty"),
        ("empty", "file"),
        ("full", "full/below"),
        ("full/below", "full"),
        ("file", "file"),
        ("file", "link"),
        ("link", "full"),
    ];
    on_mount(&[], |stage| {
        for (flag, (from, to)) in flags
            .into_iter()
            .flat_map(|flag| pairs.map(|pair| (flag, pair)))
        {
            stage.twins(&format!("rename {from} to {to}, {flag:?}"), |dir| {
                let base = rename_playground(dir);
                let answer = renameat_with(CWD, base.join(from), CWD, base.join(to), flag);
                let left: Vec<_> = tree::tree(&base)
                    .into_iter()
                    .map(|(path, entry)| (path, entry.mode, entry.links))
                    .collect();
                fs::remove_dir_all(&base).unwrap();
                (answer, left)
            });
        }
    });
}

fn rename_playground(dir: &Path) -> std::path::PathBuf {
    let base = dir.join("renames");
    for below in ["directory", "empty", "full/below"] {
        fs::create_dir_all(base.join(below)).unwrap();
    }
    for name in ["file", "other", "full/file"] {
        fs::write(base.join(name), name).unwrap();
    }
    std::os::unix::fs::symlink("file", base.join("link")).unwrap();
    base
}
