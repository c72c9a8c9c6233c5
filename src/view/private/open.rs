//! Opening and closing files of a private view.

use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Result;

use super::content::OpenFile;
use super::node::{Node, Side};
use super::view::Private;
use crate::actor::Actor;
use crate::view::Files;

impl Files for Private {
    fn open(&self, by: &Actor, node: &Node, flags: OFlags) -> Result<OpenFile> {
        let layers = &self.layers;
        let below = match &node.side {
            // A file whose bytes are all the store's does not need the source's.
            Side::Source(_) if layers.is_whole(node)? => None,
            Side::Source(source) => {
                let reads = flags - OFlags::RWMODE - OFlags::APPEND;
                Some(layers.below.open(by, source, reads | OFlags::RDONLY)?)
            }
            Side::Own(_) => None,
        };
        Ok(OpenFile {
            layers: layers.clone(),
            node: node.clone(),
            below,
            cache: layers.caches.opened(layers.nodes.number_of(node)),
            is_writable: flags & OFlags::RWMODE != OFlags::RDONLY,
            opener: *by,
        })
    }

    fn close(&self, open: Arc<OpenFile>) {
        let Ok(open) = Arc::try_unwrap(open) else {
            return;
        };
        // The source's opens are closed in order, because its mapping counts them.
        if let Some(below) = open.below {
            self.layers.below.close(Arc::new(below));
        }
        let node = open.cache.node();
        drop(open.cache);
        self.layers.caches.closed(node);
    }
}
