//! Comparing what the view shows with what the source has.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, Result};
use rustix::process::{getegid, geteuid};

use super::layers::{Layers, errno};
use super::node::Node;
use crate::actor::Actor;
use crate::attr::Attr;
use crate::request::Seek;
use crate::store::{Content, DiskFile, From, NodeId, PAGE, Piece};
use crate::sys::identity::Caller;
use crate::view::shared::{self, Shared};
use crate::view::{Content as _, Files as _, Found, Names as _, Xattrs as _};

/// So much is compared at once, in bytes.
const STEP: u64 = 1 << 20;

/// A file of the view and one of the source, to be compared.
struct Pair<'a> {
    layers: &'a Layers,
    id: Option<NodeId>,
    /// What the store has of the view's file.
    content: Option<Content>,
    /// The file of the source that the view's file began as.
    own: Option<&'a shared::OpenFile>,
    old: &'a shared::OpenFile,
}

impl Pair<'_> {
    /// The next place at `at` or after it where either may have other bytes than zeros.
    fn next_data(&self, piece: From, data: Option<&dyn DiskFile>, at: u64) -> Result<u64> {
        let old = next_data(|| self.old.seek(Seek::Data(at)))?;
        let now = match (piece, data) {
            (From::Zero, _) | (From::Data, None) => u64::MAX,
            (From::Data, Some(data)) => data.seek_data(at).map_err(errno)?.unwrap_or(u64::MAX),
            (From::Source, _) => match self.own {
                Some(own) => next_data(|| own.seek(Seek::Data(at)))?,
                None => at,
            },
        };
        Ok(old.min(now))
    }

    fn read_now(&self, at: u64, to: &mut [u8]) -> Result<()> {
        let own = |at: u64, to: &mut [u8]| -> Result<()> {
            let own = self.own.ok_or(Errno::IO)?;
            let len = own.read_into(to, at)?;
            to[len..].fill(0);
            Ok(())
        };
        let (Some(id), Some(_)) = (self.id, &self.content) else {
            return own(at, to);
        };
        let mut source = |at: u64, to: &mut [u8]| own(at, to).map_err(std::io::Error::from);
        let len = self.layers.store.read(id, at, to, &mut source);
        to[len.map_err(errno)?..].fill(0);
        Ok(())
    }

    /// Adds the pages of a range that differ. `most`: no more ranges are looked for.
    fn compare(
        &self,
        piece: &Piece,
        data: Option<&dyn DiskFile>,
        (found, most): (&mut Vec<Range<u64>>, usize),
    ) -> Result<()> {
        let most_at_once = STEP.min(piece.range.end - piece.range.start) as usize;
        let (mut now, mut old) = (vec![0; most_at_once], vec![0; most_at_once]);
        let mut at = piece.range.start;
        while found.len() < most {
            let next = self.next_data(piece.from, data, at)?;
            at = at.max(next / PAGE * PAGE);
            if at >= piece.range.end {
                break;
            }
            let len = STEP.min(piece.range.end - at);
            let (now, old) = (&mut now[..len as usize], &mut old[..len as usize]);
            self.read_now(at, now)?;
            let filled = self.old.read_into(old, at)?;
            old[filled..].fill(0);
            let pages = now.chunks(PAGE as usize).zip(old.chunks(PAGE as usize));
            for (number, (now, old)) in pages.enumerate() {
                if now != old {
                    let begin = at + number as u64 * PAGE;
                    // A piece may begin within a page: behind the end that the source's file once had.
                    add(found, begin / PAGE * PAGE..begin + now.len() as u64);
                }
            }
            at += len;
        }
        Ok(())
    }
}

/// The end of a file without data behind it is far away.
fn next_data(seek: impl Fn() -> Result<u64>) -> Result<u64> {
    match seek() {
        Err(Errno::NXIO) => Ok(u64::MAX),
        found => found,
    }
}

/// Adds a range that does not begin before the others.
fn add(to: &mut Vec<Range<u64>>, range: Range<u64>) {
    match to.last_mut() {
        Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
        _ if range.is_empty() => {}
        _ => to.push(range),
    }
}

/// Root reads all, others what they may.
pub(super) fn reader() -> Actor {
    let caller = Caller {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
    };
    Actor { caller, pid: 0 }
}

