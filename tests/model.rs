//! Random commands on a mount, held against a reference that is obviously right.

mod common;
#[path = "model/mod.rs"]
mod model;

use std::time::Duration;

use common::Mount;
use model::generate::Kinds;
use model::stage::{Against, Stage};

/// 200 sequences take a few seconds; shrinking a failing one up to 20 more.
const LIMIT: Duration = Duration::from_secs(120);

#[track_caller]
fn play(cases: u64, kinds: Kinds, options: &[&str]) {
    let mount = Mount::builder()
        .options(["--window-size", "64K"])
        .options(options)
        .mount();
    let mut stage = Stage::new(mount.mnt(), mount.src(), Against::Reference);
    mount.within(LIMIT, || stage.run(cases, kinds));
}

#[test]
fn a_plain_directory_is_what_the_reference_says() {
    let directory = tempfile::tempdir().unwrap();
    Stage::new(directory.path(), directory.path(), Against::Reference).run(200, Kinds::default());
}

/// (proves: S37)
#[test]
fn a_mount_is_what_the_reference_says() {
    play(200, Kinds::default(), &[]);
}

#[test]
fn a_mount_follows_changes_behind_it() {
    let kinds = Kinds {
        behind: true,
        ..Kinds::default()
    };
    play(100, kinds, &["--attr-timeout", "0", "--entry-timeout", "0"]);
}

#[test]
fn a_mount_that_writes_through_the_region_is_what_the_reference_says() {
    play(100, Kinds::default(), &["--write-path", "region"]);
}

#[test]
fn a_mount_that_evicts_windows_is_what_the_reference_says() {
    play(
        100,
        Kinds::default(),
        &["--map-budget", "2M", "--write-path", "region"],
    );
}

#[test]
fn a_mount_with_direct_io_is_what_the_reference_says() {
    play(100, Kinds::default(), &["--direct-io"]);
}

#[test]
fn as_root_a_mount_that_is_passed_through_is_what_the_reference_says() {
    play(100, Kinds::default(), &["--passthrough"]);
}
