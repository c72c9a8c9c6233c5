//! Opening and closing files of a private view.

use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use super::content::OpenFile;
use super::node::{Node, Side};
use super::view::Private;
use crate::actor::Actor;
use crate::request::SetAttr;
use crate::store::Access;
use crate::view::{Attributes as _, Content as _, Files};

/// __FMODE_EXEC of Linux: the kernel opens the file to execute it.
const EXEC: OFlags = OFlags::from_bits_retain(0x20);

/// What O_TRUNC does.
const EMPTY: SetAttr = SetAttr {
    mode: None,
    uid: None,
    gid: None,
    size: Some(0),
    atime: None,
    mtime: None,
};

/// What may be done through an open with these flags.
fn access(flags: OFlags) -> Access {
    // O_SYNC has the bit of O_DSYNC, too.
    let synced = OFlags::from_bits_retain(libc::O_DSYNC as u32);
    match flags & OFlags::RWMODE {
        OFlags::RDONLY => Access::Reads,
        _ if flags.contains(synced) => Access::SyncedWrites,
        _ => Access::Writes,
    }
}

impl Private {
    /// What an open needs and does. Cutting the file comes last: an open that fails leaves it as it is.
    fn begin(&self, open: &OpenFile, flags: OFlags) -> Result<()> {
        let cuts = flags.contains(OFlags::TRUNC);
        // Where the file is not opened for writing, the kernel finds out too late that it is a program that runs.
        if cuts && !open.is_writable() && open.in_use.is_executed() {
            return Err(Errno::TXTBSY);
        }
        open.want()?;
        match cuts {
            true => self.set_attr(&open.opener, &open.node, Some(open), &EMPTY),
            false => Ok(()),
        }
    }
}

impl Files for Private {
    fn open(&self, by: &Actor, node: &Node, flags: OFlags) -> Result<OpenFile> {
        let layers = &self.layers;
        let below = match &node.side {
            // A file whose bytes are all the store's does not need the source's. Nor does one that is emptied.
            Side::Source(_) if flags.contains(OFlags::TRUNC) || layers.is_whole(node)? => None,
            Side::Source(source) => {
                let reads = flags - OFlags::RWMODE - OFlags::APPEND;
                let below = layers.below.open(by, source, reads | OFlags::RDONLY)?;
                Some(Arc::new(below))
            }
            Side::Own(_) => None,
        };
        let in_use = layers.caches.opened(layers.nodes.number_of(node));
        let open = OpenFile {
            layers: layers.clone(),
            node: node.clone(),
            below,
            program: flags.contains(EXEC).then(|| in_use.execute()),
            in_use,
            access: access(flags),
            opener: *by,
        };
        match self.begin(&open, flags) {
            Ok(()) => Ok(open),
            Err(errno) => {
                self.close(Arc::new(open));
                Err(errno)
            }
        }
    }

    fn close(&self, open: Arc<OpenFile>) {
        let node = open.in_use.cache.node();
        let below = match Arc::try_unwrap(open) {
            Ok(open) => {
                drop(open.program);
                open.below
            }
            // A read that was answered still has it, or the check of open files.
            Err(open) => open.below.clone(),
        };
        // The source's opens are closed in order, because its mapping counts them.
        if let Some(below) = below {
            self.layers.below.close(below);
        }
        self.layers.caches.close(node);
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::super::testing::view_of;
    use super::*;
    use crate::cache::MayKeep;
    use crate::inode::ROOT;
    use crate::sys::identity::Caller;
    use crate::view::Names as _;

    /// A read goes on when it is answered. The close that comes meanwhile does not lose what is known of the kernel's pages.
    #[test]
    fn a_close_counts_while_a_read_has_the_open() {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("source");
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("file"), "bytes").unwrap();
        let (view, nodes) = view_of(source, place.path().join("store"));
        let caller = Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        let by = Actor { caller, pid: 0 };
        let root = nodes.get(ROOT).unwrap();
        let node = view.lookup(&root, OsStr::new("file")).unwrap().place;
        let open = || Arc::new(view.open(&by, &node, OFlags::RDWR).unwrap());
        let kept = |open: &OpenFile| open.in_use.cache.before_open((0, 0), false, || None);
        let first = open();
        assert_eq!(kept(&first), MayKeep::All);
        first.in_use.cache.reading(5, false);
        first.in_use.cache.bypassed();
        let read = Arc::clone(&first);
        view.close(first);
        drop(read);
        assert_eq!(kept(&open()), MayKeep::Nothing);
        view.end().unwrap();
    }
}
