//! How one path of a view differs from what the source has there.

use std::ops::Range;

use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::layers::{Layers, errno, to_store};
use super::node::Node;
use crate::attr::Attr;
use crate::difference::{Detail, Difference, Kind, Shape};
use crate::store::{self, NodeId, SourceState};
use crate::view::{Attributes as _, Found, shared};

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
        if detail != Detail::Pages || now.attr.kind() != FileType::RegularFile {
            return Ok(Vec::new());
        }
        match old.map(|old| self.differing((now, Some(id)), old, usize::MAX)) {
            None | Some(Err(Errno::ACCESS)) => self.stored_ranges(id),
            Some(ranges) => ranges,
        }
    }
}
