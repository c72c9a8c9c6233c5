//! The shared view: the source itself. A change made through it changes the source.

mod attributes;
mod content;
mod descriptors;
mod find;
mod in_use;
mod listing;
mod lookup;
mod names;
mod node;
mod open;
mod positions;
mod removed;
mod room;
mod stream;
mod view;
mod xattrs;

pub use content::OpenFile;
pub use node::{Node, plain_number};
pub use stream::OpenDir;
pub use view::Shared;
