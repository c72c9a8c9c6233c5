//! What is known of data files that the kernel has.

use std::collections::HashMap;
use std::io;

use parking_lot::RwLock;

use super::codec::{Reader, Writer};
use super::node::{NodeId, Time};

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

    /// Counts one holder more.
    pub fn hold(&self, id: NodeId, data: u64) {
        let none = Lent {
            data,
            holders: 0,
            loan: None,
            is_settled: false,
        };
        self.0.write().entry(id).or_insert(none).holders += 1;
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
