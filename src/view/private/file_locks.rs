//! Locks of files: who reads a file's bytes shares its lock, who changes them has it alone. A file whose source does not answer
//! holds up its own clients only.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use crate::store::NodeId;

/// With so many, those that nobody has are dropped.
const MANY: usize = 1024;

/// The locks that somebody has, and some that nobody has any more.
#[derive(Default)]
pub(super) struct FileLocks(Mutex<HashMap<NodeId, Weak<RwLock<()>>>>);

impl FileLocks {
    /// The lock of a file.
    pub fn of(&self, id: NodeId) -> Arc<RwLock<()>> {
        let mut locks = self.0.lock();
        if let Some(lock) = locks.get(&id).and_then(Weak::upgrade) {
            return lock;
        }
        if locks.len() >= MANY && locks.len() == locks.capacity() {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::default();
        locks.insert(id, Arc::downgrade(&lock));
        lock
    }
}
