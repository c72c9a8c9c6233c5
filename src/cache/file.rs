//! For which change stamp the kernel's cache of an open file is valid, and whether a change was made by mmfs.
//!
//! Each change moves the file's change stamp (`Attr::stamp`). A change by mmfs begins with `change()`, and ends by setting the
//! new stamp. If the stamp differs while no change by mmfs is under way, the file was changed behind the mount.
//!
//! An open makes the kernel's cache current, so a read after the open shows the file as of the open. Descriptors that were open
//! before get new pages after the next check of open files. Dropping the pages at once would do harm.
//! `fuse_reverse_inval_inode` makes the kernel ignore attributes in replies that are under way, so it would go on with the old
//! length.

use super::cache_state::CacheState;
use super::kernel_cache::KernelCache;
use super::notifier::Waiting;
use super::unsettled::MAX_REPLY_TIME;
use parking_lot::Mutex;
use rustix::param::page_size;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The kernel's cache of one open file. Code that reads, writes or changes the file reports it here.
#[derive(Debug)]
pub struct FileCache {
    /// This cache, for the notifier.
    this: Weak<FileCache>,
    node: u64,
    kernel: Arc<KernelCache>,
    stamp: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    /// How often an open took a new stamp.
    renewed: AtomicU64,
    /// How often the kernel's cache was found stale. `dropped` is the greatest of these numbers for which it was dropped.
    stale_marks: AtomicU64,
    dropped: AtomicU64,
    /// When an open last had the kernel drop its pages, by the cache's clock. 0: never.
    reopened: AtomicU32,
    /// Held while an open has the kernel drop the attributes. A second open then does not drop them again, while the client of
    /// the first one waits for new ones. A statx(2) with it held is later than that of the open before. Nothing else is taken
    /// with it held.
    opening: Mutex<()>,
    /// Whether the file is being changed behind the mount.
    contended: AtomicBool,
    /// Whether the stamp that a change by mmfs has set may include a change behind the mount.
    may_hide_change: AtomicBool,
    /// Whether the kernel has read into its cache since the last write that bypassed it.
    filled: AtomicBool,
    /// The length that the kernel knows.
    end: AtomicU64,
    /// How many of the first bytes may be in the kernel's pages: as far as it has read, or as the file has reached.
    reach: AtomicU64,
    /// The last length known to be the same at the source and in the kernel.
    agreed: AtomicU64,
    /// Whether passthrough is in use: the kernel then has no cache of the file for the mount.
    passed_through: AtomicBool,
}

/// Which parts of the cache of a file the kernel may keep at an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayKeep {
    /// Pages and attributes.
    All,
    /// Attributes. The first read has to reach mmfs.
    Attributes,
    /// Nothing: the file has changed.
    Nothing,
}

/// Not lengths. `UNSET`: before the first open. `UNKNOWN`: source and kernel may disagree.
const UNSET: u64 = u64::MAX;
const UNKNOWN: u64 = u64::MAX - 1;

/// A change behind the mount may have come during a change by mmfs that takes longer than this.
const MAX_OWN_CHANGE: Duration = Duration::from_millis(2);

/// A change by mmfs that is under way.
#[derive(Debug)]
pub struct Changing<'a> {
    file: &'a FileCache,
    since: Instant,
    /// The counts when it began, itself included.
    changes: Changes,
}

impl Changing<'_> {
    /// Sets the stamp after the change. The stamp may include a change behind the mount at the same time. Where that is likely,
    /// the kernel's cache is valid until the next open only.
    pub fn led_to(&self, stamp: u64) {
        let file = self.file;
        let has_opened = file.renewed.load(SeqCst) != self.changes.renewed;
        if has_opened || file.contended.load(SeqCst) || self.since.elapsed() > MAX_OWN_CHANGE {
            file.may_hide_change.store(true, SeqCst);
        }
        file.stamp.store(stamp, SeqCst);
    }

    /// Notices a change behind the mount before this one: `stamp` was read from the source after this one began.
    pub fn began_at(&self, stamp: u64) {
        self.file.compare(stamp, self.changes, 1);
    }
}

/// Counts taken before the source is looked at: changes by mmfs that began or ended, and opens that took a new stamp. If they
/// are still the same afterwards, a new stamp means a change behind the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    own: u64,
    renewed: u64,
}

/// The count of changes taken before the file's length is read. `None` while a change by mmfs is under way: the length then
/// says nothing about changes behind the mount.
#[derive(Debug, Clone, Copy)]
pub struct LengthCheck(Option<u64>);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.file.ended.fetch_add(1, SeqCst);
    }
}

