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
#[derive(Debug, Default, PartialEq)]
struct State {
    len: u64,
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
            len: meta.len(),
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            user: value("user.mmfs"),
            acl: value("system.posix_acl_access"),
            changed: fs::read(path).expect("read")[5000..5010] == *b"0123456789",
        }
    }

    fn bytes_of(path: &Path) -> State {
        let State { len, changed, .. } = State::of(path);
        State {
            len,
            changed,
            ..State::default()
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

/// One way to make something durable.
struct Way {
    name: &'static str,
    options: &'static [&'static str],
    /// What is done with the file on the source's filesystem before it is mounted.
    prepare: fn(&Path),
    trigger: Trigger,
}

impl Way {
    const fn new(
        name: &'static str,
        options: &'static [&'static str],
        prepare: fn(&Path),
        trigger: Trigger,
    ) -> Way {
        Way {
            name,
            options,
            prepare,
            trigger,
        }
    }
}

fn as_it_is(_: &Path) {}

fn synchronous_file(path: &Path) {
    tools::run(Command::new("chattr").arg("+S").arg(path));
}

/// The last to be prepared: the filesystem stays so.
fn synchronous_filesystem(path: &Path) {
    let disk = path.parent().expect("a directory");
    tools::run(Command::new("mount").args(["-o", "remount,sync"]).arg(disk));
}

fn by_a_write(path: &Path) -> Option<File> {
    let file = open(path, 0);
    file.write_all_at(b"0123456789", 5000).expect("write");
    Some(file)
}

fn by_a_copy(path: &Path) -> Option<File> {
    copy(path, libc::O_SYNC)
}

fn by_a_copy_of_data(path: &Path) -> Option<File> {
    copy(path, libc::O_DSYNC)
}

fn by_a_copy_without_flags(path: &Path) -> Option<File> {
    copy(path, 0)
}

fn copy(path: &Path, flags: i32) -> Option<File> {
    let from = path.with_extension("from");
    fs::write(&from, b"0123456789").expect("write");
    let (from, file) = (open(&from, 0), open(path, flags));
    let copied = rustix::fs::copy_file_range(from, Some(&mut 0), &file, Some(&mut 5000), 10);
    assert_eq!(copied, Ok(10));
    Some(file)
}

fn by_an_allocation(path: &Path) -> Option<File> {
    let file = open(path, libc::O_SYNC);
    file.write_all_at(b"0123456789", 5000).expect("write");
    rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::empty(),
        0,
        2 * SIZE as u64,
    )
    .expect("fallocate");
    Some(file)
}

/// Each way on each filesystem: what `look` sees in the image of its device, copied the moment the way returned, is what it
/// sees through the filesystem.
fn survives_a_power_cut(ways: &[Way], look: fn(&Path) -> State) {
    for (kind, size) in [("ext4", 64 << 20), ("xfs", 320 << 20), ("btrfs", 128 << 20)] {
        let scratch = tempfile::tempdir().expect("a directory");
        let disk = LoopFs::new(kind, size);
        let mut copies: Vec<(&str, PathBuf, State)> = Vec::new();
        for way in ways {
            let name = way.name;
            let native = disk.path().join(name);
            fs::write(&native, vec![b'a'; SIZE]).expect("write");
            (way.prepare)(&native);
            tools::run(Command::new("sync").arg("-f").arg(&native));
            let mount = Mount::builder()
                .over(disk.path())
                .options(way.options.iter().copied())
                .mount();
            let path = mount.mnt().join(name);
            let open = mount.within(Duration::from_secs(30), || (way.trigger)(&path));
            let copy = scratch.path().join(format!("copy-{name}"));
            let image = disk.path().with_file_name("image");
            tools::run(
                Command::new("cp")
                    .arg("--sparse=always")
                    .args([&image, &copy]),
            );
            copies.push((name, copy, look(&native)));
            drop(open);
        }
        drop(disk); // btrfs knows two of the same kind apart only by one of them being gone.
        for (name, copy, wanted) in copies {
            assert!(wanted.changed);
            let at = tempfile::tempdir().expect("a directory");
            tools::run(
                Command::new("mount")
                    .args(["-o", "loop"])
                    .arg(&copy)
                    .arg(at.path()),
            );
            let held = look(&at.path().join(name));
            tools::unmount_idle(at.path()).expect("umount");
            assert_eq!(held, wanted, "{kind}: on the medium after {name}");
            fs::remove_file(copy).expect("unlink");
        }
    }
}

/// chown, chmod, setxattr, setfacl, utimensat and an in-place write are on the medium when fsync(2), an O_SYNC write,
/// or with `--sync-on-close` close(2) returns.
/// (proves: S26)
#[test]
fn as_root_what_was_synced_survives_a_power_cut_with_its_attributes() {
    const WAYS: [Way; 4] = [
        Way::new("fsync", &[], as_it_is, by_fsync),
        Way::new("fsync-direct", &["--direct-io"], as_it_is, by_fsync),
        Way::new(
            "O_SYNC",
            &["--write-path", "region"],
            as_it_is,
            by_a_synchronous_write,
        ),
        Way::new("close", &["--sync-on-close"], as_it_is, by_close),
    ];
    survives_a_power_cut(&WAYS, |path| {
        let state = State::of(path);
        assert!(state.user == b"kept" && state.owner == (1234, 1235));
        state
    });
}

/// What is synchronous by the file's own flag or by its filesystem's mount option is so through the mount, and what a
/// synchronous handle copies or allocates is durable, too.
/// (proves: S26)
#[test]
fn as_root_whatever_a_synchronous_file_takes_survives_a_power_cut() {
    const REGION: &[&str] = &["--write-path", "region"];
    const WAYS: [Way; 9] = [
        Way::new("chattr", &[], synchronous_file, by_a_write),
        Way::new("chattr-region", REGION, synchronous_file, by_a_write),
        Way::new("copy", &[], as_it_is, by_a_copy),
        Way::new("copy-direct", &["--direct-io"], as_it_is, by_a_copy),
        Way::new("copy-data", &[], as_it_is, by_a_copy_of_data),
        Way::new(
            "copy-sync",
            &["-o", "sync"],
            as_it_is,
            by_a_copy_without_flags,
        ),
        Way::new("allocate", &[], as_it_is, by_an_allocation),
        Way::new("remount", &[], synchronous_filesystem, by_a_write),
        Way::new("remount-region", REGION, synchronous_filesystem, by_a_write),
    ];
    survives_a_power_cut(&WAYS, State::bytes_of);
}
