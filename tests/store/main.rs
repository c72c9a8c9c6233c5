//! The store alone, without a mount.

mod basics;
mod changes;
mod crowd;
mod hostile;
mod model;
mod operation;
mod place;
mod random;
mod run;
mod sizes;
mod threads;
