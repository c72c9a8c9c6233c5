//! The files `format` and `base`, and how a store is made.

use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::codec::damaged;
use super::data;
use super::disk::{Disk, How};
use super::life::{hex, random};
use super::manifest::Manifest;
use super::node::{NodeId, Time};

/// The first line of `format`.
pub const FIRST_LINE: &str = "mmfs private view 1";
/// All that lies in a store.
pub const NAMES: [&str; 12] = [
    "format",
    "base",
    "lock",
    "state",
    "state.new",
    "tables",
    "tails",
    "data",
    "format.new",
    "base.new",
    "commit",
    "commit.new",
];
/// These files are shorter.
const MAX_TEXT: usize = 1 << 16;

/// Which source a store belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Where it was mounted from.
    pub path: PathBuf,
    /// The UUID of its filesystem; empty where there is none.
    pub filesystem: String,
    /// `st_ino` of its root.
    pub root: u64,
    /// When its root was made, where the filesystem tells.
    pub born: Option<Time>,
}

impl Base {
    fn text(&self) -> Vec<u8> {
        let born = self.born.map_or(String::new(), |time| {
            format!("{} {}", time.seconds, time.nanoseconds)
        });
        let mut text = format!(
            "filesystem {}\nroot {}\nborn {born}\npath ",
            self.filesystem, self.root
        )
        .into_bytes();
        // The path comes last, as it is: it may have any byte.
        text.extend_from_slice(self.path.as_os_str().as_bytes());
        text
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = text.splitn(4, |byte| *byte == b'\n');
        let mut line = |key: &str| {
            let line = parts
                .next()?
                .strip_prefix(key.as_bytes())?
                .strip_prefix(b" ")?;
            Some(line.to_vec())
        };
        let filesystem = String::from_utf8(line("filesystem")?).ok()?;
        let root = String::from_utf8(line("root")?).ok()?.parse().ok()?;
        let born = String::from_utf8(line("born")?).ok()?;
        let born = match born.split_once(' ') {
            Some((seconds, nanoseconds)) => Some(Time {
                seconds: seconds.parse().ok()?,
                nanoseconds: nanoseconds.parse().ok()?,
            }),
            None if born.is_empty() => None,
            None => return None,
        };
        let path = PathBuf::from(std::ffi::OsString::from_vec(line("path")?));
        Some(Self {
            path,
            filesystem,
            root,
            born,
        })
    }
}

/// Makes a store for this source in an empty directory, durably. What an interrupted making left is made anew.
///
/// # Errors
/// ENOTEMPTY if something else lies in the directory, or that of the call that failed.
pub fn make(disk: &dyn Disk, base: &Base) -> io::Result<()> {
    let names = disk.list(Path::new(""))?;
    if names
        .iter()
        .any(|name| name == "format" || !NAMES.iter().any(|known| name == known))
    {
        return Err(ErrorKind::DirectoryNotEmpty.into());
    }
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&random()?.to_le_bytes());
    uuid[8..].copy_from_slice(&random()?.to_le_bytes());
    for directory in ["tables", "tails"] {
        disk.make_directory(Path::new(directory))?;
    }
    data::make_directories(disk)?;
    write_base(disk, base)?;
    let manifest = Manifest {
        tables: Vec::new(),
        tail: 1,
        first: 1,
        next: NodeId::FIRST,
        used: 0,
        closed: true,
        life: random()?,
    };
    manifest.write(disk, &uuid)?;
    let made = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let text = format!(
        "{FIRST_LINE}\nuuid {}\npage size {}\nmade {made}\n",
        hex(&uuid),
        super::content::PAGE
    );
    // It comes last: without it there is no store.
    put(disk, "format", text.as_bytes())
}

/// Replaces what `base` says.
///
/// # Errors
/// That of the call that failed.
pub fn write_base(disk: &dyn Disk, base: &Base) -> io::Result<()> {
    put(disk, "base", &base.text())
}

/// Replaces a file as a whole, durably: a kill or a power cut leaves the old one or the new one.
pub(super) fn put(disk: &dyn Disk, name: &str, text: &[u8]) -> io::Result<()> {
    let new = format!("{name}.new");
    let file = disk.open(Path::new(&new), How::Empty)?;
    file.write_all_at(text, 0)?;
    file.sync()?;
    disk.rename(Path::new(&new), Path::new(name))?;
    disk.sync_directory(Path::new(""))
}

fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, How::Read)?;
    let mut text = vec![0; MAX_TEXT];
    let len = file.read_full_at(&mut text, 0)?;
    text.truncate(len);
    Ok(text)
}

/// Reads `base`.
///
/// # Errors
/// EUCLEAN if it is not as it was written, or that of the read.
pub fn read_base(disk: &dyn Disk) -> io::Result<Base> {
    Base::parse(&read(disk, Path::new("base"))?).ok_or_else(damaged)
}

/// What `format` says.
#[derive(Debug, PartialEq, Eq)]
pub enum Format {
    /// A store that this mmfs can read, with its UUID.
    Ours([u8; 16]),
    /// A store of another version: the first line.
    Other(String),
    /// No store.
    None,
}

/// Reads `format`.
///
/// # Errors
/// EUCLEAN if it begins as it should and does not go on so, or that of the read.
pub fn read_format(disk: &dyn Disk) -> io::Result<Format> {
    let text = match read(disk, Path::new("format")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Format::None),
        text => String::from_utf8(text?).unwrap_or_default(),
    };
    let mut lines = text.lines();
    match lines.next().unwrap_or_default() {
        FIRST_LINE => {}
        other if other.starts_with("mmfs private view ") => {
            return Ok(Format::Other(other.to_owned()));
        }
        _ => return Ok(Format::None),
    }
    let digits = lines
        .next()
        .and_then(|line| line.strip_prefix("uuid "))
        .filter(|digits| digits.len() == 32);
    let number = digits
        .and_then(|digits| u128::from_str_radix(digits, 16).ok())
        .ok_or_else(damaged)?;
    if lines.next() != Some("page size 4096") {
        return Err(damaged());
    }
    Ok(Format::Ours(number.to_be_bytes()))
}
