//! What barriers and syncs share: whose turn it is, and how far the tail is durable.

use std::sync::Arc;

use super::manifest::Manifest;
use super::table::Table;
use super::undurable::DirtyFile;

/// Who waits for the tail to be durable. One makes the sync for all who wait.
#[derive(Debug, Default)]
pub struct Commit {
    /// The tail is durable up to this record.
    pub durable: u64,
    pub leading: bool,
    /// A sync of the tail failed when this was its last record. No sync of the tail counts until a barrier covers it.
    pub failed: Option<u64>,
}

impl Commit {
    /// All records up to `durable` are durable.
    pub fn new(durable: u64) -> Self {
        Self {
            durable,
            ..Self::default()
        }
    }
}

/// What a barrier is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To begin: it is made even if there is nothing to write, and without a reserve if there is no room for one.
    Open,
    /// To make durable what is not.
    Sync,
    /// To end: no tail counts afterwards.
    Close,
}

/// What only one barrier at a time uses.
pub struct Turn {
    /// The numbers of the next table and the next tail.
    pub next_table: u64,
    pub next_tail: u64,
    /// A barrier that has begun, and is not finished.
    pub unfinished: Option<Unfinished>,
    /// What the file `state` says.
    pub manifest: Manifest,
}

/// What a barrier writes.
#[derive(Clone)]
pub struct Unfinished {
    /// All records up to this one.
    pub upto: u64,
    /// Bytes that counted for a limit then.
    pub used: u64,
    /// Data files with bytes that these records stand for.
    pub files: Vec<DirtyFile>,
    /// The table with these records, once it is written, and how many older ones it has in it.
    pub table: Option<(Arc<Table>, usize)>,
}
