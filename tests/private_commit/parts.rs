//! Parts of the changes: the view is the same afterwards, and so is the end.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::committed::{assert_committed, commit, diff, done, mmfs, place, refused, write_files};
use crate::common::private::private;
use crate::common::snapshot::{assert_same, snapshot};
use crate::common::{builder, tools};

#[track_caller]
fn commit_some(store: &Path, words: &[&str]) {
    let mut command = Command::new(builder::binary());
    done(&tools::output_of(
        command.arg("commit").arg(store).args(words),
    ));
    done(&mmfs(&["check"], store));
}

/// Makes a view by `change`, commits some of it, and then the rest.
#[track_caller]
fn in_parts(files: &[&str], change: impl Fn(&Path), parts: &[&[&str]]) {
    let (_place, source, store) = place();
    write_files(&source, files);
    let mut mount = private(&source, &store, &[]);
    change(mount.mnt());
    let view = snapshot(mount.mnt());
    mount.unmount();
    for words in parts {
        commit_some(&store, words);
        let mut mount = private(&source, &store, &[]);
        assert_same(&view, &snapshot(mount.mnt()), &format!("after {words:?}"));
        mount.unmount();
    }
    done(&commit(&store, &[]));
    assert_committed(&view, &source, &store);
}

fn make(at: &Path, path: &str) {
    let path = at.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "new").unwrap();
}

#[test]
fn a_new_directory_keeps_what_is_not_chosen() {
    let change = |at: &Path| {
        for path in ["n/a", "n/b.o", "n/sub/c", "n/sub/d.o"] {
            make(at, path);
        }
        fs::rename(at.join("d"), at.join("n/d")).unwrap();
        make(at, "n/d/more");
    };
    in_parts(&["d/f", "d/g", "x"], change, &[&["-E", "*.o"], &["n/sub"]]);
    in_parts(&["d/f", "d/g", "x"], change, &[&["n/a"], &["n/d"]]);
}

#[test]
fn a_directory_that_was_made_anew_keeps_what_is_not_chosen() {
    let change = |at: &Path| {
        fs::remove_dir_all(at.join("d")).unwrap();
        make(at, "d/z");
        make(at, "d/w");
    };
    for part in [&["d/z"][..], &["d/x"], &["-E", "w"], &["d/w", "d/y"]] {
        in_parts(&["d/x", "d/y", "f"], change, &[part]);
    }
}

/// The times of a directory in which a commit has removed something are put back.
#[test]
fn a_commit_is_no_conflict_for_the_next() {
    let change = |at: &Path| fs::remove_dir_all(at.join("d")).unwrap();
    in_parts(&["d/x", "d/e/y", "f"], change, &[&["d/x"]]);
    in_parts(&["d/x", "d/e/y", "f"], change, &[&["d/e"]]);
}

#[test]
fn links_are_counted_once() {
    let change = |at: &Path| {
        fs::remove_file(at.join("a")).unwrap();
        fs::hard_link(at.join("b"), at.join("n")).unwrap();
        make(at, "other");
    };
    let (_place, source, store) = place();
    write_files(&source, &["a"]);
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    fs::hard_link(source.join("a"), source.join("c")).unwrap();
    let mut mount = private(&source, &store, &[]);
    change(mount.mnt());
    let view = snapshot(mount.mnt());
    mount.unmount();
    for part in ["other", "n"] {
        commit_some(&store, &[part]);
        let mut mount = private(&source, &store, &[]);
        assert_same(&view, &snapshot(mount.mnt()), part);
        mount.unmount();
    }
    done(&commit(&store, &[]));
    assert_committed(&view, &source, &store);
}

/// One record does not hold them.
#[test]
fn a_new_directory_of_many_names_is_committed_in_parts() {
    let change = |at: &Path| {
        fs::create_dir(at.join("n")).unwrap();
        for number in 0..5200 {
            fs::write(at.join(format!("n/{number:0230}")), "").unwrap();
        }
        make(at, "n/one");
    };
    in_parts(&["f"], change, &[&["n/one"]]);
}

/// They became deletions and replacements that nobody was asked about.
#[test]
fn conflicts_that_were_skipped_stay_conflicts() {
    let (_place, source, store) = place();
    write_files(&source, &["d/x", "d/y"]);
    let mut mount = private(&source, &store, &[]);
    fs::remove_dir_all(mount.mnt().join("d")).unwrap();
    for path in ["d/y", "d/z", "d/w"] {
        make(mount.mnt(), path);
    }
    mount.unmount();
    sleep(Duration::from_millis(20));
    fs::write(source.join("d/x"), "precious").unwrap();
    fs::write(source.join("d/y"), "precious").unwrap();
    commit_some(&store, &["--skip-conflicts", "-E", "w"]);
    assert_eq!(diff(&store), ["A d/w", "C d/x", "C d/y"]);
    refused(&commit(&store, &[]), 3, "the source has changed these, too");
    assert_eq!(fs::read(source.join("d/x")).unwrap(), b"precious");
    assert_eq!(fs::read(source.join("d/z")).unwrap(), b"new");
}

/// What others make in a directory that is new there is theirs.
#[test]
fn what_others_make_in_a_new_directory_is_not_deleted() {
    let (_place, source, store) = place();
    write_files(&source, &["f"]);
    let mut mount = private(&source, &store, &[]);
    make(mount.mnt(), "n/a");
    make(mount.mnt(), "n/b");
    mount.unmount();
    let mut traced = Command::new("strace");
    traced.args(["-f", "-o", "/dev/null", "-e", "trace=syncfs", "-e"]);
    // All is done, and the journal does not say so.
    traced.arg("inject=syncfs:signal=KILL:when=2");
    traced
        .arg(builder::binary())
        .arg("commit")
        .arg(&store)
        .arg("n/a");
    assert!(!tools::output_of(&mut traced).status.success());
    fs::write(source.join("n/precious"), "").unwrap();
    done(&commit(&store, &[]));
    assert_eq!(diff(&store), ["A n/b"]);
    assert!(source.join("n/precious").exists());
}

/// Nobody ever had such a file.
#[test]
fn bytes_of_two_files_are_not_mixed_by_force() {
    let (_place, source, store) = place();
    fs::write(source.join("f"), [b'a'; 1 << 20]).unwrap();
    let mut mount = private(&source, &store, &[]);
    let file = OpenOptions::new().write(true).open(mount.mnt().join("f"));
    file.unwrap().write_all_at(b"v", 5000).unwrap();
    mount.unmount();
    let file = OpenOptions::new().write(true).open(source.join("f"));
    file.unwrap().write_all_at(&[b'b'; 1 << 20], 0).unwrap();
    let words = "its other bytes were in the source only";
    refused(&commit(&store, &["--force"]), 1, words);
    assert_eq!(fs::read(source.join("f")).unwrap(), [b'b'; 1 << 20]);
}
