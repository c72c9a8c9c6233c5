//! suid, sgid and capabilities of files that are changed in a private view.

mod common;
mod stage;

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};

use common::{Mount, tools, user};

/// Both are timed out at once: what the source has now is asked for.
const AT_ONCE: [&str; 4] = ["--attr-timeout", "0", "--entry-timeout", "0"];

/// Larger and smaller than what is copied at the first write.
const SIZES: [(&str, usize); 2] = [("small", 5000), ("large", 200_000)];

/// Programs of root, and a view of them.
struct Place {
    mount: Mount,
    dir: tempfile::TempDir,
}

impl Place {
    fn with(fill: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (source, store) = (dir.path().join("source"), dir.path().join("store"));
        fs::create_dir(&source).unwrap();
        fill(&source);
        let builder = Mount::builder()
            .over(&source)
            .option("--private")
            .option(&store);
        let mount = builder.options(AT_ONCE).options(["-o", "suid"]).mount();
        Self { mount, dir }
    }

    fn below(&self, name: &str) -> PathBuf {
        self.dir.path().join("source").join(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mount.mnt().join(name)
    }
}

fn make(path: &Path, size: usize, mode: u32) {
    fs::write(path, vec![b'x'; size]).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn give_capability(path: &Path) {
    tools::run(Command::new("setcap").arg("cap_net_raw+ep").arg(path));
}

/// Its permissions, and whether it has a capability.
fn privileges(path: &Path) -> (u32, bool) {
    let shown = Command::new("getcap").arg(path).output().unwrap();
    let listed = Command::new("getfattr")
        .args(["-h", "-m", "-", "--"])
        .arg(path)
        .output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    let has_capability = !shown.stdout.is_empty();
    assert_eq!(
        listed.contains("security.capability"),
        has_capability,
        "{path:?}"
    );
    (fs::metadata(path).unwrap().mode() & 0o7777, has_capability)
}

fn change_a_byte(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"y", 10).unwrap();
}

/// Whoever may write in the view would have them for what he wrote. (proves: S64)
#[test]
fn s64_as_root_what_the_source_grants_later_is_not_for_changed_bytes() {
    let place = Place::with(|source| {
        for (name, size) in SIZES {
            make(&source.join(name), size, 0o755);
        }
        make(&source.join("cut"), 5000, 0o755);
        make(&source.join("mode"), 5000, 0o700);
        make(&source.join("unchanged"), 5000, 0o755);
        make(&source.join("plain-group"), 5000, 0o644);
    });
    change_a_byte(&place.path("plain-group"));
    fs::set_permissions(place.below("plain-group"), Permissions::from_mode(0o2644)).unwrap();
    assert_eq!(privileges(&place.path("plain-group")).0, 0o644);
    for (name, _) in SIZES {
        change_a_byte(&place.path(name));
    }
    let cut = OpenOptions::new()
        .write(true)
        .open(place.path("cut"))
        .unwrap();
    cut.set_len(100).unwrap();
    fs::set_permissions(place.path("mode"), Permissions::from_mode(0o755)).unwrap();
    for name in ["small", "large", "cut", "mode", "unchanged"] {
        fs::set_permissions(place.below(name), Permissions::from_mode(0o6755)).unwrap();
        give_capability(&place.below(name));
    }
    for name in ["small", "large", "cut"] {
        assert_eq!(privileges(&place.path(name)), (0o755, false), "{name}");
    }
    // Its bytes are the source's, and so is the capability. Its mode is the view's own.
    assert_eq!(privileges(&place.path("mode")), (0o755, true));
    assert_eq!(privileges(&place.path("unchanged")), (0o6755, true));
}

/// What one side has given to an owner does not count for the owner that the other side gives. (proves: S64)
#[test]
fn s64_as_root_suid_counts_for_the_owner_that_it_was_given_with() {
    if !user::is_root() {
        return;
    }
    let own = |path: &Path, user: u32| chown(path, Some(user), Some(user)).unwrap();
    let place = Place::with(|source| {
        for name in ["theirs", "ours", "both"] {
            make(&source.join(name), 5000, 0o755);
            own(&source.join(name), user::ordinary());
        }
    });
    // In the view a user writes his program and makes it suid. Then the source makes root its owner.
    fs::write(place.path("theirs"), "his").unwrap();
    fs::set_permissions(place.path("theirs"), Permissions::from_mode(0o6755)).unwrap();
    own(&place.below("theirs"), 0);
    let shown = place.path("theirs").metadata().unwrap();
    assert_eq!(
        (shown.uid(), shown.mode() & 0o7777),
        (user::ordinary(), 0o6755)
    );
    // In the view root becomes the owner. Then the user makes his program in the source suid.
    own(&place.path("ours"), 0);
    fs::set_permissions(place.below("ours"), Permissions::from_mode(0o6755)).unwrap();
    let shown = place.path("ours").metadata().unwrap();
    assert_eq!((shown.uid(), shown.mode() & 0o7777), (0, 0o755));
    // All is the source's.
    fs::set_permissions(place.below("both"), Permissions::from_mode(0o6755)).unwrap();
    let shown = place.path("both").metadata().unwrap();
    assert_eq!(
        (shown.uid(), shown.mode() & 0o7777),
        (user::ordinary(), 0o6755)
    );
}

/// Root's change leaves suid and sgid, takes capabilities, and stays so. The kernel asks alike for both, so no file here has both.
#[test]
fn as_root_a_change_of_bytes_takes_what_it_takes_on_other_filesystems() {
    const WAYS: [&str; 4] = ["written", "cut", "grown", "punched"];
    let each = |root: &Path, work: &mut dyn FnMut(&Path, usize, &str)| {
        for (name, size) in SIZES {
            for way in WAYS {
                let path = root.join(format!("{name}-{way}"));
                work(&path, size, way);
                work(&path.with_extension("capable"), size, way);
            }
        }
    };
    let grant = |path: &Path| match path.extension() {
        None => fs::set_permissions(path, Permissions::from_mode(0o6755)).unwrap(),
        Some(_) => give_capability(path),
    };
    let fill = |root: &Path| {
        each(root, &mut |path, size, _| {
            make(path, size, 0o755);
            grant(path);
        });
    };
    let change = |root: &Path| {
        each(root, &mut |path, size, way| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match way {
                "written" => file.write_all_at(b"y", 10).unwrap(),
                "cut" => file.set_len(100).unwrap(),
                "grown" => file.set_len(2 * size as u64).unwrap(),
                _ => fallocate(&file, punch, 0, 4096).unwrap(),
            }
        });
    };
    let seen = |root: &Path| {
        let mut all = Vec::new();
        each(root, &mut |path, _, _| {
            all.push((path.file_name().unwrap().to_owned(), privileges(path)));
        });
        all
    };
    let native = tempfile::tempdir().unwrap();
    fill(native.path());
    change(native.path());
    let mut place = Place::with(fill);
    change(place.mount.mnt());
    assert_eq!(seen(place.mount.mnt()), seen(native.path()));
    place.mount.remount();
    assert_eq!(seen(place.mount.mnt()), seen(native.path()), "remounted");
    for root in [native.path(), place.mount.mnt()] {
        each(root, &mut |path, _, _| grant(path));
        change(root);
    }
    assert_eq!(seen(place.mount.mnt()), seen(native.path()), "given again");
}

