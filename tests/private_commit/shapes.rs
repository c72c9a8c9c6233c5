//! Files of all shapes, and a commit of them that is cut short.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};

use crate::committed::{
    assert_committed, assert_empty, bytes, commit, commit_view, diff, done, mmfs, refused,
    set_times, set_xattr, write_at, write_large,
};
use crate::common::loopfs::LoopFs;
use crate::common::private::private;
use crate::common::snapshot::{Snapshot, assert_same, snapshot};
use crate::common::{builder, tools};
use crate::meanwhile::cut_short;

fn place(fs_type: &str) -> (LoopFs, PathBuf, PathBuf) {
    let fs = LoopFs::new(fs_type, 512 << 20);
    let (source, store) = (fs.path().join("source"), fs.path().join("store"));
    fs::create_dir(&source).unwrap();
    (fs, source, store)
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
    // XFS shares the rest with the old file, and has to give back the block with its end.
    fallocate(open("tail"), punch, 131_072, 159_341 - 131_072).unwrap();
}

fn fill_source(source: &Path) {
    for name in ["rewritten", "changed"] {
        fs::write(source.join(name), bytes(name, 50_000)).unwrap();
    }
    fs::write(source.join("tail"), bytes("tail", 159_341)).unwrap();
    fs::write(source.join("behind"), bytes("behind", 1 << 20)).unwrap();
}

/// A store with all of that. Returns what the view showed.
fn filled(source: &Path, store: &Path) -> Snapshot {
    fill_source(source);
    let mut mount = private(source, store, &[]);
    fill(mount.mnt());
    let view = snapshot(mount.mnt());
    mount.unmount();
    view
}

/// Its first pages are the store's, and behind them is a hole where the source has bytes.
fn cut_behind(view: &Path) {
    let file = File::options()
        .write(true)
        .open(view.join("behind"))
        .unwrap();
    file.write_all_at(&bytes("other", 400 << 10), 0).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 400 << 10, 624 << 10).unwrap();
}

/// It has happened that a file had old bytes behind a place where it had been cut.
#[test]
fn as_root_files_of_all_shapes_are_committed() {
    for fs_type in ["ext4", "xfs", "btrfs"] {
        let (_fs, source, store) = place(fs_type);
        fill_source(&source);
        let mount = private(&source, &store, &[]);
        fill(mount.mnt());
        cut_behind(mount.mnt());
        commit_view(mount, &store, &[]);
    }
}

/// The store is as it was.
#[test]
fn as_root_a_commit_that_fails_leaves_the_store_alone() {
    let (_fs, source, store) = place("ext4");
    let view = filled(&source, &store);
    let (before, changes) = (snapshot(&source), diff(&store));
    let mut traced = Command::new("strace");
    traced.args(["-f", "-o", "/dev/null", "-e", "trace=syncfs", "-e"]);
    traced.arg("inject=syncfs:error=EIO:when=1");
    let output = tools::output_of(traced.arg(builder::binary()).arg("commit").arg(&store));
    refused(&output, 1, "Input/output error");
    assert_same(&before, &snapshot(&source), "the source was changed");
    assert_eq!(diff(&store), changes);
    done(&mmfs(&["check"], &store));
    done(&commit(&store, &[]));
    assert_committed(&view, &source, &store);
}

/// The store forgets when the source is as it is to be: what others change from then on stays.
#[test]
fn as_root_a_commit_that_was_cut_short_at_its_end_changes_nothing_more() {
    // The first one is of a name that is tried out.
    for number in [2, 4, 6] {
        let (_fs, source, store) = place("ext4");
        filled(&source, &store);
        cut_short(&store, &[], ("unlinkat", number));
        // All that the store has is still there, and all steps may have to be done.
        if number > 2 {
            fs::set_permissions(source.join("new"), Permissions::from_mode(0o600)).unwrap();
            fs::write(source.join("saved"), "edited").unwrap();
            fs::rename(source.join("saved"), source.join("rewritten")).unwrap();
        }
        let before = snapshot(&source);
        done(&commit(&store, &[]));
        assert_same(&before, &snapshot(&source), "it changed what others had");
        assert_empty(&store);
    }
}

#[test]
fn as_root_a_commit_of_all_shapes_is_gone_on_with() {
    let cuts = [
        ("fchownat", 1),
        ("utimensat", 2),
        ("renameat2", 2),
        ("unlinkat", 3),
        ("fsync", 5),
    ];
    for cut in cuts {
        let (_fs, source, store) = place("ext4");
        let view = filled(&source, &store);
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
