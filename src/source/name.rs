//! The check of names.

use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Accepts a single component, as the kernel sends them.
///
/// # Errors
/// EINVAL for `.`, `..`, the empty name, and any name with a slash.
pub fn check_name(name: &OsStr) -> Result<()> {
    match name.as_bytes() {
        b"" | b"." | b".." => Err(Errno::INVAL),
        bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
        _ => Ok(()),
    }
}
