//! The windows of one content.

use super::budget::{AddressSpace, Evict, Ticket};
use super::geometry::BaseOffset;
use super::guard::Fault;
use super::guard::Installed;
use super::window::{Window, WriteError};
use parking_lot::RwLock;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};

/// The windows of one content, by index. Requests map them, and eviction unmaps them.
///
/// A content is the part of a file from `base` on. With base zero it is the whole file. Offsets and lengths count from the
/// beginning of the content.
///
/// A window taken out of the table is unmapped when its last loan is dropped, so never under a reader. A window is remapped
/// only if nobody borrows it, and after it was taken out of the table. So remapping needs no lock.
#[derive(Debug)]
pub struct WindowSet {
    this: Weak<WindowSet>,
    space: Arc<AddressSpace>,
    base: BaseOffset,
    handler: Installed,
    /// Lock order: after `AddressSpace::eviction`, before `AddressSpace::queue`. Held to look up and change the table only,
    /// never while mapping, unmapping, copying or replying.
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    slots: BTreeMap<u64, Slot>,
    /// The greatest length of the content that a window was mapped for since the last `resize`.
    content_len: u64,
}

#[derive(Debug)]
struct Slot {
    window: Arc<Window>,
    ticket: Ticket,
}

/// A borrowed range of a content. It stays mapped for the life of the loan.
#[derive(Debug)]
pub struct Loan {
    window: Arc<Window>,
    /// The offset of the window's first byte.
    window_start: u64,
    start: usize,
    len: usize,
}

impl WindowSet {
    /// A content that begins at `base` in its file, without windows.
    pub fn new(space: &Arc<AddressSpace>, handler: Installed, base: BaseOffset) -> Arc<WindowSet> {
        let (space, table) = (Arc::clone(space), RwLock::default());
        Arc::new_cyclic(|this| WindowSet {
            this: Weak::clone(this),
            space,
            base,
            handler,
            table,
        })
    }

    /// Borrows `[offset, offset + len)`. Maps its window from `fd` if there is none or it is too short. `content_len` is the
    /// present length of the content. It is no greater than the file's length minus `base`.
    ///
    /// # Errors
    /// EINVAL if the range is empty, longer than the overlap, or not within `content_len`. ENOMEM if there is no address space
    /// for it. Otherwise the errno of mmap(2) (ENODEV: the file cannot be mapped).
    pub fn borrow(
        &self,
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        content_len: u64,
    ) -> io::Result<Loan> {
        let geometry = self.space.geometry();
        let end = offset.checked_add(len as u64).ok_or(Errno::INVAL)?;
        if len == 0 || len as u64 > geometry.overlap || end > content_len {
            return Err(Errno::INVAL.into());
        }
        if let Some(loan) = self.borrow_present(offset, len) {
            return Ok(loan);
        }
        let index = geometry.index(offset);
        let window_start = geometry.start(index);
        // The short window is borrowed until the end of this statement.
        let present_len = self.present(index).map_or(0, |short| short.len());
        let window = self.cover(fd, index, present_len, content_len)?;
        Ok(Loan {
            window,
            window_start,
            start: (offset - window_start) as usize,
            len,
        })
    }

    /// Borrows `[offset, offset + len)` from a window that is mapped and long enough. It does not know the content's length,
    /// which may be less by now.
    pub fn borrow_present(&self, offset: u64, len: usize) -> Option<Loan> {
        let geometry = self.space.geometry();
        let index = geometry.index(offset);
        let window_start = geometry.start(index);
        let window = self.present(index)?;
        let start = offset - window_start;
        (window.len() >= start.checked_add(len as u64)?).then_some(Loan {
            window,
            window_start,
            start: start as usize,
            len,
        })
    }

    /// Whether the window of `offset` is mapped.
    pub fn holds(&self, offset: u64) -> bool {
        let index = self.space.geometry().index(offset);
        self.table.read().slots.contains_key(&index)
    }

    fn present(&self, index: u64) -> Option<Arc<Window>> {
        let table = self.table.read();
        let window = &table.slots.get(&index)?.window;
        window.mark_used(self.space.now());
        Some(Arc::clone(window))
    }

