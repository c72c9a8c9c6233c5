//! How much address space all windows may take together, and which of them is unmapped next.

use super::geometry::Geometry;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// The place of a window in the order of eviction: the least ticket is evicted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    /// The tick of the last use that the order accounts for.
    pub(super) last_used: u64,
    /// Tells windows of the same tick apart.
    number: u64,
}

/// A holder of windows, which can unmap one of them to make room.
pub(super) trait Evict: Send + Sync {
    /// Unmaps the window `index`, which the queue held under `ticket` and no longer holds. False if it was not
    /// unmapped: it is in use or was used since, and is back in the queue by [`AddressSpace::requeue`]; or it had
    /// left its table before.
    fn evict(&self, index: u64, ticket: Ticket) -> bool;
}

/// A window in the queue.
#[derive(Debug)]
struct Queued {
    holder: Weak<dyn Evict>,
    index: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Usage {
    bytes: u64,
    windows: u64,
}

/// The address space that the windows of one session share.
///
/// Least-recently-used order is kept lazily. The clock ticks when a window is mapped. A use only stores the
/// present tick in its window. A window that is at the front of the queue, but was used since, is put back by
/// the tick of that use. So a use takes no lock here, and an eviction costs O(log n) for itself and for each
/// window used since it was queued.
#[derive(Debug)]
pub struct AddressSpace {
    geometry: Geometry,
    budget: u64,
    max_windows: u64,
    clock: AtomicU64,
    /// Held while evicting. A window being evicted is in no queue, but its room is still taken: a second
    /// thread would find nothing to evict and report ENOMEM. Lock order: before any lock that
    /// [`Evict::evict`] takes; never taken with one of those held.
    eviction: Mutex<()>,
    /// Every window that a holder has, except the one being evicted. Lock order: after the holders' locks.
    queue: Mutex<BTreeMap<Ticket, Queued>>,
    /// Lock order: last.
    usage: Mutex<Usage>,
    /// The same, readable without a lock.
    shown: [AtomicU64; 2],
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
            shown: Default::default(),
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

    /// The bytes mapped or about to be, borrowed windows that left their table included.
    pub fn used(&self) -> u64 {
        self.usage.lock().bytes
    }

    /// The windows mapped or about to be, borrowed ones that left their table included.
    pub fn windows(&self) -> u64 {
        self.usage.lock().windows
    }

    /// What is mapped and what may be: bytes, then windows. Takes no lock.
    pub fn figures(&self) -> [(u64, u64); 2] {
        let [bytes, windows] = [0, 1].map(|at: usize| self.shown[at].load(Relaxed));
        [(bytes, self.budget), (windows, self.max_windows)]
    }

    /// The present tick: what a use at this moment stores in its window.
    pub(super) fn now(&self) -> u64 {
        self.clock.load(Relaxed)
    }

    /// Whether a window of `bytes` fits without an eviction.
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
                    let _evicting = self.eviction.lock();
                    if (0..step).take_while(|_| self.evict_one()).count() == 0 {
                        return Err(e);
                    }
                    step *= 2;
                }
                other => return other,
            }
        }
    }

    /// Puts window `index` of `holder`, which was just used, at the end of the queue. The holder calls this
    /// under the lock of its table.
    pub(super) fn enqueue(&self, holder: Weak<dyn Evict>, index: u64) -> Ticket {
        let number = self.clock.fetch_add(1, Relaxed) + 1;
        let ticket = Ticket {
            last_used: number,
            number,
        };
        self.queue.lock().insert(ticket, Queued { holder, index });
        ticket
    }

    /// Puts a window that [`Evict::evict`] keeps back in the queue, at the place that `last_used` gives it.
    /// The holder calls this under the lock of its table.
    pub(super) fn requeue(
        &self,
        ticket: Ticket,
        last_used: u64,
        holder: Weak<dyn Evict>,
        index: u64,
    ) -> Ticket {
        let ticket = Ticket {
            last_used,
            ..ticket
        };
        self.queue.lock().insert(ticket, Queued { holder, index });
        ticket
    }

    /// Takes a window out of the queue that leaves its holder's table. The holder calls this under the lock of
    /// that table. A window about to be evicted is not in the queue; `evict` finds it gone from the table.
    pub(super) fn dequeue(&self, ticket: Ticket) {
        self.queue.lock().remove(&ticket);
    }

    /// Counts `bytes` and `windows` as used, evicting others as needed, for a lease that has `held` bytes already.
    fn admit(&self, held: u64, bytes: u64, windows: u64) -> io::Result<()> {
        if held + bytes > self.budget {
            return Err(Errno::NOMEM.into()); // It would not fit if all other windows were gone.
        }
        if self.take(bytes, windows) {
            return Ok(());
        }
        let _evicting = self.eviction.lock();
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
            self.show(&usage);
        }
        fits
    }

    fn give_back(&self, bytes: u64, windows: u64) {
        let mut usage = self.usage.lock();
        usage.bytes -= bytes;
        usage.windows -= windows;
        self.show(&usage);
    }

    fn show(&self, usage: &Usage) {
        self.shown[0].store(usage.bytes, Relaxed);
        self.shown[1].store(usage.windows, Relaxed);
    }

    /// Unmaps the least recently used window that is not in use; false if all are. Called with `eviction` held.
    fn evict_one(&self) -> bool {
        // Twice round: once to put every window where its last use belongs, once to see that all are in use.
        let attempts = 2 * self.queue.lock().len();
        for _ in 0..attempts {
            let Some((ticket, queued)) = self.queue.lock().pop_first() else {
                return false;
            };
            if queued
                .holder
                .upgrade()
                .is_some_and(|holder| holder.evict(queued.index, ticket))
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

/// The budget in bytes where no option gives one: half of what RLIMIT_AS leaves, and at most the size of
/// physical memory.
pub fn default_budget() -> u64 {
    let info = rustix::system::sysinfo();
    let memory = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    match rustix::process::getrlimit(rustix::process::Resource::As).current {
        Some(limit) => memory.min(limit.saturating_sub(own_address_space()) / 2),
        None => memory,
    }
}

/// The size of our own address space in bytes; 0 if /proc cannot be read.
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
