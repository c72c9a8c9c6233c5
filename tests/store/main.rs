//! The store alone, without a mount.

mod basics;
mod changes;
mod crash;
mod crowd;
mod cuts;
mod failing;
mod fake;
mod file_model;
mod hostile;
mod image;
mod judge;
mod lost;
mod meta;
mod model;
mod mutation;
mod operation;
mod place;
mod promise;
mod races;
mod random;
mod recorded;
mod run;
mod script;
mod setup;
mod sizes;
mod threads;
