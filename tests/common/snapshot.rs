//! All that a tree has at each path, to be compared: bytes, holes, attributes, links.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{SeekFrom, lgetxattr, llistxattr, seek};
use rustix::io::Errno;

/// What a file holds.
#[derive(Clone, PartialEq, Eq)]
pub enum Bytes {
    /// All bytes of a regular file, and the ranges that are no holes.
    File(Vec<u8>, Vec<(u64, u64)>),
    /// The target of a symbolic link.
    Target(Vec<u8>),
    /// It has none.
    Nothing,
    /// Reading failed.
    Failed(Option<i32>),
}

/// One path. Sizes of directories are left out.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub mode: u32,
    pub owner: (u32, u32),
    pub device: u64,
    pub mtime: (i64, i64),
    /// When it was read, if a test has set that: to something before 2001.
    pub atime: Option<(i64, i64)>,
    /// How many names it has, and the first of them. Of a directory: nothing.
    pub links: Option<(u64, PathBuf)>,
    pub bytes: Bytes,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Inode number and time of change, for what is to be left alone.
    pub inode: Option<(u64, i64, i64)>,
}

/// A tree. The root has the empty path.
pub type Snapshot = BTreeMap<PathBuf, Entry>;

const LONG_AGO: i64 = 1_000_000_000;

/// What a tree shows.
pub fn snapshot(root: &Path) -> Snapshot {
    taken(root, false)
}

/// The same with inode numbers and times of change: whatever is done to an inode shows.
pub fn untouched(root: &Path) -> Snapshot {
    taken(root, true)
}

fn taken(root: &Path, with_inodes: bool) -> Snapshot {
    let mut all = Snapshot::new();
    let (mut left, mut seen) = (vec![PathBuf::new()], Vec::new());
    let mut first_names: BTreeMap<(u64, u64), Vec<PathBuf>> = BTreeMap::new();
    while let Some(path) = left.pop() {
        let at = root.join(&path);
        let found = fs::symlink_metadata(&at).unwrap_or_else(|error| panic!("{at:?}: {error}"));
        if found.is_dir() {
            for entry in fs::read_dir(&at).unwrap_or_else(|error| panic!("{at:?}: {error}")) {
                left.push(path.join(entry.unwrap().file_name()));
            }
        } else {
            let names = first_names.entry((found.dev(), found.ino()));
            names.or_default().push(path.clone());
        }
        seen.push((path, found));
    }
    // Only now: to read what one name leads to moves a time of what another one leads to.
    for (path, found) in seen {
        let entry = entry(&root.join(&path), &found, with_inodes);
        all.insert(path, entry);
    }
    for names in first_names.values() {
        let first = names.iter().min().unwrap();
        for name in names {
            let links = all.get_mut(name).unwrap().links.as_mut().unwrap();
            links.1.clone_from(first);
        }
    }
    all
}

fn entry(at: &Path, found: &Metadata, with_inodes: bool) -> Entry {
    let is_set = found.atime() < LONG_AGO && !with_inodes;
    let is_node = found.mode() & libc::S_IFMT == libc::S_IFCHR
        || found.mode() & libc::S_IFMT == libc::S_IFBLK;
    Entry {
        mode: found.mode(),
        owner: (found.uid(), found.gid()),
        device: if is_node { found.rdev() } else { 0 },
        mtime: (found.mtime(), found.mtime_nsec()),
        atime: is_set.then(|| (found.atime(), found.atime_nsec())),
        links: (!found.is_dir()).then(|| (found.nlink(), PathBuf::new())),
        bytes: bytes(at, found),
        xattrs: xattrs(at),
        inode: with_inodes.then(|| (found.ino(), found.ctime(), found.ctime_nsec())),
    }
}

fn bytes(at: &Path, found: &Metadata) -> Bytes {
    if found.is_symlink() {
        return Bytes::Target(fs::read_link(at).unwrap().as_os_str().as_bytes().to_vec());
    }
    if !found.is_file() {
        return Bytes::Nothing;
    }
    let read = || {
        let open = |flags| {
            fs::OpenOptions::new()
                .read(true)
                .custom_flags(flags)
                .open(at)
        };
        let file = open(libc::O_NOATIME).or_else(|_| open(0))?;
        let ranges = data_ranges(&file, found.size())?;
        let mut bytes = vec![0; found.size() as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Bytes::File(bytes, ranges))
    };
    read().unwrap_or_else(|error: std::io::Error| Bytes::Failed(error.raw_os_error()))
}

fn data_ranges(file: &File, size: u64) -> std::io::Result<Vec<(u64, u64)>> {
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            found => found?,
        };
        // Some filesystems know it to the byte, others only where pages begin.
        at = seek(file, SeekFrom::Hole(data))?
            .next_multiple_of(4096)
            .min(size);
        match ranges
            .last_mut()
            .filter(|last: &&mut (u64, u64)| last.1 == data)
        {
            Some(last) => last.1 = at,
            None => ranges.push((data, at)),
        }
    }
    Ok(ranges)
}

