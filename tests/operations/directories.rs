//! Directories being listed, and what the kernel may keep of a listing.

use std::time::Duration;

use mmfs::inode::ROOT;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::inodes::Body;
use crate::served::{Served, USER, name, serve, serve_with};

/// A listing as readdirplus gives it: name, number, and whether there are attributes with it.
fn list_plus(served: &Served, fh: u64) -> Vec<(String, u64, bool)> {
    let mut entries = Vec::new();
    let listed = served.readdirplus(fh, 0, |entry| {
        let shown = entry.name.to_str().unwrap().to_owned();
        entries.push((shown, entry.ino, entry.entry.is_some()));
        true
    });
    listed.unwrap();
    entries
}

/// Lists the root to its end, which the kernel then may keep.
fn list_root(served: &Served) {
    let (fh, _) = served.opendir(ROOT).unwrap();
    served.readdir(fh, 0, |_| true).unwrap();
    served.releasedir(fh).unwrap();
}

fn is_listing_kept(served: &Served) -> bool {
    let (fh, keep) = served.opendir(ROOT).unwrap();
    served.releasedir(fh).unwrap();
    keep
}

#[test]
fn a_listing_has_the_directory_its_parent_and_every_name() {
    let served = serve();
    let dir = served.put("dir", Body::directory());
    let (file, link) = (Body::File(Vec::new()), Body::Symlink(b"t".to_vec()));
    let (file, link) = (
        served.put_into(dir, "file", file),
        served.put_into(dir, "link", link),
    );
    let (fh, _) = served.opendir(served.look("dir")).unwrap();
    let mut entries = Vec::new();
    let listed = served.readdir(fh, 0, |entry| {
        let shown = entry.name.to_str().unwrap().to_owned();
        entries.push((shown, entry.ino, entry.kind, entry.offset));
        assert!(entry.entry.is_none());
        true
    });
    assert_eq!(listed, Ok(()));
    let expected = [
        (".", dir.number, FileType::Directory, 1),
        ("..", ROOT, FileType::Directory, 2),
        ("file", file.number, FileType::RegularFile, 3),
        ("link", link.number, FileType::Symlink, 4),
    ];
    assert_eq!(
        entries,
        expected.map(|(shown, ino, kind, at)| (shown.to_owned(), ino, kind, at))
    );
}

#[test]
fn a_listing_goes_on_from_the_offset_of_the_last_entry_taken() {
    let served = serve();
    for shown in ["a", "b", "c"] {
        served.put(shown, Body::File(Vec::new()));
    }
    let (fh, _) = served.opendir(ROOT).unwrap();
    let (mut names, mut at) = (Vec::new(), 0);
    // Room for two entries a time.
    for _ in 0..4 {
        let mut room = 2;
        let listed = served.readdir(fh, at, |entry| {
            if room == 0 {
                return false;
            }
            room -= 1;
            at = entry.offset;
            names.push(entry.name.to_str().unwrap().to_owned());
            true
        });
        listed.unwrap();
    }
    assert_eq!(names, [".", "..", "a", "b", "c"]);
}

#[test]
fn readdirplus_counts_one_lookup_of_each_entry() {
    let served = serve();
    served.put("a", Body::File(Vec::new()));
    let (fh, _) = served.opendir(ROOT).unwrap();
    let entries = list_plus(&served, fh);
    let (shown, node, with_attributes) = entries[2].clone();
    assert_eq!((shown.as_str(), with_attributes), ("a", true));
    served.assert_lookups(node, 1);
}

#[test]
fn readdir_counts_no_lookup() {
    let served = serve();
    let node = served.file("a", b"");
    list_root(&served);
    served.assert_lookups(node, 1);
}

