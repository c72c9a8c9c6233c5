//! As of when the kernel's cache of an open file is valid, and whether a change was ours.
//!
//! A change stamp (`Attr::stamp`) moves with every change. A change of our own is bracketed by `change()` and ends by
//! setting the new stamp. A stamp that differs while no change of ours was under way was moved behind the mount.

use super::belief::Belief;
use super::kernel_cache::KernelCache;
use super::notifier::Waiting;
use rustix::param::page_size;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// The kernel's cache of one open file. Whoever reads, writes or changes the file reports to it.
#[derive(Debug)]
pub struct FileCache {
    /// Itself, for the notifier.
    this: Weak<FileCache>,
    node: u64,
    kernel: Arc<KernelCache>,
    stamp: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    /// How often the kernel's cache was found out of date, and how often it was dropped since.
    doubts: AtomicU64,
    drops: AtomicU64,
    /// Somebody changes the file behind the mount.
    contended: AtomicBool,
    /// A change behind the mount may hide in a stamp that was set after one of our own.
    mixed: AtomicBool,
    /// The kernel has asked for bytes for its cache since the last write past it.
    filled: AtomicBool,
    /// The length that the kernel knows.
    end: AtomicU64,
    /// How many of the first bytes the kernel may have in pages of its own: as far as it has asked for bytes, or the file
    /// has ended.
    reach: AtomicU64,
    /// The kernel serves the file from the source by itself, and has no cache of its own of it.
    handed_over: AtomicBool,
}

/// A change of our own that takes longer than this may have met one behind the mount.
const MAX_ALONE: Duration = Duration::from_millis(2);

/// A change of our own under way.
#[derive(Debug)]
pub struct Changing<'a> {
    file: &'a FileCache,
    since: Instant,
}

impl Changing<'_> {
    /// Sets the stamp that the change has led to. A change behind the mount at the same moment is in it,
    /// unseen: where that is likely, the kernel's cache is trusted no further than the next open.
    pub fn led_to(&self, stamp: u64) {
        let file = self.file;
        if file.contended.load(SeqCst) || self.since.elapsed() > MAX_ALONE {
            file.mixed.store(true, SeqCst);
        }
        file.stamp.store(stamp, SeqCst);
    }

    /// Notices a change behind the mount, from within this one: `stamp` was read from the source just before.
    pub fn began_at(&self, stamp: u64) {
        if !self.file.is_handed_over() && self.file.differs(stamp, 1) {
            self.file.distrust();
        }
    }
}

/// A moment before the file's length was looked at, and whether it can tell anything of changes behind the mount: not
/// while a change of our own is under way.
#[derive(Debug, Clone, Copy)]
pub struct Looking(Option<u64>);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.file.ended.fetch_add(1, SeqCst);
    }
}

impl Waiting for FileCache {
    /// The kernel has dropped its cache because of one doubt.
    fn dropped(&self) {
        self.drops.fetch_add(1, SeqCst);
    }
}

impl FileCache {
    /// The cache of `node`, of which that much is remembered.
    pub fn new(node: u64, belief: Belief, kernel: Arc<KernelCache>) -> Arc<Self> {
        Arc::new_cyclic(|this| FileCache {
            this: this.clone(),
            node,
            kernel,
            stamp: AtomicU64::new(belief.stamp()),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            drops: AtomicU64::new(0),
            contended: AtomicBool::new(false),
            mixed: AtomicBool::new(false),
            filled: AtomicBool::new(false),
            end: AtomicU64::new(0),
            reach: AtomicU64::new(belief.reach()),
            handed_over: AtomicBool::new(false),
        })
    }

    /// The node that is cached.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// The file is closed: this is to be remembered.
    pub fn closed(&self, belief: &mut Belief) {
        belief.closed(self.stamp(), self.reach.load(SeqCst));
    }

    /// The stamp as of which the kernel's cache is valid; 0 while it is in doubt.
    fn stamp(&self) -> u64 {
        if self.in_doubt() || self.mixed.load(SeqCst) || self.is_handed_over() {
            0
        } else {
            self.stamp.load(SeqCst)
        }
    }

    /// The file is opened once more and has stamp `now`, which is taken for the new one, and `size` bytes. True when the
    /// kernel may keep what it has: when `now` is the old stamp, that was never in doubt, and the view `allows` it.
    pub fn before_open(&self, now: u64, size: u64, allows: bool) -> bool {
        let mixed = self.mixed.swap(false, SeqCst);
        let known = self.stamp.swap(now, SeqCst) == now && !mixed && !self.in_doubt();
        // Whoever opens the file has just been told its attributes.
        let _ = self.end.compare_exchange(0, size, SeqCst, SeqCst);
        let keep = known && allows;
        if !keep {
            self.reach.store(0, SeqCst);
        }
        keep
    }

