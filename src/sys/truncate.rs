//! `truncate(2)`.

use super::last_errno;
use rustix::io::{Errno, Result};
use std::ffi::CString;

/// Changes the length of the file at `path` to `len` bytes.
///
/// # Errors
/// Those of truncate(2).
pub fn truncate(path: &str, len: u64) -> Result<()> {
    let path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let len = i64::try_from(len).map_err(|_| Errno::FBIG)?;
    // SAFETY: the path is a C string that outlives the call.
    let status = unsafe { libc::truncate(path.as_ptr(), len) };
    if status < 0 {
        Err(last_errno())
    } else {
        Ok(())
    }
}
