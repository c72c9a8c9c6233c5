//! A real directory, reached by system calls: a mount's, or a plain one.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{
    self as call, AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, SeekFrom, Stat, Timespec,
    Timestamps,
};
use rustix::io::{Errno, pread, pwrite};

use super::Filesystem;
use super::command::{Answer, At, Attr, Bytes, Command, Data, Kind, Outcome, Place, Stamp};
use super::generate::SLOTS;
use super::reference::layered::UNREADABLE;
use super::sys;
use super::tree::{Node, Tree};

/// Times before this one (in 2020) were set, times after it just happened.
const LONG_AGO: i64 = 1_577_836_800;

/// Longer than the clock by which filesystems stamp changes ticks: a change behind the mount that falls into
/// the tick of the one before, and leaves the size alone, cannot be seen by anybody.
const TICK: Duration = Duration::from_millis(11);

const XATTR_ROOM: usize = 4096;

/// A directory as a filesystem.
pub struct Directory {
    root: PathBuf,
    // Where `Behind` works.
    source: PathBuf,
    handles: [Option<OwnedFd>; SLOTS],
}

type Result<T> = std::result::Result<T, Errno>;

impl Filesystem for Directory {
    fn apply(&mut self, command: &Command) -> Outcome {
        self.answer(command).map_err(Errno::raw_os_error)
    }

    fn tree(&self) -> std::result::Result<Tree, String> {
        let (mut tree, mut seen) = (Tree::new(), BTreeMap::new());
        gather(&self.root, &[], &mut tree, &mut seen)?;
        Ok(tree)
    }
}

impl Directory {
    /// The directory `root`; changes behind its back are made in `source`.
    pub fn new(root: PathBuf, source: PathBuf) -> Self {
        Self {
            root,
            source,
            handles: [const { None }; SLOTS],
        }
    }

    pub fn path(&self, place: &Place) -> PathBuf {
        self.root.join(OsStr::from_bytes(&place.0))
    }

    fn answer(&mut self, command: &Command) -> Result<Answer> {
        match command {
            Command::Open {
                slot,
                path,
                flags,
                mode,
            } => {
                self.handles[*slot] = None;
                let flags = *flags | OFlags::CLOEXEC;
                self.handles[*slot] = Some(call::open(
                    self.path(path),
                    flags,
                    Mode::from_raw_mode(*mode),
                )?);
                Ok(Answer::Done)
            }
            Command::Close { slot } => Ok(self.handles[*slot]
                .take()
                .map_or(Answer::Skipped, |_| Answer::Done)),
            Command::Copy {
                from,
                from_at,
                to,
                to_at,
                len,
            } => {
                let (Some(from), Some(to)) = (&self.handles[*from], &self.handles[*to]) else {
                    return Ok(Answer::Skipped);
                };
                copy(from, *from_at, to, *to_at, *len).map(Answer::Count)
            }
            Command::Behind(command) => {
                std::thread::sleep(TICK);
                Self::new(self.source.clone(), self.source.clone()).answer(command)
            }
            Command::Forget => {
                // Only root may; the sequence means the same without.
                let _ = fs::write("/proc/sys/vm/drop_caches", "2");
                Ok(Answer::Done)
            }
            Command::Read { slot, .. }
            | Command::Write { slot, .. }
            | Command::MapRead { slot, .. }
            | Command::MapWrite { slot, .. }
            | Command::Seek { slot, .. }
            | Command::Resize { slot, .. }
            | Command::Allocate { slot, .. }
            | Command::Sync { slot, .. }
            | Command::Fstat { slot } => match &self.handles[*slot] {
                Some(file) => with_handle(file, command),
                None => Ok(Answer::Skipped),
            },
            with_path => self.with_path(with_path),
        }
    }

