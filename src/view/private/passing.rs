//! Passing files through to the kernel (`--passthrough`), and taking over what it has done with them.

use std::os::fd::BorrowedFd;

use rustix::io::Result;

use super::content::OpenFile;
use super::layers::errno;
use crate::store::{Access, NodeId};
use crate::view::Content as _;

impl OpenFile {
    /// Takes over what the kernel has written by itself. It does not know what that did to the attributes.
    pub(super) fn take_over(&self) -> Result<()> {
        if !self.is_writable() || !self.is_passed_through() {
            return Ok(());
        }
        if let Some(id) = self.id()? {
            self.layers.store.refresh(id).map_err(errno)?;
        }
        self.in_use.cache.attributes_changed();
        Ok(())
    }

    /// Makes ready for what the open may do. If the kernel has the data file for less, this needs room in the store.
    pub(super) fn want(&self) -> Result<()> {
        match self.in_use.want(self.access) {
            Some(id) => self.layers.store.lend_for(id, self.access).map_err(errno),
            None => Ok(()),
        }
    }

    /// Gives the kernel the data file of a file that it may serve by itself: all bytes are in it, and nothing is to be taken away
    /// from the file when it is written.
    pub(super) fn lend<H>(
        &self,
        id: NodeId,
        access: Access,
        register: impl FnOnce(BorrowedFd<'_>) -> Option<H>,
    ) -> Result<Option<H>> {
        let layers = &self.layers;
        if layers.has_privilege(&self.node)? {
            return Ok(None);
        }
        let Some(file) = layers.store.lend(id, access).map_err(errno)? else {
            return Ok(None);
        };
        let hold = file.descriptor().and_then(register);
        if hold.is_none() {
            layers.store.take_back(id);
        }
        Ok(hold)
    }
}
