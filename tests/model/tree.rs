//! All that is in a filesystem, for comparing.

use std::collections::BTreeMap;

use super::command::{Attr, Bytes, Place};

/// Every path with what is there.
pub type Tree = BTreeMap<Place, Node>;

/// What one path shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub attr: Attr,
    /// A file's bytes, a symlink's target.
    pub content: Bytes,
    pub xattrs: BTreeMap<Vec<u8>, Bytes>,
    /// The first path, in order, that shows the same inode.
    pub same_as: Place,
    /// Type and inode number are the same in the directory's entry and in the file's attributes.
    pub entry_agrees: bool,
}

/// Where the two differ, `None` if nowhere.
pub fn difference(expected: &Tree, got: &Tree) -> Option<String> {
    let mut lines = Vec::new();
    for (path, node) in expected {
        match got.get(path) {
            None => lines.push(format!("{path:?} is missing")),
            Some(other) if other != node => lines.push(describe(path, node, other)),
            Some(_) => {}
        }
    }
    lines.extend(
        got.keys()
            .filter(|path| !expected.contains_key(path))
            .map(|path| format!("{path:?} is too much")),
    );
    (!lines.is_empty()).then(|| lines.join("\n    "))
}

fn describe(path: &Place, expected: &Node, got: &Node) -> String {
    let (one, other) = (&expected.content.0, &got.content.0);
    let place = one.iter().zip(other).position(|(a, b)| a != b);
    let place = place
        .map(|at| format!("; first other byte at {at} ({at:#x})"))
        .unwrap_or_default();
    format!("{path:?}{place}\n      expected {expected:?}\n      got      {got:?}")
}