    /// A window that reaches the end of the content or its full extent. It replaces one of `len` bytes: that one is grown if it
    /// is not borrowed. Otherwise a new one is mapped.
    fn cover(
        &self,
        fd: BorrowedFd<'_>,
        index: u64,
        len: u64,
        content_len: u64,
    ) -> io::Result<Arc<Window>> {
        let geometry = self.space.geometry();
        let goal = geometry.grown(index, len, content_len);
        let same = self
            .take_short(index, goal)
            .and_then(|window| self.remapped(window, goal));
        let window = match same {
            Some(window) => window,
            None => {
                let start = self.base.in_file(geometry.start(index))?;
                self.space
                    .with_room(|| Window::map(fd, start, self.space.reserve(goal)?, self.handler))?
            }
        };
        Ok(self.insert(index, window, content_len))
    }

    /// Takes a window shorter than `len` out of the table, unless it is borrowed.
    fn take_short(&self, index: u64, len: u64) -> Option<Window> {
        let mut table = self.table.write();
        let slot = table.slots.get_mut(&index)?;
        if slot.window.len() >= len || Arc::get_mut(&mut slot.window).is_none() {
            return None;
        }
        let slot = self.remove(&mut table, index)?;
        Arc::into_inner(slot.window)
    }

    fn remapped(&self, mut window: Window, len: u64) -> Option<Window> {
        self.space
            .with_room(|| window.remap(len))
            .ok()
            .map(|()| window)
    }

    /// Puts a window in the table, unless another thread has put one of at least its length there. Returns the window that is
    /// then in the table. The other one is unmapped with its last loan.
    fn insert(&self, index: u64, window: Window, content_len: u64) -> Arc<Window> {
        let window = Arc::new(window);
        let mut table = self.table.write();
        let no_shorter = |slot: &&Slot| slot.window.len() >= window.len();
        if let Some(slot) = table.slots.get(&index).filter(no_shorter) {
            let present = Arc::clone(&slot.window);
            drop(table);
            return present;
        }
        let old = self.remove(&mut table, index);
        let this: Weak<WindowSet> = Weak::clone(&self.this);
        let ticket = self.space.enqueue(this, index);
        table.slots.insert(
            index,
            Slot {
                window: Arc::clone(&window),
                ticket,
            },
        );
        table.content_len = table.content_len.max(content_len);
        drop(table);
        drop(old); // Unmapped with the table unlocked.
        window
    }

    fn remove(&self, table: &mut Table, index: u64) -> Option<Slot> {
        let slot = table.slots.remove(&index)?;
        self.space.dequeue(slot.ticket);
        Some(slot)
    }

    /// Adapts the windows to the new length `content_len`. It drops windows beyond the end, cuts the ones that reach beyond it,
    /// and lengthens the ones that stopped at the old end. The caller excludes loans meanwhile. A window that is borrowed all
    /// the same is dropped from the table, and mapped again when needed.
    pub fn resize(&self, content_len: u64) {
        let geometry = self.space.geometry();
        let (beyond, wrong) = {
            let mut table = self.table.write();
            let shrunk = content_len < table.content_len;
            table.content_len = content_len;
            let beyond = table
                .slots
                .split_off(&content_len.div_ceil(geometry.window));
            beyond
                .values()
                .for_each(|slot| self.space.dequeue(slot.ticket));
            // Only the last windows can have the wrong length: the old or the new end cut them.
            let ends =
                |index, len| len < geometry.full() || geometry.start(index) + len > content_len;
            let last = table
                .slots
                .iter()
                .rev()
                .map(|(&index, slot)| (index, slot.window.len()));
            let wrong: Vec<_> = last
                .take_while(|&(index, len)| ends(index, len))
                .filter_map(|(index, len)| {
                    let extent = geometry.extent(index, content_len);
                    let goal = match shrunk {
                        true => len.min(extent),
                        false if len < extent => geometry.grown(index, len, content_len),
                        false => len,
                    };
                    (goal != len).then_some((index, goal))
                })
                .collect();
            let take = |(index, goal)| Some((index, goal, self.remove(&mut table, index)?.window));
            (
                beyond,
                wrong.into_iter().filter_map(take).collect::<Vec<_>>(),
            )
        };
        drop(beyond); // Unmapped with the table unlocked.
        for (index, goal, window) in wrong {
            if let Some(window) =
                Arc::into_inner(window).and_then(|window| self.remapped(window, goal))
            {
                self.insert(index, window, content_len);
            }
        }
    }