fn xattrs(at: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = Vec::with_capacity(64 << 10);
    match llistxattr(at, spare_capacity(&mut list)) {
        Err(Errno::OPNOTSUPP) => return BTreeMap::new(),
        listed => listed.unwrap_or_else(|errno| panic!("{at:?}: {errno}")),
    };
    let names = list.split(|byte| *byte == 0);
    let value = |name: &[u8]| {
        let mut value = Vec::with_capacity(64 << 10);
        let text = CString::new(name).unwrap();
        lgetxattr(at, &*text, spare_capacity(&mut value))
            .unwrap_or_else(|errno| panic!("{at:?} {text:?}: {errno}"));
        (name.to_vec(), value)
    };
    // XFS shows root each ACL by a second name.
    let is_one = |name: &&[u8]| !name.is_empty() && !name.starts_with(b"trusted.SGI_ACL");
    names.filter(is_one).map(value).collect()
}

/// How one tree differs from another, as a text: empty if not at all.
pub fn differences(expected: &Snapshot, found: &Snapshot) -> String {
    let mut text = String::new();
    for (path, entry) in expected {
        let Some(other) = found.get(path) else {
            writeln!(text, "{path:?} is missing").unwrap();
            continue;
        };
        if entry != other {
            writeln!(text, "{path:?}:").unwrap();
            for (one, other) in entry.lines().iter().zip(other.lines()) {
                if *one != other {
                    writeln!(text, "    expected {one}\n    found    {other}").unwrap();
                }
            }
        }
    }
    for path in found.keys().filter(|path| !expected.contains_key(*path)) {
        writeln!(text, "{path:?} is there").unwrap();
    }
    text
}

impl Entry {
    fn lines(&self) -> [String; 9] {
        let xattrs = self.xattrs.iter();
        let xattrs: Vec<_> = xattrs
            .map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value)))
            .collect();
        let bytes = match &self.bytes {
            Bytes::File(bytes, ranges) => {
                let hash = bytes.iter().fold(0u32, |hash, byte| {
                    hash.wrapping_mul(31).wrapping_add(u32::from(*byte))
                });
                let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(20)]);
                format!("{} bytes {hash:08x} {begin:?} at {ranges:?}", bytes.len())
            }
            Bytes::Target(target) => format!("target {:?}", OsStr::from_bytes(target)),
            Bytes::Nothing => String::new(),
            Bytes::Failed(errno) => format!("error {errno:?}"),
        };
        [
            format!("mode {:o}", self.mode),
            format!("owner {:?}", self.owner),
            format!("device {:x}", self.device),
            format!("mtime {:?}", self.mtime),
            format!("atime {:?}", self.atime),
            format!("links {:?}", self.links),
            format!("{bytes} "),
            format!("xattrs {xattrs:?}"),
            format!("inode and ctime {:?}", self.inode),
        ]
    }
}

/// Without the times when things were read.
pub fn without_atimes(mut all: Snapshot) -> Snapshot {
    all.values_mut().for_each(|entry| entry.atime = None);
    all
}

/// With ranges of data as XFS may tell them: more than was written is allocated for a while.
pub fn with_coarse_holes(mut all: Snapshot) -> Snapshot {
    const STEP: u64 = 64 << 10;
    for entry in all.values_mut() {
        if let Bytes::File(bytes, ranges) = &mut entry.bytes {
            let mut coarse: Vec<(u64, u64)> = Vec::new();
            for (begin, end) in ranges.iter() {
                let end = end.next_multiple_of(STEP).min(bytes.len() as u64);
                match coarse
                    .last_mut()
                    .filter(|last| last.1 >= begin / STEP * STEP)
                {
                    Some(last) => last.1 = end,
                    None => coarse.push((begin / STEP * STEP, end)),
                }
            }
            *ranges = coarse;
        }
    }
    all
}

/// The same, if it has holes wherever `view` has them. It may have more: where a view has written zeros over a hole, nothing has
/// changed.
pub fn with_more_holes(view: &Snapshot, mut found: Snapshot) -> Snapshot {
    for (path, entry) in &mut found {
        let expected = view.get(path).map(|entry| &entry.bytes);
        if let (Bytes::File(_, ranges), Some(Bytes::File(_, of_view))) =
            (&mut entry.bytes, expected)
        {
            let is_in = |one: &(u64, u64)| {
                of_view
                    .iter()
                    .any(|of_view| of_view.0 <= one.0 && one.1 <= of_view.1)
            };
            if ranges.iter().all(is_in) {
                ranges.clone_from(of_view);
            }
        }
    }
    found
}

/// Without what tells holes from zeros.
pub fn without_holes(mut all: Snapshot) -> Snapshot {
    for entry in all.values_mut() {
        if let Bytes::File(_, ranges) = &mut entry.bytes {
            ranges.clear();
        }
    }
    all
}

/// Fails unless both are the same.
#[track_caller]
pub fn assert_same(expected: &Snapshot, found: &Snapshot, what: &str) {
    let text = differences(expected, found);
    assert!(text.is_empty(), "{what}:\n{text}");
}
