//! What a session offers once the mount answers: its device number, and means to take back what the kernel caches.

use std::io;

use fuser::{INodeNo, Notifier};

/// What is known once the kernel and we have agreed, before the first request is read.
#[derive(Debug)]
pub struct Answering {
    /// `st_dev` of everything in our mount. Unknown only for a mount made by another program, on
    /// kernels before 6.17.
    pub device: Option<u64>,
    notifier: Notifier,
}

impl Answering {
    /// `device` is the mount's `st_dev`, `notifier` speaks to its connection.
    pub fn new(device: Option<u64>, notifier: Notifier) -> Self {
        Self { device, notifier }
    }

    /// Has the kernel ask for a node's attributes anew. It waits for no request, so an event loop may call it.
    pub fn attribute_invalidator(&self) -> impl Fn(u64) + Send + Sync + 'static {
        const NO_BYTES: i64 = -1;
        let notifier = self.notifier.clone();
        move |node| log_failure(node, notifier.inval_inode(INodeNo(node), NO_BYTES, 0))
    }

    /// Makes the kernel drop its cache of a node's bytes and attributes. To be called from
    /// anywhere but an event loop, for the kernel may wait there for a read to be answered.
    pub fn into_invalidator(self) -> impl Fn(u64) + Send + Sync + 'static {
        move |node| log_failure(node, self.notifier.inval_inode(INodeNo(node), 0, 0))
    }
}

fn log_failure(node: u64, outcome: io::Result<()>) {
    match outcome {
        // ENOENT: the kernel does not remember the node, so it has nothing to drop.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
            log::warn!("cannot invalidate node {node}: {error}");
        }
        _ => {}
    }
}
