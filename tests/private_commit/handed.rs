//! Data files of the store that become files of the source.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::committed::{
    assert_committed, assert_empty, bytes, commit, diff, done, mmfs, refused, set_xattr,
};
use crate::common::loopfs::LoopFs;
use crate::common::private::private;
use crate::common::snapshot::{Snapshot, assert_same, snapshot, untouched};
use crate::common::{builder, tools, user};
use crate::meanwhile::cut_short;

fn place(fs_type: &str) -> (LoopFs, PathBuf, PathBuf) {
    let fs = LoopFs::new(fs_type, 512 << 20);
    let (source, store) = (fs.path().join("source"), fs.path().join("store"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("rewritten"), bytes("rewritten", 50_000)).unwrap();
    (fs, source, store)
}

/// Files of which the store has all bytes. Returns what the view shows.
fn fill(source: &Path, store: &Path) -> Snapshot {
    let mut mount = private(source, store, &[]);
    for name in ["new", "rewritten", "other"] {
        let path = mount.mnt().join(name);
        fs::write(&path, bytes(name, 200_001)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o4640)).unwrap();
    }
    let path = mount.mnt().join("new");
    chown(&path, Some(12), Some(34)).unwrap();
    set_xattr(&path, "user.a", b"b");
    let view = snapshot(mount.mnt());
    mount.unmount();
    view
}

/// The inodes of the data files, and what is asked of each that is the store's alone.
fn data_files(store: &Path) -> BTreeMap<u64, PathBuf> {
    let folders = fs::read_dir(store.join("data")).unwrap().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten());
    files
        .map(|file| (file.metadata().unwrap().ino(), file.path()))
        .collect()
}

#[track_caller]
fn assert_own(store: &Path) {
    for path in data_files(store).values() {
        let found = fs::symlink_metadata(path).unwrap();
        let has = (
            found.nlink(),
            found.uid(),
            found.gid(),
            found.mode() & 0o7777,
        );
        assert_eq!(has, (1, 0, 0, 0o600), "{path:?}");
        let names = tools::output_of(Command::new("getfattr").arg("-m-").arg(path));
        assert!(names.stdout.is_empty(), "{names:?}");
    }
}

fn number(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

/// Which of the source's files were a data file.
fn handed(source: &Path, before: &BTreeMap<u64, PathBuf>) -> Vec<&'static str> {
    let names = ["new", "other", "rewritten"].into_iter();
    names
        .filter(|name| before.contains_key(&number(&source.join(name))))
        .collect()
}

/// (proves: S83)
#[test]
fn as_root_files_are_handed_over_without_a_copy() {
    for fs_type in ["ext4", "xfs", "btrfs"] {
        let (_fs, source, store) = place(fs_type);
        let view = fill(&source, &store);
        let before = data_files(&store);
        done(&commit(&store, &[]));
        let all = ["new", "other", "rewritten"];
        assert_eq!(handed(&source, &before), all, "{fs_type}");
        assert_committed(&view, &source, &store);
        assert_empty(&store);
        assert_eq!(fs::metadata(source.join("new")).unwrap().nlink(), 1);
        // What comes next in the store has nothing to do with them.
        let mut mount = private(&source, &store, &[]);
        fs::write(mount.mnt().join("new"), "others").unwrap();
        mount.unmount();
        assert_eq!(fs::read(source.join("new")).unwrap(), bytes("new", 200_001));
    }
}

/// Whoever can still write to a data file could write to the source's.
/// (proves: S83)
#[test]
fn as_root_what_somebody_can_write_to_is_copied() {
    let (_fs, source, store) = place("ext4");
    let view = fill(&source, &store);
    let before = data_files(&store);
    let new = before
        .values()
        .find(|path| fs::metadata(path).unwrap().len() == 200_001);
    let writer = OpenOptions::new().write(true).open(new.unwrap()).unwrap();
    let written = writer.metadata().unwrap().ino();
    done(&commit(&store, &[]));
    assert_eq!(handed(&source, &before).len(), 2);
    writer.write_all_at(b"late", 0).unwrap();
    let names = fs::read_dir(&source).unwrap().flatten();
    assert!(
        names
            .map(|name| number(&name.path()))
            .all(|ino| ino != written)
    );
    assert_committed(&view, &source, &store);
}

