//! Files of a private view whose source changes while they are copied, is lost, or does not answer.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use common::fuse::kill;
use common::private::{AT_ONCE, large, place};
use common::{Mount, tools};
use rustix::fs::{FallocateFlags, XattrFlags, fallocate};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

fn private(source: &Path, store: &Path, options: &[&str]) -> Mount {
    common::private::private(source, store, &[&AT_ONCE, options].concat())
}

/// The copy had bytes of several states of the source's file.
#[test]
fn a_copy_is_of_one_moment() {
    const SIZE: usize = 4 << 20;
    let (_place, source, store) = place();
    let mount = private(&source, &store, &["--on-source-change", "copy"]);
    let mut copied = 0;
    for round in 0..8 {
        let name = format!("f{round}");
        let theirs = source.join(&name);
        fs::write(&theirs, vec![0; SIZE]).unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = OpenOptions::new().write(true).open(&theirs).unwrap();
                for n in (0..=255).cycle() {
                    if ended.load(Relaxed) {
                        return;
                    }
                    file.write_all_at(&vec![n; SIZE], 0).unwrap();
                    std::thread::sleep(Duration::from_millis(40));
                }
            });
            let ours = mount.mnt().join(&name);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&ours)
                .unwrap();
            // Nothing of the source is seen of a file that is written before.
            let written = file.write_all_at(b"mine", 0);
            let bytes = match written {
                Ok(()) => fs::read(&ours).unwrap(),
                Err(_) => vec![0; SIZE],
            };
            ended.store(true, Relaxed);
            match written {
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO)),
                Ok(()) => copied += 1,
            }
            assert_eq!(bytes.len(), SIZE);
            let is_one = bytes[4..].iter().all(|byte| *byte == bytes[4]);
            assert!(is_one, "round {round}: bytes of several states");
        });
    }
    assert!(copied > 0, "no copy was made");
}

/// Its group had the rights that the mask allows, and the users of the ACL had none.
#[test]
fn as_root_a_file_that_the_source_has_lost_keeps_its_acl() {
    let (_place, source, store) = place();
    fs::create_dir(source.join("d")).unwrap();
    for name in ["f", "d/f"] {
        fs::write(source.join(name), "theirs").unwrap();
    }
    let script =
        r#"cd "$1" && chmod 600 f d/f && setfacl -m u:1234:rw f d/f && setfacl -d -m u:1234:rx d"#;
    tools::sh(script, &[source.as_os_str()]);
    let mut mount = private(&source, &store, &[]);
    let acls = |mount: &Mount| {
        let script = r#"cd "$1" && getfacl -n f d d/f && getfattr -m - d f d/f"#;
        tools::sh(script, &[mount.mnt().as_os_str()])
    };
    let before = acls(&mount);
    assert!(before.contains("user:1234:rw-") && before.contains("default:user:1234:r-x"));
    for name in ["f", "d/f"] {
        fs::write(mount.mnt().join(name), "mine").unwrap();
    }
    assert_eq!(acls(&mount), before);
    fs::remove_file(source.join("f")).unwrap();
    fs::remove_dir_all(source.join("d")).unwrap();
    for _ in 0..2 {
        assert_eq!(acls(&mount), before);
        mount.remount();
    }
    let script = r#"cd "$1" && setfacl -b f && getfacl -n f"#;
    let after = tools::sh(script, &[mount.mnt().as_os_str()]);
    assert!(!after.contains("1234"), "{after}");
}

#[test]
fn an_attribute_without_a_namespace_is_refused() {
    let (_place, source, store) = place();
    fs::write(source.join("f"), "").unwrap();
    let mount = private(&source, &store, &[]);
    let path = mount.mnt().join("f");
    for name in ["plain", "mmfs.posix_acl_access", "usr.a"] {
        let set = rustix::fs::setxattr(&path, name, b"v", XattrFlags::empty());
        assert_eq!(set, Err(Errno::OPNOTSUPP), "{name}");
        let found = rustix::fs::getxattr(&path, name, &mut [0; 16][..]);
        assert_eq!(found, Err(Errno::OPNOTSUPP), "{name}");
        assert_eq!(rustix::fs::removexattr(&path, name), Err(Errno::OPNOTSUPP));
    }
}

/// What no filesystem of a disk knows was stored, and an ACL that was not there could not be removed.
#[test]
fn attributes_that_are_not_there_answer_as_on_other_filesystems() {
    let (place, source, store) = place();
    let native = place.path().join("native");
    for root in [&source, &native] {
        fs::create_dir_all(root.join("d")).unwrap();
        fs::write(root.join("f"), "").unwrap();
    }
    let mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("new"), "").unwrap();
    fs::write(native.join("new"), "").unwrap();
    let answers = |root: &Path| {
        let mut all = Vec::new();
        for file in ["f", "new", "d"] {
            for name in [
                "user.",
                "user.a",
                "system.",
                "system.other",
                "system.posix_acl_access",
                "system.posix_acl_default",
            ] {
                let path = root.join(file);
                let got = rustix::fs::getxattr(&path, name, &mut [0; 16][..]);
                let removed = rustix::fs::removexattr(&path, name);
                let set = rustix::fs::setxattr(&path, name, b"v", XattrFlags::empty());
                let replaced = rustix::fs::setxattr(&path, name, b"w", XattrFlags::REPLACE);
                all.push((file, name, got, removed, set, replaced));
            }
        }
        all
    };
    assert_eq!(answers(mount.mnt()), answers(&native));
}

