//! How one path of a view differs from what the source has there.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, Result};

use super::layers::{Layers, errno, to_store};
use super::node::Node;
use crate::attr::Attr;
use crate::difference::{Detail, Difference, Kind, Shape};
use crate::store::{self, NodeId, SourceState};
use crate::view::{Attributes as _, Directories as _, Found, Names as _, shared};

pub(super) fn shape(attr: &Attr) -> Shape {
    Shape {
        kind: attr.kind(),
        size: attr.size,
    }
}

impl Layers {
    /// How what the view shows differs from what the source has. None: not at all.
    pub fn difference(
        &self,
        detail: Detail,
        path: &[u8],
        (now, id): (&Found<Node>, NodeId),
        old: Option<&Found<shared::Node>>,
    ) -> Result<Option<Difference>> {
        let stored = self.stored(id)?;
        let kind = match old {
            _ if self.is_conflict(&stored, now, id)? => Kind::Conflict,
            None => Kind::Added,
            Some(old) if old.attr.kind() != now.attr.kind() => Kind::Type,
            Some(old) if self.may_have_other_bytes((now, id), old)? => Kind::Modified,
            Some(old) if self.has_other_permissions((now, Some(id)), old)? => Kind::Permissions,
            Some(_) => return Ok(None),
        };
        let ranges = match kind {
            Kind::Permissions => Vec::new(),
            Kind::Conflict | Kind::Type | Kind::Added => self.ranges(detail, (now, id), None)?,
            _ => self.ranges(detail, (now, id), old)?,
        };
        Ok(Some(Difference {
            kind,
            path: path.to_vec(),
            from: None,
            now: Some(shape(&now.attr)),
            before: old.map(|old| shape(&old.attr)),
            ranges,
        }))
    }

    /// Whether what was changed was changed in the source, too.
    pub fn is_conflict(&self, stored: &store::Node, now: &Found<Node>, id: NodeId) -> Result<bool> {
        let Some(source) = now.place.source() else {
            return Ok(stored.origin.is_some());
        };
        let content = self.store.content(id).map_err(errno)?;
        let Some(was) = content.and_then(|content| content.source) else {
            return Ok(false);
        };
        let attr = self.below.attr(source)?;
        let is = SourceState {
            size: attr.size,
            mtime: to_store(attr.mtime),
        };
        Ok(was != is)
    }

    /// Bytes that may not be read count as others.
    fn may_have_other_bytes(
        &self,
        (now, id): (&Found<Node>, NodeId),
        old: &Found<shared::Node>,
    ) -> Result<bool> {
        match self.has_other_bytes((now, Some(id)), old) {
            Err(Errno::ACCESS) => Ok(true),
            other => other,
        }
    }

    /// Where the bytes of a file differ from those of `old`. Without it, where the store has them.
    pub fn ranges(
        &self,
        detail: Detail,
        (now, id): (&Found<Node>, NodeId),
        old: Option<&Found<shared::Node>>,
    ) -> Result<Vec<Range<u64>>> {
        if detail == Detail::Kinds || now.attr.kind() != FileType::RegularFile {
            return Ok(Vec::new());
        }
        match old.map(|old| self.differing((now, Some(id)), old, usize::MAX)) {
            None | Some(Err(Errno::ACCESS)) => self.stored_ranges(id),
            Some(ranges) => ranges,
        }
    }

    /// What the source has under a name.
    pub fn in_source(
        &self,
        dir: &shared::Node,
        name: &OsStr,
    ) -> Result<Option<Found<shared::Node>>> {
        match self.below.lookup(dir, name) {
            Ok(found) if found.place.is_own_mount() => Ok(None),
            Ok(found) => {
                // Where inodes are found by their names, what lies in it is found through it.
                if found.attr.is_dir() && !found.place.is_found_by_handle() {
                    self.remember(&found);
                }
                Ok(Some(found))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The names in a directory of the source.
    pub fn names_in_source(&self, dir: &shared::Node) -> Result<Vec<Vec<u8>>> {
        let listing = self.below.open_dir(dir, OFlags::empty())?;
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let ended = self.below.list(&listing, offset, |entry| {
                offset = entry.offset;
                if !matches!(entry.name.as_bytes(), b"." | b"..") {
                    names.push(entry.name.as_bytes().to_vec());
                }
                true
            })?;
            if ended {
                return Ok(names);
            }
        }
    }
}
