//! Others change the source while a commit is cut short.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::committed::{assert_committed, commit, diff, done, mmfs, place, refused, write_files};
use crate::common::private::private;
use crate::common::snapshot::snapshot;
use crate::common::{builder, tools, user};

/// Kills a commit before its Nth call of this name.
#[track_caller]
pub fn cut_short(store: &Path, options: &[&str], (call, number): (&str, u32)) {
    let mut traced = Command::new("strace");
    traced.args(["-f", "-o", "/dev/null", "-e"]);
    traced.arg(format!("trace={call}")).arg("-e");
    traced.arg(format!("inject={call}:signal=KILL:when={number}"));
    traced.arg(builder::binary()).arg("commit").args(options);
    let output = tools::output_of(traced.arg(store));
    assert!(!output.status.success(), "{output:?}");
    assert!(store.join("commit").exists(), "no journal: {output:?}");
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn append(path: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// It was exit code 0, and the bytes were lost.
#[test]
fn what_waits_under_a_temporary_name_is_missed_if_it_is_removed() {
    let (_place, source, store) = place();
    write_files(&source, &["a"]);
    let mut mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("a"), "other").unwrap();
    fs::write(mount.mnt().join("n"), "new").unwrap();
    // A file with one name has none until it has its own.
    fs::hard_link(mount.mnt().join("n"), mount.mnt().join("m")).unwrap();
    mount.unmount();
    cut_short(&store, &[], ("renameat2", 1));
    for entry in fs::read_dir(&source).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".mmfs-") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    refused(&commit(&store, &[]), 1, "the commit stopped at");
    assert!(store.join("commit").exists());
}

/// It was overwritten, with exit code 0.
#[test]
fn what_was_edited_since_is_not_replaced_or_removed() {
    let (_place, source, store) = place();
    write_files(&source, &["a", "r", "x"]);
    let mut mount = private(&source, &store, &[]);
    // The first step, because it is the last name.
    fs::rename(mount.mnt().join("x"), mount.mnt().join("y")).unwrap();
    fs::write(mount.mnt().join("a"), "other").unwrap();
    fs::remove_file(mount.mnt().join("r")).unwrap();
    mount.unmount();
    cut_short(&store, &[], ("renameat2", 1));
    append(&source.join("a"), "mine");
    append(&source.join("r"), "mine");
    refused(&commit(&store, &[]), 1, "something else is there now");
    assert_eq!(fs::read(source.join("a")).unwrap(), b"amine");
    assert_eq!(fs::read(source.join("r")).unwrap(), b"rmine");
    done(&commit(&store, &["--force"]));
    assert_eq!(fs::read(source.join("a")).unwrap(), b"other");
    assert!(!source.join("r").exists());
}

/// Directories are closed to their owner at last.
#[test]
fn a_commit_that_closed_a_directory_is_finished() {
    let (_place, source, store) = place();
    write_files(&source, &["f"]);
    let mut mount = private(&source, &store, &[]);
    let made = mount.mnt().join("d/sub");
    fs::create_dir_all(&made).unwrap();
    fs::write(made.join("a"), "a").unwrap();
    chmod(&mount.mnt().join("d"), 0o000);
    mount.unmount();
    // All is done, and the journal does not say so.
    cut_short(&store, &[], ("syncfs", 2));
    let mode = fs::metadata(source.join("d")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0);
    done(&commit(&store, &[]));
    chmod(&source.join("d"), 0o700);
    assert_eq!(fs::read(source.join("d/sub/a")).unwrap(), b"a");
}

/// It was swallowed.
#[test]
fn what_is_asked_for_comes_after_what_was_cut_short() {
    let (_place, source, store) = place();
    write_files(&source, &["a"]);
    let mut mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("a"), "other").unwrap();
    fs::write(mount.mnt().join("n"), "new").unwrap();
    fs::write(mount.mnt().join("o"), "new").unwrap();
    fs::write(mount.mnt().join("p"), "new").unwrap();
    let view = snapshot(mount.mnt());
    mount.unmount();
    let cut = |path: &str| {
        let mut traced = Command::new("strace");
        traced.args(["-f", "-o", "/dev/null", "-e", "trace=syncfs", "-e"]);
        traced.arg("inject=syncfs:signal=KILL:when=2");
        traced.arg(builder::binary()).arg("commit");
        tools::output_of(traced.arg(&store).arg(path));
        assert!(store.join("commit").exists());
    };
    let ask = |path: &str| {
        let mut command = Command::new(builder::binary());
        done(&tools::output_of(
            command.arg("commit").arg(&store).arg(path),
        ));
    };
    // The same once more does no more.
    cut("a");
    ask("a");
    assert_eq!(diff(&store), ["A n", "A o", "A p"]);
    cut("n");
    ask("o");
    assert_eq!(diff(&store), ["A p"]);
    done(&mmfs(&["check"], &store));
    done(&commit(&store, &[]));
    assert_committed(&view, &source, &store);
}

/// A commit does what stands in the store.
#[test]
fn as_root_a_store_that_others_may_write_is_refused() {
    if !user::is_root() {
        return;
    }
    let (_place, source, store) = place();
    write_files(&source, &["a"]);
    let mut mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("a"), "other").unwrap();
    mount.unmount();
    chmod(&store, 0o777);
    refused(&commit(&store, &[]), 1, "others may write to the store");
    chmod(&store, 0o700);
    fs::write(store.join("commit"), "mmfs commit 1 00000000\n{}").unwrap();
    refused(&commit(&store, &[]), 1, "cannot be changed");
}