/// A new file in the directory would not be like it.
#[test]
fn as_root_what_is_unlike_a_new_file_is_copied() {
    let chattr = |flag: &str, path: &Path| {
        tools::run(Command::new("chattr").arg(flag).arg(path));
    };
    for case in [
        "directory",
        "data file",
        "second name",
        "attribute",
        "owner",
    ] {
        let (_fs, source, store) = place("ext4");
        let view = fill(&source, &store);
        let before = data_files(&store);
        for path in before.values() {
            match case {
                "data file" => chattr("+d", path),
                "attribute" => set_xattr(path, "user.planted", b""),
                "owner" => chown(path, Some(12), None).unwrap(),
                _ => {}
            }
        }
        match case {
            "directory" => chattr("+d", &source),
            "second name" => {
                let second = source.with_file_name("second");
                for (number, path) in before.values().enumerate() {
                    fs::hard_link(path, second.with_extension(number.to_string())).unwrap();
                }
                // Nothing that mmfs has put there: it may be somebody else's, and stays as it is.
                chown(second.with_extension("0"), Some(12), Some(34)).unwrap();
                let planted = untouched(source.parent().unwrap());
                for _ in 0..2 {
                    refused(&commit(&store, &[]), 1, "Input/output error");
                }
                let now = untouched(source.parent().unwrap());
                for name in ["second.0", "second.1", "second.2"] {
                    let of = |all: &Snapshot| format!("{:?}", all[Path::new(name)].inode);
                    assert_eq!(of(&planted), of(&now), "{name}");
                }
                continue;
            }
            _ => {}
        }
        done(&commit(&store, &[]));
        assert_eq!(handed(&source, &before), [""; 0], "{case}");
        assert_committed(&view, &source, &store);
        let planted =
            tools::output_of(Command::new("getfattr").arg("-d").arg(source.join("other")));
        assert!(planted.stdout.is_empty(), "{planted:?}");
    }
}

/// The store has its data files back, as they were.
/// (proves: S83)
#[test]
fn as_root_what_was_handed_over_is_taken_back() {
    for call in ["syncfs", "setxattr", "fchownat", "utimensat"] {
        let (_fs, source, store) = place("ext4");
        let view = fill(&source, &store);
        let (before, changes) = (snapshot(&source), diff(&store));
        let mut traced = Command::new("strace");
        traced.args(["-f", "-o", "/dev/null", "-e"]);
        traced.arg(format!("trace={call}")).arg("-e");
        traced.arg(format!("inject={call}:error=ENOSPC:when=1"));
        let output = tools::output_of(traced.arg(builder::binary()).arg("commit").arg(&store));
        refused(&output, 1, "No space left on device");
        assert_same(&before, &snapshot(&source), "the source was changed");
        assert_own(&store);
        assert_eq!(diff(&store), changes);
        done(&mmfs(&["check"], &store));
        let mut mount = private(&source, &store, &[]);
        assert_same(&view, &snapshot(mount.mnt()), call);
        mount.unmount();
        done(&commit(&store, &[]));
        assert_committed(&view, &source, &store);
    }
}

