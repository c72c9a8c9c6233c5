//! Reading directories: large ones, changing ones, positions, and syncing.

mod common;
mod stage;
mod survive;

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirEntryExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::Mount;
use common::loopfs::LoopFs;
use rustix::fs::{RawDir, SeekFrom, seek};
use stage::{on_mount, printed, tree};
use survive::Rng;

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

/// A position is the longest number that a 32-bit program without large files can hold, or less.
const MAX_POSITION: u64 = i32::MAX as u64;

/// Where an entry is, and its name.
type Place = (u64, OsString);

/// The entries from the present position of an open directory on, each with where the next one is.
fn entries_from_here(dir: &File, most: usize) -> Vec<Place> {
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut stream = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut found = Vec::new();
    while let Some(entry) = stream.next().filter(|_| found.len() < most) {
        let entry = entry.unwrap();
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        found.push((entry.next_entry_cookie(), name.to_owned()));
    }
    found
}

fn entries(dir: &File) -> Vec<Place> {
    seek(dir, SeekFrom::Start(0)).unwrap();
    entries_from_here(dir, usize::MAX)
}

/// Every position is small enough, leads to what follows it, through whichever stream, and means the same when the directory is
/// read once more.
fn check_positions(what: &str, path: &Path, count: usize, rng: &mut Rng) {
    let (first, second) = (File::open(path).unwrap(), File::open(path).unwrap());
    let all = entries(&first);
    let names: HashSet<_> = all.iter().map(|(_, name)| name).collect();
    assert_eq!((all.len(), names.len()), (count + 2, count + 2), "{what}");
    let largest = all.iter().map(|(position, _)| *position).max().unwrap();
    assert!(largest <= MAX_POSITION, "{what}: {largest} is too large");
    // What the kernel has cached of the directory goes, so that the stream itself is asked.
    fs::write(path.join("more"), "").unwrap();
    fs::remove_file(path.join("more")).unwrap();
    for dir in [&first, &second, &File::open(path).unwrap()] {
        for _ in 0..20 {
            let at = rng.below(all.len() as u64 - 1) as usize;
            seek(dir, SeekFrom::Start(all[at].0)).unwrap();
            let following = entries_from_here(dir, 300);
            let expected = &all[at + 1..all.len().min(at + 301)];
            assert_eq!(following, expected, "{what}: after {:?}", all[at]);
        }
        assert!(entries(dir) == all, "{what}: read once more");
    }
}

/// Positions of directories of none, few and 100,000 entries fit into 31 bits, so that a 32-bit program without large files can list
/// them: with more it gets EOVERFLOW.
/// (proves: S8)
#[test]
fn positions_fit_into_31_bits() {
    let mut rng = Rng::new();
    on_mount(&[], |stage| {
        for count in [0, 1, 100, 100_000] {
            let name = format!("{count}");
            fill_with(&stage.source(&name), count);
            check_positions(&name, &stage.mount(&name), count, &mut rng);
        }
    });
}

/// The same on the filesystems that have positions of their own kind.
/// (proves: S8)
#[test]
fn as_root_positions_fit_into_31_bits_whatever_the_filesystem() {
    let mut rng = Rng::new();
    for kind in ["ext4", "xfs", "btrfs", "tmpfs"] {
        let disk = (kind != "tmpfs").then(|| LoopFs::new(kind, 512 << 20));
        let mount = match &disk {
            Some(disk) => Mount::over(disk.path(), [] as [&str; 0]),
            None => Mount::builder().inside("/dev/shm").mount(),
        };
        mount.within(Duration::from_secs(100), || {
            for count in [10, 20_000] {
                let name = format!("{count}");
                fill_with(&mount.src().join(&name), count);
                let what = format!("{kind}, {count}");
                check_positions(&what, &mount.mnt().join(&name), count, &mut rng);
            }
        });
        drop(mount);
    }
}

fn fill_with(directory: &Path, count: usize) {
    fs::create_dir_all(directory).unwrap();
    for number in 0..count {
        File::create(directory.join(format!("stays-{number}"))).unwrap();
    }
}

/// Streams that begin, end, seek and go on while the directory changes and the kernel takes up and drops what it has cached: what
/// stays comes once in each reading.
/// (proves: S7)
#[test]
fn streams_that_share_a_directory_show_the_lasting_entries_once() {
    on_mount(&[], |stage| {
        let shown = stage.mount("large");
        fill(&stage.source("large"));
        let stop = AtomicBool::new(false);
        let mut rng = Rng::new();
        thread::scope(|scope| {
            let stopped = Stopped(&stop);
            scope.spawn(|| churn(&shown, "mounted", &stop));
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    let (mut rng, shown) = (rng.fork(), &shown);
                    scope.spawn(move || {
                        for _ in 0..12 {
                            read_in_pieces(shown, &mut rng);
                        }
                    })
                })
                .collect();
            let failed = readers.into_iter().filter_map(|reader| reader.join().err());
            let failed = failed.count();
            drop(stopped);
            assert_eq!(failed, 0, "readers");
        });
    });
}

struct Stopped<'a>(&'a AtomicBool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads a directory in pieces, seeking to where it was after each, and now and then elsewhere before that.
fn read_in_pieces(path: &Path, rng: &mut Rng) {
    let dir = File::open(path).unwrap();
    let (mut counts, mut met) = (HashMap::<OsString, usize>::new(), vec![0]);
    loop {
        if rng.below(4) == 0 {
            let elsewhere = met[rng.below(met.len() as u64) as usize];
            seek(&dir, SeekFrom::Start(elsewhere)).unwrap();
            entries_from_here(&dir, 1);
        }
        seek(&dir, SeekFrom::Start(met[met.len() - 1])).unwrap();
        let piece = entries_from_here(&dir, 1 + rng.below(400) as usize);
        let Some((position, _)) = piece.last() else {
            break;
        };
        met.push(*position);
        for (_, name) in piece {
            *counts.entry(name).or_default() += 1;
        }
    }
    counts.retain(|name, _| name.to_string_lossy().starts_with("stays"));
    let wrong: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
    assert!(
        wrong.is_empty() && counts.len() == ENTRIES,
        "{} of {ENTRIES}, {wrong:?}",
        counts.len()
    );
}