    fn with_path(&self, command: &Command) -> Result<Answer> {
        let done = |()| Answer::Done;
        let at = |place: &Place| self.path(place);
        match command {
            Command::Stat { path } => Ok(Answer::Attr(attr_of(&call::lstat(at(path))?))),
            Command::Truncate { path, len } => {
                let size = if matches!(len, At::End(_)) {
                    call::stat(at(path))?.st_size as u64
                } else {
                    0
                };
                sys::truncate(&at(path), len.in_file_of(size)).map(done)
            }
            Command::Chmod { path, mode } => {
                call::chmod(at(path), Mode::from_raw_mode(*mode)).map(done)
            }
            Command::Touch {
                path,
                seconds,
                nanoseconds,
            } => {
                let time = Timespec {
                    tv_sec: *seconds,
                    tv_nsec: *nanoseconds,
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                call::utimensat(CWD, at(path), &times, AtFlags::empty()).map(done)
            }
            Command::Mkdir { path, mode } => {
                call::mkdir(at(path), Mode::from_raw_mode(*mode)).map(done)
            }
            Command::Rmdir { path } => call::rmdir(at(path)).map(done),
            Command::Unlink { path } => call::unlink(at(path)).map(done),
            Command::Rename { from, to, flags } => {
                call::renameat_with(CWD, at(from), CWD, at(to), *flags).map(done)
            }
            Command::Link { from, to } => {
                call::linkat(CWD, at(from), CWD, at(to), AtFlags::empty()).map(done)
            }
            Command::Symlink { target, path } => {
                call::symlink(OsStr::from_bytes(&target.0), at(path)).map(done)
            }
            Command::Readlink { path } => readlink(&at(path)).map(Answer::Bytes),
            Command::List { path } => list(&at(path)).map(Answer::Names),
            Command::WriteFile {
                path,
                at: offset,
                data,
            } => {
                let file = call::open(at(path), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
                write_all(&file, offset.in_file_of(size_of(&file)?), data.bytes())
                    .map(Answer::Count)
            }
            Command::Replace { path, data } => replace(&at(path), *data).map(done),
            with_xattr => self.with_xattr(with_xattr),
        }
    }

    fn with_xattr(&self, command: &Command) -> Result<Answer> {
        match command {
            Command::SetXattr {
                path,
                name,
                value,
                flags,
            } => {
                call::setxattr(self.path(path), *name, value.bytes(), *flags).map(|()| Answer::Done)
            }
            Command::GetXattr { path, name } => {
                get_xattr(&self.path(path), name.as_ref(), true).map(Answer::Bytes)
            }
            Command::ListXattr { path } => list_xattr(&self.path(path), true).map(Answer::Names),
            Command::RemoveXattr { path, name } => {
                call::removexattr(self.path(path), *name).map(|()| Answer::Done)
            }
            other => unreachable!("{other:?} is about neither handles, paths nor xattrs"),
        }
    }
}

fn with_handle(file: &OwnedFd, command: &Command) -> Result<Answer> {
    let (stat, size) = (call::fstat(file)?, size_of(file)?);
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    // How many of `len` bytes lie within the file: mappings go no farther.
    let within = |at: At, len: usize| len.min(index(size.saturating_sub(at.in_file_of(size))));
    match *command {
        Command::Read { at, len, .. } => {
            read_all(file, at.in_file_of(size), len).map(|bytes| Answer::Bytes(Bytes(bytes)))
        }
        Command::Write { at, data, .. } => {
            write_all(file, at.in_file_of(size), data.bytes()).map(Answer::Count)
        }
        Command::MapRead { at, len, .. } if !is_dir && within(at, len) > 0 => {
            sys::map_read(file.as_fd(), at.in_file_of(size), within(at, len))
                .map(|bytes| Answer::Bytes(Bytes(bytes)))
        }
        Command::MapWrite { at, data, .. } if !is_dir && within(at, data.bytes().len()) > 0 => {
            let bytes = &data.bytes()[..within(at, data.bytes().len())];
            sys::map_write(file.as_fd(), at.in_file_of(size), bytes)
                .map(|()| Answer::Count(bytes.len()))
        }
        Command::MapRead { .. } | Command::MapWrite { .. } => Ok(Answer::Skipped),
        Command::Seek { .. } if is_dir => Ok(Answer::Skipped),
        Command::Seek { at, hole, .. } => seek(file, at.in_file_of(size), size, hole),
        Command::Resize { len, .. } => {
            call::ftruncate(file, len.in_file_of(size)).map(|()| Answer::Done)
        }
        Command::Allocate { how, at, len, .. } => {
            call::fallocate(file, how, at.in_file_of(size), len).map(|()| Answer::Done)
        }
        Command::Sync {
            data_only: true, ..
        } => call::fdatasync(file).map(|()| Answer::Done),
        Command::Sync { .. } => call::fsync(file).map(|()| Answer::Done),
        _ => Ok(Answer::Attr(attr_of(&stat))),
    }
}

// The whole range although a call may do less; what counts is where the bytes end.
fn read_all(file: &OwnedFd, at: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut done = 0;
    loop {
        match pread(file, &mut bytes[done..], at + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

// One call: a filesystem with room writes everything at once.
fn write_all(file: &OwnedFd, at: u64, bytes: &[u8]) -> Result<usize> {
    pwrite(file, bytes, at)
}

fn copy(from: &OwnedFd, from_at: At, to: &OwnedFd, to_at: At, len: usize) -> Result<usize> {
    let (mut source, mut target) = (
        from_at.in_file_of(size_of(from)?),
        to_at.in_file_of(size_of(to)?),
    );
    // Cut at the end before, for when both are one file and the copy makes it longer.
    let len = len.min(index(size_of(from)?.saturating_sub(source)));
    let mut done = call::copy_file_range(from, Some(&mut source), to, Some(&mut target), len)?;
    while done < len {
        match call::copy_file_range(from, Some(&mut source), to, Some(&mut target), len - done)? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

// SEEK_DATA may skip zeros only; SEEK_HOLE may find a hole nowhere but in zeros or at the end.
fn seek(file: &OwnedFd, at: u64, size: u64, hole: bool) -> Result<Answer> {
    let found = call::seek(
        file,
        if hole {
            SeekFrom::Hole(at)
        } else {
            SeekFrom::Data(at)
        },
    );
    let found = match found {
        Err(Errno::NXIO) if !hole && at < size => size,
        other => other?,
    };
    // A hole has whole sectors at least.
    let (start, end) = if hole {
        (found, (found + 1).next_multiple_of(512).min(size))
    } else {
        (at, found)
    };
    if !(at..=size).contains(&found) {
        return Ok(Answer::Wrong(format!("seek led to {found} of {size}")));
    }
    match read_all(file, start, index(end - start)) {
        Ok(bytes) if bytes.iter().any(|byte| *byte != 0) => Ok(Answer::Wrong(format!(
            "seek led to {found}, but there is data in {start}..{end}"
        ))),
        // EBADF: not open for reading.
        Ok(_) | Err(Errno::BADF) => Ok(Answer::Done),
        Err(errno) => Err(errno),
    }
}

fn replace(path: &Path, data: Data) -> Result<()> {
    let beside = path.with_file_name("new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = call::open(&beside, flags, Mode::from_raw_mode(0o644))?;
    write_all(&file, 0, data.bytes())?;
    drop(file);
    let renamed = call::renameat_with(CWD, &beside, CWD, path, RenameFlags::empty());
    if renamed.is_err() {
        call::unlink(&beside)?;
    }
    renamed
}

fn readlink(path: &Path) -> Result<Bytes> {
    Ok(Bytes(call::readlink(path, Vec::new())?.into_bytes()))
}

fn list(path: &Path) -> Result<Vec<Place>> {
    let directory = call::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut names = Vec::new();
    for entry in call::Dir::new(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(Place(name));
        }
    }
    names.sort();
    Ok(names)
}

fn get_xattr(path: &Path, name: &OsStr, follow: bool) -> Result<Bytes> {
    let mut value = vec![0; XATTR_ROOM];
    let len = if follow {
        call::getxattr(path, name, &mut value[..])?
    } else {
        call::lgetxattr(path, name, &mut value[..])?
    };
    value.truncate(len);
    Ok(Bytes(value))
}

// Only `user.` ones: the others depend on the machine.
fn list_xattr(path: &Path, follow: bool) -> Result<Vec<Place>> {
    let mut list = vec![0; XATTR_ROOM];
    let len = if follow {
        call::listxattr(path, &mut list[..])?
    } else {
        call::llistxattr(path, &mut list[..])?
    };
    let names = list[..len]
        .split(|byte| *byte == 0)
        .filter(|name| name.starts_with(b"user."));
    let mut names: Vec<Place> = names.map(|name| Place(name.to_vec())).collect();
    names.sort();
    Ok(names)
}

fn attr_of(stat: &Stat) -> Attr {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        _ => Kind::Other,
    };
    let file = kind != Kind::Directory;
    let mtime = if stat.st_mtime < LONG_AGO {
        Stamp::Set(
            stat.st_mtime,
            i64::try_from(stat.st_mtime_nsec).expect("below 10^9"),
        )
    } else {
        Stamp::Recent
    };
    #[allow(clippy::useless_conversion, reason = "narrower on other processors")]
    let links = file.then_some(u64::from(stat.st_nlink));
    Attr {
        kind,
        mode: stat.st_mode & 0o7777,
        links,
        size: file.then_some(stat.st_size as u64),
        mtime,
    }
}

fn size_of(file: &OwnedFd) -> Result<u64> {
    let stat = call::fstat(file)?;
    Ok(if FileType::from_raw_mode(stat.st_mode).is_file() {
        stat.st_size as u64
    } else {
        0
    })
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("files are small")
}

fn gather(
    root: &Path,
    prefix: &[u8],
    tree: &mut Tree,
    seen: &mut BTreeMap<u64, Place>,
) -> std::result::Result<(), String> {
    let directory = root.join(OsStr::from_bytes(prefix));
    let listing = || fs::read_dir(&directory)?.collect::<std::io::Result<Vec<_>>>();
    let mut entries = listing().map_err(|e| format!("reading {}: {e}", directory.display()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = Place([prefix, entry.file_name().as_bytes()].concat());
        let node =
            node_of(&entry, &path, seen).map_err(|e| format!("{path:?} is listed, but: {e}"))?;
        let is_dir = node.attr.kind == Kind::Directory;
        tree.insert(path.clone(), node);
        if is_dir {
            gather(root, &[&path.0[..], b"/"].concat(), tree, seen)?;
        }
    }
    Ok(())
}

fn node_of(
    entry: &fs::DirEntry,
    path: &Place,
    seen: &mut BTreeMap<u64, Place>,
) -> std::io::Result<Node> {
    let stat = call::lstat(entry.path())?;
    let attr = attr_of(&stat);
    let content = match attr.kind {
        Kind::File => Bytes(read_file(&entry.path())?),
        Kind::Symlink => readlink(&entry.path())?,
        _ => Bytes(Vec::new()),
    };
    let mut xattrs = BTreeMap::new();
    for name in list_xattr(&entry.path(), false)? {
        let value = get_xattr(&entry.path(), OsStr::from_bytes(&name.0), false)?;
        xattrs.insert(name.0, value);
    }
    let same_as = seen
        .entry(stat.st_ino)
        .or_insert_with(|| path.clone())
        .clone();
    let entry_agrees = entry.ino() == stat.st_ino && kind_of(entry.file_type()?) == attr.kind;
    Ok(Node {
        attr,
        content,
        xattrs,
        same_as,
        entry_agrees,
    })
}

/// A page that cannot be read is [`UNREADABLE`].
fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {}
        read => return read,
    }
    let file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    for start in (0..file.metadata()?.len()).step_by(UNREADABLE.len()) {
        let mut page = [0; UNREADABLE.len()];
        match pread(&file, &mut page[..], start) {
            Ok(count) => bytes.extend(&page[..count]),
            Err(Errno::IO) => bytes.extend(UNREADABLE),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(bytes)
}

fn kind_of(file_type: fs::FileType) -> Kind {
    if file_type.is_file() {
        Kind::File
    } else if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_symlink() {
        Kind::Symlink
    } else {
        Kind::Other
    }
}