impl Waiting for FileCache {
    fn dropped(&self, stale_marks: u64) {
        self.dropped.fetch_max(stale_marks, SeqCst);
    }

    fn is_waiting(&self, stale_marks: u64) -> bool {
        self.dropped.load(SeqCst) < stale_marks
    }
}

impl FileCache {
    /// The cache of `node`, in the state `cache_state`.
    pub fn new(node: u64, cache_state: CacheState, kernel: Arc<KernelCache>) -> Arc<Self> {
        Arc::new_cyclic(|this| FileCache {
            this: this.clone(),
            node,
            kernel,
            stamp: AtomicU64::new(cache_state.stamp()),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            renewed: AtomicU64::new(0),
            stale_marks: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            reopened: AtomicU32::new(0),
            opening: Mutex::new(()),
            contended: AtomicBool::new(false),
            may_hide_change: AtomicBool::new(false),
            filled: AtomicBool::new(false),
            end: AtomicU64::new(0),
            reach: AtomicU64::new(cache_state.reach()),
            agreed: AtomicU64::new(UNSET),
            passed_through: AtomicBool::new(false),
        })
    }

    /// The node id.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// Stores the state that is kept after the file is closed.
    pub fn closed(&self, cache_state: &mut CacheState) {
        cache_state.closed(self.stamp(), self.reach.load(SeqCst));
    }

    /// The stamp for which the kernel's cache is valid, or 0 while it may be stale. With passthrough it is the stamp of the
    /// last open: the kernel has no pages then.
    fn stamp(&self) -> u64 {
        if self.is_stale() || self.may_hide_change.load(SeqCst) {
            0
        } else {
            self.stamp.load(SeqCst)
        }
    }

    /// Returns which parts of its cache the kernel may keep at an open that `found` this stamp and this `size`. The stamp
    /// becomes the current one. The kernel may keep all if the stamp is the old one and the cache is not stale. It keeps no
    /// pages if the first read `must_reach_mmfs`.
    ///
    /// Otherwise this drops the kernel's attributes, because the reply to OPEN carries none. The kernel asks for attributes
    /// after that, and ignores those of older replies. A later open may already have dropped them, and its client may be
    /// waiting for new ones. So `look_again` decides whether to drop them.
    pub fn before_open(
        &self,
        (found, size): (u64, u64),
        must_reach_mmfs: bool,
        look_again: impl FnOnce() -> Option<u64>,
    ) -> MayKeep {
        // The client has just got the attributes, by the LOOKUP before.
        let _ = self.end.compare_exchange(0, size, SeqCst, SeqCst);
        let kept = self.kept_by_open(found, must_reach_mmfs, look_again);
        if kept != MayKeep::All {
            self.reach.store(0, SeqCst);
        }
        // The kernel may still send writes that use the old length.
        let agreed = match kept {
            MayKeep::Nothing => UNKNOWN,
            MayKeep::All | MayKeep::Attributes => size,
        };
        let _ = self.agreed.compare_exchange(UNSET, agreed, SeqCst, SeqCst);
        kept
    }

    fn kept_by_open(
        &self,
        found: u64,
        must_reach_mmfs: bool,
        look_again: impl FnOnce() -> Option<u64>,
    ) -> MayKeep {
        if !self.is_valid_as_of(found) {
            let _one = self.opening.lock();
            // Another open may have taken the stamp meanwhile.
            let is_new = !self.is_valid_as_of(found);
            let now = is_new.then(look_again).flatten().unwrap_or(found);
            if !self.is_valid_as_of(now) {
                let stale_marks = self.stale_marks.load(SeqCst);
                self.kernel.reopened(self.node);
                self.reopened.store(self.kernel.now(), SeqCst);
                self.may_hide_change.store(false, SeqCst);
                self.dropped.fetch_max(stale_marks, SeqCst);
                // Other opens may use the stamp from here on, so this comes last.
                self.stamp.store(now, SeqCst);
                self.renewed.fetch_add(1, SeqCst);
                return MayKeep::Nothing;
            }
        }
        match must_reach_mmfs || self.is_drop_under_way() {
            true => MayKeep::Attributes,
            false => MayKeep::All,
        }
    }

    fn is_valid_as_of(&self, now: u64) -> bool {
        // The order matters: see `compare`.
        self.stamp.load(SeqCst) == now && !self.may_hide_change.load(SeqCst) && !self.is_stale()
    }

