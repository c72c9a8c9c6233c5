//! What the kernel remembers: lookups, and taking them back.

use std::path::Path;

use mmfs::actor::Actor;
use mmfs::inode::ROOT;
use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;

use crate::inodes::{Body, Ino, NAME_MAX};
use crate::served::{ADMIN, PLAIN, USER, name, serve};

#[test]
fn a_node_is_known_until_its_last_lookup_is_taken_back() {
    let served = serve();
    let node = served.file("a", b"");
    assert_eq!(served.look("a"), node);
    served.forget(node, 1);
    assert!(served.getattr(node, None).is_ok());
    assert!(served.memory.take_calls_of("forget").is_empty());
    served.forget(node, 1);
    assert_eq!(served.getattr(node, None).unwrap_err(), Errno::STALE);
    assert_eq!(served.memory.take_calls_of("forget"), ["forget 2.0"]);
}

#[test]
fn the_root_is_never_forgotten() {
    let served = serve();
    served.forget(ROOT, 100);
    assert!(served.getattr(ROOT, None).is_ok());
}

#[test]
fn a_lookup_that_fails_counts_nothing() {
    let served = serve();
    let node = served.file("a", b"");
    served.memory.fail_next("lookup", Errno::IO);
    let failed = served.lookup(&USER, ROOT, name("a"));
    assert_eq!(failed.unwrap_err(), Errno::IO);
    served.assert_lookups(node, 1);
}

#[test]
fn a_lookup_says_why_it_failed() {
    let served = serve();
    let file = served.file("a", b"");
    let long = "x".repeat(NAME_MAX + 1);
    let cases = [
        (ROOT, "b", Errno::NOENT),
        (ROOT, &long, Errno::NAMETOOLONG),
        (file, "b", Errno::NOTDIR),
        (77, "a", Errno::STALE),
    ];
    for (parent, entry, errno) in cases {
        let found = served.lookup(&USER, parent, name(entry));
        assert_eq!(found.unwrap_err(), errno, "{entry} in {parent}");
    }
}

#[test]
fn every_answer_with_an_entry_counts_one_lookup() {
    let served = serve();
    let count_one = |entry: mmfs::fs::Entry| served.assert_lookups(entry.attr.ino, 1);
    count_one(served.mknod(&USER, ROOT, name("a"), 0o644, 0, 0).unwrap());
    count_one(served.mkdir(&USER, ROOT, name("b"), 0o755, 0).unwrap());
    let target = Path::new("a");
    count_one(served.symlink(&USER, ROOT, name("c"), target).unwrap());
    let created = served.create(&USER, ROOT, name("d"), 0o644, 0, OFlags::RDWR);
    count_one(created.unwrap().0);
    let node = served.look("a");
    served.link(node, ROOT, name("e")).unwrap();
    served.assert_lookups(node, 2);
}

#[test]
fn what_fails_to_be_made_counts_no_lookup() {
    let served = serve();
    let node = served.file("a", b"");
    let exists = Errno::EXIST;
    let made = served.mknod(&USER, ROOT, name("a"), 0o644, 0, 0);
    assert_eq!(made.unwrap_err(), exists);
    let linked = served.link(node, ROOT, name("a"));
    assert_eq!(linked.unwrap_err(), exists);
    served.assert_lookups(node, 1);
}

#[test]
fn a_number_in_another_life_has_a_node_of_its_own() {
    let served = serve();
    let first = served.lookup_of("a", b"");
    served.remove_behind("a");
    let second = served.lookup_of("b", b"");
    assert_ne!(first.attr.ino, second.attr.ino);
    assert!(second.ask_again && !first.ask_again);
    let shown = served.getattr(second.attr.ino, None).unwrap();
    assert_eq!(shown.ino, first.attr.ino);
    assert_eq!(
        served.getattr(first.attr.ino, None).unwrap_err(),
        Errno::STALE
    );
    served.assert_lookups(first.attr.ino, 1);
    assert_eq!(served.memory.take_calls_of("forget"), ["forget 2.0"]);
    served.assert_lookups(second.attr.ino, 1);
    assert_eq!(served.memory.take_calls_of("forget"), ["forget 2.1"]);
    assert_eq!(served.look("b"), first.attr.ino);
}

#[test]
fn a_life_that_is_over_is_stale() {
    let served = serve();
    let node = served.file("a", b"bytes");
    served.remove_behind("a");
    served.put("b", Body::File(Vec::new()));
    let stale = Errno::STALE;
    assert_eq!(served.getattr(node, None).unwrap_err(), stale);
    assert_eq!(served.statfs(node).map(drop), Err(stale));
    assert_eq!(served.readlink(node), Err(stale));
    assert_eq!(served.getxattr_size(node, name("user.a")), Err(stale));
    let opened = served.open(&USER, node, OFlags::RDONLY);
    assert_eq!(opened.unwrap_err(), stale);
    let linked = served.link(node, ROOT, name("c"));
    assert_eq!(linked.unwrap_err(), stale);
}

