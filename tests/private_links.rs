//! A private view over a source that gives its names to other inodes: which inode a change belongs to, and by which names it shows.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::private::{AT_ONCE, large, place, private};
use common::tools;

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn appender(path: impl AsRef<Path>) -> File {
    OpenOptions::new().append(true).open(path).unwrap()
}

/// How many data files the store has.
fn data_files(store: &Path) -> usize {
    let files = fs::read_dir(store.join("data")).unwrap();
    let files = files.flat_map(|directory| fs::read_dir(directory.unwrap().path()).unwrap());
    files.count()
}

/// Puts another file in the place of this one in the source.
fn replace(path: &Path, with: &str) {
    let new = path.with_extension("new");
    fs::write(&new, with).unwrap();
    fs::rename(new, path).unwrap();
}

/// The name was recorded for the file that had it before, and the other one was hidden.
#[test]
fn what_is_written_by_an_old_descriptor_leaves_the_name_to_the_new_file() {
    let (_place, source, store) = place();
    fs::write(source.join("small"), "old").unwrap();
    fs::write(source.join("paged"), large()).unwrap();
    fs::create_dir(source.join("d")).unwrap();
    let mut mount = private(&source, &store, &AT_ONCE);
    let mut small = appender(mount.mnt().join("small"));
    let paged = OpenOptions::new()
        .write(true)
        .open(mount.mnt().join("paged"))
        .unwrap();
    for name in ["small", "paged", "d"] {
        fs::rename(source.join(name), source.join(format!("{name}~"))).unwrap();
    }
    fs::write(source.join("small"), "new").unwrap();
    fs::write(source.join("paged"), "new").unwrap();
    small.write_all(b" and mine").unwrap();
    paged.write_all_at(b"mine", 10).unwrap();
    drop((small, paged));
    for _ in 0..2 {
        let path = |name: &str| mount.mnt().join(name);
        assert_eq!(text(path("small")), "new");
        assert_eq!(text(path("paged")), "new");
        assert_eq!(text(path("small~")), "old and mine");
        let bytes = fs::read(path("paged~")).unwrap();
        assert_eq!((&bytes[10..14], bytes.len()), (&b"mine"[..], large().len()));
        assert_eq!(bytes[14..], large()[14..]);
        mount.remount();
    }
}

/// The same, in a directory that somebody is in.
#[test]
fn what_is_made_in_a_directory_that_the_source_renamed_is_there() {
    let (_place, source, store) = place();
    fs::create_dir(source.join("d")).unwrap();
    fs::write(source.join("d/theirs"), "").unwrap();
    let mut mount = private(&source, &store, &AT_ONCE);
    let directory = File::open(mount.mnt().join("d")).unwrap();
    fs::rename(source.join("d"), source.join("e")).unwrap();
    fs::create_dir(source.join("d")).unwrap();
    fs::write(source.join("d/new"), "").unwrap();
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::fs::openat(&directory, "mine", flags, 0o600.into()).unwrap();
    drop(directory);
    for _ in 0..2 {
        assert!(mount.mnt().join("e/mine").exists());
        assert!(mount.mnt().join("e/theirs").exists());
        assert!(mount.mnt().join("d/new").exists());
        assert!(!mount.mnt().join("d/mine").exists());
        mount.remount();
    }
}

/// It came back under its name, and stayed in the store for ever.
#[test]
fn what_is_written_to_a_file_that_the_source_has_deleted_goes_with_it() {
    let (_place, source, store) = place();
    for name in ["gone", "replaced"] {
        fs::write(source.join(name), "old").unwrap();
    }
    let mut mount = private(&source, &store, &AT_ONCE);
    let mut open: Vec<File> = ["gone", "replaced"]
        .iter()
        .map(|name| appender(mount.mnt().join(name)))
        .collect();
    fs::remove_file(source.join("gone")).unwrap();
    replace(&source.join("replaced"), "new");
    for file in &mut open {
        file.write_all(b" and mine").unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_eq!(file.metadata().unwrap().len(), 12);
    }
    assert!(!mount.mnt().join("gone").exists());
    assert_eq!(text(mount.mnt().join("replaced")), "new");
    drop(open);
    // The kernel may not have forgotten them before the end: the next mount removes them.
    mount.remount();
    assert!(!mount.mnt().join("gone").exists());
    assert!(mount.unmount().success());
    assert_eq!(data_files(&store), 0);
}

