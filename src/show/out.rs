//! Standard output.

use crate::refusal::StartError;
use rustix::termios::tcgetwinsize;
use std::io::{ErrorKind, Write, stdout};

/// Prints to standard output. Returns false if its reader has closed it.
///
/// # Errors
/// Those of write(2).
pub fn print(text: &str) -> Result<bool, StartError> {
    print_bytes(text.as_bytes())
}

/// As `print`, for what need not be text.
///
/// # Errors
/// Those of write(2).
pub fn print_bytes(bytes: &[u8]) -> Result<bool, StartError> {
    let mut out = stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(StartError::System("write to standard output", error)),
    }
}

/// Rows and columns of standard output, if it is a terminal.
pub fn size() -> Option<(usize, usize)> {
    let size = tcgetwinsize(stdout()).ok()?;
    (size.ws_col > 0).then(|| (size.ws_row.into(), size.ws_col.into()))
}
