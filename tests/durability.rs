//! What was made durable is on the medium the moment the call returns, with its attributes.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use common::{LoopFs, Mount, tools};
use rustix::fs::{XattrFlags, getxattr, setxattr};

const SIZE: usize = 256 << 10;

/// Bytes and attributes as a power cut must leave them.
#[derive(Debug, PartialEq)]
struct State {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    user: Vec<u8>,
    acl: Vec<u8>,
    changed: bool,
}

impl State {
    fn of(path: &Path) -> State {
        let meta = fs::metadata(path).expect("stat");
        let value = |name: &str| {
            let mut value = vec![0; 256];
            let len = getxattr(path, name, &mut value[..]).unwrap_or(0);
            value.truncate(len);
            value
        };
        State {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            user: value("user.mmfs"),
            acl: value("system.posix_acl_access"),
            changed: fs::read(path).expect("read")[5000..5010] == *b"0123456789",
        }
    }
}

/// `u::rw-,u:1234:rw-,g::r--,m::rw-,o::---` as the kernel takes it.
fn acl() -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, NOBODY),
        (2, 6, 1234),
        (4, 4, NOBODY),
        (16, 6, NOBODY),
        (32, 0, NOBODY),
    ];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn open(path: &Path, flags: i32) -> File {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).custom_flags(flags);
    options.open(path).expect("open")
}

fn change_attributes(path: &Path) {
    std::os::unix::fs::chown(path, Some(1234), Some(1235)).expect("chown");
    fs::set_permissions(path, PermissionsExt::from_mode(0o640)).expect("chmod");
    setxattr(path, "user.mmfs", b"kept", XattrFlags::empty()).expect("setxattr");
    setxattr(path, "system.posix_acl_access", &acl(), XattrFlags::empty()).expect("setfacl");
}

/// Changes bytes and attributes, and returns when they are durable; what is still open then.
type Trigger = fn(&Path) -> Option<File>;

fn by_fsync(path: &Path) -> Option<File> {
    let file = open(path, 0);
    change_attributes(path);
    file.write_all_at(b"0123456789", 5000).expect("write");
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    file.set_modified(then).expect("utimensat");
    file.sync_all().expect("fsync");
    Some(file)
}

fn by_a_synchronous_write(path: &Path) -> Option<File> {
    let file = open(path, libc::O_SYNC);
    change_attributes(path);
    file.write_all_at(b"0123456789", 5000).expect("write");
    Some(file)
}

fn by_close(path: &Path) -> Option<File> {
    let file = open(path, 0);
    file.write_all_at(b"0123456789", 5000).expect("write");
    change_attributes(path);
    drop(file);
    None
}

const TRIGGERS: [(&str, &[&str], Trigger); 4] = [
    ("fsync", &[], by_fsync),
    ("fsync-direct", &["--direct-io"], by_fsync),
    (
        "O_SYNC",
        &["--write-path", "region"],
        by_a_synchronous_write,
    ),
    ("close", &["--sync-on-close"], by_close),
];

/// chown, chmod, setxattr, setfacl, utimensat and an in-place write are on the medium when fsync(2), an O_SYNC write,
/// or with `--sync-on-close` close(2) returns.
/// (proves: S26)
#[test]
fn as_root_what_was_synced_survives_a_power_cut_with_its_attributes() {
    for (kind, size) in [("ext4", 64 << 20), ("xfs", 320 << 20), ("btrfs", 128 << 20)] {
        let scratch = tempfile::tempdir().expect("a directory");
        let disk = LoopFs::new(kind, size);
        let mut copies: Vec<(&str, PathBuf, State)> = Vec::new();
        for (name, options, trigger) in TRIGGERS {
            let native = disk.path().join(name);
            fs::write(&native, vec![b'a'; SIZE]).expect("write");
            tools::run(Command::new("sync").arg("-f").arg(&native));
            let mount = Mount::builder()
                .over(disk.path())
                .options(options.iter().copied())
                .mount();
            let path = mount.mnt().join(name);
            let open = mount.within(Duration::from_secs(30), || trigger(&path));
            let copy = scratch.path().join(format!("copy-{name}"));
            let image = disk.path().with_file_name("image");
            tools::run(
                Command::new("cp")
                    .arg("--sparse=always")
                    .args([&image, &copy]),
            );
            copies.push((name, copy, State::of(&native)));
            drop(open);
        }
        drop(disk); // btrfs knows two of the same kind apart only by one of them being gone.
        for (name, copy, wanted) in copies {
            assert!(wanted.changed && wanted.user == b"kept" && wanted.owner == (1234, 1235));
            let at = tempfile::tempdir().expect("a directory");
            tools::run(
                Command::new("mount")
                    .args(["-o", "loop"])
                    .arg(&copy)
                    .arg(at.path()),
            );
            let held = State::of(&at.path().join(name));
            tools::run(Command::new("umount").arg(at.path()));
            assert_eq!(held, wanted, "{kind}: on the medium after {name}");
            fs::remove_file(copy).expect("unlink");
        }
    }
}
