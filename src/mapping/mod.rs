//! The bytes of one source file as windows in our address space.
//!
//! Apart stand: where the bytes are (`windows`, `window`, `budget`), who has the file open and through what
//! (`file`, `backing`, `writer`), reading (`read`, `readahead`, `sequence`), writing (`write`), how durable they are (`sync`,
//! `losses`), and which times they owe (`times`).

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

pub use file::{Context, Mapping, Mishaps};
pub use readahead::ReadPattern;
pub use write::WritePattern;
pub use writer::Writer;
