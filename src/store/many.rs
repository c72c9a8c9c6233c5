//! All that a store has, and many changes at once.

use std::io;

use rustix::io::Errno;

use super::effects::{Effects, decoded};
use super::key::{self, Key};
use super::node::{Name, Named, Node, NodeId};
use super::record::{Change, Record};
use super::{Store, codec, tail};

/// So many entries are read at a time.
const STEP: usize = 1024;
/// What a record has before its changes, in bytes.
const HEAD: usize = 3;

/// A name in a directory.
pub type Place = (NodeId, Vec<u8>);

impl Store {
    /// All names of the store, sorted by their directories.
    ///
    /// # Errors
    /// EUCLEAN for a damaged store, or that of a read.
    pub fn all_names(&self) -> io::Result<Vec<(Place, Name)>> {
        self.all(key::NAMES, |key, value| match key {
            Key::Name(directory, name) => Ok(((directory, name), decoded(value, Named::get)?.to)),
            _ => Err(codec::damaged()),
        })
    }

    /// All nodes of the store.
    ///
    /// # Errors
    /// EUCLEAN for a damaged store, or that of a read.
    pub fn all_nodes(&self) -> io::Result<Vec<(NodeId, Node)>> {
        self.all(key::NODES, |key, value| match key {
            Key::Node(id) => Ok((id, decoded(value, Node::get)?)),
            _ => Err(codec::damaged()),
        })
    }

    fn all<T>(
        &self,
        prefix: &[u8],
        entry: impl Fn(Key, &[u8]) -> io::Result<T>,
    ) -> io::Result<Vec<T>> {
        let (mut all, mut last) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let found = self.state.scan(prefix, last.as_deref(), STEP)?;
            let Some((key, _)) = found.last() else {
                return Ok(all);
            };
            last = Some(key.clone());
            for (key, value) in found {
                all.push(entry(Key::decode(&key)?, &value)?);
            }
        }
    }

    /// Makes groups of changes, in as few records as hold them. A group is in one record. So is everything, if it fits.
    ///
    /// # Errors
    /// As [`Store::change`]. E2BIG for a group that fits in no record: nothing is changed then. If another error comes, the groups before it
    /// were changed, or none.
    pub fn change_all(&self, groups: Vec<Vec<Change>>) -> io::Result<()> {
        for record in packed(groups)? {
            self.change(record)?;
        }
        Ok(())
    }

    /// Lets changes count in memory. The store is only looked at.
    ///
    /// # Errors
    /// EINVAL if it is open to be changed, else as [`Store::change`].
    pub fn pretend(&self, groups: &[Vec<Change>]) -> io::Result<()> {
        if !self.is_closed() {
            return Err(Errno::INVAL.into());
        }
        for group in groups {
            let effects = Effects::of(&self.state, &Record::Meta(group.clone()))?;
            self.state.put(effects.puts);
        }
        Ok(())
    }
}

fn packed(groups: Vec<Vec<Change>>) -> io::Result<Vec<Vec<Change>>> {
    let mut records: Vec<Vec<Change>> = Vec::new();
    let mut size = 0;
    for group in groups {
        let record = Record::Meta(group);
        let more = record.encode().len() - HEAD;
        let Record::Meta(group) = record else {
            continue;
        };
        if HEAD + more > tail::MAX_PAYLOAD || group.len() > Record::MAX_CHANGES {
            return Err(Errno::TOOBIG.into());
        }
        match records.last_mut() {
            Some(last)
                if HEAD + size + more <= tail::MAX_PAYLOAD
                    && last.len() + group.len() <= Record::MAX_CHANGES =>
            {
                size += more;
                last.extend(group);
            }
            _ => {
                size = more;
                records.push(group);
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(count: usize) -> Vec<Change> {
        let name = |number: usize| Change::Name {
            directory: NodeId(NodeId::FIRST),
            name: format!("{number:0200}").into_bytes(),
            to: None,
            replaces: false,
            since: None,
        };
        (0..count).map(name).collect()
    }

    #[test]
    fn groups_are_in_one_record_if_they_fit() {
        let records = packed(vec![named(3), named(1), named(2)]).expect("records");
        assert_eq!(records, [[named(3), named(1), named(2)].concat()]);
        assert!(packed(Vec::new()).expect("none").is_empty());
    }

    #[test]
    fn a_group_is_in_one_record() {
        let records = packed(vec![named(3000), named(3000), named(1000)]).expect("records");
        assert_eq!(records, [named(3000), [named(3000), named(1000)].concat()]);
        for record in records {
            assert!(Record::Meta(record).encode().len() <= tail::MAX_PAYLOAD);
        }
        assert!(packed(vec![named(1), named(6000)]).is_err());
    }

    #[test]
    fn a_record_has_no_more_changes_than_it_can_count() {
        let reset = |count| vec![Change::Reset(NodeId(NodeId::FIRST)); count];
        let records = packed(vec![reset(60_000), reset(6000)]).expect("records");
        assert_eq!(records.len(), 2);
        assert!(packed(vec![reset(66_000)]).is_err());
    }
}
