//! What the kernel keeps of an inode, where it does not notice by itself that a request of its own has changed it.

use fuser::{INodeNo, Notifier};
use std::sync::{Arc, OnceLock};

/// Asks for nothing of the inode's bytes to be dropped.
const ATTRIBUTES_ONLY: i64 = -1;

/// The kernel's cache, once there is a connection to it.
#[derive(Debug, Clone, Default)]
pub struct KernelCache(Arc<OnceLock<Notifier>>);

impl KernelCache {
    /// Tells how the kernel is reached. Only the first time counts.
    pub fn connect(&self, notifier: Notifier) {
        let _ = self.0.set(notifier);
    }

    /// Has the kernel ask for the attributes of `node` anew. With no bytes to drop it waits for no request, so an
    /// event loop may call this.
    pub fn drop_attributes(&self, node: INodeNo) {
        if let Some(Err(error)) = self
            .0
            .get()
            .map(|kernel| kernel.inval_inode(node, ATTRIBUTES_ONLY, 0))
        {
            log::warn!("cannot drop the attributes of node {node}: {error}");
        }
    }
}
