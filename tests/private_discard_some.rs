//! `mmfs discard STORE PATH...`: what is chosen shows the source again, all else stays as it is.

mod common;
mod survive;

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use common::private::{Listing, change_first_page, large, listing, place, private};
use common::{builder, tools};
use mmfs::config::{Config, StoreConfig};
use mmfs::difference::Difference;
use mmfs::store::{Change, Store};
use survive::Rng;

fn mmfs(verb: &str, store: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(builder::binary());
    tools::output_of(command.arg(verb).arg(store).args(words))
}

fn diff(store: &Path) -> Vec<String> {
    let output = mmfs("diff", store, &[]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(Into::into).collect()
}

/// The words are given up; these lines are left.
fn leaves(store: &Path, words: &[&str], left: &[&str]) {
    let before = diff(store);
    let output = mmfs("discard", store, words);
    let quiet = output.stdout.is_empty() && output.stderr.is_empty();
    assert!(output.status.success() && quiet, "{words:?}: {output:?}");
    assert_eq!(diff(store), left, "{words:?} of {before:?}");
    let check = mmfs("check", store, &[]);
    assert!(check.status.success(), "{words:?}: {check:?}");
}

/// Nothing is given up, for a reason with these words.
fn refused(store: &Path, words: &[&str], why: &[&str]) {
    let before = diff(store);
    let output = mmfs("discard", store, words);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {told}");
    for why in why {
        assert!(told.contains(why), "{words:?}: {told}");
    }
    let lines = told.lines().count();
    assert!(lines == 1 && output.stdout.is_empty(), "{output:?}");
    assert_eq!(diff(store), before);
    let check = mmfs("check", store, &[]);
    assert!(check.status.success(), "{words:?}: {check:?}");
}

fn write(root: &Path, paths: &[&str]) {
    for path in paths {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.file_name().unwrap().as_bytes()).unwrap();
    }
}

/// A source with these files, and a store of what `change` changes in the view.
fn changed(files: &[&str], change: impl FnOnce(&Path)) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let (place, source, store) = place();
    write(&source, files);
    let mut mount = private(&source, &store, &[]);
    change(mount.mnt());
    mount.unmount();
    (place, source, store)
}

/// What a mount with the store shows.
fn view(source: &Path, store: &Path) -> Listing {
    let mut mount = private(source, store, &[]);
    let listing = listing(mount.mnt());
    mount.unmount();
    listing
}

/// A mount with the store shows the source, with times and links.
fn shows_the_source(source: &Path, store: &Path) {
    assert_eq!(diff(store), [""; 0]);
    let mut mount = private(source, store, &[]);
    assert_eq!(listing(mount.mnt()), listing(source));
    let times = |root: &Path| {
        let script = "find \"$1\" -printf '%P %T@ %n %i\\n' | sed 1s/[0-9]*$// | sort";
        tools::sh(script, &[root.as_os_str()])
    };
    assert_eq!(times(mount.mnt()), times(source));
    mount.unmount();
}

