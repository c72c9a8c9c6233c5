//! A session: one mount, its connection to /dev/fuse, its event loops, and its end.

mod answering;
pub mod device;
mod disconnect;
mod fusermount;
mod holders;
mod kernel;
mod mount;
mod mount_options;
mod mount_point;
pub mod preflight;
mod probe;
mod serve;
mod source_state;
mod store;
pub mod store_place;
pub mod top_mount;
mod unmount;
mod unreachable;

pub use answering::Answering;
pub use kernel::{Offer, offered};
pub use mount::mount_for_another;
pub use serve::serve;
pub use source_state::{SourceState, source_state};
pub use store::{Kept, base_of, is_of, open_store};
pub use unmount::unmount;
