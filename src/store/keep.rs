//! Which records of the tails count after a kill or a power cut.

use std::collections::HashMap;
use std::io;

use super::codec;
use super::node::NodeId;
use super::record::Record;
use super::tail::Found;

/// Which records count.
pub struct Keep {
    all: bool,
    /// Class M counts up to this record.
    meta: u64,
    /// Class D of a node counts up to its record.
    data: HashMap<NodeId, u64>,
}

impl Keep {
    /// Reads what syncs in the tails say. `all`: whatever they say, all records count.
    ///
    /// # Errors
    /// EUCLEAN for a record that no store writes.
    pub fn of(tails: &[Found], all: bool) -> io::Result<Self> {
        let mut keep = Self {
            all,
            meta: 0,
            data: HashMap::new(),
        };
        if keep.all {
            return Ok(keep);
        }
        let records = || tails.iter().flat_map(Found::records);
        // A sync may name millions of nodes. Those without a record are not remembered.
        for (_, payload) in records() {
            if let Some(node) = Record::decode(payload)?.data_of() {
                keep.data.insert(node, 0);
            }
        }
        for (number, payload) in records() {
            if let Record::Sync { upto, nodes } = Record::decode(payload)? {
                if upto >= number {
                    return Err(codec::damaged());
                }
                keep.meta = keep.meta.max(upto);
                for node in nodes {
                    if let Some(data) = keep.data.get_mut(&node) {
                        *data = (*data).max(upto);
                    }
                }
            }
        }
        Ok(keep)
    }

    /// Whether a record counts.
    pub fn has(&self, number: u64, record: &Record) -> bool {
        let upto = match record.data_of() {
            Some(node) => self.data.get(&node).copied().unwrap_or(0),
            None => self.meta,
        };
        self.all || number <= upto
    }
}
