//! The same random commands on a mount and on a plain directory of the same filesystem.

mod common;
#[path = "model/mod.rs"]
mod model;

use std::time::Duration;

use common::Mount;
use common::subject::is_in_mode;
use model::generate::Kinds;
use model::stage::{Against, Stage};

const LIMIT: Duration = Duration::from_secs(120);

#[track_caller]
fn play(options: &[&str]) {
    let mount = Mount::builder().options(options).mount();
    let plain = mount.scratch().join("plain");
    std::fs::create_dir(&plain).unwrap();
    let mut stage = Stage::new(mount.mnt(), mount.src(), Against::Plain(plain));
    let why = "root's writes take suid from a file that was given it while it was open (docs/semantics.md, Limits)";
    let special_bits = !is_in_mode("--passthrough", why);
    mount.within(LIMIT, || {
        stage.run(
            200,
            Kinds {
                special_bits,
                ..Kinds::default()
            },
        )
    });
}

/// (proves: S37)
#[test]
fn a_mount_is_like_a_plain_directory() {
    play(&[]);
}

#[test]
fn a_mount_with_small_windows_is_like_a_plain_directory() {
    play(&["--window-size", "64K", "--write-path", "region"]);
}