    /// Forbids stores through all windows. A window that cannot be protected is dropped from the table.
    pub fn protect(&self) {
        for (index, window) in self.all() {
            if window.make_read_only().is_err() {
                let dropped = self.remove(&mut self.table.write(), index);
                drop(dropped); // Unmapped with the table unlocked.
            }
        }
    }

    /// All windows. They stay mapped for the life of the result. Used where the table must not be locked.
    fn all(&self) -> Vec<(u64, Arc<Window>)> {
        let table = self.table.read();
        let slots = table.slots.iter();
        slots
            .map(|(&index, slot)| (index, Arc::clone(&slot.window)))
            .collect()
    }

    /// Drops all windows. A borrowed one is unmapped with its last loan.
    pub fn clear(&self) {
        let slots = {
            let mut table = self.table.write();
            let slots = std::mem::take(&mut table.slots);
            slots
                .values()
                .for_each(|slot| self.space.dequeue(slot.ticket));
            slots
        };
        drop(slots); // Unmapped with the table unlocked.
    }

    /// The bytes mapped by windows in the table.
    #[cfg(test)]
    pub fn mapped_bytes(&self) -> u64 {
        self.table
            .read()
            .slots
            .values()
            .map(|slot| slot.window.len())
            .sum()
    }

    /// The windows in the table.
    #[cfg(test)]
    pub fn window_count(&self) -> usize {
        self.table.read().slots.len()
    }
}

impl Evict for WindowSet {
    /// Evicts a window, also one that was written through: its dirty pages stay in the page cache, where fsync(2) finds them.
    fn evict(&self, index: u64, ticket: Ticket) -> bool {
        let mut table = self.table.write();
        let Some(slot) = table
            .slots
            .get_mut(&index)
            .filter(|slot| slot.ticket == ticket)
        else {
            return false;
        };
        let borrowed = Arc::get_mut(&mut slot.window).is_none();
        let last_used = match borrowed {
            // Behind all other windows. Otherwise eviction would try this window again at once.
            true => self.space.now() + 1,
            false => slot.window.last_used(),
        };
        if borrowed || last_used > ticket.last_used {
            let this: Weak<WindowSet> = Weak::clone(&self.this);
            slot.ticket = self.space.requeue(ticket, last_used, this, index);
            return false;
        }
        let evicted = table.slots.remove(&index);
        drop(table);
        drop(evicted); // Unmapped with the table unlocked.
        true
    }
}

impl Drop for WindowSet {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Loan {
    /// The number of bytes borrowed.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Always false: an empty range cannot be borrowed.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Lends the borrowed bytes for exactly one writev(2). [`Window::with_bytes`] says what `f` may do.
    pub fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        self.window.with_bytes(self.start, self.len, f)
    }

    /// Guarded copy of the first `into.len()` bytes.
    ///
    /// # Panics
    /// If `into` is longer than the loan.
    pub fn read(&self, into: &mut [u8]) -> Result<(), Fault> {
        assert!(
            into.len() <= self.len,
            "reading {} of {} bytes borrowed",
            into.len(),
            self.len
        );
        self.window.read(self.start, into)
    }

    /// Guarded copy over the first `bytes.len()` bytes. Makes the window writable first.
    ///
    /// # Panics
    /// If `bytes` is longer than the loan.
    pub fn write(&self, bytes: &[u8]) -> Result<(), WriteError> {
        assert!(
            bytes.len() <= self.len,
            "writing {} of {} bytes borrowed",
            bytes.len(),
            self.len
        );
        self.window.write(self.start, bytes)
    }

    /// Starts reading `range`, in offsets of the content, up to the end of the window. See [`Window::will_need`].
    pub fn will_need(&self, range: Range<u64>) -> io::Result<()> {
        let [start, end] =
            [range.start, range.end].map(|offset| offset.saturating_sub(self.window_start));
        self.window.will_need(start..end)
    }
}

#[cfg(test)]
pub(super) mod tests;
