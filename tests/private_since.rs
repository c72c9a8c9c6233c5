//! Conflicts of names: the source changes what the view has deleted, replaced or made under the same name.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use common::private::{AT_ONCE, place, private};
use common::{builder, tools};

/// Longer than a tick of the clock by which files are stamped.
const TICKS: Duration = Duration::from_millis(30);

fn told(object: &Path, options: &[&str]) -> String {
    let mut command = Command::new(builder::binary());
    let output = tools::output_of(command.arg("diff").args(options).arg(object));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn lines(object: &Path) -> Vec<String> {
    told(object, &[]).lines().map(Into::into).collect()
}

fn write(root: &Path, paths: &[&str]) {
    for path in paths {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "as it was").unwrap();
    }
}

/// As an editor saves.
fn save(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

/// Whatever was done before is earlier than what is done next, by more than a clock can hide.
fn later() {
    sleep(TICKS);
}

#[test]
fn s78_what_the_view_deleted_and_the_source_changed_is_a_conflict() {
    let (_place, source, store) = place();
    let names = [
        "edited", "mode", "quiet", "removed", "renamed", "replaced", "saved",
    ];
    write(&source, &names);
    later();
    let mut mount = private(&source, &store, &AT_ONCE);
    for name in names {
        fs::remove_file(mount.mnt().join(name)).unwrap();
    }
    let deleted: Vec<_> = names.iter().map(|name| format!("D {name}")).collect();
    assert_eq!(lines(mount.mnt()), deleted);
    later();
    fs::write(source.join("edited"), "edited").unwrap();
    fs::set_permissions(source.join("mode"), Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(source.join("removed")).unwrap();
    fs::rename(source.join("renamed"), source.join("elsewhere")).unwrap();
    fs::remove_file(source.join("replaced")).unwrap();
    fs::create_dir(source.join("replaced")).unwrap();
    save(&source.join("saved"), "saved");
    // Reading is no change.
    fs::read(source.join("quiet")).unwrap();
    let expected = ["C edited", "C mode", "D quiet", "C replaced", "C saved"];
    assert_eq!(lines(mount.mnt()), expected);
    let stat = told(mount.mnt(), &["--stat"]);
    assert!(stat.contains("C edited  6 B\n"), "{stat}");
    assert!(
        stat.ends_with("1 deleted, 4 in conflict; 0 B differ\n"),
        "{stat}"
    );
    mount.unmount();
    assert_eq!(lines(&store), expected);
    let json = told(&store, &["--json"]);
    let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["kind"], &first["now"]),
        (&"C".into(), &serde_json::Value::Null)
    );
    assert_eq!(first["before"]["size"], 6);
    // What was deleted goes on to be: a new mount records no other time.
    let mut mount = private(&source, &store, &AT_ONCE);
    fs::write(mount.mnt().join("other"), "other").unwrap();
    mount.unmount();
    let again: Vec<_> = lines(&store)
        .into_iter()
        .filter(|line| line != "A other")
        .collect();
    assert_eq!(again, expected);
}

#[test]
fn s78_a_name_that_both_have_made_is_a_conflict() {
    let (_place, source, store) = place();
    write(&source, &["first", "d/kept"]);
    later();
    let mut mount = private(&source, &store, &AT_ONCE);
    let at = |name: &str| mount.mnt().join(name);
    for name in ["alone", "both", "d/deep", "same", "type"] {
        fs::write(at(name), "the view's").unwrap();
    }
    fs::create_dir(at("dirs")).unwrap();
    fs::rename(at("first"), at("moved")).unwrap();
    fs::hard_link(at("d/kept"), at("linked")).unwrap();
    later();
    for name in ["both", "d/deep", "moved", "linked", "dirs/new"] {
        write(&source, &[name]);
    }
    fs::write(source.join("linked"), "the source's").unwrap();
    fs::copy(at("same"), source.join("same")).unwrap();
    fs::set_permissions(
        source.join("same"),
        fs::metadata(at("same")).unwrap().permissions(),
    )
    .unwrap();
    fs::create_dir(source.join("type")).unwrap();
    let expected = [
        "A alone",
        "C both",
        "C d/deep",
        "C dirs/new",
        "C linked",
        "C first -> moved",
        "C type",
    ];
    assert_eq!(lines(mount.mnt()), expected);
    mount.unmount();
    assert_eq!(lines(&store), expected);
}

#[test]
fn s78_what_the_view_replaced_and_the_source_changed_is_a_conflict() {
    let (_place, source, store) = place();
    write(
        &source,
        &[
            "saved", "quiet", "over", "mover", "x", "y", "emptied", "back",
        ],
    );
    later();
    let mut mount = private(&source, &store, &AT_ONCE);
    let at = |name: &str| mount.mnt().join(name);
    for name in ["saved", "quiet"] {
        // The node of an unchanged place comes first.
        fs::set_permissions(at(name), Permissions::from_mode(0o600)).unwrap();
        save(&at(name), "the view's");
    }
    fs::rename(at("mover"), at("over")).unwrap();
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    let cwd = rustix::fs::CWD;
    rustix::fs::renameat_with(cwd, at("x"), cwd, at("y"), exchange).unwrap();
    fs::remove_file(at("emptied")).unwrap();
    fs::rename(at("back"), at("away")).unwrap();
    fs::rename(at("away"), at("back")).unwrap();
    later();
    fs::write(source.join("saved"), "the source's").unwrap();
    fs::write(source.join("over"), "the source's").unwrap();
    // What was renamed goes on to follow the source.
    fs::write(source.join("x"), "the source's").unwrap();
    fs::write(source.join("back"), "the source's").unwrap();
    fs::write(source.join("emptied"), "the source's").unwrap();
    later();
    // It was hidden all the time.
    fs::write(at("emptied"), "the view's").unwrap();
    let expected = [
        "C emptied",
        "C mover -> over",
        "M quiet",
        "C saved",
        "R y -> x",
        "R x -> y",
    ];
    assert_eq!(lines(mount.mnt()), expected);
    assert_eq!(fs::read(at("y")).unwrap(), b"the source's");
    mount.unmount();
    assert_eq!(lines(&store), expected);
}

