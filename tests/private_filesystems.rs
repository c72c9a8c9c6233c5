//! A private view over filesystems that have one UUID, below its source: copies, and subvolumes of one btrfs.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::private::private;
use common::{LoopFs, Mount, tools, user};

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
    let mut mount = private(source, &store, &[]);
    let one = number(&mount, "one/f");
    assert!(mount.unmount().success());

    fs::rename(source.join("one"), source.join("moved")).unwrap();
    let mut mount = private(source, &store, &[]);
    let two = number(&mount, "two/f");
    assert_eq!(number(&mount, "moved/f"), one);
    assert!(mount.unmount().success());

    let mount = private(source, &store, &[]);
    assert_eq!(number(&mount, "moved/f"), one);
    assert_eq!(number(&mount, "two/f"), two);
}

/// A file of more than one page, and large enough that its first change does not copy it.
fn large(byte: u8) -> Vec<u8> {
    vec![byte; 200_000]
}

fn change(mount: &Mount, name: &str) {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(mount.mnt().join(name));
    file.unwrap().write_all_at(name.as_bytes(), 0).unwrap();
}

/// The source's bytes after those that `change` has written. Those of a conflict are EIO.
#[track_caller]
fn is_changed(mount: &Mount, name: &str, byte: u8) {
    let mut expected = large(byte);
    expected[..name.len()].copy_from_slice(name.as_bytes());
    assert!(
        fs::read(mount.mnt().join(name)).unwrap() == expected,
        "{name}"
    );
}

#[test]
fn s58_as_root_a_copy_that_is_mounted_below_is_not_the_filesystem_that_was_changed() {
    if !user::is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (source, store) = (place.path().join("source"), place.path().join("store"));
    fs::create_dir(&source).unwrap();
    // A copy of an image has the same UUID and the same inodes.
    let images = ["one", "two"].map(|name| place.path().join(name));
    let script = r#"truncate --size=8M "$1" && mkfs.ext4 -q "$1" && mount -o loop "$1" "$3"
        head --bytes=200000 /dev/zero > "$3/f"
        umount "$3" && cp "$1" "$2""#;
    let paths = [&images[0], &images[1], &source];
    tools::sh(script, &paths.map(|path| path.as_os_str()));
    let below = |name: &str| Below::new(&place.path().join(name), source.join(name));

    let first = below("one");
    let mut mount = private(&source, &store, &[]);
    change(&mount, "one/f");
    let number = |mount: &Mount| mount.mnt().join("one/f").metadata().unwrap().ino();
    let one = number(&mount);
    assert!(mount.unmount().success());

    let _second = below("two");
    let mut mount = private(&source, &store, &[]);
    assert!(fs::read(mount.mnt().join("two/f")).unwrap() == large(0));
    is_changed(&mount, "one/f", 0);
    assert_eq!(number(&mount), one);
    change(&mount, "two/f");
    assert!(mount.unmount().success());

    let mut mount = private(&source, &store, &[]);
    is_changed(&mount, "two/f", 0);
    is_changed(&mount, "one/f", 0);
    assert_eq!(number(&mount), one);
    assert!(mount.unmount().success());

    // It is found where it is mounted now, because the copy still has its own path.
    drop(first);
    let _moved = Below::new(&images[0], source.join("three"));
    let mount = private(&source, &store, &[]);
    let moved = mount.mnt().join("three/f").metadata().unwrap().ino();
    assert_eq!(moved, one);
}

/// An image that is mounted below the source, until it is dropped.
struct Below(PathBuf);

impl Below {
    fn new(image: &Path, point: PathBuf) -> Self {
        fs::create_dir_all(&point).unwrap();
        let mut mount = Command::new("mount");
        tools::run(mount.args(["-o", "loop"]).args([image, &point]));
        Self(point)
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        tools::run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}
