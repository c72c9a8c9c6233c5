//! As of when the kernel's cache of an open file is valid, and whether a change was ours.
//!
//! A change stamp (`Attr::stamp`) moves with every change. A change of our own is bracketed by `change()` and ends by
//! setting the new stamp. A stamp that differs while no change of ours was under way was moved behind the mount.
//!
//! An open makes the kernel's cache current by itself, so that what is then read is as new as the open. For those who
//! have the file open already it is dropped by the next look at open files. Not at once: of attributes that the kernel
//! asks for meanwhile it would take nothing (`fuse_reverse_inval_inode` makes a reply under way an old one), and go on
//! with the length it had.

use super::belief::Belief;
use super::kernel_cache::KernelCache;
use super::notifier::Waiting;
use super::unsettled::REPLY_TAKEN;
use parking_lot::Mutex;
use rustix::param::page_size;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
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
    /// How often an open has taken a new stamp.
    renewed: AtomicU64,
    /// How often the kernel's cache was found out of date, and the greatest of these numbers that was taken when it was
    /// dropped.
    doubts: AtomicU64,
    dropped: AtomicU64,
    /// When an open last had the kernel drop its pages, by the cache's clock; 0: never.
    reopened: AtomicU32,
    /// Held while an open has the kernel forget the attributes, lest it does so once more for another one that the client
    /// of the first waits for. What is looked at with it held is newer than what the last one has found. Nothing else is
    /// taken with it held.
    opening: Mutex<()>,
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
    /// The last length that the source and the kernel certainly agreed on.
    agreed: AtomicU64,
    /// The kernel serves the file from the source by itself, and has no cache of its own of it.
    handed_over: AtomicBool,
}

/// What the kernel may keep of a file that is opened once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MayKeep {
    /// Pages and attributes.
    All,
    /// Attributes. The first read has to reach us.
    Attributes,
    /// Nothing: the file has changed.
    Nothing,
}

/// No lengths: before the first open, and where the two may not agree.
const UNSET: u64 = u64::MAX;
const UNKNOWN: u64 = u64::MAX - 1;

/// A change of our own that takes longer than this may have met one behind the mount.
const MAX_ALONE: Duration = Duration::from_millis(2);

/// A change of our own under way.
#[derive(Debug)]
pub struct Changing<'a> {
    file: &'a FileCache,
    since: Instant,
    /// As of its beginning, itself counted.
    changes: Changes,
}

impl Changing<'_> {
    /// Sets the stamp that the change has led to. A change behind the mount at the same moment is in it,
    /// unseen: where that is likely, the kernel's cache is trusted no further than the next open.
    pub fn led_to(&self, stamp: u64) {
        let file = self.file;
        let has_opened = file.renewed.load(SeqCst) != self.changes.renewed;
        if has_opened || file.contended.load(SeqCst) || self.since.elapsed() > MAX_ALONE {
            file.mixed.store(true, SeqCst);
        }
        file.stamp.store(stamp, SeqCst);
    }

    /// Notices a change behind the mount, from within this one: `stamp` was read from the source after it had begun.
    pub fn began_at(&self, stamp: u64) {
        self.file.compare(stamp, self.changes, 1);
    }
}

