//! Open files: what an open answers the kernel, reading, writing, and inode flags.

use mmfs::fs::Writing;
use mmfs::inode::ROOT;
use mmfs::request::SetAttr;
use mmfs::view::Content;
use rustix::fs::{FileType, IFlags, OFlags};
use rustix::io::Errno;

use crate::inodes::Body;
use crate::served::{ADMIN, PLAIN, Served, Told, USER, serve, serve_with};

const NONE: OFlags = OFlags::empty();

/// A file with these bytes, and a handle to read and write it.
fn open_file(served: &Served, bytes: &[u8]) -> (u64, u64) {
    let node = served.file("a", bytes);
    (node, served.handle(node, OFlags::RDWR))
}

#[test]
fn opening_says_why_it_failed() {
    let served = serve();
    served.put("link", Body::Symlink(b"t".to_vec()));
    served.put("pipe", Body::Special(FileType::Fifo, 0));
    let cases = [
        (ROOT, Errno::ISDIR),
        (served.look("link"), Errno::LOOP),
        (served.look("pipe"), Errno::NXIO),
        (77, Errno::STALE),
    ];
    for (node, errno) in cases {
        let opened = served.open(&USER, node, OFlags::RDONLY);
        assert_eq!(opened.unwrap_err(), errno, "node {node}");
    }
    let file = served.file("a", b"");
    served.memory.fail_next("open", Errno::TXTBSY);
    let opened = served.open(&USER, file, OFlags::WRONLY);
    assert_eq!(opened.unwrap_err(), Errno::TXTBSY);
}

#[test]
fn an_open_that_the_kernel_cannot_be_told_of_is_closed_again() {
    let served = serve();
    let node = served.file("a", b"");
    served.memory.fail_next("may_keep", Errno::IO);
    let opened = served.open(&USER, node, OFlags::RDONLY);
    assert_eq!(opened.unwrap_err(), Errno::IO);
    assert_eq!(served.memory.take_calls_of("close"), ["close 2.0"]);
    served.assert_lookups(node, 1);
}

#[test]
fn releasing_a_handle_closes_the_file_once() {
    let served = serve();
    let (_, fh) = open_file(&served, b"");
    served.memory.take_calls();
    assert_eq!(served.release(fh), Ok(()));
    assert_eq!(served.memory.take_calls(), ["close 2.0"]);
}

#[test]
fn only_a_handle_to_read_only_needs_no_word_at_close() {
    let served = serve();
    let node = served.file("a", b"");
    for (access, read_only) in [
        (OFlags::RDONLY, true),
        (OFlags::WRONLY, false),
        (OFlags::RDWR, false),
    ] {
        let opened = served.opened(node, access);
        assert_eq!(opened.read_only, read_only, "{access:?}");
    }
}

#[test]
fn the_kernels_cache_is_passed_by_where_it_must_be() {
    for (option, is_cacheable, direct_io) in [
        (false, true, false),
        (true, true, true),
        (false, false, true),
    ] {
        let served = serve_with(|config| config.direct_io = option);
        served
            .memory
            .adjust(|knobs| knobs.is_cacheable = is_cacheable);
        let opened = served.opened(served.file("a", b""), OFlags::RDONLY);
        assert_eq!(opened.direct_io, direct_io);
    }
}

#[test]
fn the_view_is_told_who_reads() {
    let served = serve();
    let node = served.file("a", b"");
    for access in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
        served.handle(node, access);
    }
    let expected = [
        "may_keep 2.0 to read",
        "may_keep 2.0 to write only",
        "may_keep 2.0 to read",
    ];
    assert_eq!(served.memory.take_calls_of("may_keep"), expected);
}

#[test]
fn the_content_of_an_open_is_the_file_that_was_opened() {
    let served = serve();
    let opened = served.opened(served.file("a", b"bytes"), OFlags::RDONLY);
    assert_eq!(opened.content().attr().unwrap().size, 5);
    assert!(!opened.content().is_writable());
}

#[test]
fn a_file_is_passed_through_by_its_first_open_for_all() {
    let served = serve();
    let node = served.file("a", b"");
    let first = served.opened(node, OFlags::RDONLY);
    assert!(!first.content().is_passed_through());
    assert_eq!(first.content().pass_through(&USER, |_| Some(7)), Some(&7));
    let second = served.opened(node, OFlags::RDWR);
    assert!(second.content().is_passed_through());
    assert_eq!(second.content().pass_through(&USER, |_| Some(8)), Some(&7));
}

