//! What the source has changed, too.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::committed::{
    assert_committed, assert_empty, commit, diff, done, left_alone, place, refused, remove,
    set_times, write_at, write_files, write_large,
};
use crate::common::private::{AT_ONCE, private};
use crate::common::snapshot::{Bytes, Entry, Snapshot, assert_same, snapshot, untouched};
use crate::matrix::{CHANGES, Change, THERE, There};

/// What happens in the source after the view's change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Edited,
    Replaced,
    Removed,
    New,
    Chmod,
}

impl Meanwhile {
    fn can_be(self, there: There) -> bool {
        let is_file = matches!(there, There::File | There::Large | There::Linked);
        match self {
            Self::New => there == There::Nothing,
            Self::Edited | Self::Replaced => is_file,
            Self::Removed => there != There::Nothing,
            Self::Chmod => is_file || there == There::Directory,
        }
    }

    fn happen(self, path: &Path) {
        match self {
            Self::Edited => {
                let len = fs::metadata(path).unwrap().len();
                write_at(path, len, b"the source's second");
            }
            Self::Replaced => {
                let other = path.with_extension("replacing");
                fs::write(&other, "another file of the source").unwrap();
                fs::rename(other, path).unwrap();
            }
            Self::Removed => remove(path),
            Self::New => fs::write(path, "new in the source").unwrap(),
            Self::Chmod => fs::set_permissions(path, Permissions::from_mode(0o711)).unwrap(),
        }
    }
}

fn conflicts(store: &Path) -> usize {
    let lines = diff(store);
    lines.iter().filter(|line| line.starts_with("C ")).count()
}

/// What the view shows. Pages of the source's files come from what they are now.
fn shown(source: &Path, store: &Path, change: impl FnOnce(&Path)) -> Snapshot {
    let mut mount = private(source, store, &AT_ONCE);
    change(mount.mnt());
    let view = snapshot(mount.mnt());
    mount.unmount();
    view
}

/// Whatever has changed meanwhile: what is told as a conflict is left alone, and all else is committed. Returns how many
/// conflicts there were.
fn commit_after(meanwhile: Meanwhile) -> usize {
    CHANGES
        .iter()
        .map(|change| one_after(*change, meanwhile))
        .sum()
}

fn one_after(change: Change, meanwhile: Meanwhile) -> usize {
    let (_place, source, store) = place();
    let can_be = |there: &There| change.can_be(*there) && meanwhile.can_be(*there);
    let all: Vec<There> = THERE.into_iter().filter(can_be).collect();
    println!("{change:?} over {all:?}, {meanwhile:?} meanwhile");
    let name = |there: &There| format!("over-{there:?}/name");
    for there in &all {
        let path = source.join(name(there));
        fs::create_dir(path.parent().unwrap()).unwrap();
        there.make(&path);
        // Far from the times that follow: a clock may not have ticked.
        if *there != There::Nothing {
            set_times(&path, 700_000_000);
        }
    }
    let mut mount = private(&source, &store, &AT_ONCE);
    for there in &all {
        change.make(&mount.mnt().join(name(there)));
    }
    mount.unmount();
    for there in &all {
        meanwhile.happen(&source.join(name(there)));
    }
    let found = conflicts(&store);
    let mut options: &[&str] = &[];
    if found > 0 {
        left_alone(&source, &store, (3, "the source has changed these, too"));
        options = &["--force"];
    }
    let mut view = shown(&source, &store, |_| {});
    // Bytes that only the source had, and it has them no more.
    let is_lost = |entry: &Entry| matches!(entry.bytes, Bytes::Failed(_));
    let lost: Vec<PathBuf> = view
        .iter()
        .filter(|(_, entry)| is_lost(entry))
        .map(|(path, _)| path.clone())
        .collect();
    if !lost.is_empty() {
        let (before, changes) = (untouched(&source), diff(&store));
        refused(&commit(&store, options), 1, "nothing was changed");
        let now = without_directory_changes(untouched(&source), &before);
        assert_same(&before, &now, "the source was touched");
        assert_eq!(diff(&store), changes);
        view = shown(&source, &store, |view| {
            lost.iter().for_each(|path| remove(&view.join(path)));
        });
    }
    done(&commit(&store, options));
    assert_committed(&view, &source, &store);
    found
}

