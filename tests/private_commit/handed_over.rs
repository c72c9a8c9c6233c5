//! Files whose data files become files of the source.

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};

use crate::committed::{
    assert_committed, bytes, commit, commit_view, diff, done, mmfs, refused, set_times, set_xattr,
    write_at, write_files, write_large,
};
use crate::common::loopfs::LoopFs;
use crate::common::private::private;
use crate::common::snapshot::{assert_same, snapshot, untouched};
use crate::common::{builder, tools};
use crate::meanwhile::cut_short;

fn place(fs_type: &str) -> (LoopFs, PathBuf, PathBuf) {
    let fs = LoopFs::new(fs_type, 512 << 20);
    let (source, store) = (fs.path().join("source"), fs.path().join("store"));
    fs::create_dir(&source).unwrap();
    (fs, source, store)
}

fn data_files(store: &Path) -> Vec<fs::Metadata> {
    let directories = fs::read_dir(store.join("data")).unwrap().flatten();
    let files = directories.flat_map(|directory| fs::read_dir(directory.path()).unwrap());
    files
        .map(|file| file.unwrap().metadata().unwrap())
        .collect()
}

fn numbers(store: &Path) -> HashSet<u64> {
    data_files(store).iter().map(MetadataExt::ino).collect()
}

fn ino(path: PathBuf) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn dress(path: &Path) {
    chown(path, Some(12), Some(34)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o4640)).unwrap();
    set_xattr(path, "user.a", b"b");
    set_times(path, 1_000_000_000);
}

/// New files of all shapes.
fn fill(view: &Path) {
    for name in ["new", "d/e/new"] {
        let path = view.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes(name, 100_001)).unwrap();
        dress(&path);
    }
    fs::hard_link(view.join("new"), view.join("d/second")).unwrap();
    fs::write(view.join("rewritten"), bytes("rewritten", 5000)).unwrap();
    write_large(&view.join("holes"));
    for name in ["punched", "shorter", "cut", "longer", "empty"] {
        fs::write(view.join(name), bytes(name, 300_000)).unwrap();
    }
    let open = |name: &str| File::options().write(true).open(view.join(name)).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(open("punched"), punch, 8192, 100_000).unwrap();
    open("shorter").set_len(10_000).unwrap();
    open("cut").set_len(10_000).unwrap();
    open("cut").set_len(200_000).unwrap();
    open("longer").set_len(1 << 22).unwrap();
    open("empty").set_len(0).unwrap();
    write_at(&view.join("changed"), 4096, b"other");
}

fn fill_source(source: &Path) {
    for name in ["rewritten", "changed"] {
        fs::write(source.join(name), bytes(name, 50_000)).unwrap();
    }
}

#[test]
fn as_root_what_is_all_in_the_store_becomes_the_sources() {
    for fs_type in ["ext4", "xfs", "btrfs"] {
        let (_fs, source, store) = place(fs_type);
        fill_source(&source);
        let mut mount = private(&source, &store, &[]);
        fill(mount.mnt());
        let view = snapshot(mount.mnt());
        mount.unmount();
        let data = numbers(&store);
        done(&commit(&store, &[]));
        assert_committed(&view, &source, &store);
        for name in ["new", "d/e/new", "rewritten"] {
            assert!(data.contains(&ino(source.join(name))), "{fs_type}: {name}");
        }
        assert_eq!(ino(source.join("new")), ino(source.join("d/second")));
        let longer = ino(source.join("longer"));
        assert!(
            !data.contains(&longer),
            "{fs_type}: it is shorter in the store"
        );
        // A view of it changes nothing of the source.
        let before = untouched(&source);
        let mut mount = private(&source, &store, &[]);
        write_at(&mount.mnt().join("new"), 0, b"other");
        mount.unmount();
        assert_same(&before, &untouched(&source), "the source was changed");
    }
}

/// The store would go on writing to it.
#[test]
fn as_root_what_stays_in_part_is_copied() {
    let (_fs, source, store) = place("ext4");
    let mut mount = private(&source, &store, &[]);
    write_files(mount.mnt(), &["one", "other"]);
    mount.unmount();
    let data = numbers(&store);
    done(&mmfs(&["commit", "--include", "one"], &store));
    assert!(!data.contains(&ino(source.join("one"))));
    let strict = private(&source, &store, &[]);
    commit_view(strict, &store, &["--strict"]);
    assert!(!data.contains(&ino(source.join("other"))));
}

/// What it was given is set when there is no way back, and not before.
#[test]
fn as_root_a_commit_that_fails_leaves_the_data_files_as_they_were() {
    let (_fs, source, store) = place("ext4");
    fill_source(&source);
    let mut mount = private(&source, &store, &[]);
    fill(mount.mnt());
    let view = snapshot(mount.mnt());
    mount.unmount();
    let (before, changes) = (snapshot(&source), diff(&store));
    let mut traced = Command::new("strace");
    traced.args(["-f", "-o", "/dev/null", "-e", "trace=syncfs", "-e"]);
    traced.arg("inject=syncfs:error=EIO:when=1");
    let output = tools::output_of(traced.arg(builder::binary()).arg("commit").arg(&store));
    refused(&output, 1, "Input/output error");
    assert_same(&before, &snapshot(&source), "the source was changed");
    for file in data_files(&store) {
        assert_eq!(
            (file.nlink(), file.mode() & 0o7777, file.uid()),
            (1, 0o600, 0)
        );
    }
    assert_eq!(diff(&store), changes);
    done(&mmfs(&["check"], &store));
    let mut mount = private(&source, &store, &[]);
    assert_same(&view, &snapshot(mount.mnt()), "the view is another");
    mount.unmount();
    done(&commit(&store, &[]));
    assert_committed(&view, &source, &store);
}

#[test]
fn as_root_a_commit_that_hands_over_is_gone_on_with() {
    let cuts = [
        ("linkat", 2),
        ("fchownat", 1),
        ("fchownat", 3),
        ("utimensat", 2),
        ("renameat2", 2),
        ("unlinkat", 3),
        ("fsync", 5),
    ];
    for cut in cuts {
        let (_fs, source, store) = place("ext4");
        fill_source(&source);
        let mut mount = private(&source, &store, &[]);
        fill(mount.mnt());
        let view = snapshot(mount.mnt());
        mount.unmount();
        cut_short(&store, &[], cut);
        refused(&mmfs(&["check"], &store), 0, "a commit of the store");
        refused(&commit(&store, &["--dry-run"]), 1, "a commit of the store");
        done(&commit(&store, &[]));
        assert_committed(&view, &source, &store);
        let names = fs::read_dir(&source).unwrap().flatten();
        let left = names.filter(|name| name.file_name().as_encoded_bytes()[0] == b'.');
        assert_eq!(left.count(), 0, "{cut:?}");
    }
}