#[test]
fn a_read_ends_with_the_file() {
    let served = serve();
    let (_, fh) = open_file(&served, b"some bytes");
    let read = |at, size| served.read(fh, at, size, NONE, |lent| lent.unwrap().to_vec());
    assert_eq!(read(0, 4), b"some");
    assert_eq!(read(5, 100), b"bytes");
    assert_eq!(read(10, 100), b"");
    assert_eq!(read(1 << 40, 100), b"");
}

#[test]
fn a_read_that_fails_lends_its_error_once() {
    let served = serve();
    let (_, fh) = open_file(&served, b"bytes");
    served.memory.fail_next("read", Errno::IO);
    let mut lent = Vec::new();
    served.read(fh, 0, 5, NONE, |outcome| lent.push(outcome.map(drop)));
    served.read(77, 0, 5, NONE, |outcome| lent.push(outcome.map(drop)));
    assert_eq!(lent, [Err(Errno::IO), Err(Errno::BADF)]);
}

#[test]
fn a_read_past_the_cache_is_known_by_its_flags() {
    let served = serve();
    let (_, fh) = open_file(&served, b"");
    served.memory.take_calls();
    for flags in [NONE, OFlags::DIRECT] {
        served.read(fh, 0, 1, flags, |lent| assert!(lent.is_ok()));
    }
    let expected = ["read 2.0 cached", "read 2.0 direct"];
    assert_eq!(served.memory.take_calls(), expected);
}

#[test]
fn what_is_written_is_read() {
    let served = serve();
    let (_, fh) = open_file(&served, b"some bytes");
    assert_eq!(served.write(fh, 5, b"words!", PLAIN), Ok(6));
    assert_eq!(served.bytes(fh).unwrap(), b"some words!");
    assert_eq!(served.write(fh, 13, b"x", PLAIN), Ok(1));
    assert_eq!(served.bytes(fh).unwrap(), b"some words!\0\0x");
}

#[test]
fn a_handle_to_read_only_is_not_written_to() {
    let served = serve();
    let fh = served.handle(served.file("a", b""), OFlags::RDONLY);
    assert_eq!(served.write(fh, 0, b"a", PLAIN), Err(Errno::BADF));
}

#[test]
fn a_write_appends_by_its_own_flags_and_not_by_those_of_the_open() {
    let served = serve();
    let node = served.file("a", b"bytes");
    let plain = served.handle(node, OFlags::RDWR);
    let append = Writing {
        flags: OFlags::APPEND,
        ..PLAIN
    };
    assert_eq!(served.write(plain, 0, b"+", append), Ok(1));
    assert_eq!(served.bytes(plain).unwrap(), b"bytes+");
    let appending = served.handle(node, OFlags::RDWR | OFlags::APPEND);
    assert_eq!(served.write(appending, 0, b"B", PLAIN), Ok(1));
    assert_eq!(served.bytes(plain).unwrap(), b"Bytes+");
}

/// The kernel cuts a cached append where it has not read the page.
#[test]
fn an_open_to_append_goes_past_the_cache() {
    let served = serve();
    let node = served.file("a", b"bytes");
    let is_direct = |flags: OFlags| served.opened(node, flags | OFlags::APPEND).direct_io;
    assert!(!is_direct(OFlags::WRONLY) && !is_direct(OFlags::RDWR));
    served.set_mixes_direct();
    assert!(is_direct(OFlags::WRONLY) && is_direct(OFlags::RDWR));
    assert!(!is_direct(OFlags::RDONLY));
}

#[test]
fn what_the_kernel_writes_back_from_a_mapping_never_appends_nor_extends() {
    let served = serve();
    let (_, fh) = open_file(&served, b"bytes");
    served.memory.take_calls();
    let how = Writing {
        flags: OFlags::APPEND,
        from_mapping: true,
        drop_setid: false,
    };
    assert_eq!(served.write(fh, 3, b"TES and more", how), Ok(12));
    assert_eq!(
        served.memory.take_calls(),
        ["write 2.0 mapped keeps_setid Cached"]
    );
    assert_eq!(served.bytes(fh).unwrap(), b"bytTE");
    assert_eq!(served.write(fh, 9, b"x", how), Ok(1));
    assert_eq!(served.bytes(fh).unwrap(), b"bytTE");
}

