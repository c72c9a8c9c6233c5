//! Command lines and stores with which a private view is refused: one sentence, the exit code, and nothing is mounted.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Builder, Mount, loopfs::LoopFs, tools, user};

/// A source, and the place for a store beside it.
struct Place {
    place: tempfile::TempDir,
    source: PathBuf,
}

impl Place {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("f"), "source").unwrap();
        Self { place, source }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn builder(&self, store: &Path) -> Builder {
        let builder = Mount::builder().over(&self.source);
        builder.option("--private").option(store)
    }

    /// A store with one changed file, not mounted.
    fn made(&self, name: &str) -> PathBuf {
        let store = self.path(name);
        let mut mount = self.builder(&store).mount();
        fs::write(mount.mnt().join("f"), "mine").unwrap();
        assert!(mount.unmount().success());
        store
    }
}

/// One line that begins with `mmfs: ` and has these words, and this exit code.
#[track_caller]
fn refuses(builder: Builder, code: i32, words: &str) {
    let output = builder.refused();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(
        text.starts_with("mmfs: ") && text.lines().count() == 1,
        "{text}"
    );
    assert!(text.contains(words), "{text}");
}

#[test]
fn a_store_that_is_missing_is_made_for_its_owner_only() {
    let place = Place::new();
    let store = place.made("store");
    let mode = store.metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o700);
    fs::create_dir(place.path("empty")).unwrap();
    place.made("empty");
    let mount = place.builder(&store).mount();
    assert_eq!(fs::read_to_string(mount.mnt().join("f")).unwrap(), "mine");
    assert_eq!(
        fs::read_to_string(place.source.join("f")).unwrap(),
        "source"
    );
}

#[test]
fn what_is_no_store_is_refused_and_left_as_it_is() {
    let place = Place::new();
    fs::write(place.path("file"), "file").unwrap();
    fs::create_dir(place.path("full")).unwrap();
    fs::write(place.path("full/other"), "other").unwrap();
    for (name, words) in [
        ("file", "file is not a directory; name one"),
        ("file/store", "store is not a directory; name one"),
        ("none/store", "cannot be made: there is no directory"),
        ("full", "full is not a store of mmfs"),
    ] {
        refuses(place.builder(&place.path(name)), 1, words);
    }
    assert_eq!(fs::read_to_string(place.path("file")).unwrap(), "file");
    assert_eq!(fs::read_dir(place.path("full")).unwrap().count(), 1);
    let builder = Mount::builder().over(&place.source).option("--ephemeral");
    let nowhere = place.path("none");
    refuses(builder.env("TMPDIR", &nowhere), 1, "there is no directory");
}

#[test]
fn a_store_of_another_version_is_refused_and_left_as_it_is() {
    let place = Place::new();
    let store = place.made("store");
    let format = fs::read_to_string(store.join("format")).unwrap();
    let newer = format.replacen("view 1", "view 2", 1);
    fs::write(store.join("format"), &newer).unwrap();
    // It may have its data files elsewhere.
    fs::rename(store.join("data"), place.path("data")).unwrap();
    let words = "store of another version of mmfs: mmfs private view 2";
    refuses(place.builder(&store), 1, words);
    assert!(!store.join("data").exists());
    fs::rename(place.path("data"), store.join("data")).unwrap();
    assert_eq!(fs::read_to_string(store.join("format")).unwrap(), newer);
    fs::write(store.join("format"), "a letter\n").unwrap();
    refuses(place.builder(&store), 1, "is not a store of mmfs");
    fs::write(store.join("format"), &format).unwrap();
    fs::write(store.join("state"), "nonsense").unwrap();
    refuses(place.builder(&store), 1, "is damaged: state is not as mmfs");
}

