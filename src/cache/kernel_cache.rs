//! The kernel's cache of one mount.

use super::belief::Belief;
use super::notifier::{Kernel, Notifier, Waiting};
use super::stores::{Stores, Storing};
use super::unsettled::{Asking, Unsettled};
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long the kernel may believe what it was told.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Of attributes.
    pub attr: Duration,
    /// Of names.
    pub entry: Duration,
}

impl Timeouts {
    /// Where one number serves names and attributes, as in READDIRPLUS and CREATE: the shorter keeps both promises.
    pub fn shorter(&self) -> Duration {
        self.attr.min(self.entry)
    }
}

/// The kernel's cache of one mount.
#[derive(Debug)]
pub struct KernelCache {
    timeouts: Timeouts,
    notifier: Notifier,
    stores: Arc<Stores>,
    unsettled: Unsettled,
    /// Listings are dated from here.
    made: Instant,
}

impl KernelCache {
    /// A cache that is empty yet, and believed for as long as `timeouts` say.
    pub fn new(timeouts: Timeouts) -> Arc<Self> {
        Arc::new(KernelCache {
            timeouts,
            notifier: Notifier::new(),
            stores: Arc::default(),
            unsettled: Unsettled::default(),
            made: Instant::now(),
        })
    }

    /// From now on the kernel can be told what it must no longer believe.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub fn connect(&self, kernel: impl Kernel) -> io::Result<()> {
        self.notifier.connect(kernel)
    }

    /// How long the kernel may believe what it is told.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// How often the kernel was told to forget or to replace something.
    pub fn invalidations(&self) -> u64 {
        self.notifier.told()
    }

    /// A request has changed attributes of `node` in a way that the kernel does not expect. It asks for them anew.
    pub fn attributes_changed(&self, node: u64) {
        self.notifier.expire_attributes(node);
    }

    /// An open has found `node` changed behind the mount: what its client is shown of it is new.
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

    /// Before a file is looked at to tell the kernel its attributes: what [`Self::is_settled`] needs.
    pub fn asking(&self) -> Asking {
        self.unsettled.asking()
    }

    /// Whether the kernel may take for valid what was found of `node` since `asking`; else it is to ask again before it uses
    /// it.
    pub fn is_settled(&self, node: u64, asking: Asking) -> bool {
        self.unsettled.is_settled(node, asking)
    }

    /// The pages of `node` go; then `file` hears of it, with the number of its `doubts`.
    pub(super) fn pages_changed(&self, node: u64, file: Weak<dyn Waiting>, doubts: u64) {
        self.notifier.drop_pages(node, (file, doubts));
    }

    pub(super) fn replace(&self, node: u64, offset: u64, bytes: Vec<u8>) -> bool {
        self.notifier.replace(node, offset, bytes)
    }

    /// A client has opened `node` so that it may map it and store into the kernel's pages, for as long as the answer is
    /// kept.
    pub fn opened_to_store(&self, node: u64) -> Storing {
        Stores::add(&self.stores, node)
    }

    /// Whether the kernel's pages of `node` may hold what a client has stored and nobody has written back yet.
    pub fn may_hold_stores(&self, node: u64) -> bool {
        self.stores.contain(node)
    }

    /// Has the kernel write back what clients have stored into its pages of `node`. The caller must not be needed to serve
    /// the writes that this takes.
    pub fn write_back(&self, node: u64) {
        if self.may_hold_stores(node) {
            self.notifier.write_back(node);
        }
    }

    /// Whether the kernel may go by the last listing it was given of a directory, which has `stamp` now. Kept longer
    /// than its entries may be believed, a listing would have the kernel look each of them up again, one by one.
    pub fn is_listing_valid(&self, belief: &Belief, stamp: u64) -> bool {
        belief.is_listing_valid(stamp, self.now(), self.timeouts.shorter())
    }

    /// A directory was listed to its end, having had `stamp` when it was opened.
    pub fn listed(&self, belief: &mut Belief, stamp: u64) {
        belief.listed(stamp, self.now());
    }

    /// Milliseconds since the cache was made, counted from 1.
    pub(super) fn now(&self) -> u32 {
        (self.made.elapsed().as_millis() as u32).wrapping_add(1)
    }
}
