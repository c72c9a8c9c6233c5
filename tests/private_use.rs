//! What a private view promises to whoever uses it (docs/private.md), and what using it has found.

mod common;
#[path = "power_cut/disk.rs"]
mod disk;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::loopfs::LoopFs;
use common::private::{AT_ONCE, large, place, private};
use common::{Mount, tools, user};
use disk::Disk;

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

/// A line for each inode of `fill` with all that may change, access times included. Nothing is read for it.
fn listed(root: &Path) -> Vec<String> {
    let names = [
        "", "d", "d/e", "d/e/deep", "small", "large", "mode", "linked", "gone", "times",
    ];
    let line = |name: &&str| {
        let m = root.join(name).symlink_metadata().unwrap();
        let times = [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()];
        let read = (m.atime(), m.atime_nsec());
        let owner = (m.mode(), m.uid(), m.gid(), m.nlink());
        format!(
            "{name} {} {} {owner:?} {times:?} {read:?}",
            m.ino(),
            m.len()
        )
    };
    names.iter().map(line).collect()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Everything that can be done to a tree, through the mount.
fn change_everything(mnt: &Path) {
    let at = |name: &str| mnt.join(name);
    fs::write(at("small"), "mine").unwrap();
    let file = OpenOptions::new().read(true).write(true).open(at("large"));
    file.as_ref()
        .unwrap()
        .write_all_at(b"mine", 70_000)
        .unwrap();
    file.unwrap().set_len(150_000).unwrap();
    set_mode(&at("mode"), 0o600);
    fs::hard_link(at("linked"), at("link")).unwrap();
    fs::rename(at("d"), at("moved")).unwrap();
    fs::write(at("moved/e/deep"), "mine").unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::create_dir_all(at("new/directory")).unwrap();
    symlink("small", at("new/link")).unwrap();
    let times = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    let file = OpenOptions::new().write(true).open(at("times")).unwrap();
    file.set_times(times).unwrap();
    let script = r#"cd "$1" && cat small large times >/dev/null && ls -lR >/dev/null && setfattr -n user.a -v b mode"#;
    tools::sh(script, &[mnt.as_os_str()]);
}

fn fill(source: &Path) {
    fs::create_dir_all(source.join("d/e")).unwrap();
    for name in ["small", "mode", "linked", "gone", "times", "d/e/deep"] {
        fs::write(source.join(name), "source").unwrap();
    }
    fs::write(source.join("large"), large()).unwrap();
    // Access times that every rule but noatime would move.
    let script = r#"find "$1" -exec touch -a -d '5 days ago' {} +"#;
    tools::sh(script, &[source.as_os_str()]);
}

/// How many descriptors the daemon has on what lies on this device, and those with which the file may be changed.
fn descriptors_on(device: u64, daemon: u32) -> (usize, Vec<String>) {
    let (mut count, mut writable) = (0, Vec::new());
    for entry in fs::read_dir(format!("/proc/{daemon}/fd")).unwrap() {
        let path = entry.unwrap().path();
        let (Ok(metadata), Ok(link)) = (path.metadata(), path.read_link()) else {
            continue;
        };
        if metadata.dev() != device || !metadata.is_file() && !metadata.is_dir() {
            continue;
        }
        let info = path.to_str().unwrap().replace("/fd/", "/fdinfo/");
        let info = fs::read_to_string(info).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:\t"));
        let flags = i32::from_str_radix(flags.unwrap_or("0"), 8).unwrap();
        let can_write = flags & libc::O_PATH == 0
            && (flags & libc::O_ACCMODE != libc::O_RDONLY
                || metadata.is_file() && OpenOptions::new().write(true).open(&path).is_ok());
        count += 1;
        if can_write {
            writable.push(link.display().to_string());
        }
    }
    (count, writable)
}

/// The source's kernel refuses: no descriptor of the daemon can be used to change a file of the source, nor opened again to do so.
#[test]
fn s55_as_root_the_kernel_keeps_the_source_as_it_is() {
    if !user::is_root() {
        return;
    }
    let (_place, _, store) = place();
    let disk = LoopFs::new("ext4", 64 << 20);
    fill(disk.path());
    let before = listed(disk.path());
    let device = disk.path().metadata().unwrap().dev();
    let mut mount = private(disk.path(), &store, &[]);
    let open = ["large", "small", "times"].map(|name| {
        let mut options = OpenOptions::new();
        let path = mount.mnt().join(name);
        options.read(true).write(true).open(path).unwrap()
    });
    let mut page = [0; 4096];
    open[0].read_exact_at(&mut page, 4096).unwrap();
    open[2].write_all_at(b"x", 0).unwrap();
    let (count, writable) = descriptors_on(device, mount.daemon_pid());
    assert!(count > 2, "the daemon has files of the source open");
    assert_eq!(writable, [""; 0]);
    drop(open);
    change_everything(mount.mnt());
    assert_eq!(descriptors_on(device, mount.daemon_pid()).1, [""; 0]);
    assert!(mount.unmount().success());
    assert_eq!(listed(disk.path()), before);
    let log = mount.log();
    assert!(!log.contains("cannot be cloned"), "{log}");
}

#[test]
fn s55_an_ordinary_users_view_leaves_the_source_as_it_is() {
    user::let_users_mount();
    let uid = user::ordinary();
    let place = tempfile::tempdir().unwrap();
    set_mode(place.path(), 0o777);
    let (source, store) = (place.path().join("source"), place.path().join("store"));
    fs::create_dir(&source).unwrap();
    fill(&source);
    tools::sh(
        r#"chown -R "$2:$2" "$1""#,
        &[source.as_os_str(), uid.to_string().as_ref()],
    );
    let before = listed(&source);
    let builder = Mount::builder().over(&source).option("--private");
    let mut mount = builder
        .option(&store)
        .option("--allow-other")
        .as_user(uid)
        .mount();
    change_everything(mount.mnt());
    let text = fs::read_to_string(mount.mnt().join("small")).unwrap();
    assert_eq!(text, "mine");
    assert!(mount.unmount().success());
    assert_eq!(listed(&source), before);
}

/// (proves: S56)
#[test]
fn s56_changes_are_there_at_the_next_mount() {
    let (_place, source, store) = place();
    fill(&source);
    let mut mount = private(&source, &store, &[]);
    change_everything(mount.mnt());
    let without_atime = |mount: &Mount| {
        let find = r#"cd "$1" && find . -printf '%p %y %m %U:%G %s %n %i %T@ %l\n' | sort"#;
        tools::sh(find, &[mount.mnt().as_os_str()])
    };
    let before = without_atime(&mount);
    mount.remount();
    assert_eq!(without_atime(&mount), before);
}

/// (proves: S57)
#[test]
fn s57_numbers_stay_at_a_change_and_a_remount() {
    let (_place, source, store) = place();
    fill(&source);
    fs::hard_link(source.join("linked"), source.join("other")).unwrap();
    let mut mount = private(&source, &store, &AT_ONCE);
    let numbers = |mount: &Mount| {
        let names = ["small", "large", "mode", "linked", "other", "d", "d/e/deep"];
        names.map(|name| {
            let metadata = mount.mnt().join(name).metadata().unwrap();
            (metadata.ino(), metadata.nlink())
        })
    };
    let listed = |mount: &Mount| {
        let entries = fs::read_dir(mount.mnt()).unwrap().map(|entry| {
            let entry = entry.unwrap();
            (
                entry.file_name(),
                std::os::unix::fs::DirEntryExt::ino(&entry),
            )
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort();
        entries
    };
    let (before, listed_before) = (numbers(&mount), listed(&mount));
    assert_eq!(
        before[3],
        (source.join("linked").metadata().unwrap().ino(), 2)
    );
    for name in ["small", "linked", "d/e/deep"] {
        fs::write(mount.mnt().join(name), "mine").unwrap();
    }
    set_mode(&mount.mnt().join("mode"), 0o600);
    set_mode(&mount.mnt().join("d"), 0o700);
    let text = fs::read_to_string(mount.mnt().join("other")).unwrap();
    assert_eq!(text, "mine");
    for _ in 0..2 {
        assert_eq!(numbers(&mount), before);
        assert_eq!(listed(&mount), listed_before);
        mount.remount();
    }
    // A number of the view's own is not given again.
    let made = |mount: &Mount| {
        let path = mount.mnt().join("made");
        fs::write(&path, "").unwrap();
        let number = path.metadata().unwrap().ino();
        fs::remove_file(&path).unwrap();
        number
    };
    let first = made(&mount);
    mount.remount();
    assert!(first >= 1 << 62 && made(&mount) > first);
}

/// (proves: S58)
#[test]
fn s58_what_is_unchanged_follows_the_source() {
    let (_place, source, store) = place();
    fill(&source);
    let mount = private(&source, &store, &AT_ONCE);
    let path = |name: &str| mount.mnt().join(name);
    assert_eq!(fs::read_to_string(path("small")).unwrap(), "source");
    set_mode(&path("mode"), 0o600);
    fs::write(source.join("small"), "newer").unwrap();
    fs::write(source.join("mode"), "newer, too").unwrap();
    fs::write(source.join("added"), "added").unwrap();
    fs::remove_file(source.join("gone")).unwrap();
    assert_eq!(fs::read_to_string(path("small")).unwrap(), "newer");
    // A chmod is no change of the bytes.
    assert_eq!(fs::read_to_string(path("mode")).unwrap(), "newer, too");
    assert_eq!(path("mode").metadata().unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_to_string(path("added")).unwrap(), "added");
    assert!(!path("gone").exists());
}

/// (proves: S61)
#[test]
fn s61_a_killed_daemon_loses_nothing_that_was_answered() {
    let (_place, source, store) = place();
    fill(&source);
    let mut mount = private(&source, &store, &[]);
    change_everything(mount.mnt());
    for number in 0..200 {
        fs::write(
            mount.mnt().join(format!("new/{number}")),
            number.to_string(),
        )
        .unwrap();
    }
    mount.kill_and_remount();
    for number in 0..200 {
        let text = fs::read_to_string(mount.mnt().join(format!("new/{number}"))).unwrap();
        assert_eq!(text, number.to_string());
    }
    let mut expected = large();
    expected.truncate(150_000);
    expected[70_000..70_004].copy_from_slice(b"mine");
    assert!(fs::read(mount.mnt().join("large")).unwrap() == expected);
    assert!(!mount.mnt().join("gone").exists());
}

/// What a first change stores, in bytes of data files.
fn stored(store: &Path) -> u64 {
    let find = r#"find "$1/data" -type f -printf '%b\n'"#;
    let words = tools::sh(find, &[store.as_os_str()]);
    let blocks = words.lines().map(|line| line.parse::<u64>().unwrap());
    blocks.sum::<u64>() * 512
}

/// (proves: S65)
#[test]
fn s65_a_change_stores_what_is_changed() {
    let (_place, source, store) = place();
    File::create(source.join("huge"))
        .unwrap()
        .set_len(10 << 30)
        .unwrap();
    fs::create_dir_all(source.join("d/e")).unwrap();
    fs::write(source.join("d/e/f"), large()).unwrap();
    let mount = private(&source, &store, &[]);
    let path = |name: &str| mount.mnt().join(name);
    set_mode(&path("d/e/f"), 0o600);
    fs::rename(path("d"), path("moved")).unwrap();
    fs::hard_link(path("moved/e/f"), path("link")).unwrap();
    assert_eq!(stored(&store), 0);
    let file = OpenOptions::new().write(true).open(path("huge")).unwrap();
    file.write_all_at(&[7; 4096], 5 << 30).unwrap();
    file.sync_all().unwrap();
    let stored = stored(&store);
    assert!((4096..=16_384).contains(&stored), "{stored}");
}

/// (proves: S66)
#[test]
fn s66_as_root_the_source_is_busy_and_later_mounts_are_shown() {
    if !user::is_root() {
        return;
    }
    let (_place, _, store) = place();
    let disk = LoopFs::new("ext4", 32 << 20);
    fs::create_dir(disk.path().join("later")).unwrap();
    let mut mount = private(disk.path(), &store, &AT_ONCE);
    let unmount = || rustix::mount::unmount(disk.path(), rustix::mount::UnmountFlags::empty());
    assert_eq!(unmount(), Err(rustix::io::Errno::BUSY));
    let below = disk.path().join("later");
    tools::run(
        Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(&below),
    );
    fs::write(below.join("f"), "source").unwrap();
    let path = mount.mnt().join("later/f");
    assert_eq!(fs::read_to_string(&path).unwrap(), "source");
    fs::write(&path, "mine").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(fs::read_to_string(below.join("f")).unwrap(), "source");
    assert!(mount.unmount().success());
    let gone = tools::wait_until(std::time::Duration::from_secs(5), || {
        rustix::mount::unmount(&below, rustix::mount::UnmountFlags::empty()).is_ok()
    });
    assert!(gone, "the mount below stays busy");
}

/// Each name is listed once while each chmod(2) makes a record in the store, as `find -exec chmod` does it. (proves: S7)
#[test]
fn ten_thousand_names_are_listed_once_while_they_are_changed() {
    let (_place, source, store) = place();
    for number in 0..10_000 {
        File::create(source.join(format!("{number}"))).unwrap();
    }
    let mount = private(&source, &store, &[]);
    let mut names = mount.within(std::time::Duration::from_secs(120), || {
        let entries = fs::read_dir(mount.mnt()).unwrap();
        let names = entries.map(|entry| {
            let path = entry.unwrap().path();
            set_mode(&path, 0o600);
            path
        });
        names.collect::<Vec<_>>()
    });
    assert_eq!(names.len(), 10_000);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 10_000);
    let is_set = |path: &PathBuf| path.metadata().unwrap().mode() & 0o7777 == 0o600;
    assert!(names.iter().all(is_set));
}

/// What was synced is in the store after a power cut, and what was not is not invented. (proves: S62)
#[test]
fn s62_as_root_a_power_cut_leaves_what_was_synced() {
    if !user::is_root() {
        return;
    }
    let (_place, source, _) = place();
    fill(&source);
    let disk = Disk::new("ext4");
    let store = disk.path().join("store");
    let mount = private(&source, &store, &[]);
    let path = |name: &str| mount.mnt().join(name);
    fs::write(path("synced"), "synced").unwrap();
    File::open(path("synced")).unwrap().sync_all().unwrap();
    let file = OpenOptions::new().write(true).open(path("large")).unwrap();
    file.write_all_at(b"synced", 70_000).unwrap();
    file.sync_data().unwrap();
    fs::create_dir(path("directory")).unwrap();
    fs::rename(path("gone"), path("directory/renamed")).unwrap();
    File::open(path("directory")).unwrap().sync_all().unwrap();
    file.write_all_at(b"not synced", 120_000).unwrap();
    fs::write(path("unsynced"), "unsynced").unwrap();
    let cut = disk.cut(0);
    let point = cut.mount();
    {
        let mut after = private(&source, &point.join("store"), &[]);
        let path = |name: &str| after.mnt().join(name);
        assert_eq!(fs::read_to_string(path("synced")).unwrap(), "synced");
        assert_eq!(
            fs::read_to_string(path("directory/renamed")).unwrap(),
            "source"
        );
        assert!(!path("gone").exists());
        let mut expected = large();
        expected[70_000..70_006].copy_from_slice(b"synced");
        let found = fs::read(path("large")).unwrap();
        let mut written = expected.clone();
        written[120_000..120_010].copy_from_slice(b"not synced");
        assert!(found == expected || found == written);
        let unsynced = fs::read_to_string(path("unsynced")).unwrap_or_default();
        assert!(unsynced.is_empty() || unsynced == "unsynced", "{unsynced}");
        after.unmount();
    }
    let check = tools::run(
        Command::new(common::builder::binary())
            .arg("check")
            .arg(point.join("store")),
    );
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(text.contains("No errors were found"), "{text}");
}

/// The kernel keeps a listing, and lets go of it when names change on either side.
#[test]
fn a_listing_that_the_kernel_keeps_is_current() {
    let (_place, source, store) = place();
    fs::create_dir(source.join("d")).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(source.join("d").join(name), name).unwrap();
    }
    let mount = private(&source, &store, &[]);
    let directory = mount.mnt().join("d");
    let listed = || {
        let entries = fs::read_dir(&directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names.concat()
    };
    for _ in 0..3 {
        assert_eq!(listed(), "abc");
    }
    fs::remove_file(directory.join("b")).unwrap();
    assert_eq!(listed(), "ac");
    fs::write(directory.join("e"), "e").unwrap();
    assert_eq!(listed(), "ace");
    fs::rename(directory.join("a"), directory.join("x")).unwrap();
    assert_eq!((listed(), listed()), ("cex".into(), "cex".into()));
    fs::write(source.join("d").join("s"), "s").unwrap();
    assert_eq!(listed(), "cesx");
    fs::remove_file(source.join("d").join("c")).unwrap();
    assert_eq!(listed(), "esx");
    fs::create_dir(directory.join("own")).unwrap();
    let own = directory.join("own");
    for name in ["1", "2"] {
        assert_eq!(
            fs::read_dir(&own).unwrap().count() + 1,
            name.parse().unwrap()
        );
        fs::write(own.join(name), "").unwrap();
    }
    assert_eq!(fs::read_dir(&own).unwrap().count(), 2);
}

/// An ordinary user cannot clone what is mounted later. mmfs itself refuses to change it, and the log says so. (proves: S66)
#[test]
fn s66_as_root_an_ordinary_users_view_shows_later_mounts_too() {
    if !user::is_root() {
        return;
    }
    user::let_users_mount();
    let uid = user::ordinary();
    let place = tempfile::tempdir().unwrap();
    set_mode(place.path(), 0o777);
    let (source, store) = (place.path().join("source"), place.path().join("store"));
    fs::create_dir_all(source.join("later")).unwrap();
    let builder = Mount::builder().over(&source).option("--private");
    let builder = builder.option(&store).options(["--allow-other"]);
    let mut mount = builder.options(AT_ONCE).as_user(uid).mount();
    let below = source.join("later");
    tools::run(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", "mode=777", "tmpfs"])
            .arg(&below),
    );
    fs::write(below.join("f"), "source").unwrap();
    set_mode(&below.join("f"), 0o666);
    let path = mount.mnt().join("later/f");
    assert_eq!(fs::read_to_string(&path).unwrap(), "source");
    fs::write(&path, "mine").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(fs::read_to_string(below.join("f")).unwrap(), "source");
    let log = mount.log();
    assert!(log.contains("without a read-only clone"), "{log}");
    assert!(mount.unmount().success());
    let gone = tools::wait_until(std::time::Duration::from_secs(5), || {
        rustix::mount::unmount(&below, rustix::mount::UnmountFlags::empty()).is_ok()
    });
    assert!(gone, "the mount below stays busy");
}
