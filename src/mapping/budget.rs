//! How much address space the windows of all files may take together, and which window goes next.

use super::windows::WindowSet;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// No window covers less than this, whatever the budget.
const SMALLEST_WINDOW: u64 = 64 << 10;

/// Rounds up to a whole page.
pub(super) fn page_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(rustix::param::page_size() as u64)
}

/// Where windows begin and end.
///
/// ```text
/// file      0         W         2W        3W    end   page_up(end)
///           |---------|---------|---------|------|--:
/// window 0  [=========~~~~)     :         :         :   = window
/// window 1  :         [=========~~~~)     :         :   ~ overlap
/// window 2  :         :         [=========~~~~)     :
/// window 3  :         :         :         [=========)   cut at the end, rounded up to the page
/// ```
///
/// A request that begins in `[k*W, (k+1)*W)` and is no longer than the overlap ends within window k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// W: the distance from one window's beginning to the next one's, a multiple of the page.
    pub window: u64,
    /// The largest request, rounded up to the page.
    pub overlap: u64,
}

impl Geometry {
    /// Windows of `window_size` bytes, or an eighth of the budget where that is less.
    pub fn new(window_size: u64, overlap: u64, budget: u64) -> Geometry {
        let eighth = (budget / 8).max(SMALLEST_WINDOW);
        let eighth = 1 << eighth.ilog2();
        Geometry {
            window: page_up(window_size.min(eighth).max(SMALLEST_WINDOW)),
            overlap: page_up(overlap),
        }
    }

    /// The window for requests beginning at `offset`.
    pub fn index(&self, offset: u64) -> u64 {
        offset / self.window
    }

    /// The file offset at which window `index` begins.
    pub fn start(&self, index: u64) -> u64 {
        index * self.window
    }

    /// The length of a window that the end of file does not cut.
    pub fn full(&self) -> u64 {
        self.window + self.overlap
    }

    /// The length of window `index` in a file of `file_len` bytes.
    pub fn extent(&self, index: u64, file_len: u64) -> u64 {
        page_up(file_len)
            .saturating_sub(self.start(index))
            .min(self.full())
    }

    /// The length to which a window of `len` bytes grows: doubling, so that a file growing by small
    /// appends has its last window remapped a logarithmic number of times. What lies beyond the end of
    /// file is never touched (pins are bounded by the file's length) and is cut off by `resize`.
    pub fn grown(&self, index: u64, len: u64, file_len: u64) -> u64 {
        self.extent(index, file_len).max(2 * len).min(self.full())
    }
}

/// When a window was last used, and its number; the least ticket is evicted first.
pub(super) type Ticket = (u64, u64);

#[derive(Debug)]
struct Entry {
    set: Weak<WindowSet>,
    index: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Usage {
    bytes: u64,
    windows: u64,
}

/// The address space that the windows of one session share.
///
/// Least-recently-used order is kept lazily: a pin only stamps its window with the clock, which ticks
/// when a window is mapped; the queue catches up when a stamped window comes to its front. So a pin
/// takes no lock here, and an eviction costs O(log n) for itself and each window used since it was queued.
#[derive(Debug)]
pub struct AddressSpace {
    geometry: Geometry,
    budget: u64,
    max_windows: u64,
    clock: AtomicU64,
    /// Held while evicting, so that a window on its way out is not missed by a second thread that then
    /// reports ENOMEM. Lock order: before any `WindowSet::table`; never taken with one held.
    eviction: Mutex<()>,
    /// Lock order: after `WindowSet::table`. Holds every window that is in a table.
    queue: Mutex<BTreeMap<Ticket, Entry>>,
    /// Lock order: last.
    usage: Mutex<Usage>,
}

impl AddressSpace {
    /// Address space of `budget` bytes, for windows of about `window_size` bytes and requests of at most
    /// `max_request`.
    pub fn new(budget: u64, window_size: u64, max_request: u64) -> Arc<AddressSpace> {
        // Half: the other half is for allocators, stacks and libraries.
        let max_windows = max_map_count().unwrap_or(65_530) / 2;
        AddressSpace::with_limits(
            budget,
            max_windows,
            Geometry::new(window_size, max_request, budget),
        )
    }

    pub(super) fn with_limits(
        budget: u64,
        max_windows: u64,
        geometry: Geometry,
    ) -> Arc<AddressSpace> {
        Arc::new(AddressSpace {
            geometry,
            budget,
            max_windows,
            clock: AtomicU64::new(0),
            eviction: Mutex::default(),
            queue: Mutex::default(),
            usage: Mutex::default(),
        })
    }

    /// Where windows begin and end.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The bytes that may be mapped.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// The bytes mapped or about to be, pinned windows that left their table included.
    pub fn used(&self) -> u64 {
        self.usage.lock().bytes
    }