    /// Begins a change of our own.
    pub fn change(&self) -> Changing<'_> {
        self.begun.fetch_add(1, SeqCst);
        let since = Instant::now();
        Changing { file: self, since }
    }

    /// Notices a change behind the mount: `stamp` was read from the source just before. The kernel's cache goes then.
    pub fn seen(&self, stamp: u64) {
        if !self.is_handed_over() && self.differs(stamp, 0) {
            self.distrust();
        }
    }

    /// The kernel's cache is out of date: no open may keep it until it was dropped, which is asked for here.
    pub fn distrust(&self) {
        self.doubts.fetch_add(1, SeqCst);
        let this: Weak<FileCache> = self.this.clone();
        self.kernel.pages_changed(self.node, this);
    }

    /// The kernel is about to get bytes up to `end`; unless `direct`, for its cache. A page fault may look direct.
    pub fn reading(&self, end: u64, direct: bool) {
        // Readers of one file share these: store only what is new.
        if !direct && !self.filled.load(SeqCst) {
            self.filled.store(true, SeqCst);
        }
        if self.reach.load(SeqCst) < end {
            self.reach.fetch_max(end, SeqCst);
        }
    }

    /// A change of our own has led from one length to another.
    pub fn resized(&self, before: u64, after: u64) {
        if after < before {
            self.end.store(after, SeqCst);
            // The page it ends in stays, and may have been written whole.
            self.reach.fetch_max(after, SeqCst);
        } else if self.end.load(SeqCst) < after {
            self.end.fetch_max(after, SeqCst);
        }
    }

    /// Before looking at the file's length to tell the kernel: what [`Self::telling`] needs.
    pub fn looking(&self) -> Looking {
        let begun = self.begun.load(SeqCst);
        Looking((self.ended.load(SeqCst) == begun).then_some(begun))
    }

    /// The kernel is about to be told that the file has `size` bytes. If it has grown behind the mount and a client may have
    /// stored there, the kernel is given first what `read` finds in the source.
    pub fn telling(&self, looking: Looking, size: u64, read: impl FnOnce(Range<u64>) -> Vec<u8>) {
        let known = self.end.load(SeqCst);
        // A change of our own may have led to this length.
        let Some(begun) = looking.0 else { return };
        if known == size || begun != self.begun.load(SeqCst) || self.is_handed_over() {
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

    /// A change of our own, about to be answered, has made the file longer by this range of zeros.
    pub fn show_zeros(&self, grown: Range<u64>) {
        let exposed = self.exposed(&grown);
        if !exposed.is_empty() {
            self.replace(
                exposed.start,
                vec![0; (exposed.end - exposed.start) as usize],
            );
        }
    }

    /// What growth by this range exposes of the kernel's page that the file has ended in. Clients may have stored there,
    /// and the kernel does not clear it. Empty where the kernel has no such page.
    fn exposed(&self, grown: &Range<u64>) -> Range<u64> {
        let (page, start) = (page_size() as u64, grown.start);
        let has_page = self.reach.load(SeqCst) > start - start % page;
        match has_page && !self.is_handed_over() {
            true => start..start.next_multiple_of(page).min(grown.end),
            false => start..start,
        }
    }

    fn replace(&self, offset: u64, bytes: Vec<u8>) {
        if !self.kernel.replace(self.node, offset, bytes) {
            // Who locks a page for so long waits for its bytes. Nobody can have stored into it.
            self.reach.store(0, SeqCst);
        }
    }

    /// A write past the kernel's cache is done. The kernel may have put into its cache what that has replaced: it drops
    /// what it has when such a write begins, and of an asynchronous one it does not look again at the end (Linux 6.18).
    pub fn bypassed(&self) {
        if self.filled.swap(false, SeqCst) {
            self.distrust();
        }
    }

    /// Attributes have changed in a way that the kernel does not expect of the request under way.
    pub fn attributes_changed(&self) {
        self.kernel.attributes_changed(self.node);
    }

    /// From now on the kernel serves the file from the source by itself.
    pub fn handed_over(&self) {
        self.handed_over.store(true, SeqCst);
    }

    fn is_handed_over(&self) -> bool {
        self.handed_over.load(SeqCst)
    }

    fn in_doubt(&self) -> bool {
        self.drops.load(SeqCst) != self.doubts.load(SeqCst)
    }

    /// Whether `now`, read from the source just before, was moved behind the mount; the new stamp is taken. `own`
    /// changes of our own are known to be under way; while there are others nothing can be told, and the answer is no.
    fn differs(&self, now: u64, own: u64) -> bool {
        let (begun, known) = (self.begun.load(SeqCst), self.stamp.load(SeqCst));
        if known == now
            || begun - self.ended.load(SeqCst).min(begun) != own
            || begun != self.begun.load(SeqCst)
        {
            return false;
        }
        let taken = self.stamp.compare_exchange(known, now, SeqCst, SeqCst);
        let moved = taken.is_ok() && known != 0;
        if moved {
            self.contended.store(true, SeqCst);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel_cache::Timeouts;
    use super::*;

    /// A cache that is valid as of stamp 1.
    fn cache() -> Arc<FileCache> {
        let (attr, entry) = (Duration::ZERO, Duration::ZERO);
        let mut belief = Belief::default();
        belief.closed(1, 0);
        FileCache::new(7, belief, KernelCache::new(Timeouts { attr, entry }))
    }

    fn doubts(file: &FileCache) -> u64 {
        file.doubts.load(SeqCst)
    }

    #[test]
    fn a_foreign_change_is_told_once() {
        let file = cache();
        file.seen(1);
        assert_eq!(doubts(&file), 0);
        file.seen(2);
        file.seen(2);
        assert_eq!(doubts(&file), 1);
    }

    #[test]
    fn a_change_of_our_own_is_none() {
        let file = cache();
        let changing = file.change();
        file.seen(2);
        assert_eq!(doubts(&file), 0, "nothing can be told meanwhile");
        changing.led_to(2);
        drop(changing);
        file.seen(2);
        assert_eq!(doubts(&file), 0);
        assert!(file.before_open(2, 0, true));
        assert!(!file.before_open(3, 0, true));
    }

    #[test]
    fn where_others_write_too_our_own_changes_are_not_trusted() {
        let file = cache();
        file.seen(2);
        file.dropped();
        file.change().led_to(3);
        assert_eq!((file.stamp(), file.before_open(3, 0, true)), (0, false));
        assert!(file.before_open(3, 0, true), "the cache is a new one since");
    }

    #[test]
    fn nothing_is_kept_while_it_is_in_doubt() {
        let file = cache();
        file.distrust();
        assert_eq!((file.stamp(), file.before_open(1, 0, true)), (0, false));
        file.dropped();
        assert_eq!((file.stamp(), file.before_open(1, 0, true)), (1, true));
    }

    #[test]
    fn a_write_past_the_cache_finds_what_was_filled_before_it_once() {
        let file = cache();
        file.bypassed();
        assert_eq!(doubts(&file), 0);
        file.reading(1, true);
        file.bypassed();
        assert_eq!(doubts(&file), 0);
        file.reading(1, false);
        file.bypassed();
        file.bypassed();
        assert_eq!(doubts(&file), 1);
    }

    #[test]
    fn a_foreign_change_before_our_own_is_seen_from_within() {
        let file = cache();
        file.change().began_at(2);
        assert_eq!(doubts(&file), 1);
    }

    #[test]
    fn of_what_the_kernel_serves_itself_it_has_no_cache() {
        let file = cache();
        file.handed_over();
        file.seen(2);
        assert_eq!((doubts(&file), file.stamp()), (0, 0));
    }

    /// What is read from the source when the kernel is told of `size` bytes.
    fn shown(file: &FileCache, looking: Looking, size: u64) -> Option<Range<u64>> {
        let mut shown = None;
        file.telling(looking, size, |range| {
            shown = Some(range);
            Vec::new()
        });
        shown
    }

    #[test]
    fn growth_exposes_the_rest_of_a_page_that_the_kernel_may_have() {
        let (file, page) = (cache(), page_size() as u64);
        assert!(
            file.exposed(&(100..200)).is_empty(),
            "nobody has asked for it"
        );
        file.reading(page, true);
        assert_eq!(file.exposed(&(100..200)), 100..200);
        assert_eq!(file.exposed(&(100..10 * page)), 100..page);
        assert!(file.exposed(&(page..2 * page)).is_empty());
        assert!(file.exposed(&(page + 100..2 * page)).is_empty());
        file.resized(2 * page, page + 100);
        assert_eq!(file.exposed(&(page + 100..2 * page)), page + 100..2 * page);
    }

    #[test]
    fn of_growth_behind_the_mount_the_kernel_is_told_once() {
        let file = cache();
        assert!(!file.before_open(2, 100, true), "another stamp");
        file.reading(page_size() as u64, false);
        assert_eq!(shown(&file, file.looking(), 150), None, "nobody can store");
        let _storing = file.kernel.opened_to_store(7);
        assert_eq!(shown(&file, file.looking(), 200), Some(150..200));
        assert_eq!(shown(&file, file.looking(), 200), None);
        assert_eq!(shown(&file, file.looking(), 50), None);
        assert_eq!(shown(&file, file.looking(), 60), Some(50..60));
    }

    #[test]
    fn growth_of_our_own_is_not_taken_for_growth_behind_the_mount() {
        let file = cache();
        file.before_open(1, 100, true);
        file.reading(page_size() as u64, false);
        let _storing = file.kernel.opened_to_store(7);
        let before = file.looking();
        let changing = file.change();
        let meanwhile = file.looking();
        file.resized(100, 200);
        drop(changing);
        assert_eq!(shown(&file, before, 150), None);
        assert_eq!(shown(&file, meanwhile, 150), None);
        assert_eq!(shown(&file, file.looking(), 200), None);
    }
}
