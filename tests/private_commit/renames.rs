//! What the view has renamed.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};

use crate::committed::{
    changed_and_committed, place, remove, set_times, write_at, write_files, write_large,
};

fn exchange(one: &Path, other: &Path) {
    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

/// What the source has, and what the view does.
#[track_caller]
fn case(files: &[&str], change: impl FnOnce(&Path)) {
    let (_place, source, store) = place();
    write_files(&source, files);
    changed_and_committed(&source, &store, change);
}

/// Renames one after the other.
fn moves(view: &Path, all: &[(&str, &str)]) {
    for (from, to) in all {
        fs::rename(view.join(from), view.join(to)).unwrap_or_else(|e| panic!("{from} {to}: {e}"));
    }
}

#[test]
fn files_and_directories_are_renamed() {
    case(&["a", "d/f", "d/e/g", "x/y"], |view| {
        moves(
            view,
            &[("a", "b"), ("d", "c"), ("c/e", "x/e"), ("x/y", "c/e")],
        );
    });
}

#[test]
fn a_rename_takes_the_inode_along() {
    let (_place, source, store) = place();
    write_files(&source, &["d/f", "a"]);
    let number = |path: &str| {
        let found = fs::metadata(source.join(path)).unwrap();
        std::os::unix::fs::MetadataExt::ino(&found)
    };
    let before = (number("d"), number("d/f"), number("a"));
    changed_and_committed(&source, &store, |view| {
        moves(view, &[("d", "e"), ("a", "e/b")]);
        fs::set_permissions(view.join("e/f"), Permissions::from_mode(0o600)).unwrap();
    });
    assert_eq!((number("e"), number("e/f"), number("e/b")), before);
}

#[test]
fn swaps_and_cycles_are_committed() {
    case(
        &["a", "b", "c/1", "d/2", "x", "y", "z", "p/1", "q/2", "r/3"],
        |view| {
            moves(view, &[("a", "t"), ("b", "a"), ("t", "b")]);
            moves(view, &[("c", "t"), ("d", "c"), ("t", "d")]);
            moves(view, &[("x", "t"), ("y", "x"), ("z", "y"), ("t", "z")]);
            moves(view, &[("p", "t"), ("q", "p"), ("r", "q"), ("t", "r")]);
        },
    );
    case(&["a", "d/e/f", "d/g"], |view| {
        exchange(&view.join("a"), &view.join("d"));
        exchange(&view.join("a/g"), &view.join("d"));
    });
    // A directory and one that lay in it.
    case(&["d/e/f", "d/g"], |view| {
        moves(view, &[("d/e", "e"), ("d", "e/d"), ("e", "d")]);
    });
}

/// Directories above do not change times because things went through them.
#[test]
fn a_swap_far_below_leaves_the_root_alone() {
    let (_place, source, store) = place();
    write_files(&source, &["o/d/a", "o/d/b", "o/e/p/1", "o/e/q/2"]);
    for path in ["", "o", "o/d", "o/e"] {
        set_times(&source.join(path), 500_000_000);
    }
    changed_and_committed(&source, &store, |view| {
        moves(
            view,
            &[("o/d/a", "o/d/t"), ("o/d/b", "o/d/a"), ("o/d/t", "o/d/b")],
        );
        exchange(&view.join("o/e/p"), &view.join("o/e/q"));
    });
}

#[test]
fn moves_into_new_directories_and_out_of_deleted_ones() {
    case(&["a", "d/f", "d/e/g", "d/e/h", "o/i/j", "k/l"], |view| {
        fs::create_dir_all(view.join("n/m")).unwrap();
        moves(view, &[("a", "n/a"), ("d/e", "n/m/e"), ("o/i/j", "j")]);
        remove(&view.join("d"));
        remove(&view.join("o"));
        moves(view, &[("k", "n/m/k")]);
        fs::write(view.join("n/m/k/new"), "new").unwrap();
    });
    // The new one has the name of the deleted one.
    case(&["d/f", "d/e/g", "d/e/h"], |view| {
        moves(view, &[("d/e", "e"), ("d/f", "f")]);
        remove(&view.join("d"));
        fs::create_dir(view.join("d")).unwrap();
        moves(view, &[("e", "d/e"), ("f", "d/e/f")]);
        remove(&view.join("d/e/h"));
    });
}

#[test]
fn moves_over_what_was_there() {
    case(&["a", "b", "d/f", "e/g", "c", "h"], |view| {
        moves(view, &[("a", "b")]);
        remove(&view.join("e/g"));
        moves(view, &[("d", "e")]);
        // Over what has become empty, and over what was renamed itself.
        moves(view, &[("c", "d"), ("h", "c")]);
    });
    case(&["d/f", "e/g/h", "e/i"], |view| {
        remove(&view.join("e"));
        moves(view, &[("d", "e")]);
    });
    case(&["d/f", "e/g/h", "a", "b/c"], |view| {
        remove(&view.join("e"));
        moves(view, &[("a", "e")]);
        remove(&view.join("b"));
        fs::create_dir(view.join("b")).unwrap();
        moves(view, &[("d", "b")]);
    });
}

/// In the place of a removed directory comes another one, in which the view has made what the removed one had, too.
#[test]
fn new_directories_in_a_renamed_one_are_not_those_that_lay_there() {
    for is_before in [true, false] {
        case(&["d/sub/f", "d/sub/x/y", "q/h"], |view| {
            let make = |path: &str| {
                fs::create_dir_all(view.join(path)).unwrap();
                fs::write(view.join(path).join("mine"), "mine").unwrap();
            };
            if is_before {
                make("q/sub/x");
            }
            remove(&view.join("d"));
            moves(view, &[("q", "d")]);
            if !is_before {
                make("d/sub/x");
            }
        });
    }
}

#[test]
fn children_of_renamed_directories_are_changed() {
    let (_place, source, store) = place();
    write_files(
        &source,
        &["d/a", "d/b", "d/e/f", "d/e/gone", "d/k/l", "d/same"],
    );
    write_large(&source.join("d/large"));
    fs::hard_link(source.join("d/a"), source.join("outside")).unwrap();
    symlink("a", source.join("d/link")).unwrap();
    changed_and_committed(&source, &store, |view| {
        let at = |name: &str| view.join(name);
        write_at(&at("d/large"), 300_000, b"before");
        moves(view, &[("d", "m")]);
        write_at(&at("m/large"), 10, b"after");
        fs::write(at("m/a"), "changed").unwrap();
        fs::set_permissions(at("m/b"), Permissions::from_mode(0o600)).unwrap();
        moves(view, &[("m/e", "m/i"), ("m/i/f", "m/f")]);
        remove(&at("m/i/gone"));
        fs::write(at("m/i/new"), "new").unwrap();
        remove(&at("m/k"));
        fs::create_dir(at("m/k")).unwrap();
        fs::write(at("m/k/other"), "other").unwrap();
        remove(&at("m/link"));
        symlink("b", at("m/link")).unwrap();
        fs::create_dir(at("d")).unwrap();
        fs::hard_link(at("m/same"), at("d/same")).unwrap();
        fs::write(at("d/saved"), "saved").unwrap();
        moves(view, &[("d/saved", "m/same")]);
    });
}

#[test]
fn links_are_renamed_removed_and_made() {
    let (_place, source, store) = place();
    write_files(&source, &["a", "d/x", "p", "r"]);
    for (of, name) in [
        ("a", "b"),
        ("a", "d/c"),
        ("d/x", "d/y"),
        ("p", "q"),
        ("r", "s"),
    ] {
        fs::hard_link(source.join(of), source.join(name)).unwrap();
    }
    changed_and_committed(&source, &store, |view| {
        let link = |of: &str, name: &str| fs::hard_link(view.join(of), view.join(name)).unwrap();
        moves(view, &[("a", "e"), ("b", "f")]);
        link("d/c", "g");
        moves(view, &[("d", "h")]);
        fs::write(view.join("h/x"), "changed").unwrap();
        link("h/y", "z");
        remove(&view.join("p"));
        link("q", "p");
        remove(&view.join("q"));
        // A rename of a link over another one of the same file does nothing.
        moves(view, &[("r", "s")]);
        link("r", "t");
        remove(&view.join("r"));
        moves(view, &[("s", "r"), ("t", "s")]);
    });
}

/// Each of these sorts between another one and what lies in it.
#[test]
fn names_that_sort_around_the_slash_are_committed() {
    let files = [
        "a/b", "a-/b", "a.b/c", "a!/d", "a0/e", "aa/f", "a/b-", "a/b.c",
    ];
    case(&files, |view| {
        moves(
            view,
            &[("a", "t"), ("a-", "a"), ("a.b", "a-"), ("t", "a.b")],
        );
        moves(view, &[("a!", "a.b/b!"), ("a0", "a!"), ("aa", "a0")]);
    });
    case(&files, |view| {
        for name in ["a", "a-", "a.b", "a!", "a0"] {
            remove(&view.join(name));
            fs::create_dir(view.join(name)).unwrap();
            fs::create_dir(view.join(name).join("b")).unwrap();
            fs::write(view.join(name).join("b/new"), name).unwrap();
        }
        moves(view, &[("aa", "a/b/aa"), ("a-/b", "a/b/b-")]);
    });
    case(&files, |view| {
        for name in ["a/b", "a-/b"] {
            remove(&view.join(name));
            fs::create_dir(view.join(name)).unwrap();
        }
        moves(
            view,
            &[
                ("a", "t"),
                ("a-", "t/b/a-"),
                ("a0", "t/b/a-/b/a0"),
                ("t", "a0"),
            ],
        );
    });
}

#[test]
fn names_of_all_bytes_are_committed() {
    let (_place, source, store) = place();
    let long = "x".repeat(255);
    let odd: [&[u8]; 7] = [
        b"\xff\xfe",
        b"line\nbreak",
        b" ",
        b"\"quoted\" \\ 'name'",
        b"-n",
        long.as_bytes(),
        b"\x01\x7f\xc3\xa9",
    ];
    for name in odd {
        let directory = source.join(OsStr::from_bytes(name));
        fs::create_dir(&directory).unwrap();
        for name in odd {
            fs::write(directory.join(OsStr::from_bytes(name)), name).unwrap();
        }
    }
    changed_and_committed(&source, &store, |view| {
        let at = |one: &[u8], other: &[u8]| {
            view.join(OsStr::from_bytes(one))
                .join(OsStr::from_bytes(other))
        };
        for (index, name) in odd.iter().enumerate() {
            let next = odd[(index + 1) % odd.len()];
            fs::write(at(name, name), "changed").unwrap();
            fs::remove_file(at(name, next)).unwrap();
            let last = odd[(index + 2) % odd.len()];
            let new = [b"new", &name[..name.len().min(252)]].concat();
            fs::rename(at(name, last), at(next, &new)).unwrap();
        }
        let first = view.join(OsStr::from_bytes(odd[0]));
        for name in &odd[1..] {
            exchange(&first, &view.join(OsStr::from_bytes(name)));
        }
    });
}

#[test]
fn deep_directories_are_committed() {
    let deep: Vec<String> = (0..30).map(|level| format!("level-{level}")).collect();
    let path = deep.join("/");
    case(&[&format!("{path}/f"), &format!("{path}/g")], |view| {
        let mut at = view.to_path_buf();
        for level in &deep {
            // From the root down, each gets another name.
            let new = at.join(format!("{level}-"));
            fs::rename(at.join(level), &new).unwrap();
            fs::write(new.join("new"), level).unwrap();
            at = new;
        }
        fs::remove_file(at.join("f")).unwrap();
        fs::rename(at, view.join("top")).unwrap();
    });
}