fn mode(path: PathBuf, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

const FILES: [&str; 9] = [
    "bytes", "gone", "mode", "old", "saved", "type", "d/e/f", "tree/a", "tree/b/c",
];

/// Each kind of change.
fn each_kind(view: &Path) {
    let at = |name: &str| view.join(name);
    fs::write(at("bytes"), "other").unwrap();
    fs::remove_file(at("gone")).unwrap();
    mode(at("mode"), 0o600);
    fs::rename(at("old"), at("new")).unwrap();
    fs::write(at("saved~"), "other").unwrap();
    fs::rename(at("saved~"), at("saved")).unwrap();
    fs::remove_file(at("type")).unwrap();
    fs::create_dir(at("type")).unwrap();
    fs::remove_dir_all(at("tree")).unwrap();
    fs::create_dir(at("made")).unwrap();
    fs::write(at("made/x"), "x").unwrap();
    symlink("x", at("made/y")).unwrap();
    mode(at("d"), 0o700);
    fs::write(at("d/e/f"), "changed").unwrap();
}

#[test]
fn each_kind_is_given_up_by_its_path() {
    let (_place, source, store) = changed(&FILES, each_kind);
    let mut left = vec![
        "M bytes",
        "P d",
        "M d/e/f",
        "D gone",
        "A made",
        "A made/x",
        "A made/y",
        "P mode",
        "R old -> new",
        "M saved",
        "D tree",
        "D tree/a",
        "D tree/b",
        "D tree/b/c",
        "T type",
    ];
    assert_eq!(diff(&store), left);
    for path in [
        "gone", "bytes", "made/x", "d", "mode", "./new", "saved", "tree/", "type", "made",
    ] {
        let meant = path.trim_start_matches("./").trim_end_matches('/');
        let is_meant = |line: &str| {
            let path = line.rsplit(' ').next().unwrap();
            path == meant || path.starts_with(&format!("{meant}/"))
        };
        left.retain(|line| !is_meant(line));
        leaves(&store, &[path], &left);
        let now = view(&source, &store);
        let there = |path: &str| now.contains_key(Path::new(path));
        assert!(there("bytes") && there("mode"));
        assert_eq!(there("gone"), !left.contains(&"D gone"));
        assert_eq!(there("made/x"), left.contains(&"A made/x"));
    }
    shows_the_source(&source, &store);
}

#[test]
fn all_changes_by_their_paths_leave_nothing() {
    let (_place, source, store) = changed(&FILES, |view| {
        each_kind(view);
        let old = File::open(view.join("d/e")).unwrap();
        old.set_modified(std::time::UNIX_EPOCH).unwrap();
    });
    leaves(&store, &["."], &[]);
    shows_the_source(&source, &store);
    let check = mmfs("check", &store, &[]);
    let text = String::from_utf8(check.stdout).unwrap();
    assert!(text.contains("0 nodes, 0 names, 0 hidden names"), "{text}");
}

#[test]
fn globs_choose() {
    let (_place, source, store) = changed(&["src/a.c", "src/b.c"], |view| {
        write(
            view,
            &[
                "src/a.o",
                "src/sub/b.o",
                "lib/keep.o",
                "node_modules/m/n.js",
            ],
        );
        fs::write(view.join("src/a.c"), "changed").unwrap();
    });
    let all = [
        "A lib",
        "A lib/keep.o",
        "A node_modules",
        "A node_modules/m",
        "A node_modules/m/n.js",
        "M src/a.c",
        "A src/a.o",
        "A src/sub",
        "A src/sub/b.o",
    ];
    assert_eq!(diff(&store), all);
    let some = ["src", "-I", "*.o", "-E", "sub"];
    let dry = mmfs("discard", &store, &[&some[..], &["--dry-run"]].concat());
    assert!(
        dry.status.success() && dry.stdout == b"A src/a.o\n",
        "{dry:?}"
    );
    assert_eq!(diff(&store), all);
    leaves(&store, &some, &[&all[..6], &all[7..]].concat());
    leaves(
        &store,
        &["--include", "node_modules", "-I", "src/**", "--exclude=*.c"],
        &["A lib", "A lib/keep.o", "M src/a.c"],
    );
    // A directory in which something stays, stays.
    leaves(&store, &["-E", "keep.*"], &["A lib", "A lib/keep.o"]);
    leaves(&store, &["lib", "-E", "keep.*"], &["A lib", "A lib/keep.o"]);
    leaves(&store, &["lib"], &[]);
    shows_the_source(&source, &store);
}

#[test]
fn what_is_no_change_is_refused() {
    let (place, _source, store) =
        changed(&["f", "g"], |view| fs::write(view.join("f"), "1").unwrap());
    refused(&store, &["g"], &["there is no change at g"]);
    refused(&store, &["f", "./x/"], &["there is no change at ./x/"]);
    for path in ["/f", "../f", "a/../f"] {
        refused(
            &store,
            &[path],
            &["is not a path below the root of the view"],
        );
    }
    refused(&store, &["-I", "[a"], &["is not a glob"]);
    assert_eq!(
        mmfs("discard", &store, &["f", "--nothing"]).status.code(),
        Some(2)
    );
    let (of_none, missing) = (place.path(), place.path().join("missing"));
    assert_eq!(mmfs("discard", of_none, &["f"]).status.code(), Some(1));
    assert_eq!(mmfs("discard", &missing, &["f"]).status.code(), Some(1));
}

#[test]
fn a_store_that_is_mounted_is_refused() {
    let (_place, source, store) = place();
    write(&source, &["f"]);
    let mut mount = private(&source, &store, &[]);
    write(mount.mnt(), &["new"]);
    assert_eq!(mmfs("discard", &store, &["new"]).status.code(), Some(1));
    mount.unmount();
    leaves(&store, &["new"], &[]);
}

#[test]
fn a_path_in_a_deleted_directory_comes_back_with_it() {
    let (_place, source, store) = changed(&FILES, |view| {
        fs::remove_dir_all(view.join("tree")).unwrap();
    });
    refused(&store, &["tree/a"], &["the directory tree was deleted"]);
    refused(
        &store,
        &["tree/b/c", "tree/b"],
        &["the directory tree was deleted"],
    );
    refused(&store, &["tree", "-E", "c"], &["tree/b/c"]);
    leaves(&store, &["tree"], &[]);
    shows_the_source(&source, &store);
}

#[test]
fn a_file_with_several_names_is_given_up_by_all_of_them() {
    let (place, source, store) = place();
    write(&source, &["a", "x", "z", "in/y"]);
    fs::create_dir(source.join("deep")).unwrap();
    for (of, other) in [("a", "b"), ("a", "deep/c"), ("x", "x2"), ("in/y", "y2")] {
        fs::hard_link(source.join(of), source.join(other)).unwrap();
    }
    let mut mount = private(&source, &store, &[]);
    let at = |name: &str| mount.mnt().join(name);
    fs::write(at("a"), "changed").unwrap();
    fs::hard_link(at("z"), at("z2")).unwrap();
    fs::remove_file(at("x2")).unwrap();
    mode(at("in/y"), 0o600);
    fs::remove_dir_all(at("in")).unwrap();
    fs::write(at("own"), "own").unwrap();
    fs::hard_link(at("own"), at("own2")).unwrap();
    mount.unmount();
    let all = diff(&store);
    refused(&store, &["a"], &["a file with further names", "b deep/c"]);
    refused(
        &store,
        &["b", "a"],
        &["a file with further names", "deep/c"],
    );
    refused(&store, &["in"], &["a file with further names", "y2"]);
    leaves(
        &store,
        &["a", "b", "deep", "own2"],
        &["D in", "D in/y", "A own", "D x2", "P y2", "A z2"],
    );
    assert_eq!(all.len(), 6 + 4);
    leaves(
        &store,
        &["x2"],
        &["D in", "D in/y", "A own", "P y2", "A z2"],
    );
    // What was deleted stays deleted, with its count of links.
    leaves(&store, &["y2"], &["D in", "D in/y", "A own", "A z2"]);
    let mut mount = private(&source, &store, &[]);
    let links = |name: &str| fs::metadata(mount.mnt().join(name)).unwrap().nlink();
    let all = ["x", "y2", "own", "z", "a"].map(links);
    assert_eq!(all, [2, 1, 1, 2, 3]);
    mount.unmount();
    leaves(&store, &["in", "z2"], &["A own"]);
    leaves(&store, &["own"], &[]);
    shows_the_source(&source, &store);
    drop(place);
}

#[test]
fn a_rename_is_undone_from_either_end() {
    let (_place, source, store) = changed(&["f", "g", "d/h", "d/i", "e/j"], |view| {
        let at = |name: &str| view.join(name);
        fs::rename(at("f"), at("f2")).unwrap();
        fs::write(at("f2"), "changed").unwrap();
        fs::rename(at("g"), at("e/g2")).unwrap();
        fs::rename(at("d"), at("e/d2")).unwrap();
        mode(at("e/d2"), 0o700);
        fs::write(at("e/d2/h"), "changed").unwrap();
        write(view, &["e/d2/new"]);
    });
    leaves(
        &store,
        &["f", "e/g2"],
        &["R d -> e/d2", "M e/d2/h", "A e/d2/new"],
    );
    assert_eq!(view(&source, &store)[Path::new("f")].2, b"f");
    // What was changed in it comes along.
    leaves(&store, &["d"], &["M d/h", "A d/new"]);
    let now = view(&source, &store);
    assert_eq!(now[Path::new("d/h")].2, b"changed");
    assert!(now.contains_key(Path::new("d/i")) && !now.contains_key(Path::new("e/d2")));
    assert_eq!(now[Path::new("d")], listing(&source)[Path::new("d")]);
    leaves(&store, &["d"], &[]);
    shows_the_source(&source, &store);
}

#[test]
fn a_directory_comes_home_with_its_changes_undone() {
    let (_place, source, store) = changed(&["d/h", "d/sub/i", "k"], |view| {
        fs::rename(view.join("d"), view.join("e")).unwrap();
        fs::write(view.join("e/sub/i"), "changed").unwrap();
        fs::remove_file(view.join("e/h")).unwrap();
    });
    assert_eq!(diff(&store), ["D d/h", "R d -> e", "M e/sub/i"]);
    leaves(&store, &["e/sub"], &["D d/h", "R d -> e"]);
    leaves(&store, &["d"], &[]);
    shows_the_source(&source, &store);
}

#[test]
fn an_old_name_that_is_taken_is_refused() {
    let (_place, source, store) = changed(&["f", "d/g", "p", "q"], |view| {
        let at = |name: &str| view.join(name);
        fs::rename(at("f"), at("f2")).unwrap();
        write(view, &["f"]);
        fs::rename(at("d"), at("d2")).unwrap();
        write(view, &["d/other"]);
        let cwd = rustix::fs::CWD;
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(cwd, at("p"), cwd, at("q"), exchange).unwrap();
    });
    let all = [
        "A d",
        "A d/other",
        "R d -> d2",
        "A f",
        "R f -> f2",
        "R q -> p",
        "R p -> q",
    ];
    assert_eq!(diff(&store), all);
    refused(&store, &["f2"], &["f2 cannot have its old name f back"]);
    refused(&store, &["d2"], &["d2 cannot have its old name d back"]);
    // What is new goes, and what was renamed stays so.
    leaves(
        &store,
        &["-I", "other"],
        &[
            "A d",
            "R d -> d2",
            "A f",
            "R f -> f2",
            "R q -> p",
            "R p -> q",
        ],
    );
    leaves(&store, &["p"], &["A d", "R d -> d2", "A f", "R f -> f2"]);
    leaves(&store, &["f"], &["A d", "R d -> d2"]);
    leaves(&store, &["d"], &[]);
    shows_the_source(&source, &store);
}

#[test]
fn what_is_new_where_something_was_renamed_goes_alone() {
    let (_place, source, store) = changed(&["f", "d/g"], |view| {
        let at = |name: &str| view.join(name);
        fs::rename(at("f"), at("f2")).unwrap();
        write(view, &["f"]);
    });
    leaves(&store, &["f", "-E", "f2"], &["R f -> f2"]);
    let now = view(&source, &store);
    assert!(!now.contains_key(Path::new("f")) && now.contains_key(Path::new("f2")));
    leaves(&store, &["f2"], &[]);
    shows_the_source(&source, &store);
}

#[test]
fn directories_that_change_places_come_home_together() {
    let (_place, source, store) = changed(&["a/f", "b/g", "outer/inner/h"], |view| {
        let at = |name: &str| view.join(name);
        let (cwd, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
        rustix::fs::renameat_with(cwd, at("a"), cwd, at("b"), exchange).unwrap();
        fs::write(at("a/g"), "changed").unwrap();
        fs::rename(at("outer/inner"), at("inner")).unwrap();
        fs::remove_dir_all(at("outer")).unwrap();
    });
    let outer = ["R outer/inner -> inner", "D outer"];
    refused(
        &store,
        &["inner"],
        &["the directory outer was deleted, in which inner was"],
    );
    leaves(&store, &["b", "-E", "g"], &["M b/g", outer[0], outer[1]]);
    leaves(&store, &["b"], &outer);
    leaves(&store, &["outer"], &[]);
    shows_the_source(&source, &store);
}

#[test]
fn a_directory_that_was_made_anew_is_given_up_as_a_whole() {
    let (_place, source, store) =
        changed(&["again/kept", "again/gone", "again/other", "k"], |view| {
            fs::remove_dir_all(view.join("again")).unwrap();
            write(view, &["again/kept"]);
            fs::write(view.join("again/other"), "changed").unwrap();
            fs::write(view.join("k"), "changed").unwrap();
        });
    assert_eq!(diff(&store), ["D again/gone", "M again/other", "M k"]);
    refused(
        &store,
        &["again/gone"],
        &["removed and made anew", "again/other"],
    );
    refused(
        &store,
        &["again/other"],
        &["removed and made anew", "again/gone"],
    );
    leaves(&store, &["again"], &["M k"]);
    leaves(&store, &["k"], &[]);
    shows_the_source(&source, &store);
}

#[test]
fn a_directorys_own_attributes_and_times_go() {
    let (_place, source, store) = changed(&["d/f", "d/e/g", "k"], |view| {
        mode(view.join("d"), 0o700);
        mode(view.join("."), 0o711);
        write(view, &["d/new", "d/e/new"]);
        fs::write(view.join("k"), "changed").unwrap();
    });
    assert_eq!(diff(&store), ["P .", "P d", "A d/e/new", "A d/new", "M k"]);
    leaves(
        &store,
        &["-I", "d", "-E", "new"],
        &["P .", "A d/e/new", "A d/new", "M k"],
    );
    let now = view(&source, &store);
    assert_eq!(now[Path::new("d")], listing(&source)[Path::new("d")]);
    leaves(&store, &["d"], &["P .", "M k"]);
    let mut mount = private(&source, &store, &[]);
    for name in ["d", "d/e", "d/f"] {
        let (now, was) = (mount.mnt().join(name), source.join(name));
        let times = |path: PathBuf| {
            let found = fs::metadata(path).unwrap();
            (found.mtime(), found.mtime_nsec(), found.ctime_nsec())
        };
        assert_eq!(times(now), times(was), "{name}");
    }
    mount.unmount();
    leaves(&store, &["-I", "."], &["M k"]);
    leaves(&store, &["k"], &[]);
    shows_the_source(&source, &store);
}

#[test]
fn what_the_source_has_changed_too_shows_the_source() {
    let (_place, source, store) = place();
    for name in ["edited", "removed", "alone"] {
        fs::write(source.join(name), large()).unwrap();
    }
    let mut mount = private(&source, &store, &[]);
    for name in ["edited", "removed", "alone"] {
        change_first_page(&mount.mnt().join(name));
    }
    mount.unmount();
    fs::write(source.join("edited"), "other").unwrap();
    fs::remove_file(source.join("removed")).unwrap();
    assert_eq!(diff(&store), ["M alone", "C edited", "C removed"]);
    leaves(&store, &["edited"], &["M alone", "C removed"]);
    leaves(&store, &["removed"], &["M alone"]);
    assert_eq!(view(&source, &store)[Path::new("edited")].2, b"other");
    leaves(&store, &["alone"], &[]);
    shows_the_source(&source, &store);
}

#[test]
fn conflicts_are_left_if_that_is_asked_for() {
    let (_place, source, store) = changed(&["a", "b", "d/c", "d/e"], |view| {
        for name in ["a", "b", "d/c", "d/e"] {
            fs::write(view.join(name), "of the view").unwrap();
        }
    });
    fs::write(source.join("a"), "of the source").unwrap();
    fs::write(source.join("d/c"), "of the source").unwrap();
    let dry = mmfs("discard", &store, &["--skip-conflicts", "--dry-run"]);
    assert_eq!(String::from_utf8_lossy(&dry.stdout), "M b\nM d/e\n");
    leaves(&store, &["--skip-conflicts", "d"], &["C a", "M b", "C d/c"]);
    leaves(&store, &["--skip-conflicts"], &["C a", "C d/c"]);
    leaves(&store, &["--skip-conflicts"], &["C a", "C d/c"]);
    leaves(&store, &["."], &[]);
    shows_the_source(&source, &store);
}

/// What can only be given up together with a conflict is refused, and can be left.
#[test]
fn what_is_beside_a_conflict_can_be_left_with_it() {
    let (_place, source, store) = changed(&["keep"], |view| {
        fs::write(view.join("keep"), "of the view").unwrap();
        write(view, &["nd/both", "nd/mine"]);
    });
    fs::create_dir(source.join("nd")).unwrap();
    fs::write(source.join("nd/both"), "of the source").unwrap();
    refused(&store, &["--skip-conflicts"], &["nd", "--exclude"]);
    leaves(
        &store,
        &["--skip-conflicts", "-E", "nd"],
        &["C nd/both", "A nd/mine"],
    );
}

/// Where inodes are found by their names, a directory is needed as long as what lies in it.
#[test]
fn over_a_source_that_mmfs_mounts() {
    let (place, source, store) = place();
    write(&source, &FILES);
    let mut mirror = common::Mount::over(&source, [""; 0]);
    let mut mount = private(mirror.mnt(), &store, &[]);
    each_kind(mount.mnt());
    mount.unmount();
    let rest = ["M bytes", "D gone", "P mode", "M saved", "T type"];
    leaves(&store, &["tree", "d", "old", "made"], &rest);
    assert_eq!(view(mirror.mnt(), &store)[Path::new("d/e/f")].2, b"f");
    leaves(&store, &["."], &[]);
    shows_the_source(mirror.mnt(), &store);
    mirror.unmount();
    drop(place);
}

/// The groups of changes by which these are given up.
fn groups(source: &Path, store: &Path, chosen: impl Fn(&Difference) -> bool) -> Vec<Vec<Change>> {
    let config = Config::unmounted(source.into());
    let wanted = StoreConfig {
        directory: Some(store.into()),
        temporary: PathBuf::new(),
        limit: None,
        base_moved: false,
        on_source_change: Default::default(),
    };
    let (opened, _) = Store::open_directory(store, false).unwrap();
    let opened = Arc::new(opened.store);
    let choose = |all: &[Difference]| Ok::<_, String>(all.iter().map(&chosen).collect());
    let said = |stays| format!("{stays:?}");
    let plan = mmfs::view::private::plan(&config, &wanted, opened.clone(), choose, said).unwrap();
    opened.close().unwrap();
    plan.changes
}

/// Where the changes do not fit into one record, a kill may leave some of them.
#[test]
fn what_a_kill_leaves_is_sound_and_the_same_command_does_the_rest() {
    let files = [&FILES[..], &["two/f", "three/g", "x", "y", "kept"]].concat();
    let (place, source, store) = changed(&files, |view| {
        each_kind(view);
        let at = |name: &str| view.join(name);
        fs::rename(at("two"), at("made/two")).unwrap();
        fs::write(at("made/two/f"), "changed").unwrap();
        fs::rename(at("three"), at("two")).unwrap();
        write(view, &["three/new"]);
        let (cwd, exchange) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
        rustix::fs::renameat_with(cwd, at("x"), cwd, at("y"), exchange).unwrap();
        fs::hard_link(at("x"), at("made/link")).unwrap();
        fs::write(at("kept"), "changed").unwrap();
    });
    let copy = |name: &str| {
        let copy = place.path().join(name);
        let mut cp = Command::new("cp");
        tools::run(cp.arg("-a").arg(&store).arg(&copy));
        copy
    };
    for all in [true, false] {
        let is_chosen = |one: &Difference| all || one.path != b"kept";
        let groups = groups(&source, &copy(&format!("plan {all}")), is_chosen);
        assert!(groups.len() > 15, "{groups:?}");
        for count in 0..=groups.len() {
            let store = copy(&format!("{all} {count}"));
            let (opened, _) = Store::open_directory(&store, false).unwrap();
            opened.store.change_all(groups[..count].to_vec()).unwrap();
            opened.store.close().unwrap();
            drop(opened);
            let check = mmfs("check", &store, &[]);
            assert!(check.status.success(), "{count}: {check:?}");
            let words: &[&str] = if all { &["-I", "*"] } else { &["-E", "kept"] };
            println!("{count} of {}: {:?}", groups.len(), diff(&store));
            let left: &[&str] = if all { &[] } else { &["M kept"] };
            leaves(&store, words, left);
            if count % 5 == 0 {
                leaves(&store, &["-I", "*"], &[]);
                shows_the_source(&source, &store);
            }
        }
    }
}

fn change_at_random(root: &Path, rng: &mut Rng, moves: bool) {
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
    let _ = match rng.below(if moves { 11 } else { 8 }) {
        0 => fs::create_dir(&path),
        1 => fs::write(&path, format!("{}", rng.below(3))),
        2 => fs::remove_file(&path),
        3 => fs::remove_dir_all(&path),
        4 => symlink("target", &path),
        5 => fs::set_permissions(&path, Permissions::from_mode(0o700 + rng.below(8) as u32)),
        6 => fs::write(&path, vec![b'x'; 5000 + rng.below(2) as usize]),
        8 => fs::hard_link(&path, &other),
        9 | 10 => fs::rename(&path, &other),
        _ => {
            let file = fs::OpenOptions::new().write(true).open(&path);
            file.and_then(|file| file.write_all_at(b"y", rng.below(5000)))
        }
    };
}

/// A line of differences.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    path: PathBuf,
    from: Option<PathBuf>,
    kind: char,
}

fn lines(store: &Path) -> Vec<Line> {
    let output = mmfs("diff", store, &["-z"]);
    assert!(output.status.success(), "{output:?}");
    let mut fields = output.stdout.split(|byte| *byte == 0);
    let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()));
    let mut all = Vec::new();
    while let Some(field) = fields.next().filter(|field| !field.is_empty()) {
        let kind = char::from(field[0]);
        let from = (kind == 'R').then(|| path(fields.next().unwrap()));
        let path = path(&field[2..]);
        all.push(Line { path, from, kind });
    }
    all
}

