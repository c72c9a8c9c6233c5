//! Names of a private view: renaming and listing.

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use common::private::{place, private};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// It was EINVAL. (proves: S9)
#[test]
fn s9_as_root_a_rename_may_leave_a_whiteout() {
    let (_place, source, store) = place();
    for name in ["theirs", "target"] {
        fs::write(source.join(name), name).unwrap();
    }
    let mut mount = private(&source, &store, &[]);
    let rename = |from: &str, to: &str, flags| {
        let path = |name| mount.mnt().join(name);
        renameat_with(CWD, path(from), CWD, path(to), flags)
    };
    fs::write(mount.mnt().join("own"), "own").unwrap();
    let both = RenameFlags::WHITEOUT | RenameFlags::NOREPLACE;
    assert_eq!(rename("own", "target", both), Err(Errno::EXIST));
    let wrong = RenameFlags::WHITEOUT | RenameFlags::EXCHANGE;
    assert_eq!(rename("own", "target", wrong), Err(Errno::INVAL));
    rename("own", "target", RenameFlags::WHITEOUT).unwrap();
    rename("theirs", "moved", both).unwrap();
    for _ in 0..2 {
        for name in ["own", "theirs"] {
            let left = fs::symlink_metadata(mount.mnt().join(name)).unwrap();
            assert!(left.file_type().is_char_device());
            assert_eq!((left.rdev(), left.nlink(), left.mode() & 0o7777), (0, 1, 0));
        }
        for (name, text) in [("target", "own"), ("moved", "theirs")] {
            let found = fs::read_to_string(mount.mnt().join(name)).unwrap();
            assert_eq!(found, text);
        }
        mount.remount();
    }
    fs::remove_file(mount.mnt().join("theirs")).unwrap();
    assert_eq!(fs::read_dir(mount.mnt()).unwrap().count(), 3);
}

/// The names in a directory stream, and the position behind each.
fn listed(stream: &mut rustix::fs::Dir) -> Vec<(String, u64)> {
    let mut names = Vec::new();
    while let Some(entry) = stream.read() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_str().unwrap().to_owned();
        names.push((name, entry.offset() as u64));
    }
    names.retain(|(name, _)| name != "." && name != "..");
    names
}

/// What was made since the first listing was not shown. (proves: S8)
#[test]
fn s8_a_listing_that_begins_again_shows_what_is_new() {
    let (_place, source, store) = place();
    fs::create_dir(source.join("d")).unwrap();
    for name in ["d/theirs", "d/theirs too"] {
        fs::write(source.join(name), "").unwrap();
    }
    let mount = private(&source, &store, &[]);
    fs::create_dir(mount.mnt().join("own")).unwrap();
    for (directory, theirs) in [("d", 2), ("own", 0)] {
        let path = mount.mnt().join(directory);
        for n in 0..300 {
            fs::write(path.join(format!("m{n}")), "").unwrap();
        }
        let open = || rustix::fs::Dir::new(fs::File::open(&path).unwrap()).unwrap();
        let (mut one, mut other) = (open(), open());
        let before = listed(&mut one);
        assert_eq!(before.len(), 300 + theirs);
        // Before, between and behind the others.
        let new = ["a", "m150x", "z"];
        for name in new {
            fs::write(path.join(name), "").unwrap();
        }
        fs::remove_file(path.join("m7")).unwrap();
        one.rewind();
        let after = listed(&mut one);
        assert_eq!(after.len(), 302 + theirs);
        let has = |name: &str| after.iter().filter(|(known, _)| known == name).count();
        assert!(new.iter().all(|name| has(name) == 1) && has("m7") == 0);
        // A position leads on to what follows it, in each stream.
        let (_, position) = before[250];
        for stream in [&mut one, &mut other] {
            stream.seek(position as i64).unwrap();
            let rest: Vec<String> = listed(stream).into_iter().map(|(name, _)| name).collect();
            for (name, _) in &before[251..] {
                assert!(rest.contains(name) || name == "m7", "{name}");
            }
            for (name, _) in &before[..=250] {
                assert!(!rest.contains(name), "{name}");
            }
        }
    }
}

/// A request reads what it shows, and the memory is that of one table, however many list the directory.
#[test]
fn a_directory_with_many_new_names_is_listed_in_small_steps() {
    const NAMES: usize = 10_000;
    let (_place, source, store) = place();
    let mut mount = private(&source, &store, &[]);
    let path = mount.mnt().join("d");
    mount.within(std::time::Duration::from_secs(120), || {
        fs::create_dir(&path).unwrap();
        fs::write(path.join("f"), "").unwrap();
        for n in 1..NAMES {
            fs::hard_link(
                path.join("f"),
                path.join(format!("a name of some length, {n}")),
            )
            .unwrap();
        }
    });
    mount.remount();
    let began = std::time::Instant::now();
    let mut streams: Vec<_> = (0..20).map(|_| fs::read_dir(&path).unwrap()).collect();
    for stream in &mut streams {
        stream.next().unwrap().unwrap();
    }
    let first = began.elapsed();
    let count = |stream: fs::ReadDir| stream.filter(Result::is_ok).count();
    let began = std::time::Instant::now();
    assert_eq!(count(streams.pop().unwrap()), NAMES - 1);
    let all = began.elapsed();
    // If a step read the whole directory, they would take twenty times as long.
    assert!(
        first < 5 * all,
        "twenty first steps took {first:?}, one whole {all:?}"
    );
}

/// They were left out. (proves: S8)
#[test]
fn s8_names_that_the_source_gets_while_they_are_listed_are_listed_once() {
    const NAMES: usize = 3000;
    let (_place, source, store) = place();
    fs::create_dir(source.join("d")).unwrap();
    let (theirs, own) = (|n| format!("theirs-{n}"), |n| format!("own-{n}"));
    for n in 0..100 {
        fs::write(source.join("d").join(theirs(n)), "").unwrap();
    }
    let mount = private(&source, &store, &[]);
    let path = mount.mnt().join("d");
    for n in 0..NAMES {
        fs::create_dir(path.join(own(n))).unwrap();
    }
    let stream = rustix::fs::Dir::new(fs::File::open(&path).unwrap()).unwrap();
    let mut seen = std::collections::HashMap::new();
    let mut count = 0;
    for entry in stream {
        let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
        *seen.entry(name).or_insert(0) += 1;
        count += 1;
        if count == 200 {
            (0..NAMES).for_each(|n| fs::create_dir(source.join("d").join(own(n))).unwrap());
            // One that was shown as the source's is the view's from now on.
            fs::write(path.join(theirs(7)), "changed").unwrap();
            fs::remove_file(source.join("d").join(theirs(7))).unwrap();
        }
    }
    assert!((0..NAMES).all(|n| seen[&own(n)] == 1));
    assert!((0..100).all(|n| seen[&theirs(n)] == 1));
}
