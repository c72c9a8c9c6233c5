//! Paths in answers.

use serde::{Deserialize, Serialize};

/// The longest text of a path, in characters. An answer has several paths of up to 4,095 bytes, and JSON may need six bytes for
/// a character.
pub const MAX_TEXT: usize = 1000;

/// As `MAX_TEXT`, for the path of a store.
pub(super) const MAX_STORE_TEXT: usize = 100;

/// A path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Path {
    /// For display. Invalid UTF-8 is replaced, and a long path is cut.
    pub text: String,
    /// All bytes, in hexadecimal.
    pub hex: String,
}

impl Path {
    /// Both forms of a path.
    pub fn new(path: &std::path::Path) -> Self {
        Self::cut(path, MAX_TEXT)
    }

    /// As `new`, with a text of up to `most` characters.
    pub(super) fn cut(path: &std::path::Path, most: usize) -> Self {
        let bytes = path.as_os_str().as_encoded_bytes();
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        if let Some((at, _)) = text.char_indices().nth(most) {
            text.replace_range(at.., "…");
        }
        Path {
            text,
            hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }

    /// The path. `None` if `hex` is invalid.
    pub fn path(&self) -> Option<std::path::PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        let byte = |at| u8::from_str_radix(self.hex.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..self.hex.len()).step_by(2).map(byte).collect();
        bytes.map(|bytes| std::ffi::OsString::from_vec(bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn paths_keep_their_bytes() {
        for bytes in [&b"/a b\n\x1b[2J\"\\"[..], b"/\xff\xfe", b""] {
            let path = std::path::Path::new(OsStr::from_bytes(bytes));
            let written = serde_json::to_string(&Path::new(path)).expect("JSON");
            let read: Path = serde_json::from_str(&written).expect("a path");
            assert_eq!(read.path().as_deref(), Some(path));
        }
    }
}
