//! `sync_file_range(2)`, to ask whether writeback has failed, without writing anything back.

use super::last_errno;
use rustix::io::{Errno, Result};
use std::os::fd::{AsFd, AsRawFd};

/// Reports a failed writeback of the file once per open file description, as fsync(2) does. Waits for nothing.
///
/// # Errors
/// EIO, ENOSPC or EDQUOT if a write was lost since the description was opened or last asked.
pub fn writeback_error(fd: impl AsFd) -> Result<()> {
    /// Beyond the end of every file, so there is no page to wait for.
    const BEYOND: libc::off64_t = libc::off64_t::MAX - 1;
    // SAFETY: the call takes plain numbers.
    let status = unsafe {
        libc::sync_file_range(
            fd.as_fd().as_raw_fd(),
            BEYOND,
            1,
            libc::SYNC_FILE_RANGE_WAIT_BEFORE,
        )
    };
    match status {
        0 => Ok(()),
        _ => match last_errno() {
            // A seccomp filter refuses the call: losses are then unknown.
            Errno::NOSYS | Errno::PERM => Ok(()),
            errno => Err(errno),
        },
    }
}
