//! What the tests of private views begin with: a source, a store, and the view.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Mount;

/// Names and attributes are asked for each time.
pub const AT_ONCE: [&str; 4] = ["--attr-timeout", "0", "--entry-timeout", "0"];

/// A private view of `source` with the changes in `store`.
pub fn private(source: &Path, store: &Path, options: &[&str]) -> Mount {
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
