//! `mmfs diff`: what a private view has changed, mounted or not.

mod common;
mod survive;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::private::{AT_ONCE, Listing, change_first_page, large, listing, place, private};
use common::{builder, tools};
use survive::Rng;

fn diff(object: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(builder::binary());
    tools::output_of(command.arg("diff").args(options).arg(object))
}

fn lines(object: &Path, options: &[&str]) -> Vec<String> {
    let output = diff(object, options);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(Into::into).collect()
}

#[test]
fn each_kind_has_its_line_mounted_or_not() {
    let (_place, source, store) = place();
    for name in [
        "bytes", "same", "gone", "mode", "old", "type", "saved", "touched",
    ] {
        fs::write(source.join(name), name).unwrap();
    }
    fs::write(source.join("large"), large()).unwrap();
    fs::create_dir_all(source.join("d/e")).unwrap();
    fs::write(source.join("d/e/f"), "f").unwrap();
    fs::create_dir(source.join("again")).unwrap();
    for name in ["again/kept", "again/gone", "again/other"] {
        fs::write(source.join(name), name).unwrap();
    }
    symlink("here", source.join("link")).unwrap();
    fs::hard_link(source.join("same"), source.join("second")).unwrap();
    let mut mount = private(&source, &store, &[]);
    let at = |name: &str| mount.mnt().join(name);
    fs::write(at("bytes"), "other").unwrap();
    fs::write(at("same"), "same").unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::set_permissions(at("mode"), Permissions::from_mode(0o600)).unwrap();
    fs::rename(at("old"), at("new name")).unwrap();
    fs::remove_file(at("type")).unwrap();
    fs::create_dir(at("type")).unwrap();
    fs::write(at("saved~"), "other").unwrap();
    fs::rename(at("saved~"), at("saved")).unwrap();
    File::open(at("touched"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    change_first_page(&at("large"));
    fs::rename(at("d/e"), at("moved")).unwrap();
    fs::write(at("moved/more"), "").unwrap();
    fs::remove_dir_all(at("again")).unwrap();
    fs::create_dir(at("again")).unwrap();
    fs::write(at("again/kept"), "again/kept").unwrap();
    fs::write(at("again/other"), "changed").unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("there", at("link")).unwrap();
    fs::hard_link(at("same"), at("third")).unwrap();
    let expected = [
        "D again/gone",
        "M again/other",
        "M bytes",
        "D gone",
        "M large",
        "M link",
        "P mode",
        "R d/e -> moved",
        "A moved/more",
        "R old -> 'new name'",
        "M saved",
        "A third",
        "T type",
    ];
    assert_eq!(lines(mount.mnt(), &[]), expected);
    let of_zero = diff(mount.mnt(), &["-z"]).stdout;
    let of_zero: Vec<_> = of_zero.split(|byte| *byte == 0).collect();
    assert_eq!(of_zero.len(), expected.len() + 3);
    assert!(
        of_zero
            .windows(2)
            .any(|two| two == [&b"R new name"[..], b"old"])
    );
    let pages = lines(mount.mnt(), &["--pages"]);
    let begin = pages.iter().position(|line| line == "M large").unwrap();
    assert_eq!(pages[begin + 1..begin + 3], ["  0 4096", "M link"]);
    let stat = lines(mount.mnt(), &["--stat"]);
    assert!(
        stat.contains(&"M large  4.0 KiB of 195.3 KiB".into()),
        "{stat:?}"
    );
    assert_eq!(diff(mount.mnt(), &["--exit-code"]).status.code(), Some(4));
    mount.unmount();
    assert_eq!(lines(&store, &[]), expected);
    let json = lines(&store, &["--json", "--pages"]);
    let read: Vec<serde_json::Value> = json
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(read.len(), expected.len());
    let of_large = read
        .iter()
        .find(|one| one["path"]["text"] == "large")
        .unwrap();
    assert_eq!(of_large["ranges"], serde_json::json!([[0, 4096]]));
    assert_eq!(of_large["now"]["type"], "file");
    assert_eq!(fs::read(source.join("again/gone")).unwrap(), b"again/gone");
}

#[test]
fn no_change_is_none_and_what_is_no_view_is_refused() {
    let (place, source, store) = place();
    fs::write(source.join("f"), "f").unwrap();
    let mut mount = private(&source, &store, &[]);
    assert_eq!(diff(mount.mnt(), &["--exit-code"]).status.code(), Some(0));
    assert_eq!(lines(mount.mnt(), &["--stat"]), ["no changes; 0 B differ"]);
    mount.unmount();
    assert_eq!(diff(&store, &["--exit-code"]).status.code(), Some(0));
    let refused = |object: &Path, options: &[&str], code| {
        let output = diff(object, options);
        assert_eq!(output.status.code(), Some(code), "{object:?} {options:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(output.stdout.is_empty());
        told
    };
    refused(&place.path().join("nothing"), &[], 1);
    refused(&source, &[], 1);
    refused(&store, &["--stat", "--json"], 2);
    refused(&store, &["-z", "--pages"], 2);
    let mirror = common::Mount::over(&source, [""; 0]);
    assert!(refused(mirror.mnt(), &[], 1).contains("only a private view"));
    drop(mirror);
    let aside = place.path().join("aside");
    fs::rename(&source, &aside).unwrap();
    fs::create_dir(&source).unwrap();
    assert!(refused(&store, &[], 1).contains("--base-moved"));
}

#[test]
fn what_the_source_changed_too_is_a_conflict() {
    let (_place, source, store) = place();
    for name in ["edited", "replaced", "removed", "alone"] {
        fs::write(source.join(name), large()).unwrap();
    }
    let mount = private(&source, &store, &AT_ONCE);
    for name in ["edited", "replaced", "removed"] {
        change_first_page(&mount.mnt().join(name));
    }
    assert_eq!(
        lines(mount.mnt(), &[]),
        ["M edited", "M removed", "M replaced"]
    );
    change_first_page(&source.join("alone"));
    let file = fs::OpenOptions::new()
        .append(true)
        .open(source.join("edited"))
        .unwrap();
    file.write_all_at(b"more", 200_000).unwrap();
    fs::write(source.join("new"), "new").unwrap();
    fs::rename(source.join("new"), source.join("replaced")).unwrap();
    fs::remove_file(source.join("removed")).unwrap();
    assert_eq!(
        lines(mount.mnt(), &[]),
        ["C edited", "C removed", "C replaced"]
    );
}

#[test]
fn directories_that_change_places_are_renamed() {
    let (_place, source, store) = place();
    for name in ["a", "b", "outer/inner"] {
        fs::create_dir_all(source.join(name)).unwrap();
        fs::write(source.join(name).join("f"), name).unwrap();
    }
    let mount = private(&source, &store, &[]);
    let at = |name: &str| mount.mnt().join(name);
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    let cwd = rustix::fs::CWD;
    rustix::fs::renameat_with(cwd, at("a"), cwd, at("b"), exchange).unwrap();
    // What was taken out of a directory is not deleted with it.
    fs::rename(at("outer/inner"), at("inner")).unwrap();
    fs::remove_dir_all(at("outer")).unwrap();
    let expected = ["R b -> a", "R a -> b", "R outer/inner -> inner", "D outer"];
    assert_eq!(lines(mount.mnt(), &[]), expected);
}

fn write(root: &Path, paths: &[&str]) {
    for path in paths {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.file_name().unwrap().as_bytes()).unwrap();
    }
}

/// What lay in a directory that was renamed away is not in the new one of its name.
#[test]
fn a_directory_in_the_place_of_a_renamed_one_is_new() {
    let (_place, source, store) = place();
    write(&source, &["d/f", "d/e/g"]);
    let mount = private(&source, &store, &[]);
    let at = |name: &str| mount.mnt().join(name);
    fs::rename(at("d"), at("x")).unwrap();
    fs::create_dir(at("d")).unwrap();
    fs::copy(at("x/f"), at("d/f")).unwrap();
    assert_eq!(lines(mount.mnt(), &[]), ["A d", "A d/f", "R d -> x"]);
    fs::rename(at("x/e"), at("d/e")).unwrap();
    let expected = ["A d", "R d/e -> d/e", "A d/f", "R d -> x"];
    assert_eq!(lines(mount.mnt(), &[]), expected);
}

#[test]
fn what_a_renamed_directory_replaced_is_deleted() {
    let (_place, source, store) = place();
    write(&source, &["d/sub/other", "d/g", "q/sub/mine", "q/h"]);
    let mount = private(&source, &store, &[]);
    let at = |name: &str| mount.mnt().join(name);
    fs::remove_dir_all(at("d")).unwrap();
    fs::rename(at("q"), at("d")).unwrap();
    let expected = ["R q -> d", "D d/g", "D d/sub/other"];
    assert_eq!(lines(mount.mnt(), &[]), expected);
}

/// A change of a file shows by all its names, also by those that are left when the one is gone by which it was changed.
#[test]
fn each_name_of_a_changed_file_has_a_line() {
    let (_place, source, store) = place();
    write(&source, &["a", "o", "in/p", "in/q"]);
    for (of, other) in [
        ("a", "b"),
        ("a", "deep/c"),
        ("o", "o2"),
        ("in/p", "p2"),
        ("in/q", "q2"),
    ] {
        fs::create_dir_all(source.join(other).parent().unwrap()).unwrap();
        fs::hard_link(source.join(of), source.join(other)).unwrap();
    }
    let mount = private(&source, &store, &[]);
    let at = |name: &str| mount.mnt().join(name);
    fs::write(at("a"), "changed").unwrap();
    assert_eq!(lines(mount.mnt(), &[]), ["M a", "M b", "M deep/c"]);
    fs::remove_file(at("a")).unwrap();
    assert_eq!(lines(mount.mnt(), &[]), ["D a", "M b", "M deep/c"]);
    fs::set_permissions(at("o"), Permissions::from_mode(0o600)).unwrap();
    fs::rename(at("o2"), at("a")).unwrap();
    fs::remove_file(at("o")).unwrap();
    let expected = ["R o2 -> a", "M b", "M deep/c", "D o"];
    assert_eq!(lines(mount.mnt(), &[]), expected);
    fs::set_permissions(at("in/p"), Permissions::from_mode(0o600)).unwrap();
    fs::remove_dir_all(at("in")).unwrap();
    let found = lines(mount.mnt(), &[]);
    for line in ["D in", "D in/p", "D in/q", "P p2"] {
        assert!(found.contains(&line.into()), "{found:?}");
    }
    assert!(!found.iter().any(|line| line.ends_with("q2")), "{found:?}");
}

/// Where inodes are found by their names, a directory is needed as long as what lies in it.
#[test]
fn a_source_that_mmfs_mounts_is_looked_through() {
    let (place, source, store) = place();
    write(&source, &["d/e/f", "d/e/gone", "d/k/l/m"]);
    let mut mirror = common::Mount::over(&source, [""; 0]);
    let mut mount = private(mirror.mnt(), &store, &[]);
    fs::set_permissions(mount.mnt().join("d/e/f"), Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(mount.mnt().join("d/e/gone")).unwrap();
    fs::remove_dir_all(mount.mnt().join("d/k")).unwrap();
    let expected = ["P d/e/f", "D d/e/gone", "D d/k", "D d/k/l", "D d/k/l/m"];
    assert_eq!(lines(mount.mnt(), &[]), expected);
    mount.unmount();
    assert_eq!(lines(&store, &[]), expected);
    mirror.unmount();
    drop(place);
}

/// A filesystem of its own.
struct Below(PathBuf);

impl Below {
    fn new(at: &Path) -> Self {
        let mut mount = Command::new("mount");
        tools::run(mount.args(["-t", "tmpfs", "tmpfs"]).arg(at));
        Self(at.into())
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        tools::run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

#[test]
fn as_root_filesystems_below_the_source_are_looked_through() {
    let (_place, source, store) = place();
    fs::create_dir(source.join("sub")).unwrap();
    let sub = Below::new(&source.join("sub"));
    write(&source, &["sub/d/e/f", "sub/d/k/l"]);
    let mut mount = private(&source, &store, &[]);
    fs::set_permissions(mount.mnt().join("sub/d/e/f"), Permissions::from_mode(0o600)).unwrap();
    fs::remove_dir_all(mount.mnt().join("sub/d/k")).unwrap();
    let expected = ["P sub/d/e/f", "D sub/d/k", "D sub/d/k/l"];
    assert_eq!(lines(mount.mnt(), &[]), expected);
    mount.unmount();
    assert_eq!(lines(&store, &[]), expected);
    drop(sub);
}

/// Only the user's daemon can know that the machine did not lose its power.
#[test]
fn as_root_a_killed_users_store_is_not_told_as_unchanged() {
    let (place, source, _) = place();
    let user = common::user::ordinary();
    let own = place.path().join("own");
    fs::create_dir(&own).unwrap();
    for path in [&own, &source] {
        std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
    }
    let store = own.join("store");
    let builder = common::Mount::builder().over(&source).as_user(user);
    let mut mount = builder.option("--private").option(&store).mount();
    let mut touch = common::user::as_user(user, "touch");
    tools::run(touch.arg(mount.mnt().join("new")));
    assert_eq!(lines(mount.mnt(), &[]), ["A new"]);
    mount.signal(rustix::process::Signal::KILL);
    mount.wait_end();
    let output = diff(&store, &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("only user") && output.stdout.is_empty(),
        "{told}"
    );
    let mut of_user = common::user::as_user(user, builder::binary());
    let output = of_user.arg("diff").arg(&store).output().unwrap();
    assert_eq!(output.stdout, b"A new\n");
    mount.start_again();
}

#[test]
fn holes_are_not_read() {
    let (_place, source, store) = place();
    let file = File::create(source.join("huge")).unwrap();
    file.set_len(8 << 40).unwrap();
    file.write_all_at(&large(), 4 << 40).unwrap();
    fs::write(source.join("emptied"), large()).unwrap();
    let mount = private(&source, &store, &[]);
    let huge = fs::OpenOptions::new()
        .write(true)
        .open(mount.mnt().join("huge"))
        .unwrap();
    huge.write_all_at(b"one", 5 << 40).unwrap();
    huge.set_len(7 << 40).unwrap();
    huge.set_len(8 << 40).unwrap();
    let emptied = fs::OpenOptions::new()
        .write(true)
        .open(mount.mnt().join("emptied"))
        .unwrap();
    emptied.set_len(0).unwrap();
    emptied.set_len(8 << 40).unwrap();
    let pages = mount.within(std::time::Duration::from_secs(60), || {
        lines(mount.mnt(), &["--pages"])
    });
    let at = (5u64 << 40).to_string();
    assert!(pages.contains(&format!("  {at} 4096")), "{pages:?}");
    assert!(pages.contains(&"M emptied".into()) && pages.contains(&"M huge".into()));
}

/// A name that is moved to and fro is always at one of its places.
#[test]
fn a_view_in_use_is_told_as_of_one_moment() {
    let (_place, source, store) = place();
    fs::write(source.join("here"), "here").unwrap();
    let mount = private(&source, &store, &[]);
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (here, there) = (mount.mnt().join("here"), mount.mnt().join("there"));
            let mut count = 0u64;
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                fs::rename(&here, &there).unwrap();
                // Barriers come in between, which replace the store's files.
                fs::write(
                    mount.mnt().join(format!("n{}", count % 50)),
                    vec![1; 70_000],
                )
                .unwrap();
                if count % 16 == 0 {
                    File::open(mount.mnt()).unwrap().sync_all().unwrap();
                }
                fs::rename(&there, &here).unwrap();
                count += 1;
            }
        });
        for _ in 0..60 {
            let found = lines(mount.mnt(), &[]);
            let moved: Vec<_> = found.iter().filter(|line| line.contains("here")).collect();
            assert!(
                moved.is_empty() || moved == ["R here -> there"],
                "{moved:?}"
            );
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

fn change_at_random(root: &Path, rng: &mut Rng) {
    let names = ["a", "b", "c"];
    let mut path = root.to_path_buf();
    for _ in 0..=rng.below(3) {
        path.push(names[rng.below(3) as usize]);
    }
    let mut other = root.to_path_buf();
    for _ in 0..=rng.below(3) {
        other.push(names[rng.below(3) as usize]);
    }
    // Most of these fail now and then.
    let _ = match rng.below(11) {
        0 => fs::create_dir(&path),
        1 => fs::write(&path, format!("{}", rng.below(3))),
        2 => fs::remove_file(&path),
        3 => fs::remove_dir_all(&path),
        4 | 5 => fs::rename(&path, &other),
        6 => fs::hard_link(&path, &other),
        7 => symlink("target", &path),
        8 => fs::set_permissions(&path, Permissions::from_mode(0o700 + rng.below(8) as u32)),
        9 => fs::write(&path, vec![b'x'; 5000 + rng.below(2) as usize]),
        _ => {
            let file = fs::OpenOptions::new().write(true).open(&path);
            file.and_then(|file| file.write_all_at(b"y", rng.below(5000)))
        }
    };
}

/// The source's tree, changed as the lines say, is the view's.
fn judge(source: &Listing, view: &Listing, zero: &[u8]) {
    let mut fields = zero
        .split(|byte| *byte == 0)
        .filter(|field| !field.is_empty());
    let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
    let (mut moves, mut marked, mut deleted) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    while let Some(field) = fields.next() {
        let (kind, at) = (field[0], path(&field[2..]));
        match kind {
            b'R' => moves.push((path(fields.next().unwrap()), at)),
            b'D' => assert!(deleted.insert(at)),
            _ => assert!(marked.insert(at, kind).is_none()),
        }
    }
    // Each path of the source goes along with the nearest of its directories that was renamed.
    let target = |at: &Path| {
        let nearest = at
            .ancestors()
            .find_map(|up| moves.iter().find(|(from, _)| from == up));
        match nearest {
            Some((from, to)) if from == at => to.clone(),
            Some((from, to)) => to.join(at.strip_prefix(from).unwrap()),
            None => at.to_path_buf(),
        }
    };
    let mut left = view.clone();
    let mut taken = BTreeSet::new();
    for (at, before) in source {
        if deleted.contains(at) {
            assert!(!moves.iter().any(|(from, _)| from == at), "{at:?}");
            continue;
        }
        let to = target(at);
        let is_renamed = moves.iter().any(|(from, _)| from == at);
        // A path that shows something of its own hides what was there.
        if !is_renamed && (marked.contains_key(&to) || moves.iter().any(|(_, other)| *other == to))
        {
            continue;
        }
        let now = view
            .get(&to)
            .unwrap_or_else(|| panic!("{at:?} -> {to:?} is not there"));
        assert!(taken.insert(to.clone()), "two at {to:?}");
        assert!(is_renamed || now == before, "{at:?} -> {to:?} differs");
        left.remove(&to);
    }
    for (at, now) in left {
        let kind = marked.get(&at);
        let before = source.get(&at);
        match kind {
            Some(b'A') | Some(b'T') => {}
            Some(b'M') => assert!(before.is_none_or(|before| before.2 != now.2), "{at:?}"),
            Some(b'P') => assert!(before.is_none_or(|before| before != &now), "{at:?}"),
            other => panic!("{at:?} is {other:?}"),
        }
    }
    for at in marked.keys() {
        assert!(view.contains_key(at), "{at:?} is told, and not there");
    }
}

#[test]
fn the_lines_lead_from_the_source_to_the_view() {
    let cases = std::env::var("MMFS_CASES").map_or(30, |cases| cases.parse().unwrap());
    let mut rng = Rng::new();
    for case in 0..cases {
        let (_place, source, store) = place();
        for _ in 0..60 {
            change_at_random(&source, &mut rng);
        }
        let mut mount = private(&source, &store, &[]);
        for _ in 0..1 + rng.below(60) {
            change_at_random(mount.mnt(), &mut rng);
        }
        let (before, now) = (listing(&source), listing(mount.mnt()));
        let mounted = diff(mount.mnt(), &["-z"]);
        let told = String::from_utf8_lossy(&mounted.stdout).replace('\0', "\n");
        let list = |root: &Path| {
            tools::sh(
                "find \"$1\" -printf '%P %i %n %y %m\\n'",
                &[root.as_os_str()],
            )
        };
        println!("source:\n{}view:\n{}", list(&source), list(mount.mnt()));
        println!(
            "case {case}:\n{told}{}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        assert!(mounted.status.success());
        judge(&before, &now, &mounted.stdout);
        if case % 3 == 0 {
            mount.unmount();
            assert_eq!(diff(&store, &["-z"]).stdout, mounted.stdout);
        }
    }
}
