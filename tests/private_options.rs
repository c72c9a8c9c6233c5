//! The store of a private view: where it may lie, what it refuses, when it goes, and what happens when the source changes.

mod common;

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, PermissionsExt};

use common::Mount;
use common::private::{AT_ONCE, change_first_page, large, place, private};

/// (proves: S59)
#[test]
fn pages_of_a_file_that_changed_in_the_source_are_not_mixed_with_its_own() {
    let (_place, source, store) = place();
    fs::write(source.join("f"), large()).unwrap();
    let mount = private(&source, &store, &[]);
    let path = mount.mnt().join("f");
    change_first_page(&path);
    // Another length: a change of the source whatever the clock says.
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(source.join("f"))
        .unwrap();
    file.write_all(b"more").unwrap();
    let mut seen = fs::File::open(&path).unwrap();
    let mut own = [0; 4096];
    seen.read_exact(&mut own).unwrap();
    assert_eq!(&own[10..17], b"changed");
    seen.seek(SeekFrom::Start(100_000)).unwrap();
    assert_eq!(
        seen.read(&mut own).unwrap_err().raw_os_error(),
        Some(libc::EIO)
    );
    assert!(fs::metadata(&path).unwrap().len() == 200_000);
}

/// (proves: S59)
#[test]
fn a_view_that_follows_shows_what_the_source_has_now() {
    let (_place, source, store) = place();
    fs::write(source.join("f"), large()).unwrap();
    let mount = private(&source, &store, &["--on-source-change", "follow"]);
    let path = mount.mnt().join("f");
    change_first_page(&path);
    let behind = fs::OpenOptions::new()
        .write(true)
        .open(source.join("f"))
        .unwrap();
    behind.write_all_at(b"behind", 150_000).unwrap();
    behind.set_len(250_000).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 200_000);
    assert_eq!(
        (&bytes[10..17], &bytes[150_000..150_006]),
        (&b"changed"[..], &b"behind"[..])
    );
}

/// (proves: S59)
#[test]
fn a_view_that_copies_does_not_depend_on_the_source_any_more() {
    let (_place, source, store) = place();
    fs::write(source.join("f"), large()).unwrap();
    let mount = private(&source, &store, &["--on-source-change", "copy"]);
    let path = mount.mnt().join("f");
    change_first_page(&path);
    fs::write(source.join("f"), b"gone").unwrap();
    let mut expected = large();
    expected[10..17].copy_from_slice(b"changed");
    assert!(fs::read(&path).unwrap() == expected);
}

/// (proves: S63)
#[test]
fn a_view_that_copies_does_so_before_it_cuts_a_file() {
    let (_place, source, store) = place();
    fs::write(source.join("f"), large()).unwrap();
    let mount = private(&source, &store, &["--on-source-change", "copy"]);
    let path = mount.mnt().join("f");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(150_000).unwrap();
    fs::write(source.join("f"), b"gone").unwrap();
    assert!(fs::read(&path).unwrap() == large()[..150_000]);
}