/// A moment before the file was looked at: how many changes of our own had begun or ended, and how many opens had taken a
/// new stamp. While these stay, what is found tells of changes behind the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    own: u64,
    renewed: u64,
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
    fn dropped(&self, doubts: u64) {
        self.dropped.fetch_max(doubts, SeqCst);
    }

    fn is_waiting(&self, doubts: u64) -> bool {
        self.dropped.load(SeqCst) < doubts
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
            renewed: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            reopened: AtomicU32::new(0),
            opening: Mutex::new(()),
            contended: AtomicBool::new(false),
            mixed: AtomicBool::new(false),
            filled: AtomicBool::new(false),
            end: AtomicU64::new(0),
            reach: AtomicU64::new(belief.reach()),
            agreed: AtomicU64::new(UNSET),
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

    /// The stamp as of which the kernel's cache is valid; 0 while it is in doubt. Of what the kernel serves by itself, it
    /// has no pages, and what it was told of it is valid as of the last open.
    fn stamp(&self) -> u64 {
        if self.in_doubt() || self.mixed.load(SeqCst) {
            0
        } else {
            self.stamp.load(SeqCst)
        }
    }

    /// The file is opened once more and was found with this stamp, which is taken for the new one, and so many bytes. The
    /// kernel may keep what it has when that is the old stamp, and was never in doubt; but no pages when the first read
    /// `has_to_reach_us`.
    ///
    /// Otherwise the kernel forgets the attributes here, since the reply to OPEN carries none: what it asks for from then
    /// on is as new as the open, and of replies that are older it takes nothing any more. Another open may have found the
    /// file later and be done already, and its client is asking for the attributes: so `look_again` decides.
    pub fn before_open(
        &self,
        (found, size): (u64, u64),
        has_to_reach_us: bool,
        look_again: impl FnOnce() -> Option<u64>,
    ) -> MayKeep {
        // Whoever opens the file has just been told its attributes.
        let _ = self.end.compare_exchange(0, size, SeqCst, SeqCst);
        let kept = self.kept_by_open(found, has_to_reach_us, look_again);
        if kept != MayKeep::All {
            self.reach.store(0, SeqCst);
        }
        // Later the kernel may have sent writes that go by what it believed before.
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
        has_to_reach_us: bool,
        look_again: impl FnOnce() -> Option<u64>,
    ) -> MayKeep {
        if !self.is_valid_as_of(found) {
            let _one = self.opening.lock();
            let is_new = !self.is_valid_as_of(found); // Another open may have taken it meanwhile.
            let now = is_new.then(look_again).flatten().unwrap_or(found);
            if !self.is_valid_as_of(now) {
                let doubts = self.doubts.load(SeqCst);
                self.kernel.reopened(self.node);
                self.reopened.store(self.kernel.now(), SeqCst);
                self.mixed.store(false, SeqCst);
                self.dropped.fetch_max(doubts, SeqCst);
                self.stamp.store(now, SeqCst); // Others may rely on it from here on.
                self.renewed.fetch_add(1, SeqCst);
                return MayKeep::Nothing;
            }
        }
        match has_to_reach_us || self.are_pages_going() {
            true => MayKeep::Attributes,
            false => MayKeep::All,
        }
    }

    fn is_valid_as_of(&self, now: u64) -> bool {
        // In this order: see `compare`.
        self.stamp.load(SeqCst) == now && !self.mixed.load(SeqCst) && !self.in_doubt()
    }

    /// Whether the kernel may not yet have the reply to an open that has it drop its pages: it does so when it has it.
    fn are_pages_going(&self) -> bool {
        let since = self.reopened.load(SeqCst);
        since != 0 && self.kernel.now().wrapping_sub(since) < REPLY_TAKEN.as_millis() as u32
    }

    /// Whether a write by a descriptor with O_APPEND is an append, to a file that is `len` bytes long. The kernel sends an append to
    /// where it believes the end to be, and one with RWF_NOAPPEND to where the client says. They can be told apart while
    /// nobody has changed the length behind the mount; else it is taken for an append, which overwrites nothing.
    pub fn is_append(&self, offset: u64, len: u64) -> bool {
        offset == len || self.agreed.load(SeqCst) != len
    }

    /// A write that ended at `end`, as the kernel has it, took the length `from` one `to` another.
    pub fn wrote(&self, append: bool, end: u64, (from, to): (u64, u64)) {
        let known = append || self.agreed.load(SeqCst) == from;
        let believed = if append { end } else { end.max(from) };
        let agreed = if known && believed == to { to } else { UNKNOWN };
        self.agreed.store(agreed, SeqCst);
    }

    /// A change of our own that is no write, and around which the length was `from` and `to`. Somebody else may have written
    /// meanwhile.
    pub fn altered(&self, from: u64, to: u64) {
        if from != to {
            self.agreed.store(UNKNOWN, SeqCst);
        }
    }

    /// The kernel has set the length.
    pub fn set_length(&self, len: u64) {
        self.agreed.store(len, SeqCst);
    }

    /// Begins a change of our own.
    pub fn change(&self) -> Changing<'_> {
        self.begun.fetch_add(1, SeqCst);
        Changing {
            file: self,
            since: Instant::now(),
            changes: self.changes(),
        }
    }

    /// For those who are about to look at the source.
    pub fn changes(&self) -> Changes {
        Changes {
            own: self.begun.load(SeqCst) + self.ended.load(SeqCst),
            renewed: self.renewed.load(SeqCst),
        }
    }

    /// Notices a change behind the mount: `stamp` was read from the source when `changes` was, or was to be, as given. The
    /// kernel's cache goes with the next open or look at open files.
    pub fn seen(&self, stamp: u64, changes: Changes) {
        self.compare(stamp, changes, 0);
    }

    /// As `seen`, by a read that was answered since. A file that `is_shorter` has its pages dropped now: those that the
    /// kernel has filled up with zeros beyond the end must not come to light when the file grows again.
    pub fn seen_before(&self, stamp: u64, changes: Changes, is_shorter: bool) {
        self.seen(stamp, changes);
        let now = self.changes();
        if is_shorter && now == changes {
            self.looked_at();
        } else if is_shorter && now.own == changes.own {
            // An open has taken the new stamp, but what was read before may come after it.
            self.distrust();
        }
    }

    /// Open files are looked at, once a second: what the kernel has cached goes where it is out of date.
    pub fn looked_at(&self) {
        if self.in_doubt() {
            self.drop_pages();
        }
    }

    /// The kernel's cache is out of date: no open may keep it until it was dropped, which is asked for here.
    pub fn distrust(&self) {
        self.doubts.fetch_add(1, SeqCst);
        self.drop_pages();
    }

    fn drop_pages(&self) {
        let (this, doubts): (Weak<FileCache>, _) = (self.this.clone(), self.doubts.load(SeqCst));
        self.kernel.pages_changed(self.node, this, doubts);
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

    /// Whether somebody was seen to have changed the file behind the mount, before the last open or since then.
    pub fn is_contended(&self) -> bool {
        self.contended.load(SeqCst) || self.reopened.load(SeqCst) != 0
    }

    /// From now on the kernel serves the file from the source by itself.
    pub fn handed_over(&self) {
        self.handed_over.store(true, SeqCst);
    }

    fn is_handed_over(&self) -> bool {
        self.handed_over.load(SeqCst)
    }

    fn in_doubt(&self) -> bool {
        self.dropped.load(SeqCst) < self.doubts.load(SeqCst)
    }

    /// Notices whether `now`, read from the source when `changes` was as given, was moved behind the mount; then the new
    /// stamp is taken. `own` changes of our own are known to be under way; while there are others nothing can be told, nor
    /// where an open has looked since.
    fn compare(&self, now: u64, changes: Changes, own: u64) {
        let (begun, known) = (self.begun.load(SeqCst), self.stamp.load(SeqCst));
        if known == now
            || self.is_handed_over()
            || begun - self.ended.load(SeqCst).min(begun) != own
            || changes != self.changes()
        {
            return;
        }
        if known != 0 {
            self.agreed.store(UNKNOWN, SeqCst);
            self.contended.store(true, SeqCst);
            // Before the stamp is taken, lest an open rely on it.
            self.doubts.fetch_add(1, SeqCst);
        }
        // Where it is another one by now, somebody else has noticed.
        let _ = self.stamp.compare_exchange(known, now, SeqCst, SeqCst);
    }
}

#[cfg(test)]
mod tests;
