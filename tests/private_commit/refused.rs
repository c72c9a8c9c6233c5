//! What is refused with a sentence.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::committed::{
    commit, commit_view, diff, left_alone, mmfs, place, refused, set_xattr, write_files,
};
use crate::common::loopfs::LoopFs;
use crate::common::private::private;
use crate::common::snapshot::{assert_same, snapshot, untouched};
use crate::common::{Mount, builder, tools};

#[test]
fn a_mounted_view_is_refused() {
    let (_place, source, store) = place();
    write_files(&source, &["f"]);
    let mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("f"), "other").unwrap();
    let before = untouched(&source);
    refused(&commit(&store, &[]), 1, "is in use by another mmfs");
    refused(&commit(mount.mnt(), &[]), 1, "is mounted");
    refused(
        &commit(&store, &["--force"]),
        1,
        "is in use by another mmfs",
    );
    refused(
        &commit(&store, &["--dry-run"]),
        1,
        "is in use by another mmfs",
    );
    assert_same(&before, &untouched(&source), "the source was touched");
    commit_view(mount, &store, &[]);
}

#[test]
fn what_is_no_store_is_refused() {
    let (place, source, _) = place();
    write_files(&source, &["f"]);
    refused(&commit(&source, &[]), 1, "is not a store");
    refused(&commit(&place.path().join("missing"), &[]), 1, "missing");
    let mirror = Mount::builder().over(&source).mount();
    refused(&commit(mirror.mnt(), &[]), 1, "shows its source itself");
}

#[test]
fn a_source_that_is_gone_is_refused() {
    let (place, source, store) = place();
    write_files(&source, &["f"]);
    let mut mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("f"), "other").unwrap();
    mount.unmount();
    let aside = place.path().join("aside");
    fs::rename(&source, &aside).unwrap();
    refused(&commit(&store, &[]), 1, "source");
    // Another directory there is not the source.
    fs::create_dir(&source).unwrap();
    left_alone_store(&store, &source, "--base-moved");
    fs::remove_dir(&source).unwrap();
    std::os::unix::fs::symlink(&aside, &source).unwrap();
    let _ = commit(&store, &[]);
    fs::remove_file(&source).unwrap();
    fs::rename(&aside, &source).unwrap();
    let now = fs::read(source.join("f")).unwrap();
    assert!(now == b"f" || now == b"other");
}

#[track_caller]
fn left_alone_store(store: &Path, source: &Path, words: &str) {
    refused(&commit(store, &[]), 1, words);
    assert_eq!(fs::read_dir(source).unwrap().count(), 0);
    assert!(!store.join("commit").exists());
}

#[test]
fn as_root_the_store_of_another_user_is_refused() {
    let (_place, source, store) = place();
    write_files(&source, &["f"]);
    let mut mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("f"), "other").unwrap();
    mount.unmount();
    std::os::unix::fs::chown(&store, Some(12_345), None).unwrap();
    let before = untouched(&source);
    let words = "belongs to user 12345, who can commit its changes";
    refused(&commit(&store, &[]), 1, words);
    assert_same(&before, &untouched(&source), "the source was touched");
    std::os::unix::fs::chown(&store, Some(0), None).unwrap();
    assert_eq!(diff(&store), ["M f"]);
}

/// What whoever commits may not write to.
#[test]
fn as_root_a_source_that_may_not_be_changed_is_refused() {
    let (place, source, _) = place();
    let user = crate::common::user::ordinary();
    let own = place.path().join("own");
    fs::create_dir(&own).unwrap();
    crate::common::user::give_to(user, &own);
    write_files(&source, &["d/f", "e/g"]);
    for path in ["d", "d/f", ""] {
        crate::common::user::give_to(user, &source.join(path));
    }
    let store = own.join("store");
    let builder = Mount::builder().over(&source).as_user(user);
    let mut mount = builder.option("--private").option(&store).mount();
    let script = "cd \"$1\"; echo other > d/f; mv e moved; echo new > new";
    let mut shell = crate::common::user::as_user(user, "sh");
    tools::run(shell.args(["-c", script, "sh"]).arg(mount.mnt()));
    mount.unmount();
    let of_user = |verb: &str| {
        let mut command = crate::common::user::as_user(user, builder::binary());
        tools::output_of(command.arg(verb).arg(&store))
    };
    // The root of the source is root's again.
    std::os::unix::fs::chown(&source, Some(0), Some(0)).unwrap();
    let before = untouched(&source);
    refused(&of_user("commit"), 1, "ermission denied");
    assert_same(&before, &untouched(&source), "the source was touched");
    crate::common::user::give_to(user, &source);
    crate::committed::done(&of_user("commit"));
    assert_eq!(fs::read(source.join("moved/g")).unwrap(), b"g");
    assert_eq!(fs::read(source.join("d/f")).unwrap(), b"other\n");
    assert!(of_user("diff").stdout.is_empty());
}