#[test]
fn a_full_store_refuses_more_and_still_removes() {
    let (_place, source, store) = place();
    let mount = private(&source, &store, &["--store-limit", "1M"]);
    let path = mount.mnt().join("f");
    let mut file = fs::File::create(&path).unwrap();
    let error = (0..64)
        .find_map(|_| file.write_all(&[1; 65536]).err())
        .expect("no limit");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert!(file.metadata().unwrap().len() <= 1 << 20);
    drop(file);
    fs::remove_file(&path).unwrap();
    // Removed first or closed first: the room is there at once.
    for round in 0..20 {
        fs::write(&path, vec![2; 700_000]).unwrap();
        let open = fs::File::open(&path).unwrap();
        if round % 2 == 0 {
            fs::remove_file(&path).unwrap();
            drop(open);
        } else {
            drop(open);
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn a_store_of_another_source_is_refused_unless_it_moved() {
    let (place, source, store) = place();
    let mut mount = private(&source, &store, &[]);
    fs::write(mount.mnt().join("f"), "mine").unwrap();
    mount.unmount();
    let other = place.path().join("other");
    fs::create_dir(&other).unwrap();
    let refused = Mount::builder()
        .over(&other)
        .option("--private")
        .option(&store)
        .refused();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        text.contains("--base-moved") && refused.status.code() == Some(1),
        "{text}"
    );
    fs::rename(&source, place.path().join("moved")).unwrap();
    drop(mount);
    let mount = private(&other, &store, &["--base-moved"]);
    assert!(mount.mnt().exists());
}

#[test]
fn a_store_does_not_lie_in_its_source() {
    let (_place, source, _) = place();
    let inside = source.join("store");
    let refused = Mount::builder()
        .over(&source)
        .option("--private")
        .option(&inside)
        .refused();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        text.contains("keep the store elsewhere") && refused.status.code() == Some(1),
        "{text}"
    );
    assert!(!inside.exists());
}

#[test]
fn a_store_is_in_use_by_one_mount() {
    let (_place, source, store) = place();
    let mount = private(&source, &store, &[]);
    let refused = Mount::builder()
        .over(&source)
        .option("--private")
        .option(&store)
        .refused();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        text.contains("is in use by another mmfs") && refused.status.code() == Some(1),
        "{text}"
    );
    fs::write(mount.mnt().join("f"), "goes on").unwrap();
}

/// (proves: S56)
#[test]
fn an_ephemeral_store_goes_with_the_mount_and_after_a_kill_with_the_next() {
    let (place, source, _) = place();
    fs::write(source.join("f"), "source").unwrap();
    let stores = place.path().join("tmp");
    fs::create_dir(&stores).unwrap();
    let builder = Mount::builder()
        .over(&source)
        .option("--ephemeral")
        .env("TMPDIR", &stores);
    let mut mount = builder.mount();
    let count = || fs::read_dir(&stores).unwrap().count();
    fs::write(mount.mnt().join("f"), "mine").unwrap();
    assert_eq!(count(), 1);
    mount.kill_and_remount();
    assert_eq!(
        (count(), fs::read_to_string(mount.mnt().join("f")).unwrap()),
        (1, "source".into())
    );
    mount.unmount();
    assert_eq!(count(), 0);
}

/// The daemon in the background has another working directory.
#[test]
fn an_ephemeral_store_may_be_made_in_a_relative_directory() {
    let (place, source, _) = place();
    fs::create_dir(place.path().join("tmp")).unwrap();
    let point = place.path().join("mnt");
    fs::create_dir(&point).unwrap();
    let mut command = std::process::Command::new(common::builder::binary());
    command.current_dir(place.path()).env("TMPDIR", "tmp");
    common::tools::run(command.arg("--ephemeral").arg(&source).arg(&point));
    fs::write(point.join("f"), "mine").unwrap();
    assert_eq!(fs::read_dir(place.path().join("tmp")).unwrap().count(), 1);
    let mut command = std::process::Command::new(common::builder::binary());
    common::tools::run(command.arg("unmount").arg(&point));
    assert_eq!(fs::read_dir(place.path().join("tmp")).unwrap().count(), 0);
}

/// A relative TMPDIR in a directory that was removed leads nowhere, but only `--ephemeral` needs it.
#[test]
fn a_mount_without_ephemeral_needs_no_directory_for_temporary_files() {
    let (place, source, store) = place();
    let (gone, point) = (place.path().join("gone"), place.path().join("mnt"));
    fs::create_dir(&point).unwrap();
    let mount = |options: &[&std::ffi::OsStr]| {
        fs::create_dir(&gone).unwrap();
        let mut shell = std::process::Command::new("sh");
        shell.current_dir(&gone).env("TMPDIR", "tmp");
        shell.args(["-c", "rmdir ../gone && exec \"$@\"", "sh"]);
        shell.arg(common::builder::binary()).args(options);
        shell.args([&source, &point]).output().unwrap().status
    };
    let private = ["--private".as_ref(), store.as_os_str()];
    for (options, works) in [
        (&[][..], true),
        (&private, true),
        (&["--ephemeral".as_ref()], false),
    ] {
        assert_eq!(mount(options).success(), works, "{options:?}");
        if works {
            let mut unmount = std::process::Command::new(common::builder::binary());
            common::tools::run(unmount.arg("unmount").arg(&point));
        }
    }
}

