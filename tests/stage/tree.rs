//! A whole tree as plain data, so that two views of it can be compared.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Everything a program can learn about one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type and permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// How many names it has.
    pub links: u64,
    /// The inode's number; 0 for the root, whose number a mount cannot choose.
    pub number: u64,
    /// Length in bytes; 0 for directories.
    pub size: u64,
    /// Modification time.
    pub modified: (i64, i64),
    /// Every extended attribute.
    pub attributes: BTreeMap<CString, Vec<u8>>,
    /// A file's bytes, hashed.
    pub bytes: u64,
    /// A symbolic link's target.
    pub target: Option<PathBuf>,
}

/// Every entry below the root, by its path from there.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut entries = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full)
            .unwrap_or_else(|error| panic!("{}: {error}", full.display()));
        if meta.is_dir() {
            for entry in
                fs::read_dir(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()))
            {
                waiting.push(path.join(entry.unwrap().file_name()));
            }
        }
        entries.insert(path, describe(&full, &meta, full == root));
    }
    entries
}

fn describe(path: &Path, meta: &Metadata, is_root: bool) -> Entry {
    Entry {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        links: meta.nlink(),
        number: if is_root { 0 } else { meta.ino() },
        size: if meta.is_dir() { 0 } else { meta.size() },
        modified: (meta.mtime(), meta.mtime_nsec()),
        attributes: attributes_of(path),
        bytes: if meta.is_file() { hash_of(path) } else { 0 },
        target: fs::read_link(path).ok(),
    }
}

fn hash_of(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    fs::read(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .hash(&mut hasher);
    hasher.finish()
}

/// The extended attributes of a path, symbolic links not followed.
pub fn attributes_of(path: &Path) -> BTreeMap<CString, Vec<u8>> {
    let mut names = vec![0; 65_536];
    // ENOTSUP: the filesystem has none.
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..length].split_inclusive(|byte| *byte == 0);
    let names = names.map(|name| CString::from_vec_with_nul(name.to_vec()).unwrap());
    names
        .map(|name| (name.clone(), attribute(path, &name)))
        .collect()
}

fn attribute(path: &Path, name: &CString) -> Vec<u8> {
    let mut value = vec![0; 65_536];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..])
        .unwrap_or_else(|error| panic!("{name:?} of {}: {error}", path.display()));
    value.truncate(length);
    value
}

/// Fails with the first few differences between two trees.
#[track_caller]
pub fn assert_same_tree(left: &Path, right: &Path) {
    let (first, second) = (tree(left), tree(right));
    let mut paths: Vec<&PathBuf> = first.keys().chain(second.keys()).collect();
    paths.sort();
    paths.dedup();
    let differing = paths
        .iter()
        .filter(|path| first.get(**path) != second.get(**path));
    let lines: Vec<String> = differing
        .map(|path| difference(path, first.get(*path), second.get(*path)))
        .collect();
    let shown = lines.iter().take(8).cloned().collect::<String>();
    assert!(
        lines.is_empty(),
        "{} of {} entries differ between {} and {}:\n{shown}",
        lines.len(),
        paths.len(),
        left.display(),
        right.display()
    );
}

fn difference(path: &Path, left: Option<&Entry>, right: Option<&Entry>) -> String {
    format!("  {}\n    {left:?}\n    {right:?}\n", path.display())
}

/// The names in a directory, sorted; a name that comes twice is there twice.
pub fn names_in(directory: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    names
}
