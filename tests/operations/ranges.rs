//! Ranges of open files: allocating, seeking and copying.

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use mmfs::request::SetAttr;

use crate::inodes::bytes::PAGE;
use crate::served::{ADMIN, PLAIN, Served, USER, serve};

const P: u64 = PAGE as u64;

fn open_file(served: &Served, name: &str, bytes: &[u8]) -> u64 {
    served.handle(served.file(name, bytes), OFlags::RDWR)
}

fn allocate(
    served: &Served,
    fh: u64,
    mode: FallocateFlags,
    at: u64,
    len: u64,
) -> Result<(), Errno> {
    served.fallocate(&USER, fh, at, len, mode.bits())
}

#[test]
fn allocating_extends_the_file_unless_it_is_to_keep_its_size() {
    let served = serve();
    let fh = open_file(&served, "a", b"bytes");
    let keep = FallocateFlags::KEEP_SIZE;
    assert_eq!(allocate(&served, fh, keep, 0, 10), Ok(()));
    assert_eq!(served.bytes(fh).unwrap(), b"bytes");
    let none = FallocateFlags::empty();
    assert_eq!(allocate(&served, fh, none, 6, 2), Ok(()));
    assert_eq!(served.bytes(fh).unwrap(), b"bytes\0\0\0");
}

#[test]
fn a_range_is_punched_or_zeroed() {
    let served = serve();
    let fh = open_file(&served, "a", b"some bytes");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(allocate(&served, fh, punch, 5, 2), Ok(()));
    assert_eq!(served.bytes(fh).unwrap(), b"some \0\0tes");
    let zero = FallocateFlags::ZERO_RANGE;
    assert_eq!(allocate(&served, fh, zero, 9, 2), Ok(()));
    assert_eq!(served.bytes(fh).unwrap(), b"some \0\0te\0\0");
}

#[test]
fn allocating_says_why_it_failed() {
    let served = serve();
    served.memory.adjust(|knobs| {
        (knobs.longest, knobs.room) = (100, 50);
    });
    let fh = open_file(&served, "a", b"bytes");
    let (none, punch) = (FallocateFlags::empty(), FallocateFlags::PUNCH_HOLE);
    let cases = [
        (none, 0, 0, Errno::INVAL),
        (punch, 0, 1, Errno::OPNOTSUPP),
        (FallocateFlags::COLLAPSE_RANGE, 0, 1, Errno::OPNOTSUPP),
        (none, 100, 1, Errno::FBIG),
        (none, u64::MAX, 1, Errno::FBIG),
        (none, 0, 51, Errno::NOSPC),
    ];
    for (mode, at, len, errno) in cases {
        let outcome = allocate(&served, fh, mode, at, len);
        assert_eq!(outcome, Err(errno), "{mode:?} {len} at {at}");
    }
    let reader = served.handle(served.look("a"), OFlags::RDONLY);
    assert_eq!(allocate(&served, reader, none, 0, 9), Err(Errno::BADF));
    assert_eq!(served.bytes(fh).unwrap(), b"bytes");
}

#[test]
fn data_and_holes_are_found_by_the_page() {
    let served = serve();
    let fh = open_file(&served, "a", b"data");
    served.write(fh, 3 * P, b"data", PLAIN).unwrap();
    let data = |at| served.lseek(fh, at, libc::SEEK_DATA);
    assert_eq!((data(1), data(P)), (Ok(1), Ok(3 * P)));
    assert_eq!(data(3 * P + 4), Err(Errno::NXIO));
    let hole = |at| served.lseek(fh, at, libc::SEEK_HOLE);
    assert_eq!((hole(0), hole(P + 5)), (Ok(P), Ok(P + 5)));
    assert_eq!(hole(3 * P), Ok(3 * P + 4));
    assert_eq!(hole(3 * P + 4), Err(Errno::NXIO));
}

#[test]
fn there_is_no_data_behind_the_last() {
    let served = serve();
    let fh = open_file(&served, "a", &[0; 3 * PAGE]);
    assert_eq!(served.lseek(fh, 5, libc::SEEK_DATA), Err(Errno::NXIO));
    assert_eq!(served.lseek(fh, 5, libc::SEEK_HOLE), Ok(5));
}

#[test]
fn every_other_kind_of_seeking_is_einval() {
    let served = serve();
    let fh = open_file(&served, "a", b"bytes");
    served.memory.take_calls();
    for whence in [libc::SEEK_SET, libc::SEEK_CUR, libc::SEEK_END, 77, -1] {
        assert_eq!(served.lseek(fh, 0, whence), Err(Errno::INVAL));
    }
    assert!(served.memory.take_calls().is_empty());
}