#[test]
fn the_directory_and_its_parent_are_never_counted_when_listed() {
    let served = serve();
    let dir = served.directory("dir");
    let inner = served.mkdir(&USER, dir, name("inner"), 0o755, 0).unwrap();
    let inner = inner.attr.ino;
    let (fh, _) = served.opendir(inner).unwrap();
    served.memory.take_calls();
    let entries = list_plus(&served, fh);
    let expected = [(".", inner, false), ("..", dir, false)];
    assert_eq!(
        entries,
        expected.map(|(shown, ino, plus)| (shown.to_owned(), ino, plus))
    );
    assert!(served.memory.take_calls_of("lookup_listed").is_empty());
    served.assert_lookups(inner, 1);
    served.assert_lookups(dir, 1);
}

#[test]
fn an_entry_that_is_not_taken_is_not_counted() {
    let served = serve();
    let node = served.file("a", b"");
    let (fh, _) = served.opendir(ROOT).unwrap();
    let listed = served.readdirplus(fh, 0, |entry| entry.name != "a");
    assert_eq!(listed, Ok(()));
    served.assert_lookups(node, 1);
}

#[test]
fn an_entry_not_taken_that_nobody_knew_is_forgotten() {
    let served = serve();
    let ino = served.put("a", Body::File(Vec::new()));
    let (fh, _) = served.opendir(ROOT).unwrap();
    let listed = served.readdirplus(fh, 0, |entry| entry.name != "a");
    assert_eq!(listed, Ok(()));
    assert_eq!(served.memory.take_calls_of("forget"), ["forget 2.0"]);
    assert!(served.memory.nodes().get(ino.number).is_err());
}

#[test]
fn an_entry_that_cannot_be_looked_up_is_listed_and_counted() {
    let served = serve();
    let node = served.file("a", b"");
    let (fh, _) = served.opendir(ROOT).unwrap();
    served.memory.fail_next("lookup_listed", Errno::ACCESS);
    assert_eq!(list_plus(&served, fh)[2..], [("a".to_owned(), node, false)]);
    served.assert_lookups(node, 2);
}

#[test]
fn an_entry_that_cannot_be_looked_up_nor_taken_is_not_counted() {
    let served = serve();
    let node = served.file("a", b"");
    let (fh, _) = served.opendir(ROOT).unwrap();
    served.memory.fail_next("lookup_listed", Errno::ACCESS);
    let listed = served.readdirplus(fh, 0, |entry| entry.name != "a");
    assert_eq!(listed, Ok(()));
    served.assert_lookups(node, 1);
}

#[test]
fn an_entry_removed_while_the_directory_is_listed_is_left_out() {
    let served = serve();
    for shown in ["a", "b", "c"] {
        served.put(shown, Body::File(Vec::new()));
    }
    let (fh, _) = served.opendir(ROOT).unwrap();
    let mut names = Vec::new();
    let listed = served.readdirplus(fh, 0, |entry| {
        let shown = entry.name.to_str().unwrap().to_owned();
        if shown == "a" {
            served.remove_behind("b");
        }
        names.push(shown);
        true
    });
    assert_eq!(listed, Ok(()));
    assert_eq!(names, [".", "..", "a", "c"]);
}

#[test]
fn a_listing_is_kept_once_it_was_given_to_its_end() {
    let served = serve();
    served.put("a", Body::File(Vec::new()));
    assert!(!is_listing_kept(&served), "it was never listed");
    let (fh, _) = served.opendir(ROOT).unwrap();
    served.readdir(fh, 0, |entry| entry.name != "a").unwrap();
    assert!(!is_listing_kept(&served), "it was not listed to its end");
    served.readdir(fh, 2, |_| true).unwrap();
    assert!(is_listing_kept(&served));
}

#[test]
fn a_listing_with_attributes_is_kept_too() {
    let served = serve();
    let (fh, _) = served.opendir(ROOT).unwrap();
    served.readdirplus(fh, 0, |_| true).unwrap();
    assert!(is_listing_kept(&served));
}

