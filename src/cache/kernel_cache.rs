//! The kernel's cache of one mount.

use super::cache_state::CacheState;
use super::notifier::{Kernel, Notifier, Waiting};
use super::stores::{Stores, Storing};
use super::unsettled::{Asking, Unsettled};
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long the kernel may cache names and attributes.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Timeout of attributes.
    pub attr: Duration,
    /// Timeout of names.
    pub entry: Duration,
}

impl Timeouts {
    /// The shorter one, for replies with one timeout for names and attributes, as to READDIRPLUS and CREATE.
    pub fn shorter(&self) -> Duration {
        self.attr.min(self.entry)
    }
}

/// What the kernel may have in its cache of changes that a view has given up, by node ids.
#[derive(Debug, Default)]
pub struct Withdrawn {
    /// Names in directories that lead elsewhere now, or that it takes for missing.
    pub names: Vec<(u64, Vec<u8>)>,
    /// Inodes whose attributes, pages and listings are others now.
    pub nodes: Vec<u64>,
}

/// The kernel's cache of one mount.
#[derive(Debug)]
pub struct KernelCache {
    timeouts: Timeouts,
    notifier: Notifier,
    stores: Arc<Stores>,
    unsettled: Unsettled,
    /// The zero of the cache's clock.
    made: Instant,
}

impl KernelCache {
    /// An empty cache with these timeouts.
    pub fn new(timeouts: Timeouts) -> Arc<Self> {
        Arc::new(KernelCache {
            timeouts,
            notifier: Notifier::new(),
            stores: Arc::default(),
            unsettled: Unsettled::default(),
            made: Instant::now(),
        })
    }

    /// Connects notifications to the kernel.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn connect(&self, kernel: impl Kernel) -> io::Result<()> {
        self.notifier.connect(kernel)
    }

    /// How long the kernel may cache names and attributes.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// How many notifications were sent.
    pub fn invalidations(&self) -> u64 {
        self.notifier.told()
    }

    /// A request has changed attributes of `node` in a way that the kernel does not expect. The kernel drops its attributes.
    pub fn attributes_changed(&self, node: u64) {
        self.notifier.expire_attributes(node);
    }

    /// An open has found that `node` was changed behind the mount. Its client gets new attributes.
    pub(super) fn reopened(&self, node: u64) {
        if !self.timeouts.attr.is_zero() {
            self.unsettled.forgets(node);
        }
        self.notifier.expire_attributes(node);
    }

    /// The kernel has forgotten `node`.
    pub fn forgotten(&self, node: u64) {
        self.unsettled.remove(node);
    }

    /// To be called before reading attributes for a reply. [`Self::is_settled`] needs the result.
    pub fn asking(&self) -> Asking {
        self.unsettled.asking()
    }

    /// Whether the kernel may cache the attributes of `node` that were read after `asking`. If not, it has to ask again at the
    /// next use.
    pub fn is_settled(&self, node: u64, asking: Asking) -> bool {
        self.unsettled.is_settled(node, asking)
    }

    /// Has the pages of `node` dropped, and reports that to `file`, with its count of stale marks.
    pub(super) fn pages_changed(&self, node: u64, file: Weak<dyn Waiting>, stale_marks: u64) {
        self.notifier.drop_pages(node, (file, stale_marks));
    }

    pub(super) fn replace(&self, node: u64, offset: u64, bytes: Vec<u8>) -> bool {
        self.notifier.replace(node, offset, bytes)
    }

    /// A client has opened `node` for reading and writing. It may map the file and store into the kernel's pages while the
    /// result is kept.
    pub fn opened_to_store(&self, node: u64) -> Storing {
        Stores::add(&self.stores, node)
    }

    /// Whether the kernel's pages of `node` may hold a client's stores that are not written back.
    pub fn may_hold_stores(&self, node: u64) -> bool {
        self.stores.contain(node)
    }

    /// Has the kernel write back clients' stores in its pages of `node`. The caller's thread must not be needed to answer these
    /// writes.
    pub fn write_back(&self, node: u64) {
        if self.may_hold_stores(node) {
            self.notifier.write_back(node);
        }
    }

    /// Has the kernel drop what was given up. This waits for requests that are under way: the caller's thread must not be needed to answer
    /// any, and must hold no lock that a request takes.
    pub fn withdraw(&self, withdrawn: &Withdrawn) {
        // A notification about a name that the kernel does not know leaves the directory's attributes. So the nodes come afterwards.
        for (directory, name) in &withdrawn.names {
            self.notifier.drop_name(*directory, name);
        }
        for node in &withdrawn.nodes {
            if !self.timeouts.attr.is_zero() {
                self.unsettled.forgets(*node);
            }
            self.notifier.write_back(*node);
        }
    }

    /// Whether the kernel may use its cached listing of a directory that has `stamp` now. A listing is not kept longer than its
    /// entries: the kernel would look each of them up again, one by one.
    pub fn is_listing_valid(&self, cache_state: &CacheState, stamp: u64) -> bool {
        cache_state.is_listing_valid(stamp, self.now(), self.timeouts.shorter())
    }

    /// A directory was listed to its end. It had `stamp` when it was opened.
    pub fn listed(&self, cache_state: &mut CacheState, stamp: u64) {
        cache_state.listed(stamp, self.now());
    }

    /// Milliseconds since the cache was made, from 1.
    pub(super) fn now(&self) -> u32 {
        (self.made.elapsed().as_millis() as u32).wrapping_add(1)
    }
}
