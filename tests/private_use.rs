//! What a private view promises to whoever uses it (docs/private.md), and what using it has found.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Mount;

fn private(source: &Path, store: &Path, options: &[&str]) -> Mount {
    let builder = Mount::builder()
        .over(source)
        .option("--private")
        .option(store);
    builder.options(options.iter().copied()).mount()
}

/// A source and the place for a store beside it.
fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let (source, store) = (place.path().join("source"), place.path().join("store"));
    fs::create_dir(&source).unwrap();
    (place, source, store)
}

/// Found by `ls` and `git status` after a remount: it was ESTALE.
#[test]
fn a_changed_file_can_be_used_after_its_directory_was_listed() {
    let (_place, source, store) = place();
    fs::create_dir(source.join("d")).unwrap();
    for name in ["f", "d/f"] {
        fs::write(source.join(name), "source").unwrap();
    }
    // Only inodes that were not changed for three seconds are recognised by their times.
    std::thread::sleep(std::time::Duration::from_millis(3100));
    let mut mount = private(&source, &store, &["--entry-timeout", "0"]);
    fs::write(mount.mnt().join("f"), "mine").unwrap();
    fs::write(mount.mnt().join("d/f"), "mine").unwrap();
    mount.remount();
    for directory in ["", "d"] {
        let directory = mount.mnt().join(directory);
        for _ in 0..2 {
            assert!(fs::read_dir(&directory).unwrap().count() > 0);
            let text = fs::read_to_string(directory.join("f")).unwrap();
            assert_eq!(text, "mine");
        }
    }
}