#[test]
fn a_listing_is_not_kept_when_the_directory_has_changed() {
    let served = serve();
    list_root(&served);
    served.mkdir(&USER, ROOT, name("a"), 0o755, 0).unwrap();
    assert!(!is_listing_kept(&served), "changed by ourselves");
    list_root(&served);
    served.put("b", Body::directory());
    assert!(!is_listing_kept(&served), "changed behind");
}

#[test]
fn a_listing_is_valid_as_of_when_the_directory_was_opened() {
    let served = serve();
    let (fh, _) = served.opendir(ROOT).unwrap();
    served.put("a", Body::directory());
    served.readdir(fh, 0, |_| true).unwrap();
    assert!(!is_listing_kept(&served));
}

#[test]
fn a_listing_is_kept_no_longer_than_names_and_attributes_are_believed() {
    let (long, short) = (Duration::from_secs(60), Duration::from_millis(1));
    for (attr, entry) in [(long, short), (short, long)] {
        let served = serve_with(|config| {
            (config.attr_timeout, config.entry_timeout) = (attr, entry);
        });
        list_root(&served);
        std::thread::sleep(Duration::from_millis(5));
        assert!(!is_listing_kept(&served), "{attr:?} {entry:?}");
    }
}

#[test]
fn a_listing_is_not_kept_for_another_life_of_the_directory() {
    let served = serve();
    let node = served.directory("a");
    let (fh, _) = served.opendir(node).unwrap();
    served.readdir(fh, 0, |_| true).unwrap();
    served.releasedir(fh).unwrap();
    served.rmdir(ROOT, name("a")).unwrap();
    let other = served.directory("b");
    assert_ne!(other, node);
    assert!(!served.opendir(other).unwrap().1);
}

#[test]
fn opening_a_directory_says_why_it_failed() {
    let served = serve();
    let file = served.file("a", b"");
    assert_eq!(served.opendir(file), Err(Errno::NOTDIR));
    assert_eq!(served.opendir(77), Err(Errno::STALE));
    served.memory.fail_next("open_dir", Errno::ACCESS);
    assert_eq!(served.opendir(ROOT), Err(Errno::ACCESS));
}

#[test]
fn listing_says_why_it_failed() {
    let served = serve();
    let (fh, _) = served.opendir(ROOT).unwrap();
    for errno in [Errno::IO, Errno::NOENT] {
        served.memory.fail_next("list", errno);
        assert_eq!(served.readdir(fh, 0, |_| true), Err(errno));
        served.memory.fail_next("list", errno);
        assert_eq!(served.readdirplus(fh, 0, |_| true), Err(errno));
    }
    assert!(!is_listing_kept(&served), "a failure is no end");
}

#[test]
fn a_directory_that_was_removed_can_be_closed_but_not_listed() {
    let served = serve();
    let node = served.directory("a");
    let (fh, _) = served.opendir(node).unwrap();
    served.rmdir(ROOT, name("a")).unwrap();
    assert_eq!(served.readdir(fh, 0, |_| true), Err(Errno::NOENT));
    let made = served.mkdir(&USER, node, name("b"), 0o755, 0);
    assert_eq!(made.unwrap_err(), Errno::NOENT);
    assert_eq!(served.releasedir(fh), Ok(()));
    assert_eq!(served.getattr(node, None).unwrap_err(), Errno::STALE);
}

#[test]
fn a_directory_is_synced_through_its_handle() {
    let served = serve();
    let (fh, _) = served.opendir(ROOT).unwrap();
    served.memory.take_calls();
    served.fsyncdir(fh, true).unwrap();
    served.fsyncdir(fh, false).unwrap();
    let expected = ["Listing::sync 1.0 data", "Listing::sync 1.0 all"];
    assert_eq!(served.memory.take_calls(), expected);
    served.memory.fail_next("Listing::sync", Errno::IO);
    assert_eq!(served.fsyncdir(fh, false), Err(Errno::IO));
}