    /// The windows mapped or about to be, pinned ones that left their table included.
    pub fn windows(&self) -> u64 {
        self.usage.lock().windows
    }

    /// The stamp of a use at this moment.
    pub(super) fn now(&self) -> u64 {
        self.clock.load(Relaxed)
    }

    /// Whether a window of `bytes` fits without another one having to go.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.used().saturating_add(bytes) <= self.budget()
    }

    /// Reserves room for one window of `bytes`, evicting others as needed; ENOMEM if that does not help.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> io::Result<Lease> {
        self.admit(0, bytes, 1)?;
        Ok(Lease {
            space: Arc::clone(self),
            bytes,
        })
    }

    /// Repeats an attempt to map that fails with ENOMEM (RLIMIT_AS, max_map_count, overcommit), evicting
    /// twice as many windows each time, until it succeeds or nothing is left to evict.
    pub(super) fn with_room<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let mut step = 1;
        loop {
            match attempt() {
                Err(e) if Errno::from_io_error(&e) == Some(Errno::NOMEM) => {
                    let _one_at_a_time = self.eviction.lock();
                    if (0..step).take_while(|_| self.evict_one()).count() == 0 {
                        return Err(e);
                    }
                    step *= 2;
                }
                other => return other,
            }
        }
    }

    /// Puts a window that was just used last in the order. Called under its set's table lock.
    pub(super) fn enqueue(&self, set: Weak<WindowSet>, index: u64) -> Ticket {
        let now = self.clock.fetch_add(1, Relaxed) + 1;
        self.queue.lock().insert((now, now), Entry { set, index });
        (now, now)
    }

    /// Puts back, at the place `stamp` gives it, a window that came to the front too early. Called under
    /// its set's table lock.
    pub(super) fn requeue(
        &self,
        (_, number): Ticket,
        stamp: u64,
        set: Weak<WindowSet>,
        index: u64,
    ) -> Ticket {
        self.queue
            .lock()
            .insert((stamp, number), Entry { set, index });
        (stamp, number)
    }

    /// Forgets a window that leaves its table, under that table's lock. A window being looked at for
    /// eviction is not in the queue; the table then tells the evictor that it is gone.
    pub(super) fn dequeue(&self, ticket: Ticket) {
        self.queue.lock().remove(&ticket);
    }

    /// Takes `bytes` for a holder of `held` already.
    fn admit(&self, held: u64, bytes: u64, windows: u64) -> io::Result<()> {
        if held + bytes > self.budget {
            return Err(Errno::NOMEM.into()); // Not even an empty address space would do.
        }
        if self.take(bytes, windows) {
            return Ok(());
        }
        let _one_at_a_time = self.eviction.lock();
        while !self.take(bytes, windows) {
            if !self.evict_one() {
                return Err(Errno::NOMEM.into());
            }
        }
        Ok(())
    }

    fn take(&self, bytes: u64, windows: u64) -> bool {
        let mut usage = self.usage.lock();
        let fits =
            usage.bytes + bytes <= self.budget && usage.windows + windows <= self.max_windows;
        if fits {
            usage.bytes += bytes;
            usage.windows += windows;
        }
        fits
    }

    fn give_back(&self, bytes: u64, windows: u64) {
        let mut usage = self.usage.lock();
        usage.bytes -= bytes;
        usage.windows -= windows;
    }

    /// Unmaps the least recently used window that nobody pins. Called with `eviction` held.
    fn evict_one(&self) -> bool {
        // Twice round: once to catch up with the stamps, once to see that all of them are pinned.
        let chances = 2 * self.queue.lock().len();
        for _ in 0..chances {
            let Some((ticket, entry)) = self.queue.lock().pop_first() else {
                return false;
            };
            if entry
                .set
                .upgrade()
                .is_some_and(|set| set.evict(entry.index, ticket))
            {
                return true;
            }
        }
        false
    }
}

/// Address space reserved for one window; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    space: Arc<AddressSpace>,
    bytes: u64,
}

impl Lease {
    /// The bytes reserved.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reserves more, up to `bytes`, or gives back what is above; ENOMEM as for `reserve`.
    pub(super) fn resize(&mut self, bytes: u64) -> io::Result<()> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.space.admit(self.bytes, more, 0)?,
            None => self.space.give_back(self.bytes - bytes, 0),
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.space.give_back(self.bytes, 1);
    }
}

/// What windows may take when nobody says otherwise: half of what the limit on address space leaves, and
/// no more than there is physical memory.
pub fn default_budget() -> u64 {
    let info = rustix::system::sysinfo();
    let memory = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    match rustix::process::getrlimit(rustix::process::Resource::As).current {
        Some(limit) => memory.min(limit.saturating_sub(own_address_space()) / 2),
        None => memory,
    }
}

/// The size of our own address space in bytes; 0 if /proc does not tell.
fn own_address_space() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn max_map_count() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/vm/max_map_count")
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests;
