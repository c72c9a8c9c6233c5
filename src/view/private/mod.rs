//! The private view: the source with a store over it. A change made through it changes the store, never the source.
//!
//! A name is looked up in the store first. What the store says nothing of, the source shows. An inode of the source gets a node
//! in the store at its first change, together with the name by which it was reached.

mod acl;
mod adopt;
mod attributes;
mod caches;
mod changed;
mod compare;
mod conflicts;
mod content;
mod diff;
mod directories;
mod discard;
mod file_locks;
mod filesystems;
pub mod forget;
mod freeing;
mod gone;
mod in_source;
mod kinds;
mod layers;
mod listing;
mod live;
mod moved;
mod names;
mod node;
mod open;
mod origins;
mod other_links;
mod own_names;
mod passed;
mod passing;
mod rename;
mod renamed;
mod setid;
mod shown_again;
mod since;
mod source_state;
mod standing;
mod taking_over;
#[cfg(test)]
mod testing;
mod touched;
mod undo;
mod unmounted;
mod view;
mod whole;
mod xattrs;

pub use changed::{Changed, Fate, Left, Spot};
pub use content::OpenFile;
pub use diff::Failed;
pub use discard::{Plan, Stays, not_compared, plan, try_out};
pub use listing::OpenDir;
pub use node::{Key, Node};
pub use taking_over::Kept;
pub use unmounted::{Changes, Overrides, Unmounted};
pub use view::Private;
