//! Where a view reports its changes.

use crate::cache::KernelCache;
use crate::chores::Chores;
use std::sync::Arc;

/// Given to a view when it is opened. The view reports its changes here.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// The kernel's cache.
    pub cache: Arc<KernelCache>,
    /// Work for later.
    pub chores: Chores,
}
