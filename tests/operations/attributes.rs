//! Attributes: showing and changing them.

use std::time::Duration;

use mmfs::attr::Time;
use mmfs::inode::ROOT;
use mmfs::request::{SetAttr, SetTime};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::memory::BLOCK;
use crate::served::{ADMIN, PLAIN, USER, serve};

const NOTHING: SetAttr = SetAttr {
    mode: None,
    uid: None,
    gid: None,
    size: None,
    atime: None,
    mtime: None,
};

#[test]
fn attributes_are_shown_with_the_node_id() {
    let served = serve();
    let node = served.file("a", b"bytes");
    let attr = served.getattr(node, None).unwrap();
    assert_eq!((attr.ino, attr.size, attr.nlink), (node, 5, 1));
    assert!(attr.is_file());
    assert!(served.getattr(ROOT, None).unwrap().is_dir());
}

#[test]
fn attributes_come_through_the_handle_where_there_is_one() {
    let served = serve();
    let node = served.file("a", b"bytes");
    let fh = served.handle(node, OFlags::RDONLY);
    served.memory.take_calls();
    served.getattr(node, None).unwrap();
    assert_eq!(served.memory.take_calls(), ["attr 2.0"]);
    let attr = served.getattr(node, Some(fh)).unwrap();
    assert_eq!(served.memory.take_calls(), ["Content::attr 2.0"]);
    assert_eq!((attr.ino, attr.size), (node, 5));
}

#[test]
fn attributes_come_through_the_node_where_the_handle_is_unknown() {
    let served = serve();
    let node = served.file("a", b"bytes");
    served.memory.take_calls();
    assert_eq!(served.getattr(node, Some(77)).unwrap().size, 5);
    assert_eq!(served.memory.take_calls(), ["attr 2.0"]);
}

#[test]
fn attributes_that_cannot_be_had_say_why() {
    let served = serve();
    let node = served.file("a", b"");
    let fh = served.handle(node, OFlags::RDONLY);
    served.memory.fail_next("attr", Errno::IO);
    assert_eq!(served.getattr(node, None).unwrap_err(), Errno::IO);
    served.memory.fail_next("Content::attr", Errno::IO);
    assert_eq!(served.getattr(node, Some(fh)).unwrap_err(), Errno::IO);
}

#[test]
fn setattr_answers_with_the_new_attributes() {
    let served = serve();
    let node = served.file("a", b"bytes");
    let time = Time { sec: 5, nsec: 6 };
    let set = SetAttr {
        mode: Some(0o640),
        uid: Some(7),
        gid: Some(8),
        size: Some(3),
        atime: Some(SetTime::To(time)),
        mtime: Some(SetTime::To(time)),
    };
    let attr = served.setattr(&ADMIN, node, None, &set).unwrap();
    assert_eq!((attr.ino, attr.size), (node, 3));
    assert_eq!((attr.mode & 0o7777, attr.uid, attr.gid), (0o640, 7, 8));
    assert_eq!((attr.atime, attr.mtime), (time, time));
}

/// Meanwhile the file may have grown behind the mount, and somebody else may have opened it.
#[test]
fn the_kernel_asks_again_for_the_attributes_of_a_file_that_setattr_has_changed() {
    let served = serve();
    let mode = SetAttr {
        mode: Some(0o700),
        ..NOTHING
    };
    let timeouts = served.timeouts();
    assert!(!timeouts.attr.is_zero());
    let believed = |node| {
        let shown = served.setattr(&ADMIN, node, None, &mode).unwrap();
        shown.timeout(timeouts)
    };
    let (file, dir) = (served.file("a", b"bytes"), ROOT);
    assert_eq!(
        (believed(file), believed(dir)),
        (Duration::ZERO, timeouts.attr)
    );
    let shown = served.getattr(file, None).unwrap();
    assert_eq!(shown.timeout(timeouts), timeouts.attr);
}

#[test]
fn setattr_goes_through_the_handle_where_there_is_one() {
    let served = serve();
    let node = served.file("a", b"bytes");
    let fh = served.handle(node, OFlags::RDWR);
    served.memory.take_calls();
    served.setattr(&USER, node, Some(fh), &NOTHING).unwrap();
    let calls = ["set_attr 2.0 by handle", "Content::attr 2.0"];
    assert_eq!(served.memory.take_calls(), calls);
    served.setattr(&USER, node, None, &NOTHING).unwrap();
    let calls = ["set_attr 2.0 by node", "attr 2.0"];
    assert_eq!(served.memory.take_calls(), calls);
}

