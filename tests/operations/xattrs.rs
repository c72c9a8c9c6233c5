//! Extended attributes.

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::memory::LONGEST_VALUE;
use crate::served::{ADMIN, Served, USER, name, serve};

fn with_value() -> (Served, u64) {
    let served = serve();
    let node = served.file("a", b"");
    let set = served.setxattr(&USER, node, name("user.a"), b"value", 0);
    assert_eq!(set, Ok(()));
    (served, node)
}

#[test]
fn a_value_is_read_as_it_was_set() {
    let (served, node) = with_value();
    let value = served.getxattr(node, name("user.a"), 5);
    assert_eq!(value.unwrap(), b"value");
    assert_eq!(served.getxattr_size(node, name("user.a")), Ok(5));
}

#[test]
fn a_value_longer_than_the_room_for_it_is_erange() {
    let (served, node) = with_value();
    let value = served.getxattr(node, name("user.a"), 4);
    assert_eq!(value, Err(Errno::RANGE));
}

#[test]
fn an_attribute_that_is_not_there_is_enodata() {
    let (served, node) = with_value();
    let none = name("user.b");
    assert_eq!(served.getxattr(node, none, 9), Err(Errno::NODATA));
    assert_eq!(served.getxattr_size(node, none), Err(Errno::NODATA));
    assert_eq!(served.removexattr(&USER, node, none), Err(Errno::NODATA));
}

#[test]
fn the_flags_of_setxattr_reach_the_view() {
    let (served, node) = with_value();
    let set = |shown, flags: XattrFlags| {
        let flags = flags.bits();
        served.setxattr(&USER, node, name(shown), b"new", flags)
    };
    assert_eq!(set("user.a", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(set("user.b", XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(set("user.b", XattrFlags::CREATE), Ok(()));
    assert_eq!(set("user.a", XattrFlags::REPLACE), Ok(()));
    let value = served.getxattr(node, name("user.a"), 9);
    assert_eq!(value.unwrap(), b"new");
}

#[test]
fn names_and_values_have_a_length() {
    let (served, node) = with_value();
    let (long, large) = ("x".repeat(256), vec![0; LONGEST_VALUE + 1]);
    let set = served.setxattr(&USER, node, name(&long), b"", 0);
    assert_eq!(set, Err(Errno::RANGE));
    let set = served.setxattr(&USER, node, name("user.b"), &large, 0);
    assert_eq!(set, Err(Errno::TOOBIG));
}

#[test]
fn what_was_removed_is_gone() {
    let (served, node) = with_value();
    assert_eq!(served.removexattr(&USER, node, name("user.a")), Ok(()));
    assert_eq!(served.listxattr(&USER, node).unwrap(), b"");
}

#[test]
fn trusted_attributes_are_listed_to_root_only() {
    let (served, node) = with_value();
    for shown in ["trusted.b", "user.trusted."] {
        let set = served.setxattr(&ADMIN, node, name(shown), b"", 0);
        assert_eq!(set, Ok(()));
    }
    let all = b"trusted.b\0user.a\0user.trusted.\0";
    assert_eq!(served.listxattr(&ADMIN, node).unwrap(), all);
    let shown = b"user.a\0user.trusted.\0";
    assert_eq!(served.listxattr(&USER, node).unwrap(), shown);
}

/// Any other errno the kernel takes for a refusal.
#[test]
fn a_view_without_acls_has_none_on_any_file() {
    let (served, node) = with_value();
    let (unsupported, none) = (Errno::OPNOTSUPP, Errno::NODATA);
    for shown in ["system.posix_acl_access", "system.posix_acl_default"] {
        served.memory.fail_next("xattr", unsupported);
        assert_eq!(served.getxattr(node, name(shown), 9), Err(none));
        served.memory.fail_next("xattr_len", unsupported);
        assert_eq!(served.getxattr_size(node, name(shown)), Err(none));
        served.memory.fail_next("xattr", Errno::IO);
        assert_eq!(served.getxattr(node, name(shown), 9), Err(Errno::IO));
    }
}

#[test]
fn what_the_view_says_is_passed_on() {
    let (served, node) = with_value();
    let (memory, at) = (&served.memory, name("user.a"));
    let errno = Errno::OPNOTSUPP;
    memory.fail_next("xattr", errno);
    assert_eq!(served.getxattr(node, at, 9), Err(errno));
    memory.fail_next("xattr_len", errno);
    assert_eq!(served.getxattr_size(node, at), Err(errno));
    memory.fail_next("xattr_names", errno);
    assert_eq!(served.listxattr(&USER, node), Err(errno));
    memory.fail_next("set_xattr", errno);
    assert_eq!(served.setxattr(&USER, node, at, b"", 0), Err(errno));
    memory.fail_next("remove_xattr", errno);
    assert_eq!(served.removexattr(&USER, node, at), Err(errno));
}
