//! The requests that are not answered yet. The thread that receives a request adds it, the thread that answers removes it.
//! Neither takes a lock.

use super::kind::{Kind, What};
use std::cell::Cell;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

/// Size of the table: 1,024 for the kernel's limit of background requests, and 1,024 for requests of clients.
const PLACES: usize = 2048;

/// Places that are tried for a request. If all of them are taken, the request is not shown as waiting.
const MAX_TRIES: usize = 256;

const FREE: u64 = 0;
const BEING_WRITTEN: u64 = 1;

thread_local! {
    /// The place that this thread found free last. The search starts there, so requests that are never answered are skipped
    /// only once.
    static LAST: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// A request that is not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Kind and byte range.
    pub what: What,
    /// The request's node id. For a request with a name, that of the directory.
    pub node: u64,
    /// Arrival, in nanoseconds from the start of the mount.
    pub began: u64,
}

#[derive(Debug, Default)]
struct Place {
    /// `FREE`, `BEING_WRITTEN`, or the request's `began` plus 2.
    state: AtomicU64,
    node: AtomicU64,
    offset: AtomicU64,
    length: AtomicU64,
    kind: AtomicU64,
}

#[derive(Debug)]
pub struct Table {
    places: Box<[Place]>,
    threads: AtomicUsize,
}

impl Table {
    pub fn new() -> Self {
        Table {
            places: (0..PLACES).map(|_| Place::default()).collect(),
            threads: AtomicUsize::new(0),
        }
    }

    /// Adds a request and returns its place.
    pub fn put(&self, one: &Waiting) -> Option<usize> {
        let mut at = LAST.get();
        if at == usize::MAX {
            // Threads start at different places, so that they do not write to the same cache lines.
            at = self.threads.fetch_add(1, Relaxed) * 16 % PLACES;
        }
        for _ in 0..MAX_TRIES {
            let place = &self.places[at];
            let taken = || {
                let (ok, failed) = (Acquire, Relaxed);
                let state = &place.state;
                state.compare_exchange(FREE, BEING_WRITTEN, ok, failed)
            };
            if place.state.load(Relaxed) == FREE && taken().is_ok() {
                LAST.set(at);
                fence(Release);
                place.node.store(one.node, Relaxed);
                place.offset.store(one.what.offset, Relaxed);
                place.length.store(one.what.length, Relaxed);
                place.kind.store(one.what.kind as u64, Relaxed);
                place.state.store(one.began + 2, Release);
                return Some(at);
            }
            at = (at + 1) % PLACES;
        }
        LAST.set(at);
        None
    }

    /// Removes the request at this place.
    pub fn take(&self, at: usize) {
        self.places[at].state.store(FREE, Release);
    }

    /// The requests that wait, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = Waiting> + '_ {
        self.places.iter().filter_map(|place| {
            let state = place.state.load(Acquire);
            if matches!(state, FREE | BEING_WRITTEN) {
                return None;
            }
            let kind = *Kind::ALL.get(place.kind.load(Relaxed) as usize)?;
            let one = Waiting {
                what: kind.at(place.offset.load(Relaxed), place.length.load(Relaxed)),
                node: place.node.load(Relaxed),
                began: state - 2,
            };
            fence(Acquire);
            (place.state.load(Relaxed) == state).then_some(one)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(node: u64) -> Waiting {
        Waiting {
            what: Kind::Read.at(1, 2),
            node,
            began: 0,
        }
    }

    #[test]
    fn requests_that_never_end_leave_room_for_others() {
        let table = Table::new();
        let stuck: Vec<_> = (0..PLACES as u64 - 1).map(|n| table.put(&one(n))).collect();
        assert!(stuck.iter().all(Option::is_some));
        for _ in 0..10 {
            let place = table.put(&one(7)).expect("one is free");
            assert_eq!(table.all().count(), PLACES);
            assert_eq!(table.put(&one(8)), None);
            table.take(place);
            // The next search continues where this one stopped. Two rounds over the table are enough.
            let again = (0..2 * PLACES / MAX_TRIES).find_map(|_| table.put(&one(9)));
            table.take(again.expect("one is free"));
        }
        assert_eq!(table.all().count(), PLACES - 1);
    }
}