    /// Whether the reply to an open that drops the kernel's pages may still be on its way. The kernel drops them when it has
    /// the reply.
    fn is_drop_under_way(&self) -> bool {
        let since = self.reopened.load(SeqCst);
        since != 0 && self.kernel.now().wrapping_sub(since) < MAX_REPLY_TIME.as_millis() as u32
    }

    /// Whether a write by a descriptor with O_APPEND to a file of `len` bytes is an append. The kernel sends an append to the
    /// end as it knows it, and a write with RWF_NOAPPEND to the client's offset. They can be told apart until the length
    /// changes behind the mount. After that each counts as an append, which overwrites nothing.
    pub fn is_append(&self, offset: u64, len: u64) -> bool {
        offset == len || self.agreed.load(SeqCst) != len
    }

    /// A write that ended at `end`, as the kernel counts, changed the length from `from` to `to`.
    pub fn wrote(&self, append: bool, end: u64, (from, to): (u64, u64)) {
        let known = append || self.agreed.load(SeqCst) == from;
        let believed = if append { end } else { end.max(from) };
        let agreed = if known && believed == to { to } else { UNKNOWN };
        self.agreed.store(agreed, SeqCst);
    }

    /// A change by mmfs other than a write changed the length from `from` to `to`. Another process may have written meanwhile.
    pub fn altered(&self, from: u64, to: u64) {
        if from != to {
            self.agreed.store(UNKNOWN, SeqCst);
        }
    }

    /// The kernel has set the length.
    pub fn set_length(&self, len: u64) {
        self.agreed.store(len, SeqCst);
    }

