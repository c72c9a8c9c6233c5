//! Names of a private view: renaming and listing.

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use common::Mount;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

fn private(source: &Path, store: &Path) -> Mount {
    let builder = Mount::builder()
        .over(source)
        .option("--private")
        .option(store);
    builder.mount()
}

/// A source and the place for a store beside it.
fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let (source, store) = (place.path().join("source"), place.path().join("store"));
    fs::create_dir(&source).unwrap();
    (place, source, store)
}

/// It was EINVAL. (proves: S9)
#[test]
fn s9_as_root_a_rename_may_leave_a_whiteout() {
    let (_place, source, store) = place();
    for name in ["theirs", "target"] {
        fs::write(source.join(name), name).unwrap();
    }
    let mut mount = private(&source, &store);
    let rename = |from: &str, to: &str, flags| {
        let path = |name| mount.mnt().join(name);
        renameat_with(CWD, path(from), CWD, path(to), flags)
    };
    fs::write(mount.mnt().join("own"), "own").unwrap();
    let both = RenameFlags::WHITEOUT | RenameFlags::NOREPLACE;
    assert_eq!(rename("own", "target", both), Err(Errno::EXIST));
    let wrong = RenameFlags::WHITEOUT | RenameFlags::EXCHANGE;
    assert_eq!(rename("own", "target", wrong), Err(Errno::INVAL));
    rename("own", "target", RenameFlags::WHITEOUT).unwrap();
    rename("theirs", "moved", both).unwrap();
    for _ in 0..2 {
        for name in ["own", "theirs"] {
            let left = fs::symlink_metadata(mount.mnt().join(name)).unwrap();
            assert!(left.file_type().is_char_device());
            assert_eq!((left.rdev(), left.nlink(), left.mode() & 0o7777), (0, 1, 0));
        }
        for (name, text) in [("target", "own"), ("moved", "theirs")] {
            let found = fs::read_to_string(mount.mnt().join(name)).unwrap();
            assert_eq!(found, text);
        }
        mount.remount();
    }
    fs::remove_file(mount.mnt().join("theirs")).unwrap();
    assert_eq!(fs::read_dir(mount.mnt()).unwrap().count(), 3);
}