/// Others could write to it.
/// (proves: S83)
#[test]
fn as_root_no_name_of_a_data_file_is_seen_before_the_steps_are_recorded() {
    let (_fs, source, store) = place("ext4");
    let view = fill(&source, &store);
    let before = data_files(&store);
    cut_short(&store, &[], ("syncfs", 1));
    for (number, path) in &before {
        let found = fs::metadata(path).unwrap();
        assert_eq!((found.ino(), found.nlink()), (*number, 1), "{path:?}");
    }
    // It is taken back, and then refused: this name is in the way.
    fs::create_dir(source.join("new")).unwrap();
    let output = commit(&store, &[]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_own(&store);
    fs::remove_dir(source.join("new")).unwrap();
    done(&mmfs(&["check"], &store));
    assert_eq!(diff(&store), ["A new", "A other", "M rewritten"]);
    done(&commit(&store, &[]));
    assert_eq!(handed(&source, &before), ["new", "other", "rewritten"]);
    assert_committed(&view, &source, &store);
}

/// A commit that was cut short among its steps, and what others did since.
#[test]
fn as_root_what_was_handed_over_is_not_brought_back() {
    let (_fs, source, store) = place("ext4");
    fill(&source, &store);
    cut_short(&store, &[], ("renameat2", 2));
    let there = ["new", "other"].map(|name| source.join(name).exists());
    assert_eq!(there, [true, false]);
    fs::remove_file(source.join("new")).unwrap();
    refused(&commit(&store, &[]), 1, "the commit stopped at");
    assert!(!source.join("new").exists());
    fs::write(source.join("new"), "others").unwrap();
    refused(&commit(&store, &[]), 1, "something else is there now");
    assert_eq!(fs::read(source.join("new")).unwrap(), b"others");
}

/// In a directory with the setgid bit, files get its group, which the user may not be able to give them.
#[test]
fn as_root_a_users_files_keep_the_group_of_their_directory() {
    let (fs, source, store) = place("ext4");
    let uid = user::ordinary();
    user::give_to(uid, fs.path());
    user::let_users_mount();
    chown(&source, None, Some(4321)).unwrap();
    fs::set_permissions(&source, Permissions::from_mode(0o2777)).unwrap();
    let mnt = fs.path().join("mnt");
    fs::create_dir(&mnt).unwrap();
    user::give_to(uid, &mnt);
    let run = |words: &[&Path]| {
        let mut command = user::as_user(uid, builder::binary());
        done(&tools::output_of(command.args(words)));
    };
    run(&[Path::new("--private"), &store, &source, &mnt]);
    let made = format!(
        "echo made > {0}/made; mkdir {0}/d; echo made > {0}/d/made",
        mnt.display()
    );
    let mut shell = user::as_user(uid, "sh");
    done(&tools::output_of(shell.arg("-c").arg(made)));
    let group = |root: &Path, name: &str| fs::metadata(root.join(name)).unwrap().gid();
    let shown = ["made", "d", "d/made"].map(|name| {
        let mut stat = user::as_user(uid, "stat");
        let output = tools::output_of(stat.arg("-c%g").arg(mnt.join(name)));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    });
    assert_eq!(shown, ["4321", "4321", "4321"]);
    run(&[Path::new("unmount"), &mnt]);
    run(&[Path::new("commit"), &store]);
    let groups = ["made", "d", "d/made"].map(|name| group(&source, name));
    assert_eq!(groups, [4321, 4321, 4321]);
}

/// What is in a new directory, what is longer or shorter than the store's file, and what has several names.
#[test]
fn as_root_what_is_like_the_views_file_is_handed_over_only() {
    let (_fs, source, store) = place("ext4");
    let mut mount = private(&source, &store, &[]);
    let at = |name: &str| mount.mnt().join(name);
    fs::create_dir_all(at("d/e")).unwrap();
    for name in ["d/e/deep", "longer", "shorter", "names"] {
        fs::write(at(name), bytes(name, 300_000)).unwrap();
    }
    fs::hard_link(at("names"), at("d/second")).unwrap();
    let resize = |name: &str, len| {
        let file = File::options().write(true).open(at(name)).unwrap();
        file.set_len(len).unwrap();
    };
    resize("longer", 400_000);
    resize("shorter", 200_000);
    let view = snapshot(mount.mnt());
    mount.unmount();
    let before = data_files(&store);
    done(&commit(&store, &[]));
    assert!(before.contains_key(&number(&source.join("d/e/deep"))));
    assert!(!before.contains_key(&number(&source.join("names"))));
    assert_committed(&view, &source, &store);
}

/// What stays in the store needs its data files.
#[test]
fn as_root_nothing_is_handed_over_if_something_stays() {
    let (_fs, source, store) = place("ext4");
    fill(&source, &store);
    let before = data_files(&store);
    done(&commit(&store, &["-I", "new"]));
    assert!(!before.contains_key(&number(&source.join("new"))));
    assert_eq!(diff(&store), ["A other", "M rewritten"]);
}

/// Its data files are other inodes.
#[test]
fn as_root_a_copy_of_a_store_finishes_a_commit_that_was_cut_short() {
    for call in [
        ("renameat2", 1),
        ("renameat2", 3),
        ("renameat2", 4),
        ("syncfs", 2),
    ] {
        let (fs, source, store) = place("ext4");
        let mut mount = private(&source, &store, &[]);
        for name in ["d/one", "d/e/two", "top"] {
            let path = mount.mnt().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes(name, 100_000)).unwrap();
        }
        let view = snapshot(mount.mnt());
        mount.unmount();
        cut_short(&store, &[], call);
        let copy = fs.path().join("copy");
        tools::run(Command::new("cp").arg("-aT").args([&store, &copy]));
        fs::remove_dir_all(&store).unwrap();
        done(&commit(&copy, &[]));
        assert_committed(&view, &source, &copy);
    }
}

/// Security modules may forbid to move a file out of its directory.
#[test]
fn as_root_what_may_not_be_moved_is_copied() {
    let (_fs, source, store) = place("ext4");
    let view = fill(&source, &store);
    let before = data_files(&store);
    let mut traced = Command::new("strace");
    traced.args(["-f", "-o", "/dev/null", "-e", "trace=renameat", "-e"]);
    // The first is the journal's.
    traced.arg("inject=renameat:error=EXDEV:when=2");
    let output = tools::output_of(traced.arg(builder::binary()).arg("commit").arg(&store));
    done(&output);
    assert_eq!(handed(&source, &before), [""; 0]);
    assert_committed(&view, &source, &store);
}

/// Others can open a file there before it is the source's.
#[test]
fn as_root_nothing_is_handed_over_from_a_directory_that_others_reach() {
    let (_fs, source, store) = place("ext4");
    let view = fill(&source, &store);
    let before = data_files(&store);
    fs::set_permissions(store.join("data"), Permissions::from_mode(0o755)).unwrap();
    done(&commit(&store, &[]));
    assert_eq!(handed(&source, &before), [""; 0]);
    assert_committed(&view, &source, &store);
}
