//! A view that may not be changed through the mount.

use std::path::Path;

use mmfs::inode::ROOT;
use mmfs::request::SetAttr;
use rustix::fs::{IFlags, OFlags, RenameFlags};
use rustix::io::{Errno, Result};

use crate::inodes::Body;
use crate::served::{ADMIN, PLAIN, Served, USER, name, serve, serve_with};

/// A file, a directory and a symbolic link, served to read only.
fn read_only() -> Served {
    let served = serve_with(|config| config.flags.read_only = true);
    filled(&served);
    served
}

fn filled(served: &Served) {
    served.put("file", Body::File(b"bytes".to_vec()));
    served.put("dir", Body::directory());
    served.put("link", Body::Symlink(b"file".to_vec()));
}

/// Every operation that changes something, by name. All but those on a handle work where changes are allowed.
fn changes(served: &Served, fh: u64) -> Vec<(&'static str, Result<()>)> {
    let (file, by) = (served.look("file"), &ADMIN);
    let none = RenameFlags::empty();
    let set = SetAttr {
        mode: Some(0o600),
        ..SetAttr::default()
    };
    let created = served.create(by, ROOT, name("e"), 0o644, 0, OFlags::RDONLY);
    vec![
        (
            "mknod",
            served.mknod(by, ROOT, name("a"), 0o644, 0, 0).map(drop),
        ),
        (
            "mkdir",
            served.mkdir(by, ROOT, name("b"), 0o755, 0).map(drop),
        ),
        (
            "symlink",
            served
                .symlink(by, ROOT, name("c"), Path::new("t"))
                .map(drop),
        ),
        ("link", served.link(file, ROOT, name("d")).map(drop)),
        ("create", created.map(drop)),
        ("unlink", served.unlink(ROOT, name("link"))),
        ("rmdir", served.rmdir(ROOT, name("dir"))),
        (
            "rename",
            served.rename((ROOT, name("file")), (ROOT, name("f")), none),
        ),
        ("setattr", served.setattr(by, file, None, &set).map(drop)),
        (
            "open to write",
            served.open(by, file, OFlags::WRONLY).map(drop),
        ),
        (
            "open for both",
            served.open(by, file, OFlags::RDWR).map(drop),
        ),
        ("fallocate", served.fallocate(by, fh, 0, 10, 0)),
        (
            "copy_file_range",
            served.copy_file_range(by, (fh, 0), (fh, 5), 1).map(drop),
        ),
        (
            "set_inode_flags",
            served.set_inode_flags(file, fh, IFlags::NODUMP),
        ),
        (
            "set_extended_flags",
            served.set_extended_flags(file, fh, &[0; 28]),
        ),
        (
            "setxattr",
            served.setxattr(by, file, name("user.a"), b"v", 0),
        ),
        ("removexattr", served.removexattr(by, file, name("user.a"))),
    ]
}

#[test]
fn every_change_is_erofs_and_none_reaches_the_view() {
    let served = read_only();
    let fh = served.handle(served.look("file"), OFlags::RDONLY);
    served.look("file");
    served.memory.take_calls();
    for (operation, outcome) in changes(&served, fh) {
        assert_eq!(outcome, Err(Errno::ROFS), "{operation}");
    }
    assert_eq!(served.memory.take_calls(), ["lookup 1.0 file"]);
}

#[test]
fn every_one_of_these_changes_is_done_where_it_may_be() {
    let served = serve();
    filled(&served);
    let fh = served.handle(served.look("file"), OFlags::RDWR);
    for (operation, outcome) in changes(&served, fh) {
        assert_eq!(outcome, Ok(()), "{operation}");
    }
}

#[test]
fn a_handle_to_read_only_is_not_written_to() {
    let served = read_only();
    let fh = served.handle(served.look("file"), OFlags::RDONLY);
    let written = served.write(fh, 0, b"new", PLAIN);
    assert_eq!(written, Err(Errno::BADF));
    assert_eq!(served.bytes(fh).unwrap(), b"bytes");
}

#[test]
fn whatever_only_reads_works() {
    let served = read_only();
    let (file, link) = (served.look("file"), served.look("link"));
    let fh = served.handle(file, OFlags::RDONLY);
    let (dir, _) = served.opendir(ROOT).unwrap();
    assert_eq!(served.names(dir), ["dir", "file", "link"]);
    let outcomes = [
        served.getattr(file, None).map(drop),
        served.getattr(file, Some(fh)).map(drop),
        served.statfs(file).map(drop),
        served.readlink(link).map(drop),
        served.bytes(fh).map(drop),
        served.lseek(fh, 0, libc::SEEK_HOLE).map(drop),
        served.inode_flags(fh).map(drop),
        served.extended_flags(fh).map(drop),
        served.flush(fh),
        served.fsync(fh, false),
        served.release(fh),
        served.readdirplus(dir, 0, |_| true),
        served.fsyncdir(dir, false),
        served.releasedir(dir),
        served.listxattr(&USER, file).map(drop),
    ];
    for (number, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome, Ok(()), "operation {number}");
    }
    let none = served.getxattr_size(file, name("user.a"));
    assert_eq!(none, Err(Errno::NODATA));
}