/// Room that was set aside moved no times, and a second write did not within 10 ms of the first.
/// (proves: S19)
#[test]
fn every_change_of_bytes_moves_the_times() {
    let (_place, source, store) = place();
    fs::write(source.join("small"), "theirs").unwrap();
    fs::write(source.join("large"), large()).unwrap();
    let mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("new"), "mine").unwrap();
    for name in ["small", "large", "new"] {
        let file = File::options().write(true).open(mount.mnt().join(name));
        let file = file.unwrap();
        let moves = |what: &str, change: &dyn Fn()| {
            let times = || {
                let attr = file.metadata().unwrap();
                [
                    (attr.mtime(), attr.mtime_nsec()),
                    (attr.ctime(), attr.ctime_nsec()),
                ]
            };
            let before = times();
            let tick = clock_gettime(ClockId::RealtimeCoarse);
            while clock_gettime(ClockId::RealtimeCoarse) == tick {}
            change();
            let after = times();
            assert!(
                before[0] < after[0] && before[1] < after[1],
                "{name}: {what}: {before:?}, {after:?}"
            );
        };
        let keep = FallocateFlags::KEEP_SIZE;
        let ways = [
            ("within", FallocateFlags::empty(), 0),
            ("kept", keep, 0),
            ("kept behind", keep, 1 << 20),
            ("punched", keep | FallocateFlags::PUNCH_HOLE, 0),
            ("punched behind", keep | FallocateFlags::PUNCH_HOLE, 1 << 20),
            ("zeroed behind", keep | FallocateFlags::ZERO_RANGE, 1 << 20),
        ];
        for (way, flags, at) in ways {
            moves(way, &|| fallocate(&file, flags, at, 3).unwrap());
        }
        for _ in 0..20 {
            moves("written", &|| file.write_all_at(b"mine", 0).unwrap());
        }
    }
}

/// A program that ends with the test, however that ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One file of a source that does not answer held up all changes of names, and readers of other files. (proves: S42)
#[test]
fn s42_as_root_a_filesystem_below_that_does_not_answer_holds_up_nobody_else() {
    let (place, source, store) = place();
    let (behind, point) = (place.path().join("behind"), source.join("hung"));
    for directory in [&behind, &point] {
        fs::create_dir(directory).unwrap();
    }
    for name in ["f", "g"] {
        fs::write(behind.join(name), "theirs").unwrap();
    }
    let mut server = Command::new(tools::tool("bindfs"));
    let server = server.arg("-f").args([&behind, &point]);
    let mut server = Server(server.stdout(Stdio::null()).spawn().unwrap());
    let is_there = || point.join("f").exists();
    assert!(tools::wait_until(Duration::from_secs(10), is_there));
    let builder = Mount::builder()
        .over(&source)
        .option("--private")
        .option(&store)
        .options(["--attr-timeout", "600", "--entry-timeout", "600"]);
    let mut mount = builder.mount();
    let path = |name: &str| mount.mnt().join(name);
    for name in ["hung/f", "hung/g"] {
        fs::metadata(path(name)).unwrap();
    }
    // The kernel knows the names in the view, and asks for those of the source again.
    std::thread::sleep(Duration::from_millis(1500));
    kill(server.0.id(), Signal::STOP);
    let work = || {
        for n in 0..20 {
            let (one, other) = (path(&format!("one{n}")), path("other"));
            fs::create_dir(path("d")).unwrap();
            fs::write(&one, "mine").unwrap();
            fs::hard_link(&one, path("d/link")).unwrap();
            fs::rename(&one, &other).unwrap();
            assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
            fs::remove_file(path("d/link")).unwrap();
            fs::remove_dir(path("d")).unwrap();
        }
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let hung = [
            scope.spawn(|| fs::remove_file(path("hung/f"))),
            scope.spawn(|| fs::rename(path("hung/g"), path("hung/h"))),
        ];
        std::thread::sleep(Duration::from_millis(300));
        let worker = scope.spawn(|| {
            work();
            done.store(true, Relaxed);
        });
        let is_done = tools::wait_until(Duration::from_secs(10), || done.load(Relaxed));
        let still_hangs = hung.iter().all(|hung| !hung.is_finished());
        kill(server.0.id(), Signal::CONT);
        worker.join().unwrap();
        for hung in hung {
            hung.join().unwrap().unwrap();
        }
        assert!(still_hangs, "the test shows nothing");
        assert!(is_done, "others waited for it");
    });
    assert_eq!(fs::read_dir(path("hung")).unwrap().count(), 1);
    assert!(mount.unmount().success());
    tools::run(Command::new("umount").arg(&point));
    server.0.wait().unwrap();
    assert_eq!(fs::read_dir(&behind).unwrap().count(), 2);
}

/// The middle of a large file was EOPNOTSUPP above 64 GiB, and a file that was cut had the blocks of the whole one.
#[test]
fn a_large_sparse_file_is_punched_and_cut() {
    const GIB: u64 = 1 << 30;
    let (_place, source, store) = place();
    let theirs = fs::File::create(source.join("f")).unwrap();
    theirs.set_len(200 * GIB).unwrap();
    for at in [1, 10, 60, 150] {
        theirs.write_all_at(&[1; 8192], at * GIB).unwrap();
    }
    let mount = private(&source, &store, &[]);
    let how = OpenOptions::new()
        .read(true)
        .write(true)
        .open(mount.mnt().join("f"));
    let file = how.unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 5 * GIB, 95 * GIB).unwrap();
    for (at, byte) in [(1, 1), (10, 0), (60, 0), (150, 1)] {
        let mut bytes = [2; 8192];
        file.read_exact_at(&mut bytes, at * GIB).unwrap();
        assert_eq!(bytes, [byte; 8192], "at {at} GiB");
    }
    file.set_len(5000).unwrap();
    assert!(file.metadata().unwrap().blocks() <= 16);
}
