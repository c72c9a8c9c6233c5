//! Standard output.

use rustix::termios::tcgetwinsize;
use std::io::{Write, stdout};

/// Prints to standard output. False where that is closed: nobody reads it.
pub fn print(text: &str) -> bool {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}

/// Rows and columns of standard output, if it is a terminal.
pub fn size() -> Option<(usize, usize)> {
    let size = tcgetwinsize(stdout()).ok()?;
    (size.ws_col > 0).then(|| (size.ws_row.into(), size.ws_col.into()))
}