#[test]
fn s78_a_change_deep_in_what_the_view_deleted_is_a_conflict() {
    let (_place, source, store) = place();
    write(
        &source,
        &[
            "d/e/f",
            "d/e/g",
            "d/h/i",
            "q/sub/mine",
            "q/mine",
            "q/same",
            "t/sub/other",
            "t/mine",
            "t/same",
        ],
    );
    later();
    let mut mount = private(&source, &store, &AT_ONCE);
    let at = |name: &str| mount.mnt().join(name);
    fs::remove_dir_all(at("d")).unwrap();
    fs::remove_dir_all(at("t")).unwrap();
    fs::rename(at("q"), at("t")).unwrap();
    fs::write(at("t/mine"), "the view's").unwrap();
    let expected = [
        "D d",
        "D d/e",
        "D d/e/f",
        "D d/e/g",
        "D d/h",
        "D d/h/i",
        "R q -> t",
        "M t/mine",
        "D t/sub/other",
    ];
    assert_eq!(lines(mount.mnt()), expected);
    later();
    write(&source, &["d/e/new"]);
    fs::write(source.join("d/e/g"), "the source's").unwrap();
    fs::write(source.join("t/mine"), "the source's").unwrap();
    fs::write(source.join("t/same"), "the source's").unwrap();
    write(&source, &["t/new"]);
    fs::write(source.join("t/sub/other"), "the source's").unwrap();
    let expected = [
        "D d",
        "C d/e",
        "D d/e/f",
        "C d/e/g",
        "C d/e/new",
        "D d/h",
        "D d/h/i",
        "C q -> t",
        "C t/mine",
        "C t/new",
        "C t/same",
        "C t/sub/other",
    ];
    assert_eq!(lines(mount.mnt()), expected);
    mount.unmount();
    assert_eq!(lines(&store), expected);
}

#[test]
fn s78_a_directory_made_anew_has_conflicts_by_name() {
    let (_place, source, store) = place();
    write(
        &source,
        &["d/edited", "d/gone", "d/quiet", "d/e/f", "d/e/same"],
    );
    later();
    let mut mount = private(&source, &store, &AT_ONCE);
    let at = |name: &str| mount.mnt().join(name);
    fs::remove_dir_all(at("d")).unwrap();
    later();
    fs::write(source.join("d/edited"), "the source's").unwrap();
    fs::write(source.join("d/e/f"), "the source's").unwrap();
    later();
    fs::create_dir_all(at("d/e")).unwrap();
    for name in ["d/edited", "d/quiet", "d/e/f", "d/new"] {
        fs::write(at(name), "the view's").unwrap();
    }
    fs::write(at("d/e/same"), "as it was").unwrap();
    later();
    write(&source, &["d/new", "d/late"]);
    fs::set_permissions(source.join("d/e"), Permissions::from_mode(0o700)).unwrap();
    // A time of change of a directory may be that of a commit, so a chmod of one is no conflict.
    let expected = [
        "P d/e",
        "C d/e/f",
        "C d/edited",
        "D d/gone",
        "C d/late",
        "C d/new",
        "M d/quiet",
    ];
    assert_eq!(lines(mount.mnt()), expected);
    mount.unmount();
    assert_eq!(lines(&store), expected);
}

/// What the source did before the view deleted it is none, however late its times say it was modified.
#[test]
fn s78_an_earlier_change_is_no_conflict() {
    let (_place, source, store) = place();
    let mount = private(&source, &store, &AT_ONCE);
    let at = |name: &str| mount.mnt().join(name);
    write(
        &source,
        &["deleted", "saved", "d/e/f", "over", "mover", "future"],
    );
    let future = SystemTime::now() + Duration::from_secs(100_000);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(source.join("future"))
        .unwrap();
    file.set_modified(future).unwrap();
    sleep(Duration::from_millis(21));
    for name in ["deleted", "future"] {
        fs::remove_file(at(name)).unwrap();
    }
    save(&at("saved"), "the view's");
    fs::remove_dir_all(at("d")).unwrap();
    fs::rename(at("mover"), at("over")).unwrap();
    let expected = [
        "D d",
        "D d/e",
        "D d/e/f",
        "D deleted",
        "D future",
        "R mover -> over",
        "M saved",
    ];
    assert_eq!(lines(mount.mnt()), expected);
    // What shows again is as the source has it, and hidden anew later.
    fs::write(at("mine"), "the view's").unwrap();
    fs::remove_file(at("mine")).unwrap();
    later();
    write(&source, &["mine"]);
    later();
    fs::remove_file(at("mine")).unwrap();
    assert!(lines(mount.mnt()).contains(&"D mine".into()));
}
