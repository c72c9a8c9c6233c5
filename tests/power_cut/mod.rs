//! A store under load on a small filesystem, and what a power cut may leave of it.

pub mod disk;
pub mod history;
pub mod load;
pub mod verify;