#[test]
fn what_was_forgotten_is_stale_for_every_operation_on_a_node() {
    let served = serve();
    let node = served.directory("a");
    served.forget(node, 1);
    served.memory.take_calls();
    let (entry, set) = (name("b"), Default::default());
    let none = RenameFlags::empty();
    let outcomes = [
        served.lookup(&USER, node, entry).map(drop),
        served.getattr(node, None).map(drop),
        served.setattr(&USER, node, None, &set).map(drop),
        served.statfs(node).map(drop),
        served.readlink(node).map(drop),
        served.mknod(&USER, node, entry, 0o644, 0, 0).map(drop),
        served.mkdir(&USER, node, entry, 0o755, 0).map(drop),
        served.symlink(&USER, node, entry, Path::new("t")).map(drop),
        served.link(node, ROOT, entry).map(drop),
        served.link(ROOT, node, entry).map(drop),
        served
            .create(&USER, node, entry, 0o644, 0, OFlags::RDWR)
            .map(drop),
        served.unlink(node, entry),
        served.rmdir(node, entry),
        served.rename((node, entry), (ROOT, entry), none),
        served.rename((ROOT, entry), (node, entry), none),
        served.open(&USER, node, OFlags::RDONLY).map(drop),
        served.opendir(node).map(drop),
        served.getxattr(node, entry, 10).map(drop),
        served.getxattr_size(node, entry).map(drop),
        served.setxattr(&USER, node, entry, b"", 0),
        served.listxattr(&USER, node).map(drop),
        served.removexattr(&USER, node, entry),
    ];
    for (number, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome, Err(Errno::STALE), "operation {number}");
    }
    assert!(served.memory.take_calls().is_empty());
}

#[test]
fn a_file_without_a_name_lives_until_it_is_closed() {
    let served = serve();
    let node = served.file("a", b"bytes");
    let fh = served.handle(node, OFlags::RDWR);
    served.unlink(ROOT, name("a")).unwrap();
    let other = served.file("b", b"");
    assert_ne!(other, node, "the number is still in use");
    assert_eq!(served.getattr(node, Some(fh)).unwrap().nlink, 0);
    assert_eq!(served.getattr(node, None).unwrap().nlink, 0);
    assert_eq!(served.bytes(fh).unwrap(), b"bytes");
    served.release(fh).unwrap();
    assert_eq!(served.getattr(node, None).unwrap_err(), Errno::STALE);
    let next = served.put("c", Body::File(Vec::new()));
    assert_eq!(
        next,
        Ino {
            number: node,
            life: 1
        }
    );
}

#[test]
fn a_file_that_create_has_met_is_found_by_its_caller_even_if_it_has_gone() {
    let served = serve();
    served.put("a", Body::File(b"bytes".to_vec()));
    let create = || served.create(&USER, ROOT, name("a"), 0o644, 0, OFlags::RDONLY);
    assert_eq!(create().map(drop), Err(Errno::STALE));
    served.begin_retry(&USER);
    served.remove_behind("a");
    let none = served.lookup(&ADMIN, ROOT, name("a"));
    assert_eq!(none.map(drop), Err(Errno::NOENT), "somebody else");
    let entry = served.lookup(&USER, ROOT, name("a")).unwrap();
    assert_eq!((entry.attr.size, entry.ask_again), (5, true));
    // Opening it ends the walk.
    let _ = served.open(&USER, entry.attr.ino, OFlags::RDONLY);
    let gone = served.lookup(&USER, ROOT, name("a"));
    assert_eq!(gone.map(drop), Err(Errno::NOENT));
}

#[test]
fn create_on_a_second_walk_opens_the_file_it_meets_if_the_caller_owns_it() {
    let served = serve();
    let made = served.create(&USER, ROOT, name("a"), 0o600, 0, OFlags::RDWR);
    let (made, opened) = made.unwrap();
    served.write(opened.fh, 0, b"bytes", PLAIN).unwrap();
    let again = |by: &Actor, flags| served.create(by, ROOT, name("a"), 0o600, 0, flags);
    served.begin_retry(&USER);
    let (entry, _) = again(&USER, OFlags::RDWR | OFlags::TRUNC).unwrap();
    assert_eq!(entry.attr.ino, made.attr.ino);
    assert_eq!(served.getattr(made.attr.ino, None).unwrap().size, 0);
    served.assert_lookups(made.attr.ino, 2);
    served.begin_retry(&ADMIN);
    assert_eq!(again(&ADMIN, OFlags::RDWR).map(drop), Err(Errno::STALE));
}
