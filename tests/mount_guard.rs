//! The guard itself: it mounts, sees what is wrong, and leaves nothing behind.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::Duration;

use common::{LoopFs, Mount, fuse, run, sh, user};
use rustix::process::Signal;

#[test]
fn a_mount_shows_its_source_and_goes_with_the_guard() {
    let mount = Mount::new();
    fs::write(mount.src().join("file"), "bytes").unwrap();
    assert_eq!(fs::read(mount.mnt().join("file")).unwrap(), b"bytes");
    let (point, pid) = (mount.mnt().to_owned(), mount.daemon_pid());
    drop(mount);
    assert!(fuse::mount_at(&point).is_none() && !point.exists());
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
}

#[test]
fn a_daemon_that_is_killed_fails_the_test() {
    let mount = Mount::new();
    let point = mount.mnt().to_owned();
    mount.signal(Signal::KILL);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(mount))).is_err());
    assert!(fuse::mount_at(&point).is_none());
}

/// Its name is no UTF-8, and a blank is written as an escape.
#[test]
fn a_mount_is_found_and_cut_by_any_name() {
    let base = tempfile::tempdir().unwrap();
    let point = base.path().join(OsStr::from_bytes(b"caf\xe9 \\040 x"));
    fs::create_dir(&point).unwrap();
    let mut command = Command::new(common::builder::binary());
    run(command.arg(base.path()).arg(&point));
    let mount = fuse::mount_at(&point).expect("a mount");
    assert_eq!(mount.fs_type, "fuse.mmfs");
    fuse::abort(&point, None);
    assert_eq!(fuse::mount_at(&point), None);
}

#[test]
fn a_remount_serves_the_same_source() {
    let mut mount = Mount::new();
    fs::write(mount.mnt().join("file"), "bytes").unwrap();
    mount.remount();
    assert_eq!(fs::read(mount.mnt().join("file")).unwrap(), b"bytes");
    assert!(mount.unmount().success());
}

#[test]
fn a_hang_is_named_cut_and_failed() {
    let mount = Mount::new();
    mount.signal(Signal::STOP);
    let hang = || {
        mount.within(Duration::from_millis(300), || {
            fs::metadata(mount.mnt().join("never looked up"))
        })
    };
    assert!(catch_unwind(AssertUnwindSafe(hang)).is_err());
    mount.signal(Signal::CONT);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(mount))).is_err());
}

#[test]
fn an_ordinary_user_mounts_and_reads() {
    user::let_users_mount();
    let uid = user::ordinary();
    let mount = Mount::builder().as_user(uid).mount();
    let file = mount.mnt().join("file");
    run(user::as_user(uid, "sh")
        .args(["-c", "echo bytes > \"$1\"", "sh"])
        .arg(&file));
    assert_eq!(fs::read(mount.src().join("file")).unwrap(), b"bytes\n");
    assert_eq!(fs::metadata(mount.src().join("file")).unwrap().uid(), uid);
    let command: &mut Command = &mut user::as_user(uid, "cat");
    assert_eq!(run(command.arg(&file)).stdout, b"bytes\n");
}

#[test]
fn a_mount_in_the_background_answers_when_the_parent_leaves() {
    let mut mount = Mount::builder().background().mount();
    fs::write(mount.mnt().join("file"), "bytes").unwrap();
    assert_ne!(mount.daemon_pid(), std::process::id());
    assert!(mount.unmount().success());
}

#[test]
fn limits_and_environment_are_the_daemons() {
    let mount = Mount::builder()
        .rlimit("nofile", 512)
        .env("MMFS_TEST", "seen")
        .mount();
    let about = format!("/proc/{}", mount.daemon_pid());
    let limits = fs::read_to_string(format!("{about}/limits")).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    assert_eq!(files.split_whitespace().nth(3), Some("512"));
    let environment = fs::read(format!("{about}/environ")).unwrap();
    assert!(
        environment
            .split(|byte| *byte == 0)
            .any(|pair| pair == b"MMFS_TEST=seen")
    );
}

#[test]
fn a_refusal_is_an_output() {
    let output = Mount::builder().option("--no-such-option").refused();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--no-such-option"));
}

#[test]
fn as_root_a_mount_over_filesystems_of_our_own() {
    for fs_type in ["ext4", "xfs", "btrfs"] {
        let filesystem = LoopFs::new(fs_type, 512 << 20);
        let found = sh("stat -f -c %T \"$1\"", &[filesystem.path().as_os_str()]);
        assert!(
            found.starts_with(&fs_type[..3]),
            "{found} instead of {fs_type}"
        );
        let mount = Mount::over(filesystem.path(), [] as [&str; 0]);
        fs::write(mount.mnt().join("file"), fs_type).unwrap();
        assert_eq!(
            fs::read_to_string(filesystem.path().join("file")).unwrap(),
            fs_type
        );
        let point = filesystem.path().to_owned();
        drop(mount);
        drop(filesystem);
        assert!(fuse::mount_at(&point).is_none());
    }
}
