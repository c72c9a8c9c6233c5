//! Paths of the command line.

use std::io;
use std::path::{Path, PathBuf};

use crate::refusal::StartError;

/// Makes a path absolute, because the daemon changes its working directory.
pub fn absolute(
    refused: fn(PathBuf, io::Error) -> StartError,
) -> impl Fn(&Path) -> Result<PathBuf, StartError> {
    move |file| std::path::absolute(file).map_err(|error| refused(file.into(), error))
}
