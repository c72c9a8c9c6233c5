//! Files that were deleted while open: they go when the store is opened the next time.

use std::io;

use super::garbage::is_full;
use super::node::NodeId;
use super::open_error::{OpenError, at};
use super::opening::Recovery;
use super::record::Change;
use super::{Store, key};

/// So many are looked up at a time.
const ORPHANS: usize = 1024;

impl Store {
    /// Removes files that were deleted while open.
    pub(super) fn remove_orphans(&self, recovery: &mut Recovery) -> Result<(), OpenError> {
        let mut last: Option<Vec<u8>> = None;
        loop {
            let found = self.state.scan(key::ORPHANS, last.as_deref(), ORPHANS);
            let found = found.map_err(at("tables"))?;
            let Some((key, _)) = found.last() else {
                return Ok(());
            };
            last = Some(key.clone());
            for (key, _) in found {
                let Ok(key::Key::Orphan(id)) = key::Key::decode(&key) else {
                    continue;
                };
                match self.remove_orphan(id) {
                    Ok(gone) => recovery.orphans += u64::from(gone),
                    // It stays. What else can be read of the store is worth more than its room.
                    Err(error)
                        if error.raw_os_error() == Some(libc::EUCLEAN) || is_full(&error) =>
                    {
                        log::warn!("a file that was deleted while open stays in the store: {error}")
                    }
                    Err(error) => return Err(at("a file that was deleted while open")(error)),
                }
            }
        }
    }

    /// False: it was gone already.
    fn remove_orphan(&self, id: NodeId) -> io::Result<bool> {
        let there = self.node(id)?.is_some();
        if there {
            self.change(vec![Change::Remove(id)])?;
        }
        Ok(there)
    }
}
