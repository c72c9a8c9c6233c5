//! Whether the view's root directory was removed from the source.

use crate::pool::Pool;
use rustix::fs::{AtFlags, StatxFlags, statx};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// How long to wait for the source. The caller is an event loop.
const MAX_WAIT: Duration = Duration::from_millis(20);

/// Asks the source on a thread of its own, one question at a time, because it may never answer.
#[derive(Debug)]
pub struct Removed {
    /// `None` if the answer is unknown: some filesystems count no links, and network filesystems are not asked.
    root: Option<Arc<OwnedFd>>,
    /// The last answer.
    found: Arc<AtomicBool>,
    asking: Arc<Pool>,
}

impl Removed {
    /// For a view with this root.
    pub fn new(root: Option<Arc<OwnedFd>>) -> Self {
        Removed {
            root: root.filter(|root| links(root).is_some_and(|links| links > 0)),
            found: Arc::default(),
            asking: Pool::new("removed", 1),
        }
    }

    /// Whether the root was removed: the answer that came within `MAX_WAIT`, or the one before.
    pub fn get(&self) -> bool {
        let Some(root) = self.root.clone() else {
            return false;
        };
        let (found, (tell, heard)) = (self.found.clone(), sync_channel(1));
        let ask = move || {
            found.store(links(&root) == Some(0), SeqCst);
            // The receiver may have given up.
            let _ = tell.send(());
        };
        if self.asking.try_run(Box::new(ask)).is_ok() {
            let _ = heard.recv_timeout(MAX_WAIT);
        }
        self.found.load(SeqCst)
    }
}

/// The link count of an inode.
fn links(fd: &OwnedFd) -> Option<u32> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status = statx(fd, c"", flags, StatxFlags::NLINK);
    status.ok().map(|status| status.stx_nlink)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_directory_is_reported() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("root");
        std::fs::create_dir(&path).unwrap();
        let root = std::fs::File::open(&path).unwrap();
        let removed = Removed::new(Some(Arc::new(root.into())));
        assert!(!removed.get());
        std::fs::rename(&path, parent.path().join("renamed")).unwrap();
        assert!(!removed.get());
        std::fs::remove_dir(parent.path().join("renamed")).unwrap();
        // The first answer may come late.
        removed.get();
        std::thread::sleep(Duration::from_millis(100));
        assert!(removed.get());
    }
}
