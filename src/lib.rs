//! mmfs shows a directory as a view of memory-mapped files.
//!
//! Data flows down: `cli` → `daemon` → `session` → `fuse` → `dispatch` → `fs` → `view` → `mapping` → `source` → `sys`.
//! docs/internals.md describes the modules. Only `session` and `fuse` use types of the FUSE library. Unsafe code is in
//! `mapping::window`, `mapping::guard` and `sys` only.

pub mod actor;
pub mod ask;
pub mod attr;
pub mod cache;
pub mod chores;
pub mod cli;
pub mod commit;
pub mod config;
pub mod counters;
pub mod daemon;
pub mod descriptors;
pub mod difference;
pub mod dispatch;
pub mod fs;
pub mod fuse;
pub mod generate;
pub mod handle;
pub mod init;
pub mod inode;
pub mod log_report;
pub mod logging;
pub mod mapping;
pub mod mount_table;
pub mod pid_file;
pub mod pool;
pub mod refusal;
pub mod report;
pub mod request;
pub mod run;
pub mod selection;
pub mod server;
pub mod service;
pub mod session;
pub mod show;
pub mod source;
pub mod store;
pub mod sys;
pub mod terminal;
pub mod utc;
pub mod version;
pub mod view;
pub mod working_directories;

/// For example `0.1.0 (19ee44b871f2)`. A build from a tarball has no commit.
pub const VERSION: &str = match env!("MMFS_COMMIT").is_empty() {
    true => env!("CARGO_PKG_VERSION"),
    false => concat!(env!("CARGO_PKG_VERSION"), " (", env!("MMFS_COMMIT"), ")"),
};