/// The inodes of directories were changed when something was made in them and taken back.
fn without_directory_changes(mut now: Snapshot, before: &Snapshot) -> Snapshot {
    for (path, entry) in &mut now {
        if entry.links.is_none() {
            entry.inode = before.get(path).and_then(|before| before.inode);
        }
    }
    now
}

#[test]
fn a_file_that_the_source_edited_is_a_conflict() {
    assert!(commit_after(Meanwhile::Edited) >= 12);
}

#[test]
fn a_file_that_the_source_replaced_is_a_conflict() {
    assert!(commit_after(Meanwhile::Replaced) >= 12);
}

#[test]
fn a_file_that_the_source_removed_is_a_conflict() {
    assert!(commit_after(Meanwhile::Removed) >= 12);
}

#[test]
fn a_name_that_is_new_in_the_source_is_committed_or_a_conflict() {
    commit_after(Meanwhile::New);
}

/// But for a name that the view has removed or replaced: there, its time of change is all that tells.
#[test]
fn other_attributes_in_the_source_are_no_conflict() {
    let replaces = [
        Change::Directory,
        Change::Hidden,
        Change::File,
        Change::Saved,
        Change::Symlink,
        Change::Fifo,
        Change::Socket,
        Change::Link,
        Change::NewLinks,
        Change::Inside,
    ];
    for change in CHANGES {
        let found = one_after(change, Meanwhile::Chmod);
        assert!(found == 0 || replaces.contains(&change), "{change:?}");
    }
}

/// One of many is enough for nothing to be done.
#[test]
fn s75_one_conflict_keeps_all_changes_back() {
    let (_place, source, store) = place();
    write_files(&source, &["a", "d/b", "gone", "old", "z"]);
    write_large(&source.join("large"));
    let mut mount = private(&source, &store, &AT_ONCE);
    let at = |name: &str| mount.mnt().join(name);
    fs::write(at("a"), "other").unwrap();
    fs::rename(at("d"), at("e")).unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::rename(at("old"), at("new")).unwrap();
    write_at(&at("large"), 5, b"pages");
    fs::write(at("z"), "z of the view").unwrap();
    mount.unmount();
    fs::write(source.join("z"), "z of the source").unwrap();
    let lines = [
        "M a",
        "R d -> e",
        "D gone",
        "M large",
        "R old -> new",
        "C z",
    ];
    let mut found = diff(&store);
    found.sort();
    let mut expected = lines.map(String::from);
    expected.sort();
    assert_eq!(found, expected);
    left_alone(&source, &store, (3, "C z"));
    done(&commit(&store, &["--force"]));
    assert_eq!(fs::read(source.join("z")).unwrap(), b"z of the view");
    assert!(!source.join("gone").exists() && !source.join("d").exists());
    assert_empty(&store);
}