/// A store through a mapping takes neither suid nor sgid, and no capability.
/// (proves: S22)
#[test]
fn as_root_a_store_through_a_mapping_leaves_privileges() {
    let mut place = Place::with(|source| {
        for (name, size) in SIZES {
            make(&source.join(name), size, 0o6755);
            give_capability(&source.join(name));
        }
    });
    let program = place.dir.path().join("store-program");
    stage::compile("store", &program);
    for (name, _) in SIZES {
        let mut store = Command::new(&program);
        tools::run(
            store
                .arg("shared")
                .arg(place.path(name))
                .args(["0", "33", "4"]),
        );
    }
    for again in [false, true] {
        for (name, _) in SIZES {
            assert_eq!(
                privileges(&place.path(name)),
                (0o6755, true),
                "{name} {again}"
            );
            assert_eq!(&fs::read(place.path(name)).unwrap()[..4], b"!!!!");
        }
        place.mount.remount();
    }
    for (name, _) in SIZES {
        make(&place.below(name), 5, 0o755);
        assert_eq!(privileges(&place.below(name)), (0o755, false));
        assert_eq!(privileges(&place.path(name)), (0o6755, true), "{name}");
    }
    // A write takes them as on other filesystems.
    for (name, _) in SIZES {
        let file = OpenOptions::new().write(true).open(place.path(name));
        file.unwrap().write_all_at(b"y", 100).unwrap();
        assert!(!privileges(&place.path(name)).1, "{name}");
    }
}

/// Without execution for the group, sgid has another meaning, and stays more often.
#[test]
fn as_root_sgid_without_execution_for_the_group_goes_as_on_other_filesystems() {
    let native = tempfile::tempdir().unwrap();
    let names = ["owned", "written", "large"];
    let make_all = |root: &Path| {
        for name in names {
            make(
                &root.join(name),
                if name == "large" { 200_000 } else { 5000 },
                0o2666,
            );
        }
    };
    make_all(native.path());
    fs::set_permissions(native.path(), Permissions::from_mode(0o755)).unwrap();
    let mut place = Place::with(make_all);
    let user = user::ordinary();
    let change = |root: &Path| {
        chown(root.join("owned"), Some(user), Some(user)).unwrap();
        for name in ["written", "large"] {
            // Root opens it, and the user writes.
            let file = OpenOptions::new()
                .append(true)
                .open(root.join(name))
                .unwrap();
            let mut write = user::as_user(user, "echo");
            assert!(write.stdout(file).status().unwrap().success());
        }
    };
    let seen = |root: &Path| names.map(|name| privileges(&root.join(name)).0);
    change(native.path());
    change(place.mount.mnt());
    assert_eq!(seen(place.mount.mnt()), seen(native.path()));
    place.mount.remount();
    assert_eq!(seen(place.mount.mnt()), seen(native.path()));
}
