//! `sync_file_range(2)`, for asking whether writeback has failed without making anything durable.

use super::last_errno;
use rustix::io::Result;
use std::os::fd::{AsFd, AsRawFd};

/// Reports a failed writeback of the file once per open file description, as fsync(2) would, waiting for
/// the first page at most.
///
/// # Errors
/// EIO, ENOSPC or EDQUOT when a write was lost since the description was opened or last asked.
pub fn writeback_error(fd: impl AsFd) -> Result<()> {
    // SAFETY: the call takes plain numbers.
    let status = unsafe {
        libc::sync_file_range(
            fd.as_fd().as_raw_fd(),
            0,
            1,
            libc::SYNC_FILE_RANGE_WAIT_BEFORE,
        )
    };
    if status < 0 {
        Err(last_errno())
    } else {
        Ok(())
    }
}
