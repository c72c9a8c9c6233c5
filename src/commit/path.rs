//! Paths below the root of the source or of the view: components with `/` between them. That of the root is empty.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// One component.
pub type Name<'a> = &'a OsStr;

/// The directory of a path, and its last component.
pub fn parent(path: &[u8]) -> (&[u8], Name<'_>) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], OsStr::from_bytes(&path[at + 1..])),
        None => (b"", OsStr::from_bytes(path)),
    }
}

/// The directories above a path, from the nearest on. The last is the root.
pub fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors((!path.is_empty()).then(|| parent(path).0), |path| {
        (!path.is_empty()).then(|| parent(path).0)
    })
}

/// Bytes as a text of JSON and back: each byte is one character.
pub mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// For serde.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(
            &bytes
                .iter()
                .map(|byte| char::from(*byte))
                .collect::<String>(),
        )
    }

    /// For serde.
    ///
    /// # Errors
    /// The deserializer's, or a character that is no byte.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let bytes: Option<Vec<u8>> = text.chars().map(|char| u8::try_from(char).ok()).collect();
        bytes.ok_or_else(|| D::Error::custom("a character that is no byte"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};

    #[test]
    fn a_path_has_a_parent() {
        assert_eq!(parent(b"a/b/c"), (&b"a/b"[..], OsStr::new("c")));
        assert_eq!(parent(b"a"), (&b""[..], OsStr::new("a")));
        let all: Vec<&[u8]> = above(b"a/b/c").collect();
        assert_eq!(all, [&b"a/b"[..], b"a", b""]);
        assert_eq!(above(b"").count(), 0);
    }

    #[test]
    fn all_bytes_come_back() {
        #[derive(Serialize, Deserialize)]
        struct One(#[serde(with = "as_text")] Vec<u8>);
        let all: Vec<u8> = (0..=255).collect();
        let text = serde_json::to_string(&One(all.clone())).expect("JSON");
        let back: One = serde_json::from_str(&text).expect("the same");
        assert_eq!(back.0, all);
        assert!(serde_json::from_str::<One>("\"€\"").is_err());
    }
}
