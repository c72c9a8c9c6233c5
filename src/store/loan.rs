//! What is known of data files that the kernel has.

use std::collections::HashMap;
use std::io;

use parking_lot::RwLock;

use super::codec::{Reader, Writer};
use super::node::{NodeId, Time};

/// The most data files that the kernel has at a time. The next opening after a kill takes all of them back: this is some seconds,
/// and 100 MB of memory.
pub const MAX_LENT: usize = 1 << 18;

/// What the kernel may do with a data file. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Read.
    Reads,
    /// Write, too.
    Writes,
    /// Write, and what is written is durable at once (O_SYNC, O_DSYNC).
    SyncedWrites,
}

/// A data file to which the kernel may write, as the state has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loan {
    /// Its length counts after a power cut, too.
    pub is_synced: bool,
    /// Its time of modification as of the last refresh. Another one means that the kernel has written.
    pub seen: Time,
}

impl Loan {
    pub fn put(self, to: &mut Writer) {
        self.seen.put(to.u8(u8::from(self.is_synced)));
    }

    pub fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        Ok(Self {
            is_synced: from.bool()?,
            seen: Time::get(from)?,
        })
    }
}

/// A data file that the kernel has.
#[derive(Debug, Clone, Copy)]
pub struct Lent {
    pub data: u64,
    /// How often it was lent. With 0, its return could not be recorded yet.
    pub holders: u32,
    /// The kernel may write to it.
    pub loan: Option<Loan>,
    /// At the last refresh it had not been written to for some time, so its time tells whether it was since.
    pub is_settled: bool,
}

/// The data files that the kernel has.
#[derive(Debug, Default)]
pub struct Loans(RwLock<HashMap<NodeId, Lent>>);

impl Loans {
    pub fn get(&self, id: NodeId) -> Option<Lent> {
        self.0.read().get(&id).copied()
    }

    pub fn remove(&self, id: NodeId) {
        self.0.write().remove(&id);
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.0.read().keys().copied().collect()
    }

    pub fn update(&self, id: NodeId, update: impl FnOnce(&mut Lent)) {
        if let Some(lent) = self.0.write().get_mut(&id) {
            update(lent);
        }
    }

    /// Counts one holder more. False: the kernel has too many data files already.
    pub fn hold(&self, id: NodeId, data: u64) -> bool {
        let none = Lent {
            data,
            holders: 0,
            loan: None,
            is_settled: false,
        };
        let mut all = self.0.write();
        if all.len() >= MAX_LENT && !all.contains_key(&id) {
            return false;
        }
        all.entry(id).or_insert(none).holders += 1;
        true
    }

    /// Counts one holder less, and returns how many are left.
    pub fn let_go(&self, id: NodeId) -> u32 {
        let mut all = self.0.write();
        let Some(lent) = all.get_mut(&id) else {
            return 0;
        };
        lent.holders = lent.holders.saturating_sub(1);
        let left = lent.holders;
        if left == 0 && lent.loan.is_none() {
            all.remove(&id);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store with more of them could not be opened after a kill.
    #[test]
    fn no_more_data_files_are_lent_than_an_opening_takes_back() {
        let loans = Loans::default();
        let ids = || (0..MAX_LENT as u64).map(NodeId);
        assert!(ids().all(|id| loans.hold(id, 1)));
        let next = NodeId(MAX_LENT as u64);
        assert!(!loans.hold(next, 1));
        assert!(loans.hold(NodeId(7), 1), "one that it has");
        assert_eq!(loans.let_go(NodeId(8)), 0);
        assert!(loans.hold(next, 1), "there is room for one again");
    }
}
