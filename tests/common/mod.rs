//! What the tests that mount something share: the guard of a mount, ordinary users, tools.
//!
//! No test mounts inside its own process: a thread that faults on a mapped file of the mount would wait for
//! a daemon living in the very address space it holds locked.

#![allow(dead_code, reason = "every test binary uses another part of this")]

pub mod builder;
pub mod fuse;
pub mod loopfs;
pub mod mount;
pub mod private;
pub mod snapshot;
pub mod stopped;
pub mod subject;
pub mod tools;
pub mod user;
pub mod watchdog;

#[allow(unused_imports, reason = "every test binary uses another part of this")]
pub use self::{
    builder::Builder,
    loopfs::LoopFs,
    mount::Mount,
    tools::{run, sh},
    watchdog::within,
};
