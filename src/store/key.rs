//! The keys of the state. The first byte says of what kind a key is.

use std::io;

use super::codec::{Reader, Writer, damaged};
use super::node::{NodeId, Origin, check_name, check_xattr_name};

/// A key, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// A [`super::Node`].
    Node(NodeId),
    /// A [`super::Content`].
    Content(NodeId),
    /// A [`super::content::Chunk`], by its number in the file.
    Chunk(NodeId, u64),
    /// A [`super::Name`] of a directory.
    Name(NodeId, Vec<u8>),
    /// A [`super::Xattr`].
    Xattr(NodeId, Vec<u8>),
    /// The node that began as this origin. The key holds the origin's identity as bytes.
    Origin(Vec<u8>),
    /// A node that goes with its last open.
    Orphan(NodeId),
    /// A data file to which the kernel may write by itself.
    Loan(NodeId),
    /// What identifies a filesystem of the source.
    Filesystem(u32),
}

impl Key {
    /// Takes a key apart.
    ///
    /// # Errors
    /// EUCLEAN if no store has such a key.
    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut from = Reader(bytes);
        let kind = from.u8()?;
        if kind == b'o' {
            return Ok(Self::Origin(from.rest().to_vec()));
        }
        if kind == b'f' {
            let number = from.key()?;
            from.end()?;
            return Ok(Self::Filesystem(
                u32::try_from(number).map_err(|_| damaged())?,
            ));
        }
        let id = NodeId::checked(from.key()?)?;
        let key = match kind {
            b'n' => Self::Node(id),
            b'c' => Self::Content(id),
            b'p' => Self::Chunk(id, from.key()?),
            b'd' => Self::Name(id, check_name(from.rest())?.to_vec()),
            b'x' => Self::Xattr(id, check_xattr_name(from.rest())?.to_vec()),
            b'u' => Self::Orphan(id),
            b'l' => Self::Loan(id),
            _ => return Err(damaged()),
        };
        from.end()?;
        Ok(key)
    }
}

fn with_id(kind: u8, id: NodeId) -> Writer {
    let mut key = Writer::default();
    key.u8(kind).key(id.0);
    key
}

/// The key of a node.
pub fn node(id: NodeId) -> Vec<u8> {
    with_id(b'n', id).done()
}

/// The key of a node's content.
pub fn content(id: NodeId) -> Vec<u8> {
    with_id(b'c', id).done()
}

/// The key of a part of a node's page map.
pub fn chunk(id: NodeId, number: u64) -> Vec<u8> {
    with_id(b'p', id).key(number).done()
}

/// What the keys of a node's page map begin with.
pub fn chunks(id: NodeId) -> Vec<u8> {
    with_id(b'p', id).done()
}

/// The key of a name.
pub fn name(directory: NodeId, name: &[u8]) -> Vec<u8> {
    with_id(b'd', directory).raw(name).done()
}

/// What the keys of a directory's names begin with.
pub fn names(directory: NodeId) -> Vec<u8> {
    with_id(b'd', directory).done()
}

/// What the keys of all names begin with.
pub const NAMES: &[u8] = b"d";

/// What the keys of all nodes begin with.
pub const NODES: &[u8] = b"n";

/// The key of an extended attribute.
pub fn xattr(id: NodeId, name: &[u8]) -> Vec<u8> {
    with_id(b'x', id).raw(name).done()
}

/// What the keys of a node's extended attributes begin with.
pub fn xattrs(id: NodeId) -> Vec<u8> {
    with_id(b'x', id).done()
}

/// The key of an origin.
pub fn origin(origin: &Origin) -> Vec<u8> {
    let mut key = Writer::default();
    origin.put(key.u8(b'o'));
    key.done()
}

/// The key of an orphan.
pub fn orphan(id: NodeId) -> Vec<u8> {
    with_id(b'u', id).done()
}

/// What the keys of all orphans begin with.
pub const ORPHANS: &[u8] = b"u";

/// The key of a loan.
pub fn loan(id: NodeId) -> Vec<u8> {
    with_id(b'l', id).done()
}

/// What the keys of all loans begin with.
pub const LOANS: &[u8] = b"l";

/// The key of a filesystem.
pub fn filesystem(number: u32) -> Vec<u8> {
    let mut key = Writer::default();
    key.u8(b'f').key(number.into()).done()
}

/// What the keys of all filesystems begin with.
pub const FILESYSTEMS: &[u8] = b"f";
