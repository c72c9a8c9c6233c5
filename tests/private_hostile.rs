//! A store that somebody else has written, and a mount that root makes with it.

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Builder, Mount, tools, user};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// A directory that everybody can reach, with a source and a place for a store.
struct Place {
    place: tempfile::TempDir,
    source: PathBuf,
}

impl Place {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let source = place.path().join("source");
        fs::create_dir(&source).unwrap();
        Self { place, source }
    }

    fn builder(&self, store: &Path, options: &str) -> Builder {
        let builder = Mount::builder().over(&self.source).option("--private");
        builder.option(store).options(["-o", options])
    }
}

/// A store with a setuid-root program, a program with a capability, and a device, as nobody but root could make them: its owner
/// can write such records himself.
fn fill(mnt: &Path) {
    let program = mnt.join("id");
    fs::copy(tools::tool("id"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    let capable = mnt.join("chown");
    fs::copy(tools::tool("chown"), &capable).unwrap();
    let script = r#"setcap cap_chown=ep "$1""#;
    tools::sh(script, &[capable.as_os_str()]);
    let mode = Mode::from_raw_mode(0o666);
    mknodat(
        CWD,
        mnt.join("zero"),
        FileType::CharacterDevice,
        mode,
        makedev(1, 5),
    )
    .unwrap();
    fs::write(mnt.join("mine"), "").unwrap();
    fs::set_permissions(mnt, fs::Permissions::from_mode(0o777)).unwrap();
}

/// What an ordinary user gets from them: who the program runs as, whether the capability works, whether the device opens.
fn effects(mnt: &Path) -> (bool, bool, bool) {
    let uid = user::ordinary();
    let ran = tools::output_of(user::as_user(uid, mnt.join("id")).arg("-u"));
    let is_root = String::from_utf8_lossy(&ran.stdout).trim() == "0";
    let mut chown = user::as_user(uid, mnt.join("chown"));
    let changed = tools::output_of(chown.arg("1:1").arg(mnt.join("mine")));
    let open = OpenOptions::new().read(true).open(mnt.join("zero"));
    (is_root, changed.status.success(), open.is_ok())
}

/// In the shared view and with a store of root's they have their effect, so that the test below shows something. (proves: S64)
#[test]
fn s64_as_root_a_store_that_others_wrote_gives_nobody_rights() {
    if !user::is_root() {
        return;
    }
    user::let_users_mount();
    let uid = user::ordinary();
    let place = Place::new();
    // Below a directory that only root writes. The test's own is in one that is sticky.
    let store = place.place.path().join("store");
    let options = "allow_other,suid,dev";
    let mut mount = place.builder(&store, options).mount();
    fill(mount.mnt());
    assert_eq!(effects(mount.mnt()), (true, true, true));
    assert!(mount.unmount().success());

    // The same store, when another user has got hold of it. Root alone sees it then.
    let give = |to: u32| {
        let owner = format!("{to}:{to}");
        let arguments = [owner.as_ref(), store.as_os_str()];
        tools::sh(r#"chown -R "$1" "$2""#, &arguments);
    };
    let has_no_effect = || {
        let mount = place.builder(&store, "suid,dev").mount();
        let mode = mount.mnt().join("id").metadata().unwrap().mode();
        assert!(mode & 0o6000 == 0o6000);
        let flags = r#"findmnt --noheadings --output VFS-OPTIONS "$1""#;
        let flags = tools::sh(flags, &[mount.mnt().as_os_str()]);
        assert!(flags.contains("nosuid,nodev"), "{flags}");
        drop(mount);
        let output = place.builder(&store, options).refused();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(words.contains("mount without --allow-other"), "{words}");
    };
    give(uid);
    has_no_effect();

    // Root's again, but writable by others; and in a directory of another user.
    give(0);
    fs::set_permissions(&store, fs::Permissions::from_mode(0o770)).unwrap();
    has_no_effect();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(place.place.path(), Some(uid), Some(uid)).unwrap();
    has_no_effect();

    // Without being asked for, suid and dev are off.
    std::os::unix::fs::chown(place.place.path(), Some(0), Some(0)).unwrap();
    let mount = place.builder(&store, "allow_other").mount();
    assert_eq!(effects(mount.mnt()), (false, false, false));
}

/// The directory of the store is root's, and something in it is not. A mount without rights would not do: mmfs would replace files by
/// its own with the same records, and the next mount would trust them. (proves: S64)
#[test]
fn s64_as_root_a_store_with_files_of_others_in_it_is_refused() {
    if !user::is_root() {
        return;
    }
    let place = Place::new();
    let store = place.place.path().join("store");
    let mut mount = place.builder(&store, "suid,dev").mount();
    fill(mount.mnt());
    assert!(mount.unmount().success());
    let is_refused = |file: &Path, options: &str| {
        let output = place.builder(&store, options).refused();
        let words = String::from_utf8_lossy(&output.stderr);
        let expected = format!("may write to {}, or have", file.display());
        assert!(words.contains(&expected), "{words}");
        assert_eq!(output.status.code(), Some(1));
    };
    let owner = |path: &Path, to: u32| std::os::unix::fs::chown(path, Some(to), None).unwrap();
    for (directory, options) in [("", "allow_other"), ("tables", "suid"), ("data", "nosuid")] {
        let listed = fs::read_dir(store.join(directory)).unwrap();
        let mut paths: Vec<_> = listed.map(|entry| entry.unwrap().path()).collect();
        paths.truncate(8);
        assert!(!paths.is_empty());
        for path in paths {
            owner(&path, user::ordinary());
            is_refused(&path, options);
            // A repair would make it root's.
            let mut repair = Command::new(common::builder::binary());
            let repair = repair
                .args(["check", "--repair"])
                .arg(&store)
                .output()
                .unwrap();
            assert_eq!(repair.status.code(), Some(1));
            assert_eq!(path.metadata().unwrap().uid(), user::ordinary());
            owner(&path, 0);
            let mode = path.metadata().unwrap().permissions();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o720)).unwrap();
            is_refused(&path, options);
            fs::set_permissions(&path, mode).unwrap();
        }
    }
    let mut mount = place.builder(&store, "allow_other,suid,dev").mount();
    assert!(mount.unmount().success());

    // Nor is a store made of such files. What is no store is told as such.
    let made = place.place.path().join("made");
    for name in ["data", "other"] {
        fs::create_dir_all(made.join(name)).unwrap();
        owner(&made.join(name), user::ordinary());
    }
    let refused = || {
        let output = place.builder(&made, "suid").refused();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let words = refused();
    assert!(words.contains("others than root may write"), "{words}");
    owner(&made.join("data"), 0);
    let words = refused();
    assert!(words.contains("is not a store of mmfs"), "{words}");
}

/// What another program has mounted with suid and dev stays so. mmfs does not serve such a store there. (proves: S64)
#[test]
fn s64_as_root_a_passed_mount_with_suid_takes_no_store_of_others() {
    if !user::is_root() {
        return;
    }
    let place = Place::new();
    let point = place.place.path().join("mount");
    let store = place.place.path().join("store");
    fs::create_dir(&point).unwrap();
    fs::create_dir(&store).unwrap();
    std::os::unix::fs::chown(&store, Some(user::ordinary()), None).unwrap();
    let script = r#"exec 3<>/dev/fuse
        mount -i -t fuse.mmfs -o "fd=3,rootmode=40000,user_id=0,group_id=0,default_permissions,$1" "$2" "$3"
        status=0
        timeout 20 "$5" --private "$4" "$2" /dev/fd/3 2>&1 || status=$?
        umount --lazy "$3"
        echo "status $status""#;
    let binary = common::builder::binary();
    let said = |options: &str| {
        let paths = [&place.source, &point, &store, &binary].map(|path| path.as_os_str());
        let arguments = [&[options.as_ref()][..], &paths].concat();
        tools::sh(script, &arguments)
    };
    for options in ["suid,dev", "nosuid,dev", "suid,nodev"] {
        let words = said(options);
        assert!(
            words.contains("mount with nosuid and nodev") && words.contains("status 1"),
            "{options}: {words}"
        );
    }
    let words = said("nosuid,nodev,allow_other");
    assert!(
        words.contains("mount without --allow-other") && words.contains("status 1"),
        "{words}"
    );
    let words = said("nosuid,nodev");
    assert!(words.contains("status 0"), "{words}");
}

/// Where mmfs cannot see how it is mounted, it may be with suid. The mount is in another mount namespace. (proves: S64)
#[test]
fn s64_as_root_a_passed_mount_that_cannot_be_found_takes_no_store_of_others() {
    if !user::is_root() {
        return;
    }
    let place = Place::new();
    let point = place.place.path().join("mount");
    let store = place.place.path().join("store");
    fs::create_dir(&point).unwrap();
    fs::create_dir(&store).unwrap();
    let script = r#"exec 3<>/dev/fuse
        unshare --mount bash -euo pipefail -c '
            options=fd=3,rootmode=40000,user_id=0,group_id=0,default_permissions
            mount -i -t fuse.mmfs -o "$options" "$1" "$2"
            status=0
            nsenter --mount=/proc/$PPID/ns/mnt timeout 20 "$4" --private "$3" "$1" /dev/fd/3 2>&1 || status=$?
            umount --lazy "$2"
            echo "status $status"' sh "$@""#;
    let binary = common::builder::binary();
    let said = || {
        let paths = [&place.source, &point, &store, &binary];
        tools::sh(script, &paths.map(|path| path.as_os_str()))
    };
    let words = said();
    assert!(words.contains("status 0"), "{words}");
    let script = r#"chown -R "$1" "$2""#;
    let uid = user::ordinary().to_string();
    tools::sh(script, &[uid.as_ref(), store.as_os_str()]);
    let words = said();
    assert!(
        words.contains("cannot find the mount that it was passed") && words.contains("status 1"),
        "{words}"
    );
}

/// The FUSE filesystem of another user says that all in it is root's. It can say anything. (proves: S64)
#[test]
fn s64_as_root_a_store_on_another_users_filesystem_gives_nobody_rights() {
    if !user::is_root() {
        return;
    }
    user::let_users_mount();
    let place = Place::new();
    let below = place.place.path().join("below");
    fs::create_dir_all(below.join("store")).unwrap();
    let theirs = Mount::builder().over(&below).as_user(user::ordinary());
    let theirs = theirs.options(["-o", "allow_other"]).mount();
    let store = theirs.mnt().join("store");
    assert_eq!(store.metadata().unwrap().uid(), 0);
    let output = place.builder(&store, "allow_other").refused();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("mount without --allow-other"), "{words}");
}
