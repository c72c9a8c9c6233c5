//! The store alone, without a mount.

mod basics;
mod crash;
mod cuts;
mod failing;
mod fake;
mod file_model;
mod image;
mod judge;
mod meta;
mod model;
mod mutation;
mod promise;
mod races;
mod script;
mod setup;
