//! The kernel's cache of a view: names, attributes, pages and listings, how long the kernel may keep them, and notifications to
//! drop them.
//!
//! Views report each change to a [`FileCache`] (an open file) or the [`KernelCache`] (everything else). All notifications to
//! the kernel are sent from here.

mod cache_state;
mod file;
mod kernel_cache;
mod notifier;
mod stores;
mod unsettled;

pub use cache_state::CacheState;
pub use file::{Changing, FileCache, LengthCheck, MayKeep};
pub use kernel_cache::{KernelCache, Timeouts, Withdrawn};
pub use notifier::Kernel;
pub use stores::Storing;
pub use unsettled::{Asking, MAX_REPLY_TIME};