/// What the source did to a name that the view has deleted or replaced. Each is a conflict: the source's change would be lost.
#[test]
fn names_that_changed_in_the_source_are_conflicts() {
    type Do = fn(&Path);
    let write: Do = |path| fs::write(path, "the source's second").unwrap();
    let edit: Do = |path| write_at(path, 1, b"the source's second");
    let replace: Do = |path| {
        fs::write(path.with_extension("r"), "another file").unwrap();
        fs::rename(path.with_extension("r"), path).unwrap();
    };
    let save: Do = |path| {
        fs::write(path.with_extension("s"), "the view's").unwrap();
        fs::rename(path.with_extension("s"), path).unwrap();
    };
    let renew: Do = |path| {
        remove(path);
        fs::create_dir(path).unwrap();
        fs::write(path.join("view"), "the view's").unwrap();
    };
    let add: Do = |path| fs::write(path.join("added"), "added").unwrap();
    let edit_inside: Do = |path| edit_file_in(path);
    let link: Do = |path| {
        remove(path);
        symlink("elsewhere", path).unwrap();
    };
    let rename_away: Do = |path| fs::rename(path, path.with_extension("elsewhere")).unwrap();
    let make_directory: Do = |path| fs::create_dir(path).unwrap();
    let cases: [(&str, There, Do, Do); 17] = [
        ("deleted, edited", There::File, remove, edit),
        ("deleted, replaced", There::File, remove, replace),
        ("deleted, a link instead", There::File, remove, link),
        ("saved, edited", There::File, save, edit),
        ("saved, replaced", There::File, save, replace),
        ("saved, a link instead", There::File, save, link),
        ("deleted, link replaced", There::Symlink, remove, link),
        ("saved, link replaced", There::Symlink, save, link),
        (
            "directory deleted, a file added",
            There::Directory,
            remove,
            add,
        ),
        (
            "directory deleted, a file edited",
            There::Directory,
            remove,
            edit_inside,
        ),
        (
            "directory replaced, a file added",
            There::Directory,
            renew,
            add,
        ),
        (
            "directory replaced, a file edited",
            There::Directory,
            renew,
            edit_inside,
        ),
        ("new in both", There::Nothing, save, write),
        (
            "new in both, a directory there",
            There::Nothing,
            write,
            make_directory,
        ),
        (
            "a new directory, a file there",
            There::Nothing,
            make_directory,
            write,
        ),
        ("moved, a new one there", There::File, rename_away, replace),
        (
            "directory deleted, replaced by a link",
            There::Directory,
            remove,
            link,
        ),
    ];
    let mut wrong = Vec::new();
    for (name, there, change, meanwhile) in cases {
        let (_place, source, store) = place();
        there.make(&source.join("name"));
        if there != There::Nothing {
            set_times(&source.join("name"), 700_000_000);
        }
        let mut mount = private(&source, &store, &AT_ONCE);
        change(&mount.mnt().join("name"));
        mount.unmount();
        meanwhile(&source.join("name"));
        let before = untouched(&source);
        let output = commit(&store, &[]);
        if output.status.code() != Some(3) {
            wrong.push(format!("{name}: {output:?}"));
            continue;
        }
        assert_same(&before, &untouched(&source), name);
        assert!(conflicts(&store) > 0, "{name}: {:?}", diff(&store));
    }
    assert!(wrong.is_empty(), "committed nevertheless: {wrong:#?}");
}

fn edit_file_in(path: &Path) {
    write_at(&path.join("e/g"), 1, b"the source's second");
}

/// A symbolic link in the source is never followed: what lies outside is not the source's.
#[test]
fn s77_nothing_outside_of_the_source_is_touched() {
    let (place, source, store) = place();
    let outside = place.path().join("outside");
    for force in [false, true] {
        for (index, change) in [
            |at: &Path| fs::write(at.join("f"), "the view's").unwrap(),
            |at: &Path| fs::write(at.join("new"), "the view's").unwrap(),
            |at: &Path| fs::remove_file(at.join("f")).unwrap(),
            |at: &Path| fs::rename(at.join("f"), at.join("e/f")).unwrap(),
            |at: &Path| fs::rename(at.join("e"), at.with_file_name("moved")).unwrap(),
            |at: &Path| set_times(&at.join("f"), 500_000_000),
            |at: &Path| fs::set_permissions(at, Permissions::from_mode(0o700)).unwrap(),
            |at: &Path| remove(at),
        ]
        .into_iter()
        .enumerate()
        {
            println!("change {index}, force: {force}");
            for path in [&source, &outside, &store] {
                remove(path);
            }
            for root in [&source.join("d"), &outside] {
                write_files(root, &["f", "e/g"]);
            }
            let mut mount = private(&source, &store, &AT_ONCE);
            change(&mount.mnt().join("d"));
            mount.unmount();
            fs::rename(
                source.join("d"),
                place.path().join(format!("aside-{force}-{index}")),
            )
            .unwrap();
            symlink(&outside, source.join("d")).unwrap();
            let before = untouched(&outside);
            let output = commit(&store, if force { &["--force"] } else { &[] });
            println!("{output:?}");
            assert_same(
                &before,
                &untouched(&outside),
                "what lies outside was touched",
            );
        }
    }
}
