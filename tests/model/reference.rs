//! The reference: a filesystem that is obviously right. It finds inodes by paths and keeps handles in slots; the inodes
//! themselves are [`Inodes`].

mod bytes;
pub mod layered;
mod stored;

use std::collections::{BTreeMap, VecDeque};

use rustix::fs::{OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use super::Filesystem;
use super::command::{Answer, Attr, Bytes, Command, Data, Kind, Outcome, Place, Stamp};
use super::generate::SLOTS;
use super::inodes::names::{Name, check_name};
use super::inodes::{Body, Ino, Inode, Inodes, ROOT};
use super::tree::{Node, Tree};

const LINKS_MAX: usize = 40;

pub struct Reference {
    inodes: Inodes,
    handles: [Option<Handle>; SLOTS],
}

#[derive(Clone, Copy)]
struct Handle {
    ino: Ino,
    flags: OFlags,
}

/// Where a path leads: the directory, the name in it, and what is there, if anything.
struct Found {
    dir: Ino,
    name: Vec<u8>,
    ino: Option<Ino>,
}

type Result<T> = std::result::Result<T, Errno>;

impl Filesystem for Reference {
    fn apply(&mut self, command: &Command) -> Outcome {
        self.answer(command).map_err(Errno::raw_os_error)
    }

    fn tree(&self) -> std::result::Result<Tree, String> {
        let (mut tree, mut seen) = (Tree::new(), BTreeMap::new());
        self.gather(ROOT, &[], &mut tree, &mut seen)
            .map_err(|errno| format!("the reference: {errno}"))?;
        Ok(tree)
    }
}

impl Reference {
    pub fn new() -> Self {
        Self {
            inodes: Inodes::new(),
            handles: [None; SLOTS],
        }
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
            Command::Close { slot } => Ok(self.close(*slot)),
            Command::Stat { path } => self.attr(self.existing(path, false)?).map(Answer::Attr),
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
            Command::Mkdir { path, mode } => {
                self.make(path, Body::directory(), mode & !0o022).map(done)
            }
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
            _ => self.attr(handle.ino).map(Answer::Attr),
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
            let ino = self.inodes.entries(dir)?.get(&name).copied();
            let target = ino.and_then(|ino| self.inodes.read_link(ino).ok());
            match (target, todo.is_empty()) {
                (Some(target), last) if follow || !last => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    for name in names(&Place(target.to_vec())).into_iter().rev() {
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

    fn existing(&self, path: &Place, follow: bool) -> Result<Ino> {
        self.find(path, follow)?.ino.ok_or(Errno::NOENT)
    }

    fn make(&mut self, path: &Place, body: Body, mode: u32) -> Result<()> {
        let found = self.find(path, false)?;
        self.inodes.make(found.place(), Inode::new(body, mode))?;
        Ok(())
    }

    fn remove(&mut self, path: &Place, directory: bool) -> Result<()> {
        let found = self.find(path, false)?;
        self.inodes.remove(found.place(), directory)
    }

    fn link(&mut self, from: &Place, to: &Place) -> Result<()> {
        let ino = self.existing(from, false)?;
        let to = self.find(to, false)?;
        self.inodes.link(ino, to.place())
    }

    fn rename(&mut self, from: &Place, to: &Place, flags: RenameFlags) -> Result<()> {
        // Both directories are found before either name is looked for.
        let (from, to) = (self.locate(from, false)?, self.locate(to, false)?);
        self.inodes.rename(from.place(), to.place(), flags)
    }

    fn readlink(&self, path: &Place) -> Result<Bytes> {
        let target = self.inodes.read_link(self.existing(path, false)?)?;
        Ok(Bytes(target.to_vec()))
    }

    fn list(&self, path: &Place) -> Result<Vec<Place>> {
        let entries = self.inodes.entries(self.existing(path, true)?)?;
        Ok(entries.keys().cloned().map(Place).collect())
    }

    fn attr(&self, ino: Ino) -> Result<Attr> {
        let inode = self.inodes.get(ino)?;
        let (kind, size) = match &inode.body {
            Body::File(bytes) => (Kind::File, Some(bytes.len() as u64)),
            Body::Directory(_) => (Kind::Directory, None),
            Body::Symlink(target) => (Kind::Symlink, Some(target.len() as u64)),
            Body::Special(..) => (Kind::Other, None),
        };
        Ok(Attr {
            kind,
            mode: inode.mode,
            links: size.map(|_| inode.links.into()),
            size,
            mtime: inode.mtime,
        })
    }

    fn change(&mut self, path: &Place, change: impl FnOnce(&mut Inode)) -> Result<()> {
        let ino = self.existing(path, true)?;
        self.inodes.change(ino, change)
    }

    fn set_xattr(
        &mut self,
        path: &Place,
        name: &str,
        value: Data,
        flags: XattrFlags,
    ) -> Result<()> {
        let ino = self.existing(path, true)?;
        self.inodes
            .set_xattr(ino, name.as_bytes(), value.bytes(), flags)
    }

    fn get_xattr(&self, path: &Place, name: &str) -> Result<Bytes> {
        let ino = self.existing(path, true)?;
        let value = self.inodes.xattr(ino, name.as_bytes())?;
        Ok(Bytes(value.to_vec()))
    }

    fn list_xattr(&self, path: &Place) -> Result<Vec<Place>> {
        let inode = self.inodes.get(self.existing(path, true)?)?;
        Ok(inode.xattrs.keys().cloned().map(Place).collect())
    }

    fn remove_xattr(&mut self, path: &Place, name: &str) -> Result<()> {
        let ino = self.existing(path, true)?;
        self.inodes.remove_xattr(ino, name.as_bytes())
    }

    fn gather(
        &self,
        dir: Ino,
        prefix: &[u8],
        tree: &mut Tree,
        seen: &mut BTreeMap<Ino, Place>,
    ) -> Result<()> {
        for (name, ino) in self.inodes.entries(dir)? {
            let path = Place([prefix, name].concat());
            let inode = self.inodes.get(*ino)?;
            let content = match &inode.body {
                Body::File(bytes) | Body::Symlink(bytes) => Bytes(bytes.clone()),
                _ => Bytes(Vec::new()),
            };
            let same_as = seen.entry(*ino).or_insert_with(|| path.clone()).clone();
            let xattrs = inode.xattrs.iter();
            tree.insert(
                path.clone(),
                Node {
                    attr: self.attr(*ino)?,
                    content,
                    xattrs: xattrs
                        .map(|(name, value)| (name.clone(), Bytes(value.clone())))
                        .collect(),
                    same_as,
                    entry_agrees: true,
                },
            );
            if self.inodes.is_dir(*ino) {
                self.gather(*ino, &[&path.0[..], b"/"].concat(), tree, seen)?;
            }
        }
        Ok(())
    }
}

impl Found {
    fn place(&self) -> Name<'_> {
        (self.dir, &self.name)
    }
}

fn names(path: &Place) -> VecDeque<Vec<u8>> {
    path.0
        .split(|byte| *byte == b'/')
        .map(<[u8]>::to_vec)
        .collect()
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
