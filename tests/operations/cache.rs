//! What the kernel may keep of a file that is opened again, and what it is notified to drop.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use mmfs::fs::Writing;
use mmfs::inode::ROOT;
use mmfs::request::SetAttr;
use rustix::fs::OFlags;

use crate::served::{ADMIN, PLAIN, Served, Told, USER, name, serve};

/// The notification to the kernel when the file is opened and closed again.
fn told_at_open(served: &Served, told: &Receiver<Told>, node: u64) -> Option<Told> {
    is_kept(served, node);
    told.try_recv().ok()
}

/// Opens the file and closes it again; whether the kernel may keep what it has.
fn is_kept(served: &Served, node: u64) -> bool {
    let opened = served.opened(node, OFlags::RDWR);
    served.release(opened.fh).unwrap();
    opened.keep_cache
}

/// Whether the kernel may keep what it has after this change of ours, of a file that is open meanwhile. One that takes
/// longer than two milliseconds is not trusted, so on a busy machine it is done again.
fn is_kept_after(served: &Served, node: u64, change: impl Fn(u64)) -> bool {
    (0..20).any(|_| {
        let fh = served.handle(node, OFlags::RDWR);
        change(fh);
        served.release(fh).unwrap();
        is_kept(served, node)
    })
}

#[track_caller]
fn assert_told(told: &Receiver<Told>, expected: Told) {
    let next = told.recv_timeout(Duration::from_secs(10));
    assert_eq!(next, Ok(expected));
}

#[test]
fn the_first_open_has_nothing_to_drop_and_the_next_keeps_all() {
    let served = serve();
    let node = served.file("a", b"bytes");
    assert!(is_kept(&served, node), "the kernel knows what LOOKUP said");
    assert!(is_kept(&served, node));
    let first = served.opened(node, OFlags::RDONLY);
    let second = served.opened(node, OFlags::RDONLY);
    assert!(first.keep_cache && second.keep_cache);
}

#[test]
fn a_file_just_created_keeps_nothing() {
    let served = serve();
    served.memory.adjust(|knobs| knobs.keeps_always = true);
    let created = served.create(&USER, ROOT, name("a"), 0o644, 0, OFlags::RDWR);
    assert!(!created.unwrap().1.keep_cache);
}

#[test]
fn nothing_is_kept_of_a_file_changed_behind_while_it_was_closed() {
    let served = serve();
    let node = served.file("a", b"bytes");
    is_kept(&served, node);
    served.change_behind(node);
    assert!(!is_kept(&served, node));
    assert!(is_kept(&served, node), "whoever closed it had its reply");
}

#[test]
fn attributes_are_expired_before_the_reply_where_the_file_has_changed_and_only_there() {
    let served = serve();
    let told = served.begin();
    let node = served.file("a", b"bytes");
    assert_eq!(told_at_open(&served, &told, node), None, "as LOOKUP said");
    assert_eq!(told_at_open(&served, &told, node), None);
    served.change_behind(node);
    let expired = Some(Told::ExpireAttributes(node));
    assert_eq!(told_at_open(&served, &told, node), expired);
    assert_eq!(told_at_open(&served, &told, node), None);
    let fh = served.handle(node, OFlags::RDONLY);
    served.change_behind(node);
    assert_eq!(
        told_at_open(&served, &told, node),
        expired,
        "while it is open"
    );
    served.release(fh).unwrap();
    assert_eq!(told_at_open(&served, &told, node), None);
}

#[test]
fn a_file_changed_behind_before_its_first_open_is_asked_for_anew() {
    let served = serve();
    let told = served.begin();
    let node = served.file("a", b"bytes");
    served.change_behind(node);
    let expired = Some(Told::ExpireAttributes(node));
    assert_eq!(told_at_open(&served, &told, node), expired);
}

#[test]
fn nothing_is_kept_of_a_file_changed_behind_while_it_was_open() {
    let served = serve();
    let node = served.file("a", b"bytes");
    let fh = served.handle(node, OFlags::RDONLY);
    served.change_behind(node);
    assert!(!served.opened(node, OFlags::RDONLY).keep_cache);
    served.release(fh).unwrap();
}

#[test]
fn our_own_changes_of_an_open_file_leave_the_cache() {
    let served = serve();
    let node = served.file("a", b"bytes");
    assert!(is_kept_after(&served, node, |fh| {
        served.write(fh, 0, b"new", PLAIN).unwrap();
    }));
    let size = SetAttr {
        size: Some(3),
        ..SetAttr::default()
    };
    assert!(is_kept_after(&served, node, |fh| {
        served.setattr(&USER, node, Some(fh), &size).unwrap();
    }));
    assert!(is_kept_after(&served, node, |fh| {
        served.fallocate(&USER, fh, 0, 10, 0).unwrap();
    }));
}

#[test]
fn our_own_change_of_a_mode_or_name_leaves_the_cache_of_a_closed_file() {
    let served = serve();
    let node = served.file("a", b"bytes");
    is_kept(&served, node);
    let mode = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    served.setattr(&USER, node, None, &mode).unwrap();
    served.link(node, ROOT, name("b")).unwrap();
    served
        .setxattr(&USER, node, name("user.a"), b"", 0)
        .unwrap();
    assert!(is_kept(&served, node));
}

