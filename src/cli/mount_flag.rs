//! Options of mount(8) that are no options of mmfs's own.

use clap::ValueEnum;

/// Generic options of mount(8), each with its opposite.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "lower")]
#[allow(missing_docs)]
pub enum MountFlag {
    Exec,
    NoExec,
    Suid,
    NoSuid,
    Dev,
    NoDev,
    SymFollow,
    NoSymFollow,
    Atime,
    NoAtime,
    Sync,
    Async,
    DirSync,
}