/// They were shown by no name, and were no conflict.
#[test]
fn changes_stay_with_the_name_that_is_left_when_both_sides_remove_the_other() {
    let (_place, source, store) = place();
    fs::create_dir(source.join("d")).unwrap();
    for name in ["a", "d/a"] {
        let other = source.join(name.replace('/', "-") + "-other");
        fs::write(source.join(name), "theirs").unwrap();
        fs::hard_link(source.join(name), other).unwrap();
    }
    let mut mount = private(&source, &store, &AT_ONCE);
    for name in ["a", "d/a"] {
        fs::write(mount.mnt().join(name), "ours").unwrap();
        fs::remove_file(mount.mnt().join(name)).unwrap();
        fs::remove_file(source.join(name)).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(text(mount.mnt().join("a-other")), "ours");
        assert_eq!(text(mount.mnt().join("d-a-other")), "ours");
        assert!(!mount.mnt().join("a").exists());
        mount.remount();
    }
}

#[test]
fn a_file_that_both_sides_rename_has_its_changes_by_the_views_name_alone() {
    let (_place, source, store) = place();
    for name in ["a", "b"] {
        fs::write(source.join(name), "theirs").unwrap();
    }
    let mut mount = private(&source, &store, &AT_ONCE);
    for name in ["a", "b"] {
        let (from, to) = (
            mount.mnt().join(name),
            mount.mnt().join(format!("our-{name}")),
        );
        fs::write(&from, "ours").unwrap();
        fs::rename(from, to).unwrap();
        fs::rename(source.join(name), source.join(format!("their-{name}"))).unwrap();
    }
    fs::write(mount.mnt().join("b"), "another").unwrap();
    for _ in 0..2 {
        for name in ["a", "b"] {
            assert_eq!(text(mount.mnt().join(format!("our-{name}"))), "ours");
            assert_eq!(text(mount.mnt().join(format!("their-{name}"))), "theirs");
        }
        mount.remount();
    }
}

/// The first name stayed recorded, for the inode was recognised by its time of change.
#[test]
fn an_old_file_is_recorded_by_the_name_by_which_it_is_changed() {
    let (_place, source, store) = place();
    fs::write(source.join("a"), "theirs").unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(3100));
    let mut mount = private(&source, &store, &AT_ONCE);
    for name in ["a", "b"] {
        fs::metadata(mount.mnt().join(name)).unwrap();
    }
    // Without a look-up in between.
    let mut file = appender(mount.mnt().join("b"));
    file.write_all(b" and ours").unwrap();
    drop(file);
    for name in ["a", "b"] {
        replace(&source.join(name), "new");
    }
    for _ in 0..2 {
        assert_eq!(text(mount.mnt().join("b")), "theirs and ours");
        assert_eq!(text(mount.mnt().join("a")), "new");
        mount.remount();
    }
}