impl Layers {
    /// Where the bytes of a file of the view differ from those of a file of the source: up to `most` ranges of whole pages, up to the end of
    /// the view's file.
    pub fn differing(
        &self,
        (now, id): (&Found<Node>, Option<NodeId>),
        old: &Found<shared::Node>,
        most: usize,
    ) -> Result<Vec<Range<u64>>> {
        let content = match id {
            Some(id) => self.store.content(id).map_err(errno)?,
            None => None,
        };
        let is_same = now.place.source() == Some(&old.place);
        let mut found = Vec::new();
        if is_same && content.is_none() {
            return Ok(found);
        }
        let open = |node| self.below.open(&reader(), node, OFlags::RDONLY);
        let old_file = open(&old.place)?;
        let own_file = match now.place.source() {
            Some(source) if !is_same => Some(open(source)?),
            _ => None,
        };
        let own = own_file.as_ref().or(is_same.then_some(&old_file));
        let pair = Pair {
            layers: self,
            id,
            content,
            own,
            old: &old_file,
        };
        let both = now.attr.size.min(old.attr.size);
        match (&content, id) {
            (Some(content), Some(id)) => {
                let data = self.store.data_file(id, content).map_err(errno)?;
                for piece in self.store.pieces(id, content, 0..both) {
                    let piece = piece.map_err(errno)?;
                    if !(is_same && piece.from == From::Source) {
                        pair.compare(&piece, data.as_deref(), (&mut found, most))?;
                    }
                }
            }
            _ => {
                let all = Piece {
                    range: 0..both,
                    from: From::Source,
                };
                pair.compare(&all, None, (&mut found, most))?;
            }
        }
        if found.len() < most && now.attr.size > both {
            add(&mut found, both / PAGE * PAGE..now.attr.size);
        }
        Ok(found)
    }

    /// Where the store has bytes of a file, up to its end.
    pub fn stored_ranges(&self, id: NodeId) -> Result<Vec<Range<u64>>> {
        let mut found = Vec::new();
        let Some(content) = self.store.content(id).map_err(errno)? else {
            return Ok(found);
        };
        for piece in self.store.pieces(id, &content, 0..content.size) {
            let piece = piece.map_err(errno)?;
            if piece.from != From::Source {
                add(&mut found, piece.range.start / PAGE * PAGE..piece.range.end);
            }
        }
        Ok(found)
    }

    /// Whether bytes of a file, or the target of a symbolic link, or the number of a device differ.
    pub fn has_other_bytes(
        &self,
        (now, id): (&Found<Node>, Option<NodeId>),
        old: &Found<shared::Node>,
    ) -> Result<bool> {
        match now.attr.kind() {
            FileType::Directory => Ok(false),
            FileType::RegularFile if now.attr.size != old.attr.size => Ok(true),
            FileType::RegularFile => Ok(!self.differing((now, id), old, 1)?.is_empty()),
            FileType::Symlink => Ok(self.target(now, id)? != self.below.read_link(&old.place)?),
            _ => Ok(now.attr.rdev != old.attr.rdev),
        }
    }

    fn target(&self, now: &Found<Node>, id: Option<NodeId>) -> Result<Vec<u8>> {
        match (now.place.source(), id) {
            (Some(source), _) => self.below.read_link(source),
            (None, Some(id)) => Ok(self.stored(id)?.target),
            (None, None) => Err(Errno::STALE),
        }
    }

    /// Whether mode, owner, group or extended attributes differ.
    pub fn has_other_permissions(
        &self,
        (now, id): (&Found<Node>, Option<NodeId>),
        old: &Found<shared::Node>,
    ) -> Result<bool> {
        let of = |attr: &Attr| (attr.mode & 0o7777, attr.uid, attr.gid);
        if of(&now.attr) != of(&old.attr) {
            return Ok(true);
        }
        let is_same = now.place.source() == Some(&old.place);
        let is_untouched = match id {
            Some(id) => self.store.xattrs(id).map_err(errno)?.is_empty(),
            None => true,
        };
        if is_same && is_untouched {
            return Ok(false);
        }
        let names = self.xattr_names(&now.place)?;
        let before = names_below(&self.below, &old.place)?;
        if !names.iter().eq(before.iter()) {
            return Ok(true);
        }
        for name in names {
            let name = OsStr::from_bytes(&name);
            if self.xattr_of(&now.place, name)? != self.source_xattr(&old.place, name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn names_below(below: &Shared, node: &shared::Node) -> Result<Vec<Vec<u8>>> {
    let list = match below.xattr_names(node) {
        Err(Errno::OPNOTSUPP) => Vec::new(),
        list => list?,
    };
    let names = list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let mut names: Vec<_> = names.map(<[u8]>::to_vec).collect();
    names.sort();
    Ok(names)
}
