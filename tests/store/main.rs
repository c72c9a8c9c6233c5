//! The store alone, without a mount.

mod basics;
mod hostile;