/// It was ESTALE: the file was last looked up in a directory that the kernel has forgotten.
#[test]
fn as_root_a_file_is_changed_whose_other_directory_is_forgotten() {
    let (_place, source, store) = place();
    for directory in ["d", "e"] {
        fs::create_dir(source.join(directory)).unwrap();
    }
    fs::write(source.join("d/a"), "theirs").unwrap();
    fs::hard_link(source.join("d/a"), source.join("e/b")).unwrap();
    let mut mount = private(&source, &store, &AT_ONCE);
    let mut open = OpenOptions::new()
        .append(true)
        .read(true)
        .open(mount.mnt().join("d/a"))
        .unwrap();
    fs::metadata(mount.mnt().join("e/b")).unwrap();
    tools::sh("echo 2 >/proc/sys/vm/drop_caches", &[]);
    let mode = fs::Permissions::from_mode(0o600);
    open.set_permissions(mode).unwrap();
    open.write_all(b" and ours").unwrap();
    let mut all = String::new();
    open.read_to_string(&mut all).unwrap();
    drop(open);
    for _ in 0..2 {
        for name in ["d/a", "e/b"] {
            assert_eq!(text(mount.mnt().join(name)), "theirs and ours");
        }
        mount.remount();
    }
}

/// What a name leads to is held for who was told ESTALE once. (proves: S3)
#[test]
fn s3_a_name_that_the_source_replaces_at_full_speed_can_be_used() {
    const FOR: Duration = Duration::from_secs(3);
    const LIMIT: Duration = Duration::from_secs(60);
    let (_place, source, store) = place();
    fs::create_dir(source.join("d")).unwrap();
    let (at, new) = (source.join("d/name"), source.join("d/new"));
    fs::write(&at, [0; 4096]).unwrap();
    let mount = private(&source, &store, &AT_ONCE);
    // The directory has a node in the store, and the name has none.
    fs::write(mount.mnt().join("d/other"), "").unwrap();
    let name = mount.mnt().join("d/name");
    let read = || {
        let bytes = fs::read(&name)?;
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "of two files");
        Ok(())
    };
    let uses: [&(dyn Fn() -> std::io::Result<()> + Sync); 3] = [
        &read,
        &|| OpenOptions::new().write(true).open(&name).map(drop),
        &|| fs::metadata(&name).map(drop),
    ];
    let ended = AtomicBool::new(false);
    let done: [AtomicU64; 6] = Default::default();
    std::thread::scope(|scope| {
        let users: Vec<_> = done
            .iter()
            .zip(uses.iter().chain(&uses))
            .map(|(done, run)| {
                let ended = &ended;
                scope.spawn(move || {
                    while !ended.load(Relaxed) {
                        run().map_err(|error| format!("after {done:?}: {error}"))?;
                        done.fetch_add(1, Relaxed);
                    }
                    Ok::<_, String>(())
                })
            })
            .collect();
        let began = Instant::now();
        // How long so many uses take depends on what else the machine does.
        let are_done = || done.iter().all(|done| done.load(Relaxed) > 100);
        let has_failed = || users.iter().any(|user| user.is_finished());
        let is_over = || match began.elapsed() {
            past if past < FOR => false,
            past => past > LIMIT || are_done() || has_failed(),
        };
        let mut byte = 0u8;
        while !is_over() {
            byte = byte.wrapping_add(1);
            fs::write(&new, [byte; 4096]).unwrap();
            fs::rename(&new, &at).unwrap();
        }
        ended.store(true, Relaxed);
        for user in users {
            user.join().unwrap().unwrap();
        }
        assert!(are_done(), "in {LIMIT:?}: {done:?}");
    });
}

/// It was ESTALE: a file that is whole in the store does not need the source's.
#[test]
fn an_open_file_that_the_source_replaces_can_still_be_used() {
    let (_place, source, store) = place();
    fs::write(source.join("f"), "source").unwrap();
    let mount = private(&source, &store, &AT_ONCE);
    let path = mount.mnt().join("f");
    fs::write(&path, "mine").unwrap();
    let open = fs::OpenOptions::new()
        .append(true)
        .read(true)
        .open(&path)
        .unwrap();
    fs::write(source.join("new"), "other").unwrap();
    fs::rename(source.join("new"), source.join("f")).unwrap();
    (&open).write_all(b" more").unwrap();
    assert_eq!(open.metadata().unwrap().len(), 9);
    let mut bytes = [0; 9];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"mine more");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine more");
}
