//! The reference: a filesystem of maps and byte vectors that is obviously right.

mod bytes;

use std::collections::{BTreeMap, VecDeque};

use rustix::fs::{OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use super::Filesystem;
use super::command::{Answer, Attr, Bytes, Command, Data, Kind, Outcome, Place, Stamp};
use super::generate::SLOTS;
use super::tree::{Node, Tree};

const NAME_MAX: usize = 255;
const LINKS_MAX: usize = 40;
const ROOT: usize = 0;

/// Inodes are never taken out of the table: a number always means the same inode.
pub struct Reference {
    inodes: Vec<Inode>,
    handles: [Option<Handle>; SLOTS],
}

struct Inode {
    body: Body,
    mode: u32,
    links: u64,
    mtime: Stamp,
    xattrs: BTreeMap<Vec<u8>, Bytes>,
}

enum Body {
    File(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, usize>),
    Symlink(Vec<u8>),
}

#[derive(Clone, Copy)]
struct Handle {
    ino: usize,
    flags: OFlags,
}

/// Where a path leads: the directory, the name in it, and what is there, if anything.
struct Found {
    dir: usize,
    name: Vec<u8>,
    ino: Option<usize>,
}

type Result<T> = std::result::Result<T, Errno>;

impl Filesystem for Reference {
    fn apply(&mut self, command: &Command) -> Outcome {
        self.answer(command).map_err(Errno::raw_os_error)
    }

    fn tree(&self) -> std::result::Result<Tree, String> {
        let (mut tree, mut seen) = (Tree::new(), BTreeMap::new());
        self.gather(ROOT, &[], &mut tree, &mut seen);
        Ok(tree)
    }
}

impl Reference {
    pub fn new() -> Self {
        let mut this = Self {
            inodes: Vec::new(),
            handles: [None; SLOTS],
        };
        this.create(Body::Directory(BTreeMap::new()), 0o755);
        this
    }

    fn answer(&mut self, command: &Command) -> Result<Answer> {
        let done = |()| Answer::Done;
        match command {
            Command::Open {
                slot,
                path,
                flags,
                mode,
            } => self.open(*slot, path, *flags, *mode).map(done),
            Command::Close { slot } => Ok(self.handles[*slot]
                .take()
                .map_or(Answer::Skipped, |_| Answer::Done)),
            Command::Stat { path } => Ok(Answer::Attr(self.attr(self.existing(path, false)?.1))),
            Command::Truncate { path, len } => self.truncate(path, *len).map(done),
            Command::Chmod { path, mode } => {
                self.change(path, |inode| inode.mode = *mode).map(done)
            }
            Command::Touch {
                path,
                seconds,
                nanoseconds,
            } => self
                .change(path, |inode| {
                    inode.mtime = Stamp::Set(*seconds, *nanoseconds)
                })
                .map(done),
            Command::SetXattr {
                path,
                name,
                value,
                flags,
            } => self.set_xattr(path, name, *value, *flags).map(done),
            Command::GetXattr { path, name } => self.get_xattr(path, name).map(Answer::Bytes),
            Command::ListXattr { path } => self.list_xattr(path).map(Answer::Names),
            Command::RemoveXattr { path, name } => self.remove_xattr(path, name).map(done),
            Command::Mkdir { path, mode } => self
                .make(path, Body::Directory(BTreeMap::new()), mode & !0o022)
                .map(done),
            Command::Symlink { target, path } => self
                .make(path, Body::Symlink(target.0.clone()), 0o777)
                .map(done),
            Command::Rmdir { path } => self.remove(path, true).map(done),
            Command::Unlink { path } => self.remove(path, false).map(done),
            Command::Rename { from, to, flags } => self.rename(from, to, *flags).map(done),
            Command::Link { from, to } => self.link(from, to).map(done),
            Command::Readlink { path } => self.readlink(path).map(Answer::Bytes),
            Command::List { path } => self.list(path).map(Answer::Names),
            Command::WriteFile { path, at, data } => {
                self.write_file(path, *at, *data).map(Answer::Count)
            }
            Command::Replace { path, data } => self.replace(path, *data).map(done),
            Command::Behind(command) if self.is_held(command) => Ok(Answer::Skipped),
            Command::Behind(command) => self.answer(command),
            Command::Forget => Ok(Answer::Done),
            with_handle => self.answer_handle(with_handle),
        }
    }

    fn answer_handle(&mut self, command: &Command) -> Result<Answer> {
        let (Some(slot), from) = slots_of(command) else {
            unreachable!("{command:?} has no handle")
        };
        let (Some(handle), Some(from)) = (self.handles[slot], self.handles[from.unwrap_or(slot)])
        else {
            return Ok(Answer::Skipped);
        };
        let done = |()| Answer::Done;
        match *command {
            Command::Read { at, len, .. } => self.read(handle, at, len).map(Answer::Bytes),
            Command::Write { at, data, .. } => self.write(handle, at, data).map(Answer::Count),
            Command::MapRead { at, len, .. } => self.map_read(handle, at, len),
            Command::MapWrite { at, data, .. } => self.map_write(handle, at, data),
            Command::Seek { at, .. } => self.seek(handle, at),
            Command::Resize { len, .. } => self.resize(handle, len).map(done),
            Command::Allocate { how, at, len, .. } => self.allocate(handle, how, at, len).map(done),
            Command::Copy {
                from_at,
                to_at,
                len,
                ..
            } => self
                .copy(from, from_at, handle, to_at, len)
                .map(Answer::Count),
            Command::Sync { .. } => Ok(Answer::Done),
            _ => Ok(Answer::Attr(self.attr(handle.ino))),
        }
    }

    // Would this change of the source touch the bytes of a file that a client holds open? The mount promises
    // to show such a change at the next open, not before.
    fn is_held(&self, command: &Command) -> bool {
        let (Command::WriteFile { path, .. } | Command::Truncate { path, .. }) = command else {
            return false;
        };
        let ino = self.find(path, true).ok().and_then(|found| found.ino);
        self.handles
            .iter()
            .flatten()
            .any(|handle| Some(handle.ino) == ino)
    }

    fn find(&self, path: &Place, follow: bool) -> Result<Found> {
        let found = self.locate(path, follow)?;
        check_name(&found.name)?;
        Ok(found)
    }

    // Without a check of the last name's length.
    fn locate(&self, path: &Place, follow: bool) -> Result<Found> {
        let mut todo: VecDeque<Vec<u8>> = names(path);
        let (mut dir, mut links) = (ROOT, 0);
        loop {
            let name = todo
                .pop_front()
                .expect("paths and targets have at least one name");
            let ino = self.entries(dir)?.get(&name).copied();
            match (ino.map(|ino| &self.inodes[ino].body), todo.is_empty()) {
                (Some(Body::Symlink(target)), last) if follow || !last => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    for name in names(&Place(target.clone())).into_iter().rev() {
                        todo.push_front(name);
                    }
                }
                (_, true) => return Ok(Found { dir, name, ino }),
                (_, false) => {
                    check_name(&name)?;
                    dir = ino.ok_or(Errno::NOENT)?;
                }
            }
        }
    }

    fn existing(&self, path: &Place, follow: bool) -> Result<(Found, usize)> {
        let found = self.find(path, follow)?;
        let ino = found.ino.ok_or(Errno::NOENT)?;
        Ok((found, ino))
    }

    fn entries(&self, dir: usize) -> Result<&BTreeMap<Vec<u8>, usize>> {
        match &self.inodes[dir].body {
            Body::Directory(entries) => Ok(entries),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn is_dir(&self, ino: usize) -> bool {
        self.entries(ino).is_ok()
    }

    // Puts the inode under this name, or takes the name away.
    fn enter(&mut self, dir: usize, name: &[u8], ino: Option<usize>) {
        let Body::Directory(entries) = &mut self.inodes[dir].body else {
            unreachable!("found by `find`")
        };
        match ino {
            Some(ino) => entries.insert(name.to_vec(), ino),
            None => entries.remove(name),
        };
        self.inodes[dir].mtime = Stamp::Recent;
    }

    fn create(&mut self, body: Body, mode: u32) -> usize {
        self.inodes.push(Inode {
            body,
            mode,
            links: 1,
            mtime: Stamp::Recent,
            xattrs: BTreeMap::new(),
        });
        self.inodes.len() - 1
    }

    fn make(&mut self, path: &Place, body: Body, mode: u32) -> Result<()> {
        let found = self.find(path, false)?;
        if found.ino.is_some() {
            return Err(Errno::EXIST);
        }
        let ino = self.create(body, mode);
        self.enter(found.dir, &found.name, Some(ino));
        Ok(())
    }

    fn remove(&mut self, path: &Place, directory: bool) -> Result<()> {
        let (found, ino) = self.existing(path, false)?;
        match (self.entries(ino), directory) {
            (Ok(_), false) => return Err(Errno::ISDIR),
            (Err(_), true) => return Err(Errno::NOTDIR),
            (Ok(entries), true) if !entries.is_empty() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.inodes[ino].links -= 1;
        self.enter(found.dir, &found.name, None);
        Ok(())
    }

    fn link(&mut self, from: &Place, to: &Place) -> Result<()> {
        let (_, ino) = self.existing(from, false)?;
        let to = self.find(to, false)?;
        if to.ino.is_some() {
            return Err(Errno::EXIST);
        }
        if self.is_dir(ino) {
            return Err(Errno::PERM);
        }
        self.inodes[ino].links += 1;
        self.enter(to.dir, &to.name, Some(ino));
        Ok(())
    }

    fn rename(&mut self, from: &Place, to: &Place, flags: RenameFlags) -> Result<()> {
        // Both directories are found before either name is looked for.
        let (from, to) = (self.locate(from, false)?, self.locate(to, false)?);
        check_name(&from.name)?;
        let ino = from.ino.ok_or(Errno::NOENT)?;
        check_name(&to.name)?;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        match to.ino {
            Some(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EXIST),
            None if exchange => return Err(Errno::NOENT),
            _ if self.holds(ino, to.dir) => return Err(Errno::INVAL),
            Some(other) if self.holds(other, from.dir) => {
                return Err(if exchange {
                    Errno::INVAL
                } else {
                    Errno::NOTEMPTY
                });
            }
            Some(other) if other == ino => return Ok(()),
            Some(other) if !exchange => self.give_way(ino, other)?,
            _ => {}
        }
        self.enter(from.dir, &from.name, if exchange { to.ino } else { None });
        self.enter(to.dir, &to.name, Some(ino));
        Ok(())
    }

    // May `other` be replaced by `ino`? If so it loses a link.
    fn give_way(&mut self, ino: usize, other: usize) -> Result<()> {
        match (self.is_dir(ino), self.entries(other)) {
            (true, Err(_)) => return Err(Errno::NOTDIR),
            (false, Ok(_)) => return Err(Errno::ISDIR),
            (true, Ok(entries)) if !entries.is_empty() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.inodes[other].links -= 1;
        Ok(())
    }

    // Is `ino` the directory `dir` or anywhere above it?
    fn holds(&self, ino: usize, dir: usize) -> bool {
        ino == dir
            || self
                .entries(ino)
                .is_ok_and(|entries| entries.values().any(|child| self.holds(*child, dir)))
    }

    fn readlink(&self, path: &Place) -> Result<Bytes> {
        match &self.inodes[self.existing(path, false)?.1].body {
            Body::Symlink(target) => Ok(Bytes(target.clone())),
            _ => Err(Errno::INVAL),
        }
    }

    fn list(&self, path: &Place) -> Result<Vec<Place>> {
        let (_, ino) = self.existing(path, true)?;
        Ok(self.entries(ino)?.keys().cloned().map(Place).collect())
    }

    fn attr(&self, ino: usize) -> Attr {
        let inode = &self.inodes[ino];
        let (kind, size) = match &inode.body {
            Body::File(bytes) => (Kind::File, Some(bytes.len() as u64)),
            Body::Directory(_) => (Kind::Directory, None),
            Body::Symlink(target) => (Kind::Symlink, Some(target.len() as u64)),
        };
        Attr {
            kind,
            mode: inode.mode,
            links: size.map(|_| inode.links),
            size,
            mtime: inode.mtime,
        }
    }

    fn change(&mut self, path: &Place, change: impl FnOnce(&mut Inode)) -> Result<()> {
        let (_, ino) = self.existing(path, true)?;
        change(&mut self.inodes[ino]);
        Ok(())
    }

    fn set_xattr(
        &mut self,
        path: &Place,
        name: &str,
        value: Data,
        flags: XattrFlags,
    ) -> Result<()> {
        let (_, ino) = self.existing(path, true)?;
        let (xattrs, name) = (&mut self.inodes[ino].xattrs, name.as_bytes().to_vec());
        match xattrs.contains_key(&name) {
            true if flags == XattrFlags::CREATE => Err(Errno::EXIST),
            false if flags == XattrFlags::REPLACE => Err(Errno::NODATA),
            _ => {
                xattrs.insert(name, Bytes(value.bytes().to_vec()));
                Ok(())
            }
        }
    }

    fn get_xattr(&self, path: &Place, name: &str) -> Result<Bytes> {
        let (_, ino) = self.existing(path, true)?;
        self.inodes[ino]
            .xattrs
            .get(name.as_bytes())
            .cloned()
            .ok_or(Errno::NODATA)
    }

    fn list_xattr(&self, path: &Place) -> Result<Vec<Place>> {
        let (_, ino) = self.existing(path, true)?;
        Ok(self.inodes[ino].xattrs.keys().cloned().map(Place).collect())
    }

    fn remove_xattr(&mut self, path: &Place, name: &str) -> Result<()> {
        let (_, ino) = self.existing(path, true)?;
        self.inodes[ino]
            .xattrs
            .remove(name.as_bytes())
            .map(|_| ())
            .ok_or(Errno::NODATA)
    }

    fn gather(
        &self,
        dir: usize,
        prefix: &[u8],
        tree: &mut Tree,
        seen: &mut BTreeMap<usize, Place>,
    ) {
        for (name, ino) in self.entries(dir).expect("a directory") {
            let path = Place([prefix, name].concat());
            let content = match &self.inodes[*ino].body {
                Body::File(bytes) | Body::Symlink(bytes) => Bytes(bytes.clone()),
                Body::Directory(_) => Bytes(Vec::new()),
            };
            let same_as = seen.entry(*ino).or_insert_with(|| path.clone()).clone();
            let xattrs = self.inodes[*ino].xattrs.clone();
            tree.insert(
                path.clone(),
                Node {
                    attr: self.attr(*ino),
                    content,
                    xattrs,
                    same_as,
                    entry_agrees: true,
                },
            );
            if self.is_dir(*ino) {
                self.gather(*ino, &[&path.0[..], b"/"].concat(), tree, seen);
            }
        }
    }
}

fn names(path: &Place) -> VecDeque<Vec<u8>> {
    path.0
        .split(|byte| *byte == b'/')
        .map(<[u8]>::to_vec)
        .collect()
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        Err(Errno::NAMETOOLONG)
    } else {
        Ok(())
    }
}

// The handle a command works on, and the other one it takes bytes from.
fn slots_of(command: &Command) -> (Option<usize>, Option<usize>) {
    match command {
        Command::Copy { from, to, .. } => (Some(*to), Some(*from)),
        Command::Read { slot, .. }
        | Command::Write { slot, .. }
        | Command::MapRead { slot, .. }
        | Command::MapWrite { slot, .. }
        | Command::Seek { slot, .. }
        | Command::Resize { slot, .. }
        | Command::Allocate { slot, .. }
        | Command::Sync { slot, .. }
        | Command::Fstat { slot } => (Some(*slot), None),
        _ => (None, None),
    }
}