#[test]
fn suid_and_sgid_go_where_the_kernel_says_so() {
    for (drop_setid, mode) in [(false, 0o6755), (true, 0o755)] {
        let served = serve();
        let (node, fh) = open_file(&served, b"");
        let special = SetAttr {
            mode: Some(0o6755),
            ..SetAttr::default()
        };
        served.setattr(&ADMIN, node, None, &special).unwrap();
        let how = Writing {
            drop_setid,
            ..PLAIN
        };
        served.write(fh, 0, b"a", how).unwrap();
        let attr = served.getattr(node, None).unwrap();
        assert_eq!(attr.mode & 0o7777, mode);
    }
}

#[test]
fn a_write_past_the_cache_is_known_by_its_flags() {
    let served = serve();
    let (_, fh) = open_file(&served, b"");
    served.memory.take_calls();
    let how = Writing {
        flags: OFlags::DIRECT,
        ..PLAIN
    };
    served.write(fh, 0, b"a", how).unwrap();
    let expected = ["write 2.0 direct keeps_setid Cached"];
    assert_eq!(served.memory.take_calls(), expected);
}

#[test]
fn a_write_stops_at_the_longest_file() {
    let served = serve();
    served.memory.adjust(|knobs| knobs.longest = 8);
    let (_, fh) = open_file(&served, b"bytes");
    assert_eq!(served.write(fh, 6, b"abcd", PLAIN), Ok(2));
    assert_eq!(served.write(fh, 8, b"abcd", PLAIN), Err(Errno::FBIG));
    assert_eq!(served.bytes(fh).unwrap(), b"bytes\0ab");
}

#[test]
fn a_write_stops_where_there_is_no_more_room() {
    let served = serve();
    served.memory.adjust(|knobs| knobs.room = 8);
    let (_, fh) = open_file(&served, b"bytes");
    assert_eq!(served.write(fh, 4, b"12345", PLAIN), Ok(4));
    assert_eq!(served.write(fh, 8, b"x", PLAIN), Err(Errno::NOSPC));
    assert_eq!(served.write(fh, 0, b"B", PLAIN), Ok(1));
    assert_eq!(served.bytes(fh).unwrap(), b"Byte1234");
}

#[test]
fn a_write_that_fails_says_why() {
    let served = serve();
    let (_, fh) = open_file(&served, b"bytes");
    served.memory.fail_next("write", Errno::DQUOT);
    assert_eq!(served.write(fh, 0, b"x", PLAIN), Err(Errno::DQUOT));
    assert_eq!(served.bytes(fh).unwrap(), b"bytes");
}

#[test]
fn inode_flags_are_read_as_they_were_set() {
    let served = serve();
    let (node, fh) = open_file(&served, b"");
    assert_eq!(served.inode_flags(fh), Ok(IFlags::empty()));
    let flags = IFlags::NODUMP | IFlags::NOATIME;
    assert_eq!(served.set_inode_flags(node, fh, flags), Ok(()));
    assert_eq!(served.inode_flags(fh), Ok(flags));
    assert_eq!(served.set_extended_flags(node, fh, &[3; 28]), Ok(()));
    assert_eq!(served.extended_flags(fh), Ok([3; 28]));
}

#[test]
fn inode_flags_say_why_they_failed() {
    let served = serve();
    let (node, fh) = open_file(&served, b"");
    let (memory, errno) = (&served.memory, Errno::PERM);
    memory.fail_next("flags", errno);
    assert_eq!(served.inode_flags(fh), Err(errno));
    memory.fail_next("extended_flags", errno);
    assert_eq!(served.extended_flags(fh), Err(errno));
    memory.fail_next("set_flags", errno);
    let set = served.set_inode_flags(node, fh, IFlags::empty());
    assert_eq!(set, Err(errno));
    memory.fail_next("set_extended_flags", errno);
    let set = served.set_extended_flags(node, fh, &[0; 28]);
    assert_eq!(set, Err(errno));
}

#[test]
fn the_kernel_asks_anew_for_attributes_once_inode_flags_were_set() {
    let served = serve();
    let told = served.begin();
    let (node, fh) = open_file(&served, b"");
    served.set_inode_flags(node, fh, IFlags::NODUMP).unwrap();
    assert_eq!(told.try_recv(), Ok(Told::ExpireAttributes(node)));
    served.set_extended_flags(node, fh, &[0; 28]).unwrap();
    assert_eq!(told.try_recv(), Ok(Told::ExpireAttributes(node)));
    assert!(told.try_recv().is_err(), "once for each");
}
