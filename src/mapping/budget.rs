//! The address space for windows: its limits, and the order in which windows are unmapped.

use super::geometry::Geometry;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// A window's place in the order of eviction. The least ticket is evicted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    /// The tick of the last use, as of when the ticket was made.
    pub(super) last_used: u64,
    /// Distinguishes windows of the same tick.
    number: u64,
}

/// An owner of windows. It unmaps one when room is needed.
pub(super) trait Evict: Send + Sync {
    /// Unmaps the window `index`, whose ticket was just taken out of the queue. False if it was not unmapped. Either it is in
    /// use or was used since, and is back in the queue by [`AddressSpace::requeue`]. Or it had left its table before.
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
/// The least-recently-used order is updated late. The clock ticks when a window is mapped. A use only stores the present tick
/// in its window. If a window at the front of the queue was used since it was queued, it is queued again by the tick of that
/// use. So a use takes no lock here. An eviction costs O(log n) for itself, and for each window used since it was queued.
#[derive(Debug)]
pub struct AddressSpace {
    geometry: Geometry,
    budget: u64,
    max_windows: u64,
    clock: AtomicU64,
    /// Held while evicting. A window being evicted is in no queue, but its room is still taken. Without this lock a second
    /// thread would find nothing to evict, and report ENOMEM. Lock order: before the locks that [`Evict::evict`] takes.
    eviction: Mutex<()>,
    /// All windows except the one being evicted. Lock order: after the holders' locks.
    queue: Mutex<BTreeMap<Ticket, Queued>>,
    /// Lock order: last.
    usage: Mutex<Usage>,
    /// `usage`, readable without a lock.
    shown: [AtomicU64; 2],
}

impl AddressSpace {
    /// Address space of `budget` bytes, for windows of about `window_size` bytes and requests of at most `max_request` bytes.
    pub fn new(budget: u64, window_size: u64, max_request: u64) -> Arc<AddressSpace> {
        // The other half is for allocators, stacks and libraries.
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

    /// How many bytes may be mapped.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Bytes that are mapped or reserved, including borrowed windows that have left their table.
    pub fn used(&self) -> u64 {
        self.usage.lock().bytes
    }

    /// Windows that are mapped or reserved, including borrowed ones that have left their table.
    pub fn windows(&self) -> u64 {
        self.usage.lock().windows
    }

    /// Used and allowed: bytes, then windows. Takes no lock.
    pub fn figures(&self) -> [(u64, u64); 2] {
        let [bytes, windows] = [0, 1].map(|at: usize| self.shown[at].load(Relaxed));
        [(bytes, self.budget), (windows, self.max_windows)]
    }

    /// The present tick. A use stores it in its window.
    pub(super) fn now(&self) -> u64 {
        self.clock.load(Relaxed)
    }

    /// Whether a window of `bytes` fits without an eviction.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.used().saturating_add(bytes) <= self.budget()
    }

    /// Reserves room for one window of `bytes` bytes. Evicts others if needed. ENOMEM if that is not enough.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> io::Result<Lease> {
        self.admit(0, bytes, 1)?;
        Ok(Lease {
            space: Arc::clone(self),
            bytes,
        })
    }

    /// Retries an attempt to map that fails with ENOMEM (RLIMIT_AS, max_map_count, overcommit). Before each retry it evicts
    /// twice as many windows, until nothing is left to evict.
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

    /// Queues window `index` of `holder`, which was just used. The holder calls this with its table locked.
    pub(super) fn enqueue(&self, holder: Weak<dyn Evict>, index: u64) -> Ticket {
        let number = self.clock.fetch_add(1, Relaxed) + 1;
        let ticket = Ticket {
            last_used: number,
            number,
        };
        self.queue.lock().insert(ticket, Queued { holder, index });
        ticket
    }

    /// Queues a window that [`Evict::evict`] has kept again, by its `last_used`. The holder calls this with its table locked.
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

    /// Removes a window that leaves its holder's table from the queue. The holder calls this with that table locked. A window
    /// being evicted is not in the queue: `evict` finds that it has left the table.
    pub(super) fn dequeue(&self, ticket: Ticket) {
        self.queue.lock().remove(&ticket);
    }

    /// Counts `bytes` and `windows` as used, for a lease that has `held` bytes already. Evicts others if needed.
    fn admit(&self, held: u64, bytes: u64, windows: u64) -> io::Result<()> {
        if held + bytes > self.budget {
            // Evicting all other windows would not make room.
            return Err(Errno::NOMEM.into());
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

    /// Unmaps the least recently used window that is not in use. False if all are in use. Called with `eviction` held.
    fn evict_one(&self) -> bool {
        // Two rounds: the first one queues each window by its last use, the second one finds that all are in use.
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

/// Address space reserved for one window, until it is dropped.
#[derive(Debug)]
pub struct Lease {
    space: Arc<AddressSpace>,
    bytes: u64,
}

impl Lease {
    /// How many bytes are reserved.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Changes the reservation to `bytes` bytes. ENOMEM as for `reserve`.
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

/// The default budget in bytes: half of the address space that RLIMIT_AS leaves, and at most the size of physical memory.
pub fn default_budget() -> u64 {
    let info = rustix::system::sysinfo();
    let memory = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    match rustix::process::getrlimit(rustix::process::Resource::As).current {
        Some(limit) => memory.min(limit.saturating_sub(own_address_space()) / 2),
        None => memory,
    }
}

/// The size of this process's address space in bytes. 0 if /proc cannot be read.
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
