//! Handles: numbers that were never given out, and those that were released.

use mmfs::inode::ROOT;
use rustix::fs::{IFlags, OFlags};
use rustix::io::Errno;

use crate::served::{PLAIN, Served, USER, serve};

/// Every operation on the handle of a file, by name.
fn on_a_file(served: &Served, fh: u64) -> Vec<(&'static str, Result<(), Errno>)> {
    let other = served.handle(served.look("a"), OFlags::RDWR);
    vec![
        ("read", served.bytes(fh).map(drop)),
        ("write", served.write(fh, 0, b"", PLAIN).map(drop)),
        ("flush", served.flush(fh)),
        ("fsync", served.fsync(fh, false)),
        ("fallocate", served.fallocate(&USER, fh, 0, 1, 0)),
        ("lseek", served.lseek(fh, 0, libc::SEEK_DATA).map(drop)),
        (
            "copy_file_range from",
            served
                .copy_file_range(&USER, (fh, 0), (other, 0), 1)
                .map(drop),
        ),
        (
            "copy_file_range to",
            served
                .copy_file_range(&USER, (other, 0), (fh, 0), 1)
                .map(drop),
        ),
        ("inode_flags", served.inode_flags(fh).map(drop)),
        ("extended_flags", served.extended_flags(fh).map(drop)),
        (
            "set_inode_flags",
            served.set_inode_flags(ROOT, fh, IFlags::empty()),
        ),
        (
            "set_extended_flags",
            served.set_extended_flags(ROOT, fh, &[0; 28]),
        ),
        ("release", served.release(fh)),
    ]
}

/// Every operation on the handle of a directory, by name.
fn on_a_directory(served: &Served, fh: u64) -> Vec<(&'static str, Result<(), Errno>)> {
    vec![
        ("readdir", served.readdir(fh, 0, |_| true)),
        ("readdirplus", served.readdirplus(fh, 0, |_| true)),
        ("fsyncdir", served.fsyncdir(fh, false)),
        ("releasedir", served.releasedir(fh)),
    ]
}

#[track_caller]
fn assert_all_bad(outcomes: Vec<(&'static str, Result<(), Errno>)>) {
    for (operation, outcome) in outcomes {
        assert_eq!(outcome, Err(Errno::BADF), "{operation}");
    }
}

#[test]
fn a_handle_that_nobody_has_is_ebadf() {
    let served = serve();
    served.file("a", b"bytes");
    assert_all_bad(on_a_file(&served, 77));
    assert_all_bad(on_a_directory(&served, 77));
}

#[test]
fn a_handle_that_was_released_is_ebadf() {
    let served = serve();
    let node = served.file("a", b"bytes");
    let fh = served.handle(node, OFlags::RDWR);
    assert_eq!(served.release(fh), Ok(()));
    assert_all_bad(on_a_file(&served, fh));
    let (fh, _) = served.opendir(ROOT).unwrap();
    assert_eq!(served.releasedir(fh), Ok(()));
    assert_all_bad(on_a_directory(&served, fh));
}

#[test]
fn each_open_has_a_number_of_its_own() {
    let served = serve();
    let node = served.file("a", b"");
    let first = served.handle(node, OFlags::RDONLY);
    served.release(first).unwrap();
    let (second, third) = (
        served.handle(node, OFlags::RDONLY),
        served.handle(node, OFlags::RDONLY),
    );
    assert!(first != second && second != third && first != third);
}

#[test]
fn a_directory_has_inode_flags_too() {
    let served = serve();
    let (fh, _) = served.opendir(ROOT).unwrap();
    let flags = IFlags::NODUMP;
    assert_eq!(served.set_inode_flags(ROOT, fh, flags), Ok(()));
    assert_eq!(served.inode_flags(fh), Ok(flags));
    assert_eq!(served.extended_flags(fh), Err(Errno::NOTTY));
    let set = served.set_extended_flags(ROOT, fh, &[0; 28]);
    assert_eq!(set, Err(Errno::NOTTY));
}

#[test]
fn the_flags_of_a_directory_are_its_own_whatever_files_are_open() {
    let served = serve();
    let node = served.file("a", b"");
    let (file, (dir, _)) = (
        served.handle(node, OFlags::RDONLY),
        served.opendir(ROOT).unwrap(),
    );
    assert_ne!(file, dir);
    served.memory.take_calls();
    served.set_inode_flags(ROOT, dir, IFlags::NODUMP).unwrap();
    assert_eq!(served.memory.take_calls(), ["set_flags 1.0"]);
}