fn is_meant(wanted: &[PathBuf], path: &Path) -> bool {
    wanted.iter().any(|wanted| path.starts_with(wanted))
}

/// The rest of the lines is what was not chosen.
fn judge_lines(before: &[Line], after: &[Line], wanted: &[PathBuf], view: &Listing) {
    let chosen = |line: &&Line| {
        is_meant(wanted, &line.path)
            || line
                .from
                .as_ref()
                .is_some_and(|from| is_meant(wanted, from))
    };
    let stays: Vec<&Line> = before.iter().filter(|line| !chosen(line)).collect();
    let is_dir = |path: &Path| {
        view.get(path)
            .is_some_and(|found| found.0 & 0o170_000 == 0o040_000)
    };
    // A new directory in which something stays, stays.
    let is_kept = |line: &&Line| {
        matches!(line.kind, 'A' | 'T')
            && is_dir(&line.path)
            && stays.iter().any(|stays| {
                stays.kind != 'D' && stays.path != line.path && stays.path.starts_with(&line.path)
            })
    };
    let kept = before.iter().filter(chosen).filter(is_kept);
    let stays: BTreeSet<&Line> = stays.iter().copied().chain(kept).collect();
    // What lies in a directory that comes home has another path.
    let home = before
        .iter()
        .filter(chosen)
        .any(|line| line.kind == 'R' && is_dir(&line.path));
    match home {
        false => assert_eq!(after.iter().collect::<BTreeSet<_>>(), stays),
        true => {
            let kinds = |lines: &mut dyn Iterator<Item = char>| {
                let mut kinds: Vec<char> = lines.collect();
                kinds.sort_unstable();
                kinds
            };
            let of = |line: &Line| line.kind;
            assert_eq!(
                kinds(&mut after.iter().map(of)),
                kinds(&mut stays.iter().map(|line| line.kind))
            );
        }
    }
}

