//! The last requests, in a ring buffer that is written and read without a lock.

use super::kind::{Kind, What};
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};

/// Number of requests that the ring buffer keeps.
pub const KEPT: u64 = 4096;

/// A reader stops at a slot that is still being written, and reads it next time, if it is one of the newest 256. It skips
/// older ones.
const MAX_UNFINISHED: u64 = 256;

/// A request that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Kind and byte range.
    pub what: What,
    /// The request's node id. For a request with a name, that of the directory.
    pub node: u64,
    /// Arrival, in nanoseconds from the start of the mount.
    pub began: u64,
    /// Duration, in nanoseconds.
    pub took: u64,
    /// 0 for success.
    pub errno: i32,
}

#[derive(Debug, Default)]
struct Slot {
    /// 0: never used. 2 * number + 1: the request with this number is being written. 2 * number + 2: it is complete.
    state: AtomicU64,
    began: AtomicU64,
    took: AtomicU64,
    node: AtomicU64,
    offset: AtomicU64,
    length: AtomicU64,
    kind_and_errno: AtomicU64,
}

#[derive(Debug)]
pub struct Recent {
    next: AtomicU64,
    slots: Box<[Slot]>,
}

impl Recent {
    pub fn new() -> Self {
        Recent {
            next: AtomicU64::new(0),
            slots: (0..KEPT).map(|_| Slot::default()).collect(),
        }
    }

    pub fn add(&self, one: &Answered) {
        let number = self.next.fetch_add(1, Relaxed);
        let slot = &self.slots[(number % KEPT) as usize];
        let before = slot.state.load(Relaxed);
        let free = before % 2 == 0 && before < finished(number);
        // A thread was suspended while it wrote this slot, for 4,096 requests or longer. It keeps the slot. The new request is
        // not recorded.
        if !free
            || slot
                .state
                .compare_exchange(before, finished(number) - 1, AcqRel, Relaxed)
                .is_err()
        {
            return;
        }
        fence(Release);
        slot.began.store(one.began, Relaxed);
        slot.took.store(one.took, Relaxed);
        slot.node.store(one.node, Relaxed);
        slot.offset.store(one.what.offset, Relaxed);
        slot.length.store(one.what.length, Relaxed);
        let kind_and_errno = (one.what.kind as u64) << 32 | u64::from(one.errno as u32);
        slot.kind_and_errno.store(kind_and_errno, Relaxed);
        slot.state.store(finished(number), Release);
    }

    /// Calls `take` for the requests from number `from` on, in order, with their numbers. `take` returns false if it has no
    /// room for the request. Returns the number to continue with.
    pub fn read(&self, from: u64, mut take: impl FnMut(u64, Answered) -> bool) -> u64 {
        let end = self.next.load(Acquire);
        let first = end.saturating_sub(KEPT);
        // A number that is not reached yet is invalid, or belongs to an earlier mount.
        let from = if from > end { first } else { from.max(first) };
        for number in from..end {
            match self.slot(number) {
                Some(one) if !take(number, one) => return number,
                None if end - number < MAX_UNFINISHED && !self.is_overwritten(number) => {
                    return number;
                }
                _ => {}
            }
        }
        end
    }

    fn slot(&self, number: u64) -> Option<Answered> {
        let slot = &self.slots[(number % KEPT) as usize];
        if slot.state.load(Acquire) != finished(number) {
            return None;
        }
        let kind_and_errno = slot.kind_and_errno.load(Relaxed);
        let kind = *Kind::ALL.get((kind_and_errno >> 32) as usize)?;
        let one = Answered {
            what: kind.at(slot.offset.load(Relaxed), slot.length.load(Relaxed)),
            node: slot.node.load(Relaxed),
            began: slot.began.load(Relaxed),
            took: slot.took.load(Relaxed),
            errno: kind_and_errno as u32 as i32,
        };
        fence(Acquire);
        (slot.state.load(Relaxed) == finished(number)).then_some(one)
    }

    fn is_overwritten(&self, number: u64) -> bool {
        let slot = &self.slots[(number % KEPT) as usize];
        slot.state.load(Acquire) > finished(number)
    }
}

fn finished(number: u64) -> u64 {
    2 * number + 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn one(number: u64) -> Answered {
        Answered {
            what: Kind::Read.at(number, number),
            node: number,
            began: number,
            took: number,
            errno: number as i32,
        }
    }

    #[test]
    fn the_last_ones_are_kept_in_order() {
        let recent = Recent::new();
        (0..KEPT + 10).for_each(|number| recent.add(&one(number)));
        let mut seen = Vec::new();
        let next = recent.read(0, |number, read| {
            assert_eq!(read, one(number));
            seen.push(number);
            true
        });
        assert!(seen.into_iter().eq(10..KEPT + 10));
        assert_eq!(next, KEPT + 10);
    }

    #[test]
    fn reading_goes_on_where_there_was_no_room() {
        let recent = Recent::new();
        (0..10).for_each(|number| recent.add(&one(number)));
        let mut room = 3;
        let next = recent.read(0, |_, _| {
            room -= 1;
            room >= 0
        });
        assert_eq!(next, 3);
        let mut first = None;
        let end = recent.read(next, |number, _| {
            first.get_or_insert(number);
            true
        });
        assert_eq!((first, end), (Some(3), 10));
        assert_eq!(recent.read(10, |_, _| true), 10);
        assert_eq!(recent.read(u64::MAX, |_, _| true), 10, "a number made up");
    }

    #[test]
    fn nothing_is_torn_while_it_is_written() {
        let recent = Arc::new(Recent::new());
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let recent = recent.clone();
                std::thread::spawn(move || (1..30_000).for_each(|number| recent.add(&one(number))))
            })
            .collect();
        let mut from = 0;
        while writers.iter().any(|writer| !writer.is_finished()) {
            from = recent.read(from, |_, read| {
                assert_eq!(read, one(read.node));
                true
            });
        }
        writers
            .into_iter()
            .for_each(|writer| writer.join().expect("a writer"));
    }
}