#[test]
fn a_store_source_and_mount_point_lie_apart() {
    let place = Place::new();
    fs::create_dir(place.path("link-target")).unwrap();
    std::os::unix::fs::symlink(&place.source, place.path("link")).unwrap();
    let point = place.path("mount");
    fs::create_dir_all(point.join("in")).unwrap();
    for name in [
        "source",
        "source/new",
        "link/new",
        "mount",
        "mount/new",
        "mount/in",
        "",
    ] {
        let builder = place.builder(&place.path(name)).at(&point);
        refuses(builder, 1, "keep the store elsewhere");
    }
    assert!(!place.source.join("new").exists());
    let builder = Mount::builder().over(&place.source).option("--ephemeral");
    let builder = builder.env("TMPDIR", point.join("in")).at(&point);
    refuses(builder, 1, "keep the store elsewhere");
    // A link to a store elsewhere will do.
    std::os::unix::fs::symlink(place.path("link-target"), place.path("other")).unwrap();
    assert!(place.builder(&place.path("other")).mount().mnt().exists());
}

/// The store lies in the source, whatever the path says.
#[test]
fn as_root_a_store_that_a_bind_mount_shows_in_the_source_is_refused() {
    let place = Place::new();
    fs::create_dir_all(place.source.join("in/deep")).unwrap();
    let bound = place.path("bound");
    fs::create_dir(&bound).unwrap();
    let refused = |of: &Path, store: &Path| {
        let bind = Bound::new(of, &bound);
        refuses(place.builder(store), 1, "keep the store elsewhere");
        drop(bind);
    };
    refused(&place.source, &bound.join("store"));
    refused(&place.source, &bound.join("in/store"));
    refused(&place.source.join("in"), &bound.join("deep"));
    refused(place.place.path(), &bound.join("source/store"));
    // The source lies in the store.
    refused(place.place.path(), &bound);
    assert!(!place.source.join("store").exists() && !place.source.join("in/store").exists());
    // A mount below the source is shown, too.
    let other = place.path("other");
    fs::create_dir(&other).unwrap();
    let below = Bound::new(&other, &place.source.join("in"));
    refuses(
        place.builder(&other.join("store")),
        1,
        "keep the store elsewhere",
    );
    drop(below);
    let bind = Bound::new(&other, &bound);
    assert!(place.builder(&bound.join("store")).mount().mnt().exists());
    drop(bind);
    // So is a part of the store.
    let store = place.made("store");
    let below = Bound::new(&store.join("data"), &place.source.join("in"));
    refuses(place.builder(&store), 1, "keep the store elsewhere");
    drop(below);
}

/// A mount that another one covers does not show the store.
#[test]
fn as_root_a_store_may_lie_in_a_mount_that_is_covered() {
    let place = Place::new();
    let (below, other) = (place.source.join("in"), place.path("other"));
    for directory in [&below.join("deep"), &other.join("deep")] {
        fs::create_dir_all(directory).unwrap();
    }
    let empty = place.path("empty");
    fs::create_dir(&empty).unwrap();
    for (shown, covered, cover) in [
        (true, below.join("deep"), below.join("deep")),
        (false, below.join("deep"), below.clone()),
        (false, place.source.clone(), place.source.clone()),
    ] {
        let covered = Bound::new(&other, &covered);
        let of = if shown { &other } else { &empty };
        let cover = Bound::new(of, &cover);
        let builder = || place.builder(&other.join("store"));
        match shown {
            true => refuses(builder(), 1, "keep the store elsewhere"),
            false => drop(builder().mount()),
        }
        drop((cover, covered));
        let _ = fs::remove_dir_all(other.join("store"));
    }
}

struct Bound(PathBuf);

impl Bound {
    fn new(of: &Path, at: &Path) -> Self {
        rustix::mount::mount_bind(of, at).unwrap();
        Self(at.into())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let detach = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(&self.0, detach).unwrap();
    }
}

/// What somebody has removed from a store is lost, and the rest goes on.
#[test]
fn a_store_without_its_data_files_takes_new_ones() {
    let place = Place::new();
    fs::write(place.source.join("other"), "source").unwrap();
    let store = place.made("store");
    fs::remove_dir_all(store.join("data")).unwrap();
    let mount = place.builder(&store).mount();
    let lost = fs::read(mount.mnt().join("f")).unwrap_err();
    assert_eq!(lost.raw_os_error(), Some(libc::EIO));
    fs::write(mount.mnt().join("other"), "mine").unwrap();
    fs::write(mount.mnt().join("new"), "new").unwrap();
    assert_eq!(fs::read(mount.mnt().join("other")).unwrap(), b"mine");
    drop(mount);
    let mut repair = Command::new(common::builder::binary());
    tools::output_of(repair.args(["check", "--repair"]).arg(&store));
}

