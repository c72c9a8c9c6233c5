//! Random changes of random trees: the source becomes what the view showed.

use std::collections::HashSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags,
};

use crate::committed::{assert_committed, commit, diff, place};
use crate::common::loopfs::LoopFs;
use crate::common::private::private;
use crate::common::snapshot::{Bytes, Snapshot, snapshot};
use crate::common::{tools, user};
use crate::survive::Rng;

/// Some sort between another one and what lies in it.
const NAMES: [&str; 5] = ["a", "a-", "b", "b\n\u{e9}", "c"];

fn any_path(root: &Path, rng: &mut Rng) -> PathBuf {
    let mut path = root.to_path_buf();
    for _ in 0..=rng.below(3) {
        path.push(NAMES[rng.below(NAMES.len() as u64) as usize]);
    }
    path
}

fn open(path: &Path) -> io::Result<fs::File> {
    match fs::symlink_metadata(path)?.is_file() {
        true => OpenOptions::new().read(true).write(true).open(path),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Edges of pages and of what is copied as a whole are likely.
fn any_length(rng: &mut Rng) -> u64 {
    let edge = [0, 4096, 8192, 65_536, 131_072][rng.below(5) as usize];
    match rng.below(3) {
        0 => edge,
        1 => (edge + rng.below(200)).saturating_sub(100),
        _ => rng.below(200_000),
    }
}

/// One change. It fails if what it is about is not there, or is of another kind.
fn change(root: &Path, rng: &mut Rng) -> io::Result<()> {
    let (path, other) = (any_path(root, rng), any_path(root, rng));
    let (length, at) = (any_length(rng), any_length(rng));
    let byte = rng.below(256) as u8;
    match rng.below(30) {
        0..3 => fs::create_dir(&path),
        3..5 => match fs::symlink_metadata(&path) {
            Ok(found) if !found.is_file() => Ok(()),
            _ => fs::write(&path, vec![byte; length as usize]),
        },
        5 => fs::remove_file(&path),
        6 => fs::remove_dir(&path),
        7 => fs::remove_dir_all(&path),
        8 => {
            fs::remove_dir_all(&path)?;
            fs::create_dir(&path)
        }
        9..13 => fs::rename(&path, &other),
        13 => Ok(rustix::fs::renameat_with(
            CWD,
            &path,
            CWD,
            &other,
            RenameFlags::EXCHANGE,
        )?),
        14 => {
            // As editors save.
            let saved = root.join("saved");
            fs::write(&saved, vec![byte; length as usize])?;
            fs::rename(&saved, &path).or_else(|_| fs::remove_file(&saved))
        }
        15..17 => fs::hard_link(&path, &other),
        17 => symlink(format!("target-{byte}"), &path),
        18 => {
            let kind = [FileType::Fifo, FileType::Socket][rng.below(2) as usize];
            Ok(rustix::fs::mknodat(
                CWD,
                &path,
                kind,
                Mode::from_raw_mode(0o640),
                0,
            )?)
        }
        19 => {
            // The owner may do what it likes with it further on.
            let mode = match fs::symlink_metadata(&path)?.is_dir() {
                true => 0o700 + rng.below(0o100) as u32,
                false => 0o600 + rng.below(0o200) as u32,
            };
            fs::set_permissions(&path, Permissions::from_mode(mode))
        }
        20 | 21 => {
            let time = |secs| Timespec {
                tv_sec: secs as i64,
                tv_nsec: (secs % 1_000_000_000) as i64,
            };
            let times = Timestamps {
                last_access: time(rng.below(900_000_000)),
                last_modification: time(rng.below(900_000_000)),
            };
            Ok(rustix::fs::utimensat(
                CWD,
                &path,
                &times,
                AtFlags::SYMLINK_NOFOLLOW,
            )?)
        }
        22 => {
            let name = ["user.a", "user.b"][rng.below(2) as usize];
            match rng.below(3) {
                0 => Ok(rustix::fs::removexattr(&path, name)?),
                _ => Ok(rustix::fs::setxattr(
                    &path,
                    name,
                    &[byte],
                    XattrFlags::empty(),
                )?),
            }
        }
        23 if rng.below(4) == 0 => {
            let found = fs::metadata(&path)?;
            let default: &[&str] = if found.is_dir() {
                &["-m", "d:u:12:rx"]
            } else {
                &[]
            };
            let mut command = Command::new("setfacl");
            tools::output_of(command.args(["-m", "u:12:rwx"]).args(default).arg(&path));
            Ok(())
        }
        24 if user::is_root() => {
            lchown(&path, Some(rng.below(3) as u32), Some(rng.below(3) as u32))
        }
        25 => open(&path)?.set_len(length),
        27 => {
            let file = open(&path)?;
            file.set_len(length)?;
            file.set_len(at)
        }
        26 => {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(rustix::fs::fallocate(open(&path)?, how, at, length.max(1))?)
        }
        _ => {
            let bytes = vec![byte; 1 + rng.below(6000) as usize];
            open(&path)?.write_all_at(&bytes, at)
        }
    }
}

/// A file with the same bytes as before stays, with the holes that it has.
fn let_stay(view: &mut Snapshot, before: &Snapshot) {
    let bytes_of = |bytes: &Bytes| match bytes {
        Bytes::File(bytes, _) => Some(bytes.clone()),
        _ => None,
    };
    let before: HashSet<_> = before
        .values()
        .filter_map(|one| bytes_of(&one.bytes))
        .collect();
    for entry in view.values_mut() {
        if let Bytes::File(bytes, ranges) = &mut entry.bytes {
            if before.contains(bytes) {
                *ranges = vec![(0, bytes.len() as u64)];
            }
        }
    }
}

/// A tree and a view of it, changed, committed, changed and committed once more.
fn play(rng: &mut Rng, (source, store): (&Path, &Path)) {
    for _ in 0..100 {
        let _ = change(source, rng);
    }
    let list = |root: &Path| {
        let find = "cd \"$1\" && find . -printf '%P %i %n %y %m %s %t\\n' | sort";
        tools::sh(find, &[root.as_os_str()])
    };
    for _ in 0..2 {
        // Before the view is there: it moves times when something was read.
        println!("source:\n{}", list(source));
        let before = snapshot(source);
        let mut mount = private(source, store, &[]);
        for _ in 0..1 + rng.below(100) {
            let _ = change(mount.mnt(), rng);
        }
        let mut view = snapshot(mount.mnt());
        let_stay(&mut view, &before);
        println!("view:\n{}", list(mount.mnt()));
        mount.unmount();
        println!("diff:\n{}", diff(store).join("\n"));
        let output = commit(store, &[]);
        println!("{output:?}");
        assert!(output.status.success());
        assert_committed(&view, source, store);
    }
}

/// `MMFS_CASES` times, or so often. `place`: where the source and the store are to be.
fn cases(count: u64, place: impl Fn() -> (PathBuf, PathBuf)) {
    let cases = std::env::var("MMFS_CASES").map_or(count, |cases| cases.parse().unwrap());
    let mut rng = Rng::new();
    for case in 0..cases {
        // With this as MMFS_SEED, the case comes first.
        println!("case {case} of {cases}: {rng:?}");
        let (source, store) = place();
        play(&mut rng.clone(), (&source, &store));
        for path in [source, store] {
            fs::remove_dir_all(path).unwrap();
        }
        rng = rng.fork();
    }
}

#[test]
fn s74_random_views_are_committed() {
    let (_place, source, store) = place();
    cases(15, || {
        fs::create_dir_all(&source).unwrap();
        (source.clone(), store.clone())
    });
}

/// Bytes are shared there, not copied. It has happened that a file had its old bytes behind the place where it had been cut.
#[test]
fn as_root_random_views_are_committed_on_other_filesystems() {
    for fs_type in ["xfs", "btrfs"] {
        let (_place, _, apart) = place();
        let disk = LoopFs::new(fs_type, 512 << 20);
        let source = disk.path().join("source");
        for store in [disk.path().join("store"), apart] {
            cases(3, || {
                fs::create_dir(&source).unwrap();
                (source.clone(), store.clone())
            });
        }
    }
}