#[test]
fn the_present_moves_on_with_every_change() {
    let served = serve();
    let node = served.file("a", b"");
    let old = served.getattr(node, None).unwrap();
    let now = SetAttr {
        mtime: Some(SetTime::Now),
        ..NOTHING
    };
    served.put("b", crate::inodes::Body::directory());
    let new = served.setattr(&USER, node, None, &now).unwrap();
    assert!(new.mtime > old.mtime && new.ctime > old.ctime);
    assert_eq!(new.atime, old.atime);
}

#[test]
fn a_truncation_says_why_it_failed() {
    let served = serve();
    served.memory.adjust(|knobs| {
        (knobs.longest, knobs.room) = (100, 50);
    });
    let node = served.file("a", b"bytes");
    let resize = |node, size| {
        let size = Some(size);
        let set = SetAttr { size, ..NOTHING };
        let outcome = served.setattr(&USER, node, None, &set);
        outcome.map(|attr| attr.size)
    };
    assert_eq!(resize(node, 101), Err(Errno::FBIG));
    assert_eq!(resize(node, 51), Err(Errno::NOSPC));
    assert_eq!(resize(ROOT, 1), Err(Errno::ISDIR));
    assert_eq!(served.getattr(node, None).unwrap().size, 5);
    assert_eq!(resize(node, 50), Ok(50));
}

#[test]
fn setattr_that_fails_says_why() {
    let served = serve();
    let node = served.file("a", b"");
    for (method, errno) in [("set_attr", Errno::PERM), ("attr", Errno::IO)] {
        served.memory.fail_next(method, errno);
        let outcome = served.setattr(&USER, node, None, &NOTHING);
        assert_eq!(outcome.unwrap_err(), errno);
    }
}

#[test]
fn suid_and_sgid_go_with_a_new_owner() {
    let served = serve();
    let node = served.file("a", b"");
    let mode = SetAttr {
        mode: Some(0o6755),
        ..NOTHING
    };
    let attr = served.setattr(&ADMIN, node, None, &mode).unwrap();
    assert_eq!(attr.mode & 0o7777, 0o6755);
    let owner = SetAttr {
        uid: Some(7),
        ..NOTHING
    };
    let attr = served.setattr(&ADMIN, node, None, &owner).unwrap();
    assert_eq!(attr.mode & 0o7777, 0o755);
}

#[test]
fn suid_and_sgid_go_with_the_length_unless_root_changes_it() {
    for (by, mode) in [(ADMIN, 0o6755), (USER, 0o755)] {
        let served = serve();
        let node = served.file("a", b"");
        let special = SetAttr {
            mode: Some(0o6755),
            ..NOTHING
        };
        served.setattr(&ADMIN, node, None, &special).unwrap();
        let size = SetAttr {
            size: Some(1),
            ..NOTHING
        };
        let attr = served.setattr(&by, node, None, &size).unwrap();
        assert_eq!(attr.mode & 0o7777, mode);
    }
}

#[test]
fn usage_is_that_of_the_view() {
    let served = serve();
    served.memory.adjust(|knobs| knobs.room = 10 * BLOCK);
    let node = served.file("a", &[1; BLOCK as usize]);
    let usage = served.statfs(node).unwrap();
    assert_eq!((usage.f_blocks, usage.f_bfree, usage.f_files), (10, 9, 2));
    served.memory.fail_next("statfs", Errno::IO);
    assert_eq!(served.statfs(node).map(drop), Err(Errno::IO));
}

#[test]
fn what_is_written_is_seen_in_the_attributes() {
    let served = serve();
    let node = served.file("a", b"");
    let old = served.getattr(node, None).unwrap();
    let fh = served.handle(node, OFlags::RDWR);
    served.write(fh, 7, b"bytes", PLAIN).unwrap();
    let new = served.getattr(node, None).unwrap();
    assert_eq!(new.size, 12);
    assert!(new.mtime > old.mtime);
}

#[test]
fn the_view_says_whether_it_is_stacked_and_is_told_our_device() {
    let served = serve();
    assert!(!served.is_stacked());
    served.memory.adjust(|knobs| knobs.is_stacked = true);
    assert!(served.is_stacked());
    served.set_own_device(9);
    assert_eq!(served.memory.take_calls(), ["set_own_device 9"]);
}
