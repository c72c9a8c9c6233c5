//! The bytes of one source file as windows in our address space.
//!
//! - `windows`, `window`, `budget`, `geometry`: which ranges are mapped.
//! - `file`, `backing`, `writer`: who has the file open, and through which descriptors.
//! - `read`, `readahead`, `sequence`, `length`: reading.
//! - `write`, `guard`: writing, and the copy that survives SIGBUS.
//! - `sync`, `losses`: durability, and writes that were lost.
//! - `times`: modification times that are not applied yet.

mod backing;
pub mod budget;
mod file;
pub mod geometry;
pub mod guard;
mod length;
mod losses;
mod read;
mod readahead;
mod sequence;
mod sync;
mod times;
pub mod window;
pub mod windows;
mod write;
mod writer;

pub use file::{Context, ErrorCounts, Mapping};
pub use readahead::ReadPattern;
pub use write::WritePattern;
pub use writer::Writer;
