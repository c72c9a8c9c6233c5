//! Files that were deleted while open: they go when nobody has them open any more.

use std::io;

use super::garbage::is_full;
use super::node::NodeId;
use super::record::Change;
use super::{Store, key};

/// So many are looked up at a time.
const ORPHANS: usize = 1024;

impl Store {
    /// Removes files that were deleted while open, all of them: nobody has one open. Returns how many.
    ///
    /// # Errors
    /// That of a read, or of a record. One that is damaged, or that finds no room for its removal, stays and is no error.
    pub fn remove_deleted(&self) -> io::Result<u64> {
        let (mut last, mut removed): (Option<Vec<u8>>, u64) = (None, 0);
        loop {
            let found = self.state.scan(key::ORPHANS, last.as_deref(), ORPHANS)?;
            let Some((key, _)) = found.last() else {
                return Ok(removed);
            };
            last = Some(key.clone());
            for (key, _) in found {
                let Ok(key::Key::Orphan(id)) = key::Key::decode(&key) else {
                    continue;
                };
                match self.remove_orphan(id) {
                    Ok(gone) => removed += u64::from(gone),
                    // It stays. What else can be read of the store is worth more than its room.
                    Err(error)
                        if error.raw_os_error() == Some(libc::EUCLEAN) || is_full(&error) =>
                    {
                        log::warn!("a file that was deleted while open stays in the store: {error}")
                    }
                    Err(error) => return Err(error),
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