/// (proves: S60)
#[test]
fn a_file_that_was_replaced_in_the_source_stays_as_it_was_changed() {
    let (_place, source, store) = place();
    for name in ["whole", "paged", "moded", "same"] {
        fs::write(source.join(name), large()).unwrap();
    }
    let mut mount = private(&source, &store, &AT_ONCE);
    let path = |name: &str| mount.mnt().join(name);
    fs::write(path("whole"), "mine").unwrap();
    change_first_page(&path("paged"));
    fs::set_permissions(
        path("moded"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    for name in ["whole", "paged", "moded", "same"] {
        fs::write(source.join("new"), "theirs").unwrap();
        fs::rename(source.join("new"), source.join(name)).unwrap();
    }
    for _ in 0..2 {
        let path = |name: &str| mount.mnt().join(name);
        assert_eq!(fs::read_to_string(path("whole")).unwrap(), "mine");
        assert_eq!(fs::read_to_string(path("same")).unwrap(), "theirs");
        let mut page = [0; 17];
        fs::File::open(path("paged"))
            .unwrap()
            .read_exact_at(&mut page, 0)
            .unwrap();
        assert_eq!(&page[10..], b"changed");
        for name in ["paged", "moded"] {
            let error = fs::read(path(name)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
            assert_eq!(fs::metadata(path(name)).unwrap().len(), 200_000, "{name}");
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(path("moded")).unwrap().permissions(),
        );
        assert_eq!(mode & 0o7777, 0o600);
        let names = fs::read_dir(mount.mnt()).unwrap().count();
        assert_eq!(names, 4);
        mount.remount();
    }
}

/// (proves: S60)
#[test]
fn changes_below_a_directory_move_on_to_the_one_that_replaced_it() {
    let (_place, source, store) = place();
    fs::create_dir(source.join("d")).unwrap();
    fs::write(source.join("d/old"), "old").unwrap();
    let mut mount = private(&source, &store, &AT_ONCE);
    fs::write(mount.mnt().join("d/mine"), "mine").unwrap();
    fs::rename(source.join("d"), source.join("before")).unwrap();
    fs::create_dir(source.join("d")).unwrap();
    fs::write(source.join("d/new"), "new").unwrap();
    for _ in 0..2 {
        let names = |path: &str| {
            let entries = fs::read_dir(mount.mnt().join(path)).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names("d"), ["mine", "new"]);
        assert_eq!(names("before"), ["old"]);
        assert_eq!(
            fs::read_to_string(mount.mnt().join("d/mine")).unwrap(),
            "mine"
        );
        mount.remount();
    }
    fs::remove_dir_all(source.join("d")).unwrap();
    for _ in 0..2 {
        assert_eq!(
            fs::read_to_string(mount.mnt().join("d/mine")).unwrap(),
            "mine"
        );
        mount.remount();
    }
}

/// The next life's listings come before its look-ups: `ls -l`, `find`.
#[test]
fn changed_names_are_listed_with_their_attributes_in_the_next_life() {
    let (_place, source, store) = place();
    let directory = source.join("d");
    fs::create_dir(&directory).unwrap();
    let names = || (0..300).map(|number| format!("f{number}"));
    for name in names() {
        fs::write(directory.join(name), b"x").unwrap();
    }
    let mount = private(&source, &store, &[]);
    for name in names() {
        let path = mount.mnt().join("d").join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    drop(mount);
    // An inode is recognized by its time of change once that is three seconds old.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let mount = private(&source, &store, &[]);
    for _ in 0..2 {
        let mut seen = 0;
        for entry in fs::read_dir(mount.mnt().join("d")).unwrap() {
            let entry = entry.unwrap();
            let found = entry.metadata().unwrap();
            assert_eq!(found.mode() & 0o777, 0o600, "{:?}", entry.file_name());
            assert_eq!(found.ino(), entry.ino());
            seen += 1;
        }
        assert_eq!(seen, 300);
    }
}
