//! The store alone, without a mount.

mod basics;
mod crash;
mod fake;
mod file_model;
mod image;
mod judge;
mod model;
mod script;
