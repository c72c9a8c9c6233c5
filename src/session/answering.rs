//! The result of a successful mount: its device number, and the connection for notifications to the kernel.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use fuser::{INodeNo, Notifier};

use crate::cache::Kernel;
use crate::report::Feature;

/// A mount after INIT, before its first request is read.
#[derive(Debug)]
pub struct Answering {
    /// `st_dev` of all files in the mount. `None` only for a mount made by another program, before Linux 6.17.
    pub device: Option<u64>,
    /// The connection for notifications to the kernel.
    pub kernel: Connection,
    /// Kernel features that the session uses or lacks.
    pub features: Vec<Feature>,
}

impl Answering {
    /// `device` is the mount's `st_dev`, `notifier` sends notifications on its connection.
    pub fn new(device: Option<u64>, notifier: Notifier, features: Vec<Feature>) -> Self {
        Self {
            device,
            kernel: Connection(notifier),
            features,
        }
    }
}

/// The session's connection, for notifications.
#[derive(Debug)]
pub struct Connection(Notifier);

impl Kernel for Connection {
    fn drop_pages(&self, node: u64) {
        log_failure(node, self.0.inval_inode(INodeNo(node), 0, 0));
    }

    fn replace(&self, node: u64, offset: u64, bytes: &[u8]) {
        log_failure(node, self.0.store(INodeNo(node), offset, bytes));
    }

    fn expire_attributes(&self, node: u64) {
        const NO_BYTES: i64 = -1;
        log_failure(node, self.0.inval_inode(INodeNo(node), NO_BYTES, 0));
    }

    fn drop_name(&self, directory: u64, name: &[u8]) {
        let name = OsStr::from_bytes(name);
        log_failure(directory, self.0.inval_entry(INodeNo(directory), name));
    }
}

fn log_failure(node: u64, outcome: io::Result<()>) {
    match outcome {
        // ENOENT: the kernel has forgotten the node, so it has nothing cached of it.
        Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
            log::warn!("cannot change the kernel's cache of node {node}: {error}");
        }
        _ => {}
    }
}
