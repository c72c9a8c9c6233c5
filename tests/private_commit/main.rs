//! `mmfs commit`: the source becomes what the view showed, or stays as it was.

#[path = "../common/mod.rs"]
mod common;
#[path = "../survive/mod.rs"]
mod survive;

mod committed;
mod conflicts;
mod cut_short;
mod handed;
mod matrix;
mod meanwhile;
mod parts;
mod random;
mod refused;
mod renames;
mod shapes;