#[test]
fn as_root_a_read_only_source_is_refused() {
    let (_place, source, store) = place();
    write_files(&source, &["d/f"]);
    let bind = |words: &[&str]| {
        tools::run(Command::new("mount").args(words).arg(&source));
    };
    tools::run(
        Command::new("mount")
            .arg("--bind")
            .arg(&source)
            .arg(&source),
    );
    let mut mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("d/f"), "other").unwrap();
    fs::write(mount.mnt().join("new"), "new").unwrap();
    mount.unmount();
    bind(&["-o", "remount,bind,ro"]);
    left_alone(&source, &store, (1, "nothing was changed"));
    bind(&["-o", "remount,bind,rw"]);
    crate::committed::done(&commit(&store, &[]));
    assert_eq!(fs::read(source.join("d/f")).unwrap(), b"other");
    tools::unmount_idle(&source).unwrap();
}

/// A commit that was cut short: only a commit may have the store.
#[test]
fn s76_only_a_commit_opens_a_store_whose_commit_was_cut_short_and_finishes_it() {
    let (place, source, store) = place();
    write_files(&source, &["f", "d/g", "h/i"]);
    let mut mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("f"), "other").unwrap();
    fs::rename(mount.mnt().join("d"), mount.mnt().join("e")).unwrap();
    fs::rename(mount.mnt().join("h"), mount.mnt().join("k")).unwrap();
    let view = crate::common::snapshot::snapshot(mount.mnt());
    mount.unmount();
    // The second rename in the source is never made.
    let log = place.path().join("trace");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-e", "trace=renameat2", "-e"]);
    traced
        .arg("inject=renameat2:signal=KILL:when=2")
        .arg("-o")
        .arg(&log);
    let output = tools::output_of(traced.arg(builder::binary()).arg("commit").arg(&store));
    assert!(!output.status.success(), "{output:?}");
    let journal = fs::read(store.join("commit")).expect("a journal");
    assert!(String::from_utf8_lossy(&journal).contains("Stepping"));
    let before = untouched(&source);
    let words = "a commit of the store";
    for verb in ["diff", "discard"] {
        refused(&mmfs(&[verb], &store), 1, words);
    }
    // A check only looks.
    let checked = mmfs(&["check"], &store);
    refused(&checked, 0, words);
    refused(&mmfs(&["check", "--repair"], &store), 1, words);
    refused(&commit(&store, &["--dry-run"]), 1, words);
    let point = place.path().join("point");
    fs::create_dir(&point).unwrap();
    for more in [&[][..], &["--read-only"], &["--base-moved"]] {
        let builder = Mount::builder().over(&source).at(&point);
        let builder = builder.option("--private").option(&store);
        refused(&builder.options(more.iter().copied()).refused(), 1, words);
    }
    let mut run = Command::new(builder::binary());
    run.current_dir(&source)
        .arg("run")
        .arg("--store")
        .arg(&store);
    let output = tools::output_of(run.args(["--", "touch", "made"]));
    refused(&output, 125, words);
    assert_same(&before, &untouched(&source), "the source was touched");
    assert_eq!(fs::read(store.join("commit")).unwrap(), journal);
    crate::committed::done(&commit(&store, &[]));
    crate::committed::assert_committed(&view, &source, &store);
}

/// Bytes that no commit has written.
#[test]
fn a_damaged_journal_is_refused() {
    let (_place, source, store) = place();
    write_files(&source, &["f"]);
    let mut mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("f"), "other").unwrap();
    mount.unmount();
    let before = untouched(&source);
    for bytes in [
        &b""[..],
        b"\n",
        b"mmfs commit 1 00000000\n{}",
        b"mmfs commit 1 12345678\n\"Done\"",
    ] {
        fs::write(store.join("commit"), bytes).unwrap();
        refused(&commit(&store, &[]), 1, "");
        assert_eq!(fs::read(store.join("commit")).unwrap(), bytes);
    }
    assert_same(&before, &untouched(&source), "the source was touched");
    fs::remove_file(store.join("commit")).unwrap();
    assert_eq!(diff(&store), ["M f"]);
}

/// A view has room for attributes that ext4 has not.
#[test]
fn as_root_an_attribute_without_room_stops_it_before_anything_is_changed() {
    let fs = LoopFs::new("ext4", 64 << 20);
    let (source, store) = (fs.path().join("source"), fs.path().join("store"));
    for name in ["d", "f"] {
        fs::create_dir_all(&source).unwrap();
        let mut mount = private(&source, &store, &[]);
        let path = mount.mnt().join(name);
        match name {
            "d" => fs::create_dir(&path).unwrap(),
            _ => fs::write(&path, "new").unwrap(),
        }
        set_xattr(&path, "user.long", &[b'x'; 20_000]);
        mount.unmount();
        let before = snapshot(&source);
        refused(&commit(&store, &[]), 1, "No space left on device");
        assert_same(&before, &snapshot(&source), "the source was changed");
        let mount = private(&source, &store, &[]);
        let path = mount.mnt().join(name);
        set_xattr(&path, "user.long", b"short");
        commit_view(mount, &store, &[]);
    }
}
