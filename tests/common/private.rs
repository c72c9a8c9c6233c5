//! What the tests of private views begin with: a source, a store, and the view.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Mount;

/// Names and attributes are asked for each time.
pub const AT_ONCE: [&str; 4] = ["--attr-timeout", "0", "--entry-timeout", "0"];

/// A private view of `source` with the changes in `store`.
///
/// What a test has done in the source comes before all that it does in the view: by more than the 10 ms that count as the same moment.
pub fn private(source: &Path, store: &Path, options: &[&str]) -> Mount {
    std::thread::sleep(std::time::Duration::from_millis(10));
    let builder = Mount::builder()
        .over(source)
        .option("--private")
        .option(store);
    builder.options(options.iter().copied()).mount()
}

/// A source and the place for a store beside it, for all users.
pub fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let (source, store) = (place.path().join("source"), place.path().join("store"));
    fs::create_dir(&source).unwrap();
    (place, source, store)
}

/// Larger than what is copied at the first write.
pub fn large() -> Vec<u8> {
    (0..50_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
}

/// Changes a few bytes of a file's first page.
pub fn change_first_page(path: &Path) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"changed", 10).unwrap();
}

/// What a tree has at each path: type, mode, owner, and bytes or target.
pub type Listing = BTreeMap<PathBuf, (u32, u32, Vec<u8>)>;

/// What lies below a directory.
pub fn listing(root: &Path) -> Listing {
    let mut all = Listing::new();
    let mut left = vec![PathBuf::new()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(root.join(&directory)).unwrap() {
            let path = directory.join(entry.unwrap().file_name());
            let found = fs::symlink_metadata(root.join(&path)).unwrap();
            let bytes = if found.is_file() {
                fs::read(root.join(&path)).unwrap()
            } else if found.is_symlink() {
                fs::read_link(root.join(&path))
                    .unwrap()
                    .as_os_str()
                    .as_bytes()
                    .to_vec()
            } else {
                Vec::new()
            };
            if found.is_dir() {
                left.push(path.clone());
            }
            all.insert(path, (found.mode(), found.uid(), bytes));
        }
    }
    all
}
