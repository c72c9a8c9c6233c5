//! What others' suites found in private views.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::private::{place, private};
use common::{tools, user};
use rustix::fs::{FallocateFlags, XattrFlags};
use rustix::io::Errno;

/// xfstests: the daemon of the mount before still makes everything durable.
#[test]
fn a_store_is_mounted_again_right_after_an_unmount() {
    let (_place, source, store) = place();
    let mut before = private(&source, &store, &[]);
    for round in 0..5u8 {
        fs::write(before.mnt().join("f"), vec![round; 32 << 20]).unwrap();
        let mut umount = match user::is_root() {
            true => Command::new("umount"),
            false => Command::new(tools::tool("fusermount3")),
        };
        let how: &[&str] = if user::is_root() { &[] } else { &["-u"] };
        tools::run(umount.args(how).arg(before.mnt()));
        let now = private(&source, &store, &[]);
        assert_eq!(fs::read(now.mnt().join("f")).unwrap()[1000], round);
        before.wait_end();
        before = now;
    }
}

/// generic/213 of xfstests.
#[test]
fn room_is_promised_only_where_there_is_room() {
    let (_place, source, store) = place();
    let mount = private(&source, &store, &["--store-limit", "64M"]);
    let file = fs::File::create(mount.mnt().join("f")).unwrap();
    let allocate = |at, len| rustix::fs::fallocate(&file, FallocateFlags::empty(), at, len);
    assert_eq!(allocate(0, 1 << 30), Err(Errno::NOSPC));
    assert_eq!(file.metadata().unwrap().len(), 0);
    allocate(0, 1 << 20).unwrap();
    file.write_all_at(&vec![1; 40 << 20], 0).unwrap();
    // What is there needs no more room.
    allocate(0, 41 << 20).unwrap();
    assert_eq!(allocate(0, 100 << 20), Err(Errno::NOSPC));
    assert_eq!(file.metadata().unwrap().len(), 41 << 20);
}

/// generic/355 of xfstests: the kernel does not expect this of a write that bypasses its cache. Only root can give a file away.
#[test]
fn as_root_a_direct_write_that_takes_suid_away_is_seen_at_once() {
    let (_place, source, store) = place();
    let options = ["--allow-other", "--attr-timeout", "60"];
    let mount = private(&source, &store, &options);
    let path = mount.mnt().join("f");
    fs::write(&path, "text").unwrap();
    std::os::unix::fs::chown(&path, Some(1000), Some(1000)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o6777);
    let mut write = user::as_user(1000, "dd");
    let how = [
        "if=/dev/zero",
        "bs=4096",
        "count=1",
        "oflag=direct",
        "conv=notrunc",
    ];
    tools::run(write.args(how).arg(format!("of={}", path.display())));
    let seen = || fs::metadata(&path).unwrap().mode() & 0o7777;
    let is_right = tools::wait_until(Duration::from_secs(2), || seen() == 0o777);
    assert!(is_right, "{:o}", seen());
}

/// squashfs without attributes, as a source. Only root can mount one.
#[test]
fn as_root_files_have_attributes_where_the_source_has_none() {
    let (_place, source, store) = place();
    tools::run(
        Command::new("mount")
            .args(["-t", "ramfs", "none"])
            .arg(&source),
    );
    fs::write(source.join("f"), "text").unwrap();
    let mount = private(&source, &store, &[]);
    let path = mount.mnt().join("f");
    let list = |path: &Path| rustix::fs::listxattr(path, &mut [0u8; 100][..]);
    let set = |path: &Path| rustix::fs::setxattr(path, "user.own", b"value", XattrFlags::empty());
    assert_eq!(set(&source.join("f")), Err(Errno::OPNOTSUPP));
    assert_eq!(list(&path), Ok(0));
    set(&path).unwrap();
    let mut value = [0u8; 100];
    let got = rustix::fs::getxattr(&path, "user.own", &mut value[..]);
    assert_eq!(got.map(|len| &value[..len]), Ok(&b"value"[..]));
    assert_eq!(list(&path), Ok("user.own\0".len()));
    drop(mount);
    tools::unmount_idle(&source).unwrap();
}
