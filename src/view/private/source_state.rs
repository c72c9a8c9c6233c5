//! What the source's file is, beside what the store has of it.

use rustix::io::{Errno, Result};

use super::layers::{Layers, errno, to_store};
use super::node::Node;
use crate::attr::Time;
use crate::store::{Change, Content, NodeId, SourceState};

impl Layers {
    /// Whether nothing of the file's bytes comes from the source.
    pub fn is_whole(&self, node: &Node) -> Result<bool> {
        let Some(id) = self.id(node)? else {
            return Ok(false);
        };
        let content = self.store.content(id).map_err(errno)?;
        Ok(content.is_some_and(|content| content.source_limit == 0))
    }

    /// What the source's file is now. None: there is none.
    pub fn source_state(&self, node: &Node) -> Result<Option<SourceState>> {
        let Some(source) = node.source() else {
            return Ok(None);
        };
        let attr = crate::view::Attributes::attr(&*self.below, source)?;
        let (size, mtime) = (attr.size, to_store(attr.mtime));
        Ok(Some(SourceState { size, mtime }))
    }

    /// As `source_state`, if it matters for a change of the file's bytes.
    pub fn first_state(&self, node: &Node, id: NodeId) -> Result<Option<SourceState>> {
        match self.store.content(id).map_err(errno)? {
            Some(_) => Ok(None),
            None if self.has_lost_bytes(node)? => Err(Errno::IO),
            None => self.source_state(node),
        }
    }

    /// Whether the source has lost the file, and with it bytes that the store does not have.
    fn has_lost_bytes(&self, node: &Node) -> Result<bool> {
        Ok(node.source().is_none() && self.attr(node)?.size > 0)
    }

    /// Sets the length, with `more` in the same record. The file's lock is held.
    pub fn resize(
        &self,
        node: &Node,
        id: NodeId,
        (size, now): (u64, Time),
        more: Vec<Change>,
    ) -> Result<()> {
        let state = match size {
            // The bytes before do not matter. What the source's file is does: it may be another later.
            0 => self.source_state(node)?,
            _ => self.first_state(node, id)?,
        };
        self.store
            .truncate_with(id, size, (state, to_store(now)), more)
            .map_err(errno)
    }
}

/// Whether the source's file is another than when the store took its first page.
pub(super) fn moved_on(content: &Content, now: Option<SourceState>) -> bool {
    content.source_limit > 0 && content.source != now
}
