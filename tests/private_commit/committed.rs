//! Committing, and what must hold afterwards.

use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::snapshot::{
    Snapshot, assert_same, snapshot, untouched, with_coarse_holes, with_more_holes, without_holes,
};
use crate::common::{Mount, builder, private, tools};

pub fn mmfs(words: &[&str], object: &Path) -> Output {
    let mut command = Command::new(builder::binary());
    tools::output_of(command.args(words).arg(object))
}

pub fn commit(store: &Path, options: &[&str]) -> Output {
    mmfs(&[&["commit"], options].concat(), store)
}

/// The lines of `mmfs diff`.
#[track_caller]
pub fn diff(store: &Path) -> Vec<String> {
    let output = mmfs(&["diff"], store);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(Into::into).collect()
}

/// It ends with this code and a sentence that has these words.
#[track_caller]
pub fn refused(output: &Output, code: i32, words: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(code) && told.contains(words),
        "not {code} with '{words}': {output:?}"
    );
    assert!(!told.contains("panicked"), "{told}");
}

#[track_caller]
pub fn done(output: &Output) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {told}", output.status);
}

/// The store has no changes, is sound, and no commit of it goes on.
#[track_caller]
pub fn assert_empty(store: &Path) {
    assert_eq!(diff(store), [""; 0]);
    done(&mmfs(&["check"], store));
    assert!(!store.join("commit").exists());
    let data = fs::read_dir(store.join("data")).unwrap();
    let files = data.map(|directory| fs::read_dir(directory.unwrap().path()).unwrap().count());
    assert_eq!(files.sum::<usize>(), 0, "data files are left");
}

/// The source is what the view showed, the store is empty, and a new view shows the same.
#[track_caller]
pub fn assert_committed(view: &Snapshot, source: &Path, store: &Path) {
    const XFS: i64 = 0x5846_5342;
    const BTRFS: i64 = 0x9123_683e;
    let holes = match rustix::fs::statfs(source).unwrap().f_type as i64 {
        XFS => with_coarse_holes,
        // Where a file's end was within a page, it makes that page when the file becomes longer.
        BTRFS => without_holes,
        _ => |all| all,
    };
    let (view, found) = (holes(view.clone()), holes(snapshot(source)));
    let found = with_more_holes(&view, found);
    assert_same(&view, &found, "the source is not what the view was");
    assert_empty(store);
}

/// Ends the view, and commits it.
#[track_caller]
pub fn commit_view(mut mount: Mount, store: &Path, options: &[&str]) {
    let view = snapshot(mount.mnt());
    let source = mount.src().to_path_buf();
    assert!(mount.unmount().success());
    done(&commit(store, options));
    assert_committed(&view, &source, store);
}

/// Changes a view by `change`, and commits it.
#[track_caller]
pub fn changed_and_committed(source: &Path, store: &Path, change: impl FnOnce(&Path)) {
    let mount = private::private(source, store, &[]);
    change(mount.mnt());
    commit_view(mount, store, &[]);
}

/// Commits, and expects this exit code and a source and a store that are as they were.
#[track_caller]
pub fn left_alone(source: &Path, store: &Path, (code, words): (i32, &str)) {
    let (before, changes) = (untouched(source), diff(store));
    refused(&commit(store, &[]), code, words);
    assert_same(&before, &untouched(source), "the source was touched");
    assert_eq!(diff(store), changes);
    done(&mmfs(&["check"], store));
}

/// Bytes that tell where they belong, and of which file they are.
pub fn bytes(name: &str, len: usize) -> Vec<u8> {
    let line = format!("{name}\n");
    line.bytes().cycle().take(len).collect()
}

/// Larger than what is copied at the first write, with a hole.
pub fn write_large(path: &Path) {
    let file = File::create(path).unwrap();
    let name = path.to_string_lossy();
    file.write_all_at(&bytes(&name, 100_000), 0).unwrap();
    file.write_all_at(&bytes(&name, 50_000), 400_000).unwrap();
    file.set_len(600_001).unwrap();
}

pub fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

/// Files with their names in them, and the directories that they need.
pub fn write_files(root: &Path, paths: &[&str]) {
    for path in paths {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.file_name().unwrap().as_bytes()).unwrap();
    }
}

pub fn set_times(path: &Path, secs: i64) {
    let time = |more| rustix::fs::Timespec {
        tv_sec: secs + more,
        tv_nsec: 123_456_789,
    };
    let times = rustix::fs::Timestamps {
        last_access: time(0),
        last_modification: time(1000),
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).unwrap();
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(path, name, value, flags).unwrap();
}

/// Removes whatever is there.
pub fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// A source and the place for a store, below a directory that goes with the guard.
pub fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
    private::place()
}