/// Changes of all kinds stay in the view when the source is a copy with other inode numbers: whole files, pages, modes, names.
#[test]
fn a_store_belongs_to_one_source_until_it_is_told_another() {
    let place = Place::new();
    fs::create_dir_all(place.source.join("d/e")).unwrap();
    for name in ["pages", "mode", "d/e/deep", "moved", "theirs"] {
        fs::write(place.source.join(name), vec![b's'; 200_000]).unwrap();
    }
    let store = place.path("store");
    let mut mount = place.builder(&store).mount();
    let path = |name: &str| mount.mnt().join(name);
    fs::write(path("f"), "mine").unwrap();
    for name in ["pages", "d/e/deep", "moved", "theirs"] {
        let file = fs::OpenOptions::new().write(true).open(path(name));
        file.unwrap().write_all_at(b"mine", 100_000).unwrap();
    }
    fs::set_permissions(path("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(path("moved"), path("elsewhere")).unwrap();
    fs::rename(path("d"), path("renamed")).unwrap();
    fs::write(path("renamed/new"), "new").unwrap();
    assert!(mount.unmount().success());

    let clone = place.path("clone");
    tools::run(Command::new("cp").arg("-a").arg(&place.source).arg(&clone));
    fs::write(clone.join("theirs"), "changed since").unwrap();
    let over = |source: &Path| {
        let builder = Mount::builder().over(source);
        builder.option("--private").option(&store)
    };
    let words = "has changes to";
    refuses(over(&clone), 1, words);
    drop(over(&clone).option("--base-moved").mount());
    // It belongs to the clone now.
    refuses(place.builder(&store), 1, words);
    let mount = over(&clone).mount();
    let path = |name: &str| mount.mnt().join(name);
    assert_eq!(fs::read_to_string(path("f")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(path("renamed/new")).unwrap(), "new");
    let mut expected = vec![b's'; 200_000];
    assert!(fs::read(path("mode")).unwrap() == expected);
    assert_eq!(path("mode").metadata().unwrap().mode() & 0o7777, 0o600);
    expected[100_000..100_004].copy_from_slice(b"mine");
    for name in ["pages", "renamed/e/deep", "elsewhere"] {
        assert!(fs::read(path(name)).unwrap() == expected, "{name}");
    }
    // One that has changed since is a conflict.
    let error = fs::read(path("theirs")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    for name in ["d", "moved"] {
        assert!(!path(name).exists(), "{name}");
    }
}

#[test]
fn a_store_that_is_mounted_is_refused_until_its_mount_has_ended() {
    let place = Place::new();
    let store = place.path("store");
    let mut mount = place.builder(&store).mount();
    for builder in [
        place.builder(&store),
        place.builder(&store).option("-r"),
        place.builder(&store).option("--base-moved"),
    ] {
        refuses(builder, 1, "is in use by another mmfs; unmount that first");
    }
    fs::write(mount.mnt().join("f"), "goes on").unwrap();
    mount.unmount();
    drop(place.builder(&store).mount());
}

#[test]
fn as_root_a_store_on_a_read_only_filesystem_is_refused() {
    if !user::is_root() {
        return;
    }
    let place = Place::new();
    let disk = LoopFs::new("ext4", 32 << 20);
    let store = disk.path().join("store");
    drop(place.builder(&store).mount());
    let remount = |how: &str| {
        let option = format!("remount,{how}");
        tools::run(Command::new("mount").arg("-o").arg(option).arg(disk.path()));
    };
    remount("ro");
    let words = "Read-only file system";
    refuses(place.builder(&store), 1, words);
    refuses(place.builder(&store).option("-r"), 1, words);
    refuses(place.builder(&disk.path().join("new")), 1, words);
    remount("rw");
    drop(place.builder(&store).mount());
}

#[test]
fn options_of_a_private_view_that_say_nothing_are_refused() {
    let place = Place::new();
    let store = place.path("store");
    let table: [(&[&str], &str); 8] = [
        (&["--store-limit", "1G"], "is for private views"),
        (&["--on-source-change", "copy"], "is for private views"),
        (&["--base-moved"], "is for private views"),
        (&["--ephemeral", "--base-moved"], "cannot be used with"),
        (
            &["--ephemeral", "--passthrough", "--store-limit", "1G"],
            "--store-limit cannot be used with --passthrough",
        ),
        (&["--ephemeral", "--private", "x"], "cannot be used with"),
        (&["--ephemeral", "--store-limit", "much"], "K, M, G or T"),
        (&["-o", "private=/store"], "write store=STORE"),
    ];
    for (options, words) in table {
        let builder = Mount::builder().over(&place.source);
        refuses(builder.options(options.iter().copied()), 2, words);
    }
    let options = ["--passthrough", "--store-limit", "1G"];
    let builder = place.builder(&store).options(options);
    refuses(builder, 2, "cannot be used with --passthrough");
    assert!(!store.exists());
}

/// Read-only shows what the store has, and takes no changes.
#[test]
fn a_private_view_can_be_looked_at() {
    let place = Place::new();
    let store = place.made("store");
    let mount = place.builder(&store).option("-r").mount();
    let path = mount.mnt().join("f");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    for error in [
        fs::write(&path, "more").unwrap_err(),
        fs::remove_file(&path).unwrap_err(),
        fs::write(mount.mnt().join("new"), "").unwrap_err(),
    ] {
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }
}

/// `mmfs status` says what kind of view it is, and where its changes are.
#[test]
fn the_status_names_the_store() {
    let place = Place::new();
    let store = place.path("store");
    let mount = place.builder(&store).option("--store-limit=1G").mount();
    let status = |mount: &Mount| {
        let mut command = Command::new(common::builder::binary());
        let output = tools::run(command.arg("status").arg(mount.mnt()));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = status(&mount);
    for words in [
        ", private view",
        &format!("store {}", store.display()),
        "store-limit 1.0 GiB",
        "on-source-change stop",
    ] {
        assert!(
            text.replace("\n            ", " ").contains(words),
            "{words}: {text}"
        );
    }
    let builder = Mount::builder().over(&place.source).option("--ephemeral");
    let text = status(&builder.mount());
    assert!(text.contains(" ephemeral"), "{text}");
    assert!(status(&Mount::new()).contains(", shared view"));
}

/// XFS makes `f_fsid` of the device's number, and the store belonged to another source after the disk got another one.
#[test]
fn as_root_a_source_on_another_device_is_the_same_source() {
    if !user::is_root() {
        return;
    }
    let place = Place::new();
    let (image, other, point) = (
        place.path("image"),
        place.path("other"),
        place.path("point"),
    );
    fs::create_dir(&point).unwrap();
    for file in [&image, &other] {
        fs::File::create(file).unwrap().set_len(320 << 20).unwrap();
    }
    tools::run(Command::new("mkfs.xfs").arg("-q").arg(&image));
    let paths = [image.as_os_str(), point.as_os_str(), other.as_os_str()];
    let attach = r#"loop=$(losetup -f --show "$1") && mount "$loop" "$2" && echo "$loop""#;
    let first = tools::sh(attach, &paths[..2]);
    fs::write(point.join("f"), "source").unwrap();
    let id = || rustix::fs::statvfs(&point).unwrap().f_fsid;
    let before = id();
    let mounted = |text: &str| {
        let builder = Mount::builder().over(&point).option("--private");
        let mut mount = builder.option(place.path("store")).mount();
        let found = fs::read_to_string(mount.mnt().join("f")).unwrap();
        fs::write(mount.mnt().join("f"), "mine").unwrap();
        let ended = mount.unmount();
        assert!(ended.success());
        assert_eq!(found, text);
    };
    mounted("source");
    let with = |device: &str, script: &str| {
        tools::sh(script, &[&paths[..], &[device.trim().as_ref()]].concat());
    };
    with(&first, r#"umount "$2" && losetup -d "$4""#);
    let taken = tools::sh(r#"losetup -f --show "$3""#, &paths);
    let second = tools::sh(attach, &paths[..2]);
    let outcome = std::panic::catch_unwind(|| {
        assert_ne!(id(), before, "the test shows nothing");
        mounted("mine");
    });
    with(&second, r#"umount "$2"; losetup -d "$4""#);
    with(&taken, r#"losetup -d "$4""#);
    outcome.unwrap();
}