#[test]
fn bytes_are_copied_from_offset_to_offset() {
    let served = serve();
    let from = open_file(&served, "a", b"some bytes");
    let to = open_file(&served, "b", b"words");
    let copied = served.copy_file_range(&USER, (from, 5), (to, 2), 3);
    assert_eq!(copied, Ok(3));
    assert_eq!(served.bytes(to).unwrap(), b"wobyt");
    assert_eq!(served.bytes(from).unwrap(), b"some bytes");
}

#[test]
fn a_copy_ends_with_the_file_it_is_from() {
    let served = serve();
    let from = open_file(&served, "a", b"some bytes");
    let to = open_file(&served, "b", b"");
    let copy = |at| served.copy_file_range(&USER, (from, at), (to, 0), 100);
    assert_eq!((copy(5), copy(10), copy(99)), (Ok(5), Ok(0), Ok(0)));
}

#[test]
fn a_copy_asks_the_view_for_a_gibibyte_at_most() {
    let served = serve();
    let from = open_file(&served, "a", b"");
    let to = open_file(&served, "b", b"");
    served.memory.take_calls();
    for len in [5, (1 << 30) + 1, u64::MAX] {
        let copied = served.copy_file_range(&USER, (from, 0), (to, 0), len);
        assert_eq!(copied, Ok(0));
    }
    let expected = [
        "copy_from 2.0 to 3.0 5",
        "copy_from 2.0 to 3.0 1073741824",
        "copy_from 2.0 to 3.0 1073741824",
    ];
    assert_eq!(served.memory.take_calls(), expected);
}

#[test]
fn a_copy_says_why_it_failed() {
    let served = serve();
    served.memory.adjust(|knobs| {
        (knobs.longest, knobs.room) = (100, 20);
    });
    let both = open_file(&served, "a", b"some bytes");
    let node = served.look("a");
    let (reader, writer) = (
        served.handle(node, OFlags::RDONLY),
        served.handle(node, OFlags::WRONLY),
    );
    let copy = |from, to| served.copy_file_range(&USER, from, to, 5);
    assert_eq!(copy((writer, 0), (both, 0)), Err(Errno::BADF));
    assert_eq!(copy((both, 0), (reader, 0)), Err(Errno::BADF));
    assert_eq!(copy((both, 0), (both, 3)), Err(Errno::INVAL));
    assert_eq!(copy((both, 0), (both, 100)), Err(Errno::FBIG));
    assert_eq!(copy((both, 0), (both, 20)), Err(Errno::NOSPC));
    assert_eq!(copy((both, 0), (both, 18)), Ok(2));
}

#[test]
fn suid_and_sgid_go_unless_root_allocates_or_copies() {
    for (by, mode) in [(ADMIN, 0o6755), (USER, 0o755)] {
        let served = serve();
        let (from, to) = (
            open_file(&served, "a", b"bytes"),
            open_file(&served, "b", b""),
        );
        let node = served.look("b");
        let special = SetAttr {
            mode: Some(0o6755),
            ..SetAttr::default()
        };
        let set = || served.setattr(&ADMIN, node, None, &special).unwrap();
        let mode_now = || served.getattr(node, None).unwrap().mode & 0o7777;
        set();
        served.fallocate(&by, to, 0, 5, 0).unwrap();
        assert_eq!(mode_now(), mode);
        set();
        served.copy_file_range(&by, (from, 0), (to, 0), 5).unwrap();
        assert_eq!(mode_now(), mode);
    }
}

#[test]
fn what_the_view_says_is_passed_on() {
    let served = serve();
    let fh = open_file(&served, "a", b"bytes");
    let (memory, none) = (&served.memory, FallocateFlags::empty());
    memory.fail_next("allocate", Errno::DQUOT);
    assert_eq!(allocate(&served, fh, none, 0, 1), Err(Errno::DQUOT));
    memory.fail_next("seek", Errno::IO);
    assert_eq!(served.lseek(fh, 0, libc::SEEK_DATA), Err(Errno::IO));
    memory.fail_next("copy_from", Errno::XDEV);
    let copied = served.copy_file_range(&USER, (fh, 0), (fh, 9), 1);
    assert_eq!(copied, Err(Errno::XDEV));
}
