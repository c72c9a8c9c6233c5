//! A private view over filesystems that have one UUID, below its source: copies, and subvolumes of one btrfs.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use common::{LoopFs, Mount, tools, user};

fn private(source: &Path, store: &Path) -> Mount {
    let builder = Mount::builder()
        .over(source)
        .option("--private")
        .option(store);
    builder.mount()
}

#[test]
fn s57_as_root_a_subvolume_is_not_taken_for_another_one() {
    if !user::is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    let disk = LoopFs::new("btrfs", 128 << 20);
    let source = disk.path();
    for name in ["one", "two"] {
        let mut make = Command::new(tools::tool("btrfs"));
        make.args(["subvolume", "create"]).arg(source.join(name));
        tools::run(&mut make);
        fs::write(source.join(name).join("f"), "source").unwrap();
    }
    let number = |mount: &Mount, name: &str| {
        let found = mount.mnt().join(name).metadata();
        found.unwrap().ino()
    };
    let mut mount = private(source, &store);
    let one = number(&mount, "one/f");
    assert!(mount.unmount().success());

    fs::rename(source.join("one"), source.join("moved")).unwrap();
    let mut mount = private(source, &store);
    let two = number(&mount, "two/f");
    assert_eq!(number(&mount, "moved/f"), one);
    assert!(mount.unmount().success());

    let mount = private(source, &store);
    assert_eq!(number(&mount, "moved/f"), one);
    assert_eq!(number(&mount, "two/f"), two);
}
