//! What the kernel may believe of a view: names, attributes, pages and listings; for how long; and what is taken back.
//!
//! Views report every change through [`FileCache`] (an open file) and [`KernelCache`] (the rest). All notifications to
//! the kernel leave from here.

mod belief;
mod file;
mod kernel_cache;
mod notifier;
mod stores;
mod unsettled;

pub use belief::Belief;
pub use file::{Changing, FileCache, Looking, MayKeep};
pub use kernel_cache::{KernelCache, Timeouts};
pub use notifier::Kernel;
pub use stores::Storing;
pub use unsettled::Asking;
