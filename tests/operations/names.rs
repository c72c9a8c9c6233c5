//! Names: making, moving and removing them.

use std::path::Path;

use mmfs::inode::ROOT;
use rustix::fs::{FileType, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::inodes::{Body, NAME_MAX};
use crate::served::{Served, USER, name, serve, serve_with};

/// The names in the root, in order.
fn names(served: &Served) -> Vec<String> {
    let (fh, _) = served.opendir(ROOT).unwrap();
    let names = served.names(fh);
    served.releasedir(fh).unwrap();
    names
}

#[test]
fn mknod_makes_the_type_that_the_mode_says() {
    let served = serve();
    let kinds = [
        (FileType::Fifo, 0),
        (FileType::Socket, 0),
        (FileType::CharacterDevice, 0x0103),
        (FileType::RegularFile, 0),
    ];
    for (number, (kind, device)) in kinds.into_iter().enumerate() {
        let shown = number.to_string();
        let mode = kind.as_raw_mode() | 0o666;
        let made = served.mknod(&USER, ROOT, name(&shown), mode, 0o022, device);
        let attr = made.unwrap().attr;
        assert_eq!((attr.kind(), attr.rdev), (kind, device));
        assert_eq!(
            (attr.mode & 0o7777, attr.uid, attr.gid),
            (0o644, 1000, 1000)
        );
    }
}

#[test]
fn mknod_without_a_type_makes_a_regular_file() {
    let served = serve();
    let made = served.mknod(&USER, ROOT, name("a"), 0o600, 0, 0).unwrap();
    assert!(made.attr.is_file());
}

#[test]
fn mkdir_makes_a_directory_of_the_callers() {
    let served = serve();
    let made = served.mkdir(&USER, ROOT, name("a"), 0o777, 0o027).unwrap();
    let attr = made.attr;
    assert!(attr.is_dir());
    assert_eq!((attr.mode & 0o7777, attr.uid), (0o750, 1000));
    assert_eq!(served.look("a"), attr.ino);
}

#[test]
fn a_symbolic_link_leads_to_what_it_was_given() {
    let served = serve();
    let target = Path::new("anything/at all");
    let made = served.symlink(&USER, ROOT, name("a"), target).unwrap();
    assert_eq!(made.attr.kind(), FileType::Symlink);
    let read = served.readlink(made.attr.ino);
    assert_eq!(read.unwrap(), b"anything/at all");
}

#[test]
fn only_a_symbolic_link_can_be_read_as_one() {
    let served = serve();
    let file = served.file("a", b"");
    assert_eq!(served.readlink(file), Err(Errno::INVAL));
    assert_eq!(served.readlink(ROOT), Err(Errno::INVAL));
}

#[test]
fn a_name_that_cannot_be_made_says_why() {
    let served = serve();
    let file = served.file("file", b"");
    let long = "x".repeat(NAME_MAX + 1);
    let cases = [
        (ROOT, "file", Errno::EXIST),
        (ROOT, &long, Errno::NAMETOOLONG),
        (file, "a", Errno::NOTDIR),
        (77, "a", Errno::STALE),
    ];
    let node = served.look("file");
    for (parent, entry, errno) in cases {
        let at = name(entry);
        let outcomes = [
            served.mknod(&USER, parent, at, 0o644, 0, 0).map(drop),
            served.mkdir(&USER, parent, at, 0o755, 0).map(drop),
            served.symlink(&USER, parent, at, Path::new("t")).map(drop),
            served.link(node, parent, at).map(drop),
            served
                .create(&USER, parent, at, 0o644, 0, OFlags::RDWR | OFlags::EXCL)
                .map(drop),
        ];
        assert_eq!(outcomes, [Err(errno); 5], "{entry} in {parent}");
    }
}

#[test]
fn a_symbolic_link_takes_room() {
    let served = serve();
    served.memory.adjust(|knobs| knobs.room = 3);
    let made = served.symlink(&USER, ROOT, name("a"), Path::new("long"));
    assert_eq!(made.unwrap_err(), Errno::NOSPC);
}

#[test]
fn a_link_is_another_name_of_the_same_node() {
    let served = serve();
    let node = served.file("a", b"");
    let linked = served.link(node, ROOT, name("b")).unwrap();
    assert_eq!((linked.attr.ino, linked.attr.nlink), (node, 2));
    served.unlink(ROOT, name("a")).unwrap();
    assert_eq!(served.look("b"), node);
}

#[test]
fn a_directory_gets_no_second_name() {
    let served = serve();
    let dir = served.directory("a");
    let linked = served.link(dir, ROOT, name("b"));
    assert_eq!(linked.unwrap_err(), Errno::PERM);
}

#[test]
fn an_inode_has_so_many_names_and_no_more() {
    let served = serve();
    served.memory.adjust(|knobs| knobs.names = 2);
    let node = served.file("a", b"");
    served.link(node, ROOT, name("b")).unwrap();
    let third = served.link(node, ROOT, name("c"));
    assert_eq!(third.unwrap_err(), Errno::MLINK);
}

#[test]
fn a_file_that_is_open_without_a_name_gets_none() {
    let served = serve();
    let node = served.file("a", b"");
    served.handle(node, OFlags::RDONLY);
    served.unlink(ROOT, name("a")).unwrap();
    let linked = served.link(node, ROOT, name("b"));
    assert_eq!(linked.unwrap_err(), Errno::NOENT);
}

#[test]
fn create_makes_a_file_and_opens_it() {
    let served = serve();
    let created = served.create(&USER, ROOT, name("a"), 0o666, 0o022, OFlags::RDWR);
    let (entry, opened) = created.unwrap();
    assert!(entry.attr.is_file());
    assert_eq!((entry.attr.mode & 0o7777, entry.attr.uid), (0o644, 1000));
    assert!(!opened.read_only);
    let written = served.write(opened.fh, 0, b"bytes", crate::served::PLAIN);
    assert_eq!(written, Ok(5));
    assert_eq!(served.getattr(entry.attr.ino, None).unwrap().size, 5);
}

#[test]
fn create_to_read_only_gives_a_handle_to_read_only() {
    let served = serve();
    let created = served.create(&USER, ROOT, name("a"), 0o666, 0, OFlags::RDONLY);
    assert!(created.unwrap().1.read_only);
}

#[test]
fn create_of_a_name_that_has_appeared_is_eexist_or_stale() {
    let served = serve();
    served.put("a", Body::File(Vec::new()));
    let create = |flags| served.create(&USER, ROOT, name("a"), 0o644, 0, flags);
    let exclusive = create(OFlags::RDWR | OFlags::EXCL);
    assert_eq!(exclusive.unwrap_err(), Errno::EXIST);
    // The kernel looks it up and checks the caller's permissions.
    assert_eq!(create(OFlags::RDWR).unwrap_err(), Errno::STALE);
}

#[test]
fn create_that_fails_after_the_file_was_opened_takes_lookup_and_open_back() {
    let served = serve_with(|config| config.flags.dir_sync = true);
    served.memory.fail_next("sync_names", Errno::IO);
    let created = served.create(&USER, ROOT, name("a"), 0o644, 0, OFlags::RDWR);
    assert_eq!(created.unwrap_err(), Errno::IO);
    let calls = served.memory.take_calls();
    assert!(calls.contains(&"close 2.0".into()), "{calls:?}");
    assert!(calls.contains(&"forget 2.0".into()), "{calls:?}");
    assert!(served.memory.nodes().get(2).is_err());
}

#[test]
fn removing_says_why_it_failed() {
    let served = serve();
    let file = served.file("file", b"");
    let dir = served.put("dir", Body::directory());
    served.put_into(dir, "entry", Body::directory());
    let long = "x".repeat(NAME_MAX + 1);
    let unlink = |parent, entry| served.unlink(parent, name(entry));
    assert_eq!(unlink(ROOT, "dir"), Err(Errno::ISDIR));
    assert_eq!(unlink(ROOT, "none"), Err(Errno::NOENT));
    assert_eq!(unlink(ROOT, &long), Err(Errno::NAMETOOLONG));
    assert_eq!(unlink(file, "a"), Err(Errno::NOTDIR));
    let rmdir = |parent, entry| served.rmdir(parent, name(entry));
    assert_eq!(rmdir(ROOT, "file"), Err(Errno::NOTDIR));
    assert_eq!(rmdir(ROOT, "dir"), Err(Errno::NOTEMPTY));
    assert_eq!(rmdir(ROOT, "none"), Err(Errno::NOENT));
    assert_eq!(rmdir(file, "a"), Err(Errno::NOTDIR));
    assert_eq!(names(&served), ["dir", "file"]);
}

#[test]
fn unlink_and_rmdir_each_remove_their_kind() {
    let served = serve();
    served.put("file", Body::File(Vec::new()));
    served.put("dir", Body::directory());
    assert_eq!(served.unlink(ROOT, name("file")), Ok(()));
    assert_eq!(served.rmdir(ROOT, name("dir")), Ok(()));
    assert!(names(&served).is_empty());
}

/// Renames within the root.
fn rename(served: &Served, from: &str, to: &str, flags: RenameFlags) -> Result<(), Errno> {
    served.rename((ROOT, name(from)), (ROOT, name(to)), flags)
}

#[test]
fn a_name_moves_into_another_directory_and_keeps_its_node() {
    let served = serve();
    let (node, dir) = (served.file("a", b""), served.directory("dir"));
    let none = RenameFlags::empty();
    let moved = served.rename((ROOT, name("a")), (dir, name("b")), none);
    assert_eq!(moved, Ok(()));
    assert_eq!(names(&served), ["dir"]);
    let found = served.lookup(&USER, dir, name("b")).unwrap();
    assert_eq!(found.attr.ino, node);
}

#[test]
fn a_rename_replaces_what_is_there() {
    let served = serve();
    let (a, b) = (served.file("a", b""), served.file("b", b""));
    assert_eq!(rename(&served, "a", "b", RenameFlags::empty()), Ok(()));
    assert_eq!((names(&served), served.look("b")), (vec!["b".into()], a));
    assert_eq!(served.getattr(b, None).unwrap_err(), Errno::STALE);
}

#[test]
fn a_rename_that_must_not_replace_does_not() {
    let served = serve();
    let (a, b) = (served.file("a", b""), served.file("b", b""));
    let flags = RenameFlags::NOREPLACE;
    assert_eq!(rename(&served, "a", "b", flags), Err(Errno::EXIST));
    assert_eq!((served.look("a"), served.look("b")), (a, b));
    assert_eq!(rename(&served, "a", "c", flags), Ok(()));
}

#[test]
fn an_exchange_swaps_two_names() {
    let served = serve();
    let (a, b) = (served.file("a", b""), served.directory("b"));
    let flags = RenameFlags::EXCHANGE;
    assert_eq!(rename(&served, "a", "b", flags), Ok(()));
    assert_eq!((served.look("a"), served.look("b")), (b, a));
    assert_eq!(rename(&served, "a", "c", flags), Err(Errno::NOENT));
}

#[test]
fn a_rename_says_why_it_failed() {
    let served = serve();
    let none = RenameFlags::empty();
    served.put("file", Body::File(Vec::new()));
    served.put("empty", Body::directory());
    let dir = served.put("dir", Body::directory());
    served.put_into(dir, "entry", Body::File(Vec::new()));
    let (dir, long) = (served.look("dir"), "x".repeat(NAME_MAX + 1));
    let cases = [
        ("none", "a", none, Errno::NOENT),
        (&long, "a", none, Errno::NAMETOOLONG),
        ("file", &long, none, Errno::NAMETOOLONG),
        ("file", "empty", none, Errno::ISDIR),
        ("empty", "file", none, Errno::NOTDIR),
        ("empty", "dir", none, Errno::NOTEMPTY),
        ("file", "a", RenameFlags::WHITEOUT, Errno::INVAL),
    ];
    for (from, to, flags, errno) in cases {
        let renamed = rename(&served, from, to, flags);
        assert_eq!(renamed, Err(errno), "{from} to {to}");
    }
    let into_itself = served.rename((ROOT, name("dir")), (dir, name("a")), none);
    assert_eq!(into_itself, Err(Errno::INVAL));
    let over_its_parent = served.rename((dir, name("entry")), (ROOT, name("dir")), none);
    assert_eq!(over_its_parent, Err(Errno::NOTEMPTY));
    let file = served.look("file");
    let into_a_file = served.rename((ROOT, name("empty")), (file, name("a")), none);
    assert_eq!(into_a_file, Err(Errno::NOTDIR));
    assert_eq!(names(&served), ["dir", "empty", "file"]);
}
