//! Why a store is not opened.

use std::io;
use std::path::Path;

use crate::terminal::{for_shell, one_line};

/// Why a store is not opened.
#[derive(Debug)]
pub enum OpenError {
    /// There is no store in this directory.
    NotAStore,
    /// It is of a version that this mmfs does not know: its first line.
    Version(String),
    /// Another mmfs has it open.
    InUse,
    /// A part of it is not as mmfs wrote it.
    Damaged(&'static str),
    /// A commit of it was cut short.
    Committing,
    /// A call failed: what was done, and the error.
    Failed(&'static str, io::Error),
}

impl OpenError {
    /// The sentence for a person, about the store in the directory `path`.
    pub fn sentence(&self, path: &Path) -> String {
        let store = for_shell(path);
        match self {
            Self::NotAStore => format!(
                "{store} is not a store of mmfs; a private mount makes one in an empty directory"
            ),
            Self::Version(line) => {
                let line: String = line.chars().take(80).collect();
                format!(
                    "{store} is a store of another version of mmfs: {}",
                    one_line(&line)
                )
            }
            Self::InUse => {
                format!(
                    "the store {store} is in use by another mmfs; unmount that first, or wait for its commit"
                )
            }
            Self::Damaged(part) => {
                format!(
                    "the store {store} is damaged: {part} is not as mmfs wrote it; it was left as it is"
                )
            }
            Self::Committing => {
                format!(
                    "a commit of the store {store} was cut short; finish it: mmfs commit {store}"
                )
            }
            Self::Failed(part, error) => {
                format!("the store {store} cannot be opened: {part}: {error}")
            }
        }
    }
}

/// Says what was looked at when the error came.
pub fn at(part: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |error| match error.raw_os_error() {
        Some(
            libc::EUCLEAN | libc::EINVAL | libc::ELOOP | libc::ENXIO | libc::EXDEV | libc::EISDIR,
        ) => OpenError::Damaged(part),
        Some(libc::ENOENT | libc::ENOTDIR | libc::EEXIST) => OpenError::Damaged(part),
        _ => OpenError::Failed(part, error),
    }
}
