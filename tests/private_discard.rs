//! `mmfs discard`: all that a private view has changed is given up, or nothing.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use common::private::{change_first_page, large, listing, place, private};
use common::{Mount, builder, tools};
use rustix::process::Signal;

fn discard(object: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(builder::binary());
    tools::output_of(command.arg("discard").args(options).arg(object))
}

fn diff(store: &Path) -> String {
    let mut command = Command::new(builder::binary());
    let output = tools::output_of(command.arg("diff").arg(store));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(output: &Output, words: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && told.contains(words),
        "{output:?}"
    );
}

fn done(output: &Output) {
    let quiet = output.stdout.is_empty() && output.stderr.is_empty();
    assert!(output.status.success() && quiet, "{output:?}");
}

fn fill(source: &Path) {
    fs::create_dir_all(source.join("d/e")).unwrap();
    for name in ["gone", "old", "mode", "d/e/f", "saved"] {
        fs::write(source.join(name), name).unwrap();
    }
    fs::write(source.join("large"), large()).unwrap();
}

/// Each kind of change.
fn change(view: &Path) {
    let at = |name: &str| view.join(name);
    change_first_page(&at("large"));
    fs::remove_file(at("gone")).unwrap();
    fs::rename(at("old"), at("new")).unwrap();
    fs::set_permissions(at("mode"), Permissions::from_mode(0o600)).unwrap();
    fs::rename(at("d"), at("moved")).unwrap();
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/added"), "added").unwrap();
    fs::hard_link(at("saved"), at("second")).unwrap();
    fs::write(at("saved"), "other bytes").unwrap();
}

fn data_files(store: &Path) -> usize {
    let directories = fs::read_dir(store.join("data")).unwrap();
    directories
        .map(|directory| fs::read_dir(directory.unwrap().path()).unwrap().count())
        .sum()
}

#[test]
fn all_is_given_up_and_the_view_shows_the_source() {
    let (_place, source, store) = place();
    fill(&source);
    for _ in 0..2 {
        let mut mount = private(&source, &store, &[]);
        assert_eq!(listing(mount.mnt()), listing(&source));
        change(mount.mnt());
        mount.unmount();
        let changes = diff(&store);
        assert!(changes.lines().count() >= 8, "{changes}");
        let dry = discard(&store, &["--dry-run"]);
        assert!(
            dry.status.success() && dry.stdout == changes.as_bytes(),
            "{dry:?}"
        );
        assert_eq!(diff(&store), changes);
        assert!(data_files(&store) > 0);
        done(&discard(&store, &[]));
        assert_eq!(diff(&store), "");
        assert_eq!(data_files(&store), 0);
    }
    // What is empty stays so.
    done(&discard(&store, &[]));
    let check = Command::new(builder::binary())
        .arg("check")
        .arg(&store)
        .output()
        .unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[test]
fn a_store_that_is_mounted_is_refused_and_stays() {
    let (_place, source, store) = place();
    fill(&source);
    let mut mount = private(&source, &store, &[]);
    change(mount.mnt());
    let before = listing(mount.mnt());
    refused(&discard(&store, &[]), "is in use by another mmfs");
    assert_eq!(listing(mount.mnt()), before);
    mount.unmount();
    let mount = private(&source, &store, &[]);
    assert_eq!(listing(mount.mnt()), before);
}

/// Who looks into such a directory waits for ever.
#[test]
fn a_mount_that_does_not_answer_is_told() {
    let (_place, source, store) = place();
    fill(&source);
    let mount = private(&source, &store, &[]);
    mount.signal(Signal::STOP);
    let mut command = Command::new("timeout");
    command
        .arg("--signal=KILL")
        .arg("30")
        .arg(builder::binary());
    let output = tools::output_of(command.arg("discard").arg(mount.mnt()));
    mount.signal(Signal::CONT);
    refused(&output, "did not answer");
}

#[test]
fn a_mirror_has_no_changes_to_give_up() {
    let (place, source, _) = place();
    fill(&source);
    let mount = Mount::builder().over(&source).mount();
    refused(&discard(mount.mnt(), &[]), "shows its source itself");
    drop((mount, place));
}

#[test]
fn what_a_killed_daemon_left_is_given_up() {
    let (_place, source, store) = place();
    fill(&source);
    let mut mount = private(&source, &store, &[]);
    change(mount.mnt());
    mount.signal(Signal::KILL);
    mount.wait_end();
    done(&discard(&store, &[]));
    mount.start_again();
    assert_eq!(listing(mount.mnt()), listing(&source));
}

#[test]
fn what_is_no_store_is_left_alone() {
    let (place, source, _) = place();
    fill(&source);
    let before = listing(&source);
    refused(&discard(&source, &[]), "is not a store");
    assert_eq!(listing(&source), before);
    refused(&discard(&place.path().join("missing"), &[]), "missing");
}

/// Its files would be root's afterwards, and the user could not mount it any more.
#[test]
fn as_root_the_store_of_another_user_is_left_to_that_user() {
    let (_place, source, store) = place();
    fill(&source);
    let mut mount = private(&source, &store, &[]);
    change(mount.mnt());
    mount.unmount();
    let changes = diff(&store);
    std::os::unix::fs::chown(&store, Some(12_345), None).unwrap();
    refused(
        &discard(&store, &[]),
        "belongs to user 12345, who can discard its changes",
    );
    std::os::unix::fs::chown(&store, Some(0), None).unwrap();
    assert_eq!(diff(&store), changes);
}
