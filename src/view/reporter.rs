//! Where a view reports its changes.

use crate::cache::KernelCache;
use crate::chores::Chores;
use std::sync::Arc;

/// Where a view reports its changes, given to it when it is opened.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// What the kernel may believe.
    pub cache: Arc<KernelCache>,
    /// What is to be done later.
    pub chores: Chores,
}