#[test]
fn a_random_choice_is_given_up_and_nothing_else() {
    let cases = std::env::var("MMFS_CASES").map_or(40, |cases| cases.parse().unwrap());
    let mut rng = Rng::new();
    let (mut done, mut kept) = (0, 0);
    for case in 0..cases {
        let moves = case % 2 == 1;
        let (_place, source, store) = place();
        for _ in 0..50 {
            change_at_random(&source, &mut rng, true);
        }
        let mut mount = private(&source, &store, &[]);
        for _ in 0..1 + rng.below(40) {
            change_at_random(mount.mnt(), &mut rng, moves);
        }
        let list = |root: &Path| {
            let script = "find \"$1\" -printf '%P %i %n %y %m\\n'";
            tools::sh(script, &[root.as_os_str()])
        };
        println!(
            "case {case}\nsource:\n{}view:\n{}",
            list(&source),
            list(mount.mnt())
        );
        let below = listing(&source);
        mount.unmount();
        for _ in 0..3 {
            let all = lines(&store);
            if all.is_empty() {
                break;
            }
            let mut wanted = Vec::new();
            for _ in 0..1 + rng.below(3) {
                let line = &all[rng.below(all.len() as u64) as usize];
                let mut path = line
                    .from
                    .as_ref()
                    .filter(|_| rng.below(2) == 0)
                    .unwrap_or(&line.path)
                    .clone();
                if rng.below(3) == 0 && path.parent().is_some_and(|parent| parent != Path::new(""))
                {
                    path.pop();
                }
                wanted.push(path);
            }
            let words: Vec<&str> = wanted.iter().map(|path| path.to_str().unwrap()).collect();
            let was = view(&source, &store);
            println!("{all:?}\ndiscard {words:?}");
            let output = mmfs("discard", &store, &words);
            let told = String::from_utf8_lossy(&output.stderr);
            println!("{told}");
            let check = mmfs("check", &store, &[]);
            assert!(check.status.success(), "{check:?}");
            let after = lines(&store);
            let now = view(&source, &store);
            match output.status.code() {
                Some(0) => {
                    done += 1;
                    judge_lines(&all, &after, &wanted, &was);
                    for line in after.iter().filter(|line| all.contains(line)) {
                        assert_eq!(now.get(&line.path), was.get(&line.path), "{line:?}");
                    }
                    if !moves {
                        judge_view(&wanted, &below, &was, &now);
                    }
                }
                Some(1) => {
                    kept += 1;
                    assert_eq!(after, all);
                    assert_eq!(now, was);
                }
                other => panic!("{other:?}"),
            }
        }
        let rest = lines(&store);
        if !rest.is_empty() {
            let words: Vec<&str> = rest
                .iter()
                .map(|line| line.path.to_str().unwrap())
                .collect();
            let output = mmfs("discard", &store, &words);
            assert!(output.status.success(), "{output:?}");
        }
        // Without a change, times may be left.
        match rest.is_empty() {
            false => shows_the_source(&source, &store),
            true => assert_eq!(view(&source, &store), below),
        }
    }
    println!("{done} given up, {kept} refused");
    assert!(done > kept / 4, "{done} given up, {kept} refused");
}

/// Without renames and links, each path is the source's, or what it was.
fn judge_view(wanted: &[PathBuf], source: &Listing, was: &Listing, now: &Listing) {
    let paths: BTreeSet<&PathBuf> = source.keys().chain(was.keys()).chain(now.keys()).collect();
    for path in paths {
        let expected = match is_meant(wanted, path) {
            true => source.get(path),
            false => was.get(path),
        };
        assert_eq!(now.get(path), expected, "{path:?}");
    }
}