#[test]
fn another_life_of_a_number_has_a_node_of_its_own_with_nothing_to_drop() {
    let served = serve();
    let node = served.file("a", b"");
    is_kept(&served, node);
    served.unlink(ROOT, name("a")).unwrap();
    let other = served.file("b", b"");
    assert_ne!(other, node);
    assert!(is_kept(&served, other));
}

#[test]
fn of_a_file_that_was_forgotten_there_is_nothing_to_drop() {
    let served = serve();
    let node = served.file("a", b"");
    is_kept(&served, node);
    served.forget(node, 1);
    assert_eq!(served.look("a"), node);
    assert!(is_kept(&served, node));
    served.forget(node, 1);
    assert_eq!(served.look("a"), node);
    served.change_behind(node);
    assert!(!is_kept(&served, node));
}

#[test]
fn the_kernel_is_told_of_a_change_behind_that_getattr_meets() {
    let served = serve();
    let told = served.begin();
    let node = served.file("a", b"bytes");
    let fh = served.handle(node, OFlags::RDONLY);
    served.change_behind(node);
    served.getattr(node, Some(fh)).unwrap();
    assert_told(&told, Told::DropPages(node));
    served.getattr(node, Some(fh)).unwrap();
    assert!(told.try_recv().is_err(), "it is told once");
}

#[test]
fn the_kernel_is_told_of_a_change_behind_that_a_write_meets() {
    let served = serve();
    let told = served.begin();
    let node = served.file("a", b"bytes");
    let fh = served.handle(node, OFlags::RDWR);
    served.change_behind(node);
    served.write(fh, 0, b"new", PLAIN).unwrap();
    assert_told(&told, Told::DropPages(node));
}

#[test]
fn what_happened_before_the_session_began_is_told_then() {
    let served = serve();
    let node = served.file("a", b"bytes");
    let fh = served.handle(node, OFlags::RDONLY);
    served.change_behind(node);
    served.getattr(node, Some(fh)).unwrap();
    assert_told(&served.begin(), Told::DropPages(node));
}

#[test]
fn a_write_past_the_cache_takes_back_what_was_read_into_it() {
    let served = serve();
    let told = served.begin();
    let node = served.file("a", b"bytes");
    let fh = served.handle(node, OFlags::RDWR);
    let flags = OFlags::DIRECT;
    let direct = Writing { flags, ..PLAIN };
    served.read(fh, 0, 5, flags, |lent| assert!(lent.is_ok()));
    served.write(fh, 0, b"new", direct).unwrap();
    assert!(told.try_recv().is_err(), "nothing was read into it");
    served.read(fh, 0, 5, OFlags::empty(), |lent| assert!(lent.is_ok()));
    served.write(fh, 0, b"new", direct).unwrap();
    assert_told(&told, Told::DropPages(node));
}

#[test]
fn stores_are_written_back_of_files_that_somebody_may_store_into() {
    let served = serve();
    let told = served.begin();
    let node = served.file("a", b"bytes");
    let read = served.handle(node, OFlags::RDONLY);
    let write = served.handle(node, OFlags::WRONLY);
    served.write_back(node);
    assert!(told.try_recv().is_err(), "a mapping takes both");
    let both = served.handle(node, OFlags::RDWR);
    served.write_back(node);
    assert_eq!(told.try_recv(), Ok(Told::DropPages(node)));
    for fh in [read, write, both] {
        served.release(fh).unwrap();
    }
    served.write_back(node);
    let created = served.create(&USER, ROOT, name("b"), 0o644, 0, OFlags::RDWR);
    let (entry, _open) = created.unwrap();
    assert!(told.try_recv().is_err(), "it was closed");
    served.write_back(entry.attr.ino);
    assert_eq!(told.try_recv(), Ok(Told::DropPages(entry.attr.ino)));
}

#[test]
fn the_kernel_is_told_of_suid_that_a_write_has_taken() {
    let served = serve();
    let told = served.begin();
    let node = served.file("a", b"bytes");
    let special = SetAttr {
        mode: Some(0o4755),
        ..SetAttr::default()
    };
    served.setattr(&ADMIN, node, None, &special).unwrap();
    let fh = served.handle(node, OFlags::RDWR);
    let how = Writing {
        drop_setid: true,
        ..PLAIN
    };
    served.write(fh, 0, b"new", how).unwrap();
    assert_eq!(told.try_recv(), Ok(Told::ExpireAttributes(node)));
}

#[test]
fn timeouts_are_those_of_the_configuration() {
    let (attr, entry) = (Duration::from_secs(3), Duration::from_secs(5));
    let served = crate::served::serve_with(|config| {
        (config.attr_timeout, config.entry_timeout) = (attr, entry);
    });
    let timeouts = served.timeouts();
    assert_eq!((timeouts.attr, timeouts.entry), (attr, entry));
    assert_eq!(timeouts.shorter(), attr);
}