    /// Begins a change by mmfs.
    pub fn change(&self) -> Changing<'_> {
        self.begun.fetch_add(1, SeqCst);
        Changing {
            file: self,
            since: Instant::now(),
            changes: self.changes(),
        }
    }

    /// Counts to take before looking at the source.
    pub fn changes(&self) -> Changes {
        Changes {
            own: self.begun.load(SeqCst) + self.ended.load(SeqCst),
            renewed: self.renewed.load(SeqCst),
        }
    }

    /// Notices a change behind the mount. `stamp` was read from the source after `changes` was taken. The kernel's cache is
    /// dropped at the next open or check of open files.
    pub fn seen(&self, stamp: u64, changes: Changes) {
        self.compare(stamp, changes, 0);
    }

    /// As `seen`, for a read that was answered since. If the file `is_shorter`, its pages are dropped now. The kernel has
    /// filled its last page with zeros beyond the end, which must not show when the file grows again.
    pub fn seen_before(&self, stamp: u64, changes: Changes, is_shorter: bool) {
        self.seen(stamp, changes);
        let now = self.changes();
        if is_shorter && now == changes {
            self.drop_if_stale();
        } else if is_shorter && now.own == changes.own {
            // An open has taken the new stamp, but the bytes of the read may reach the kernel after the open.
            self.mark_stale();
        }
    }

    /// The check of open files, once a second: drops the kernel's pages if they are stale.
    pub fn drop_if_stale(&self) {
        if self.is_stale() {
            self.drop_pages();
        }
    }

    /// Marks the kernel's cache as stale and has it dropped. Until that is done no open may keep it.
    pub fn mark_stale(&self) {
        self.stale_marks.fetch_add(1, SeqCst);
        self.drop_pages();
    }

    fn drop_pages(&self) {
        let (this, stale_marks): (Weak<FileCache>, _) =
            (self.this.clone(), self.stale_marks.load(SeqCst));
        self.kernel.pages_changed(self.node, this, stale_marks);
    }

    /// The kernel is about to get bytes up to `end`, for its cache unless `direct`. A page fault may look direct.
    pub fn reading(&self, end: u64, direct: bool) {
        // Readers of a file share this cache line, so only a new value is stored.
        if !direct && !self.filled.load(SeqCst) {
            self.filled.store(true, SeqCst);
        }
        if self.reach.load(SeqCst) < end {
            self.reach.fetch_max(end, SeqCst);
        }
    }

    /// A change by mmfs changed the length from `before` to `after`.
    pub fn resized(&self, before: u64, after: u64) {
        if after < before {
            self.end.store(after, SeqCst);
            // The page at the new end stays. The kernel may have written all of it.
            self.reach.fetch_max(after, SeqCst);
        } else if self.end.load(SeqCst) < after {
            self.end.fetch_max(after, SeqCst);
        }
    }

    /// To be called before reading the length for a reply. [`Self::end_length_check`] needs the result.
    pub fn begin_length_check(&self) -> LengthCheck {
        let begun = self.begun.load(SeqCst);
        LengthCheck((self.ended.load(SeqCst) == begun).then_some(begun))
    }

    /// The kernel is about to be sent the length `size`. If the file has grown behind the mount, and a client may have stored
    /// behind the old end, the kernel first gets the bytes that `read` returns from the source.
    pub fn end_length_check(
        &self,
        check: LengthCheck,
        size: u64,
        read: impl FnOnce(Range<u64>) -> Vec<u8>,
    ) {
        let known = self.end.load(SeqCst);
        // The length may be the result of a change by mmfs.
        let Some(begun) = check.0 else {
            return;
        };
        if known == size || begun != self.begun.load(SeqCst) || self.is_passed_through() {
            return;
        }
        let exposed = self.exposed(&(known..size));
        if !exposed.is_empty() && self.kernel.may_hold_stores(self.node) {
            self.replace(exposed.start, read(exposed));
        }
        let told = self.end.compare_exchange(known, size, SeqCst, SeqCst);
        if told.is_ok() && size < known {
            self.reach.fetch_max(size, SeqCst);
        }
    }

    /// A change by mmfs, not answered yet, has made the file longer by this range of zeros.
    pub fn show_zeros(&self, grown: Range<u64>) {
        let exposed = self.exposed(&grown);
        if !exposed.is_empty() {
            self.replace(
                exposed.start,
                vec![0; (exposed.end - exposed.start) as usize],
            );
        }
    }

    /// The part of the kernel's page at the old end that growth by this range exposes. Clients may have stored there, and the
    /// kernel does not clear it. Empty if the kernel has no such page.
    fn exposed(&self, grown: &Range<u64>) -> Range<u64> {
        let (page, start) = (page_size() as u64, grown.start);
        let has_page = self.reach.load(SeqCst) > start - start % page;
        match has_page && !self.is_passed_through() {
            true => start..start.next_multiple_of(page).min(grown.end),
            false => start..start,
        }
    }

    fn replace(&self, offset: u64, bytes: Vec<u8>) {
        if !self.kernel.replace(self.node, offset, bytes) {
            // A page locked for so long waits for its bytes, so no client can have stored into it.
            self.reach.store(0, SeqCst);
        }
    }

    /// A write that bypassed the kernel's cache is done. The kernel may have cached old bytes meanwhile. It drops its pages
    /// when such a write begins, but after an asynchronous one not again (Linux 6.18).
    pub fn bypassed(&self) {
        if self.filled.swap(false, SeqCst) {
            self.mark_stale();
        }
    }

    /// A request has changed attributes in a way that the kernel does not expect.
    pub fn attributes_changed(&self) {
        self.kernel.attributes_changed(self.node);
    }

    /// Whether a change behind the mount was seen, before the last open or since.
    pub fn is_contended(&self) -> bool {
        self.contended.load(SeqCst) || self.reopened.load(SeqCst) != 0
    }

    /// From now on the kernel serves the file by passthrough.
    pub fn passed_through(&self) {
        self.passed_through.store(true, SeqCst);
    }

    fn is_passed_through(&self) -> bool {
        self.passed_through.load(SeqCst)
    }

    /// Whether the kernel has to drop its pages, and has not been heard to have done so.
    pub fn is_stale(&self) -> bool {
        self.dropped.load(SeqCst) < self.stale_marks.load(SeqCst)
    }

    /// Notices whether the file was changed behind the mount. `now` was read from the source after `changes` was taken. If so,
    /// the new stamp is taken. `own` is how many changes by mmfs are known to be under way. Nothing is concluded while there
    /// are others, or if an open has taken a stamp since.
    fn compare(&self, now: u64, changes: Changes, own: u64) {
        let (begun, known) = (self.begun.load(SeqCst), self.stamp.load(SeqCst));
        if known == now
            || self.is_passed_through()
            || begun - self.ended.load(SeqCst).min(begun) != own
            || changes != self.changes()
        {
            return;
        }
        if known != 0 {
            self.agreed.store(UNKNOWN, SeqCst);
            self.contended.store(true, SeqCst);
            // Before the stamp is taken, so that no open uses the stale cache.
            self.stale_marks.fetch_add(1, SeqCst);
        }
        // If the stamp is another one by now, another thread has noticed.
        let _ = self.stamp.compare_exchange(known, now, SeqCst, SeqCst);
    }
}

#[cfg(test)]
mod tests;
