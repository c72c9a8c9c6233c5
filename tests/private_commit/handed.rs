//! Data files of the store that become files of the source.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::committed::{
    assert_committed, assert_empty, bytes, commit, diff, done, mmfs, refused, set_xattr,
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
                // Nothing that mmfs has put there.
                refused(&commit(&store, &[]), 1, "Input/output error");
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
    for call in ["syncfs", "fsetxattr,setxattr", "fchownat", "utimensat"] {
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

/// As `cp -al` of the source gives it.
/// (proves: S83)
#[test]
fn as_root_a_name_that_others_gave_a_file_meanwhile_is_theirs() {
    let (_fs, source, store) = place("ext4");
    let view = fill(&source, &store);
    cut_short(&store, &[], ("syncfs", 1));
    let kept = source.with_file_name("kept");
    fs::create_dir(&kept).unwrap();
    for name in fs::read_dir(&source).unwrap().flatten() {
        fs::hard_link(name.path(), kept.join(name.file_name())).unwrap();
    }
    // It is taken back, and then refused: this name is in the way.
    fs::create_dir(source.join("new")).unwrap();
    let output = commit(&store, &[]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_own(&store);
    for name in fs::read_dir(&kept).unwrap().flatten() {
        let mut file = File::options().append(true).open(name.path()).unwrap();
        file.write_all(b"theirs").unwrap();
    }
    fs::remove_dir(source.join("new")).unwrap();
    fs::write(source.join("rewritten"), bytes("rewritten", 50_000)).unwrap();
    done(&mmfs(&["check"], &store));
    assert_eq!(diff(&store), ["A new", "A other", "C rewritten"]);
    let before = data_files(&store);
    done(&commit(&store, &["--force"]));
    assert_eq!(handed(&source, &before), ["new", "other", "rewritten"]);
    assert_committed(&view, &source, &store);
}
