//! A private view whose source changes: which file the changes belong to, in this life and in the next.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::private::{AT_ONCE, change_first_page, large, place, private};
use common::{LoopFs, Mount, tools};

/// The first page of a file that `change_first_page` has changed.
fn is_changed(path: &Path) -> bool {
    let mut page = [0; 4096];
    fs::File::open(path).unwrap().read_exact(&mut page).unwrap();
    &page[10..17] == b"changed"
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries
        .map(name)
        .map(|name| name.into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What is mounted below the source, until it is dropped.
struct Below(PathBuf);

impl Below {
    fn new(image: &LoopFs, point: PathBuf) -> Self {
        tools::run(
            Command::new("mount")
                .arg("--bind")
                .args([image.path(), &point]),
        );
        Self(point)
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        tools::run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

#[test]
fn as_root_filesystems_below_are_found_again_in_any_order() {
    let (_place, source, store) = place();
    let (one, other) = (LoopFs::new("ext4", 8 << 20), LoopFs::new("ext4", 8 << 20));
    let points = [source.join("one"), source.join("other")];
    for (image, point) in [(&one, &points[0]), (&other, &points[1])] {
        fs::create_dir(point).unwrap();
        // The same inode number on both.
        fs::write(image.path().join("f"), large()).unwrap();
    }
    let mut below = vec![
        Below::new(&one, points[0].clone()),
        Below::new(&other, points[1].clone()),
    ];
    let mut mount = private(&source, &store, &AT_ONCE);
    for point in ["one", "other"] {
        let path = mount.mnt().join(point).join("f");
        change_first_page(&path);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let numbers = |mount: &Mount, order: [&str; 2]| {
        let number = |name: &str| {
            fs::metadata(mount.mnt().join(name).join("f"))
                .unwrap()
                .ino()
        };
        order.map(|name| (name.to_owned(), number(name)))
    };
    let [one_is, other_is] = numbers(&mount, ["one", "other"]);
    let last = mount.mnt().join("other/f");
    fs::write(&last, "of the other").unwrap();
    mount.unmount();
    below.clear();
    let _below = [
        Below::new(&other, points[1].clone()),
        Below::new(&one, points[0].clone()),
    ];
    for order in [["other", "one"], ["one", "other"]] {
        let mount = private(&source, &store, &AT_ONCE);
        for found in numbers(&mount, order) {
            assert!([&one_is, &other_is].contains(&&found), "{found:?}");
        }
        for point in order {
            let listed = fs::read_dir(mount.mnt().join(point)).unwrap();
            let mut listed = listed.map(|entry| entry.unwrap().ino());
            let number = fs::metadata(mount.mnt().join(point).join("f"))
                .unwrap()
                .ino();
            assert!(listed.any(|listed| listed == number));
            let path = mount.mnt().join(point).join("f");
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(metadata.mode() & 0o777, 0o600, "{point}");
            if point == "one" {
                assert!(is_changed(&path));
                assert_eq!(&fs::read(&path).unwrap()[4096..], &large()[4096..]);
            } else {
                assert_eq!(fs::read_to_string(&path).unwrap(), "of the other");
            }
        }
        let mut mount = mount;
        mount.unmount();
    }
}

#[test]
fn a_file_that_the_source_renamed_keeps_its_changes_under_its_name() {
    let (_place, source, store) = place();
    fs::write(source.join("paged"), large()).unwrap();
    fs::write(source.join("small"), "theirs").unwrap();
    fs::create_dir(source.join("d")).unwrap();
    fs::write(source.join("d/inside"), "theirs").unwrap();
    let mut mount = private(&source, &store, &AT_ONCE);
    change_first_page(&mount.mnt().join("paged"));
    for name in ["small", "d/inside"] {
        fs::write(mount.mnt().join(name), "ours").unwrap();
    }
    for name in ["paged", "small", "d"] {
        fs::rename(source.join(name), source.join(format!("{name}~"))).unwrap();
    }
    for _ in 0..2 {
        let path = |name: &str| mount.mnt().join(name);
        let all = ["d", "d~", "paged", "paged~", "small", "small~"];
        assert_eq!(names(mount.mnt()), all);
        for name in ["small", "d/inside"] {
            assert_eq!(fs::read_to_string(path(name)).unwrap(), "ours");
        }
        for name in ["small~", "d~/inside"] {
            assert_eq!(fs::read_to_string(path(name)).unwrap(), "theirs");
        }
        assert!(is_changed(&path("paged")));
        assert_eq!(fs::read(path("paged~")).unwrap(), large());
        assert_eq!(
            fs::read(path("paged")).unwrap_err().raw_os_error(),
            Some(libc::EIO)
        );
        mount.remount();
    }
    // What is changed under the new name is another file.
    fs::write(mount.mnt().join("small~"), "new").unwrap();
    assert_eq!(
        fs::read_to_string(mount.mnt().join("small")).unwrap(),
        "ours"
    );
    fs::remove_file(mount.mnt().join("small")).unwrap();
    mount.remount();
    assert_eq!(
        fs::read_to_string(mount.mnt().join("small~")).unwrap(),
        "new"
    );
}

#[test]
fn a_file_that_the_source_renamed_and_renamed_back_is_whole_again() {
    let (_place, source, store) = place();
    fs::write(source.join("f"), large()).unwrap();
    let mut mount = private(&source, &store, &AT_ONCE);
    change_first_page(&mount.mnt().join("f"));
    fs::rename(source.join("f"), source.join("g")).unwrap();
    assert_eq!(fs::read(mount.mnt().join("g")).unwrap(), large());
    assert!(fs::read(mount.mnt().join("f")).is_err());
    fs::rename(source.join("g"), source.join("f")).unwrap();
    for _ in 0..2 {
        assert_eq!(names(mount.mnt()), ["f"]);
        assert!(is_changed(&mount.mnt().join("f")));
        assert_eq!(fs::read(mount.mnt().join("f")).unwrap().len(), 200_000);
        mount.remount();
    }
}

#[test]
fn a_change_by_one_name_shows_by_the_other_and_none_returns_to_the_source() {
    let (_place, source, store) = place();
    fs::write(source.join("a"), "theirs").unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    fs::hard_link(source.join("a"), source.join("c")).unwrap();
    let mut mount = private(&source, &store, &AT_ONCE);
    let read = |mount: &Mount, name: &str| fs::read_to_string(mount.mnt().join(name)).unwrap();
    fs::write(mount.mnt().join("a"), "ours").unwrap();
    let links = |mount: &Mount, name: &str| fs::metadata(mount.mnt().join(name)).unwrap().nlink();
    for _ in 0..2 {
        assert_eq!((read(&mount, "b"), links(&mount, "b")), ("ours".into(), 3));
        mount.remount();
    }
    // From here on it is changed by this name, too.
    fs::write(mount.mnt().join("b"), "ours too").unwrap();
    fs::write(source.join("new"), "new").unwrap();
    fs::rename(source.join("new"), source.join("a")).unwrap();
    for _ in 0..2 {
        assert_eq!(read(&mount, "a"), "ours too");
        assert_eq!(read(&mount, "b"), "ours too");
        mount.remount();
    }
}

#[test]
fn a_name_that_was_removed_leaves_the_changes_to_the_others() {
    let (_place, source, store) = place();
    fs::write(source.join("a"), "theirs").unwrap();
    fs::hard_link(source.join("a"), source.join("b")).unwrap();
    let mut mount = private(&source, &store, &AT_ONCE);
    fs::remove_file(mount.mnt().join("a")).unwrap();
    fs::write(mount.mnt().join("b"), "ours").unwrap();
    fs::remove_file(source.join("a")).unwrap();
    for _ in 0..2 {
        assert_eq!(names(mount.mnt()), ["b"]);
        assert_eq!(fs::read_to_string(mount.mnt().join("b")).unwrap(), "ours");
        mount.remount();
    }
}

#[test]
fn what_the_source_has_lost_is_shown_as_it_was() {
    let (_place, source, store) = place();
    std::os::unix::fs::symlink("target", source.join("link")).unwrap();
    for dir in ["many", "many/1", "many/2", "many/3"] {
        fs::create_dir(source.join(dir)).unwrap();
    }
    let mut mount = private(&source, &store, &AT_ONCE);
    fs::rename(mount.mnt().join("link"), mount.mnt().join("moved")).unwrap();
    for dir in ["many/1", "many/2", "many/3"] {
        fs::remove_dir(mount.mnt().join(dir)).unwrap();
    }
    fs::remove_file(source.join("link")).unwrap();
    fs::remove_dir_all(source.join("many")).unwrap();
    fs::create_dir(source.join("many")).unwrap();
    for turn in 0..2 {
        let target = fs::read_link(mount.mnt().join("moved")).unwrap();
        assert_eq!(target, Path::new("target"));
        // A directory with a name has links enough to make something in it.
        fs::write(mount.mnt().join(format!("many/{turn}")), "").unwrap();
        mount.remount();
    }
}

fn status(mount: &Mount, how: &[&str]) -> String {
    let mut command = Command::new(common::builder::binary());
    let output = tools::output_of(command.arg("status").args(how).arg(mount.mnt()));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn status_names_the_store_and_the_conflicts() {
    let (_place, source, store) = place();
    for name in ["edited", "replaced", "gone", "quiet"] {
        fs::write(source.join(name), large()).unwrap();
    }
    let builder = Mount::builder()
        .over(&source)
        .option("--private")
        .option(&store)
        .options(["--store-limit", "5M"]);
    let mount = builder.options(AT_ONCE).mount();
    for name in ["edited", "replaced", "gone", "quiet"] {
        change_first_page(&mount.mnt().join(name));
    }
    let text = status(&mount, &[]);
    let first = format!(
        "store       {}, 16.0 KiB of at most 5.0 MiB of files",
        store.display()
    );
    assert!(text.contains(&first), "{text}");
    assert!(text.contains("private view"), "{text}");
    assert!(!text.contains("conflicts"), "{text}");
    fs::write(source.join("edited"), "edited").unwrap();
    fs::write(source.join("new"), large()).unwrap();
    fs::rename(source.join("new"), source.join("replaced")).unwrap();
    fs::remove_file(source.join("gone")).unwrap();
    assert_eq!(names(mount.mnt()), ["edited", "gone", "quiet", "replaced"]);
    for name in ["edited", "gone", "quiet", "replaced"] {
        fs::metadata(mount.mnt().join(name)).unwrap();
    }
    let text = status(&mount, &[]);
    let named = "conflicts   3 changed files that the source has changed, replaced or removed";
    assert!(text.contains(named), "{text}");
    for name in ["edited", "gone", "replaced"] {
        assert!(text.contains(&format!("\n            {name}\n")), "{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&status(&mount, &["--json"])).unwrap();
    let found = if json.is_array() { &json[0] } else { &json };
    let found = found.get("status").unwrap_or(found);
    assert_eq!(found["view"], "private");
    assert_eq!(found["store"]["path"]["text"], store.to_str().unwrap());
    assert_eq!(found["store"]["used"], 4 * 4096);
    assert_eq!(found["store"]["limit"], 5 << 20);
    assert_eq!(found["store"]["conflicts"], 3);
    assert_eq!(found["store"]["conflicting"].as_array().unwrap().len(), 3);
    let text = status(&mount, &["--prometheus"]);
    let label = format!("{{mount=\"{}\"}}", mount.mnt().display());
    for line in [
        format!("mmfs_store_used_bytes{label} 16384"),
        format!("mmfs_store_limit_bytes{label} 5242880"),
        format!("mmfs_conflicts{label} 3"),
    ] {
        assert!(text.contains(&line), "{line}: {text}");
    }
    // One that is given up is no conflict any more.
    fs::remove_file(mount.mnt().join("gone")).unwrap();
    let text = status(&mount, &["--prometheus"]);
    assert!(text.contains(&format!("mmfs_conflicts{label} 2")), "{text}");
}

#[test]
fn a_branch_checked_out_in_the_source_leaves_every_changed_file() {
    let Some(git) = tools::find_tool("git") else {
        panic!("git is needed");
    };
    let (_place, source, store) = place();
    let git = |words: &[&str]| {
        let identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"];
        tools::run(
            Command::new(&git)
                .args(identity)
                .arg("-C")
                .arg(&source)
                .args(words),
        );
    };
    git(&["init", "-q", "-b", "one"]);
    let name = |n: usize| format!("d{}/f{n}", n % 7);
    for n in 0..150 {
        fs::create_dir_all(source.join(format!("d{}", n % 7))).unwrap();
        fs::write(source.join(name(n)), format!("one {n}")).unwrap();
    }
    fs::write(source.join("large"), large()).unwrap();
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "one"]);
    git(&["checkout", "-q", "-b", "two"]);
    // A third stays, a third is another on the other branch, a third is not there.
    for n in 0..150 {
        match n % 3 {
            0 => {}
            1 => fs::write(source.join(name(n)), format!("two {n}")).unwrap(),
            _ => fs::remove_file(source.join(name(n))).unwrap(),
        }
    }
    fs::write(source.join("large"), "small now").unwrap();
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "two"]);
    git(&["checkout", "-q", "one"]);
    let mut mount = private(&source, &store, &AT_ONCE);
    for n in 0..99 {
        fs::write(mount.mnt().join(name(n)), format!("mine {n}")).unwrap();
    }
    change_first_page(&mount.mnt().join("large"));
    git(&["checkout", "-q", "two"]);
    for _ in 0..2 {
        for n in 0..99 {
            let shown = fs::read_to_string(mount.mnt().join(name(n))).unwrap();
            assert_eq!(shown, format!("mine {n}"));
        }
        assert!(is_changed(&mount.mnt().join("large")));
        for n in 99..150 {
            let shown = fs::read_to_string(mount.mnt().join(name(n))).ok();
            let expected = [Some(format!("one {n}")), Some(format!("two {n}")), None];
            assert_eq!(shown, expected[n % 3], "{n}");
        }
        // The 66 that the branches differ in, and the large one.
        let text = status(&mount, &["--prometheus"]);
        let label = format!("{{mount=\"{}\"}}", mount.mnt().display());
        assert!(
            text.contains(&format!("mmfs_conflicts{label} 67\n")),
            "{text}"
        );
        mount.remount();
    }
    git(&["checkout", "-q", "one"]);
    for n in 0..99 {
        let shown = fs::read_to_string(mount.mnt().join(name(n))).unwrap();
        assert_eq!(shown, format!("mine {n}"));
    }
}

#[test]
fn as_root_an_old_file_that_was_only_listed_is_found() {
    let (_place, source, store) = place();
    fs::create_dir(source.join("d")).unwrap();
    for name in ["d/moved", "d/changed"] {
        fs::write(source.join(name), "theirs").unwrap();
    }
    let mut mount = private(&source, &store, &AT_ONCE);
    let path = |mount: &Mount, name: &str| mount.mnt().join("d").join(name);
    fs::rename(path(&mount, "moved"), path(&mount, "here")).unwrap();
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(path(&mount, "changed"), mode).unwrap();
    // From then on the source's inodes are recognised by their time of change.
    std::thread::sleep(std::time::Duration::from_millis(3500));
    mount.remount();
    // Of what a listing shows, the kernel is told only if somebody has looked at it before.
    for _ in 0..3 {
        assert_eq!(names(&mount.mnt().join("d")), ["changed", "here"]);
    }
    // The kernel forgets what the first listing has told it.
    tools::run(
        Command::new("sh")
            .arg("-c")
            .arg("echo 2 >/proc/sys/vm/drop_caches"),
    );
    for _ in 0..3 {
        assert_eq!(names(&mount.mnt().join("d")), ["changed", "here"]);
        for name in ["changed", "here"] {
            assert_eq!(fs::read_to_string(path(&mount, name)).unwrap(), "theirs");
        }
    }
}

/// It was ESTALE, and the next write made the name unreadable.
#[test]
fn a_file_that_the_source_renamed_away_from_its_changes_is_changed_by_descriptor() {
    let (_place, source, store) = place();
    fs::write(source.join("f"), "source").unwrap();
    let mount = private(&source, &store, &AT_ONCE);
    fs::write(mount.mnt().join("f"), "mine").unwrap();
    fs::rename(source.join("f"), source.join("g")).unwrap();
    let path = mount.mnt().join("g");
    assert_eq!(fs::read_to_string(&path).unwrap(), "source");
    for text in [" one", " two"] {
        let mut open = fs::OpenOptions::new().append(true).open(&path).unwrap();
        open.write_all(text.as_bytes()).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "source one two");
    assert_eq!(fs::read_to_string(mount.mnt().join("f")).unwrap(), "mine");
}

/// It had a link again after the write, and stayed in the store for ever.
#[test]
fn a_deleted_file_that_is_written_goes_with_its_last_descriptor() {
    let (_place, source, store) = place();
    fs::write(source.join("f"), large()).unwrap();
    let mut mount = private(&source, &store, &AT_ONCE);
    let path = mount.mnt().join("f");
    let open = fs::OpenOptions::new().write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    open.write_all_at(b"changed", 10).unwrap();
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    drop(open);
    assert!(mount.unmount().success());
    let files = fs::read_dir(store.join("data")).unwrap();
    let files = files.flat_map(|directory| fs::read_dir(directory.unwrap().path()).unwrap());
    assert_eq!(files.count(), 0);
}

/// The kernel knew it by two node ids. When it forgot one, the changes of the other were gone.
#[test]
fn an_open_file_that_the_source_lost_keeps_its_changes_when_it_is_deleted() {
    let (_place, source, store) = place();
    fs::write(source.join("f"), large()).unwrap();
    let mut mount = private(&source, &store, &AT_ONCE);
    let path = mount.mnt().join("f");
    let open = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    open.write_all_at(b"changed", 10).unwrap();
    fs::remove_file(source.join("f")).unwrap();
    fs::metadata(&path).unwrap();
    fs::remove_file(&path).unwrap();
    for _ in 0..30 {
        let mut found = [0; 7];
        rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        open.read_exact_at(&mut found, 10).unwrap();
        assert_eq!(&found, b"changed");
        // The kernel forgets the other node id soon.
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    drop(open);
    assert!(mount.unmount().success());
    let files = fs::read_dir(store.join("data")).unwrap();
    let files = files.flat_map(|directory| fs::read_dir(directory.unwrap().path()).unwrap());
    assert_eq!(files.count(), 0);
}

/// Changes go with the name that the view gives them, not with the one that the source gives their inode. (proves: S60)
#[test]
fn s60_what_the_view_moves_or_removes_is_plain_where_the_source_moves_it() {
    let (_place, source, store) = place();
    for directory in ["deep/dir", "other", "mode"] {
        fs::create_dir_all(source.join(directory)).unwrap();
    }
    for name in ["deep/dir/file", "file", "removed"] {
        fs::write(source.join(name), large()).unwrap();
    }
    let mount = private(&source, &store, &AT_ONCE);
    let (below, shown) = (
        |name: &str| source.join(name),
        |name: &str| mount.mnt().join(name),
    );
    for name in ["deep/dir/file", "file", "removed"] {
        change_first_page(&shown(name));
    }
    fs::set_permissions(shown("mode"), fs::Permissions::from_mode(0o700)).unwrap();
    for (from, to) in [
        ("deep", "deep2"),
        ("file", "file2"),
        ("removed", "removed2"),
        ("mode", "mode2"),
    ] {
        fs::rename(below(from), below(to)).unwrap();
    }
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    let cwd = rustix::fs::CWD;
    rustix::fs::renameat_with(cwd, shown("other"), cwd, shown("deep/dir"), exchange).unwrap();
    fs::rename(shown("file"), shown("file3")).unwrap();
    fs::rename(shown("mode"), shown("mode3")).unwrap();
    fs::remove_file(shown("removed")).unwrap();
    // The kernel tells of the last close later, and what is open keeps its changes.
    let is_plain = || shown("removed2").metadata().unwrap().nlink() == 1;
    assert!(tools::wait_until(Duration::from_secs(10), is_plain));
    for name in ["deep2/dir/file", "file2", "removed2"] {
        assert!(!is_changed(&shown(name)), "{name}");
        assert_eq!(shown(name).metadata().unwrap().nlink(), 1, "{name}");
    }
    for name in ["other/file", "file3"] {
        assert!(is_changed(&shown(name)), "{name}");
    }
    let mode = |name: &str| shown(name).metadata().unwrap().mode() & 0o777;
    assert_eq!((mode("mode2"), mode("mode3")), (0o755, 0o700));
}

/// Some overlays number their files as a view numbers those that were made in it. (proves: S57)
#[test]
fn s57_as_root_files_of_an_overlay_and_of_the_view_have_numbers_of_their_own() {
    let (place, _, store) = place();
    let at = |name: &str| place.path().join(name);
    let mut below = Vec::new();
    for layer in ["one", "other"] {
        fs::create_dir(at(layer)).unwrap();
        let mut mount = Command::new("mount");
        tools::run(mount.args(["-t", "tmpfs", "layer"]).arg(at(layer)));
        below.push(Below(at(layer)));
        fs::create_dir(at(layer).join("top")).unwrap();
    }
    for n in 0..20 {
        fs::write(
            at("one/top").join(format!("theirs{n}")),
            format!("theirs{n}"),
        )
        .unwrap();
    }
    let layers = format!(
        "lowerdir={}:{},xino=on",
        at("one/top").display(),
        at("other/top").display()
    );
    fs::create_dir(at("all")).unwrap();
    tools::run(
        Command::new("mount")
            .args(["-t", "overlay", "-o", &layers, "all"])
            .arg(at("all")),
    );
    below.insert(0, Below(at("all")));
    let number = fs::metadata(at("all/theirs0")).unwrap().ino();
    assert!((1 << 62..1 << 63).contains(&number), "{number:x}");
    let mut mount = private(&at("all"), &store, &AT_ONCE);
    let all = || (0..20).flat_map(|n| [format!("theirs{n}"), format!("own{n}")]);
    for n in 0..20 {
        fs::write(mount.mnt().join(format!("own{n}")), format!("own{n}")).unwrap();
    }
    for _ in 0..2 {
        let mut numbers = std::collections::HashSet::new();
        for name in all() {
            let path = mount.mnt().join(&name);
            assert_eq!(fs::read_to_string(&path).unwrap(), name);
            assert!(numbers.insert(fs::metadata(path).unwrap().ino()), "{name}");
        }
        mount.remount();
    }
}
