//! The records of the tail: what is answered stands in one of them.

use std::io;

use super::codec::{Reader, Writer, damaged};
use super::content::{From, MAX_SIZE, SourceState, pages};
use super::loan::Loan;
use super::node::{
    Attributes, Name, Node, NodeId, Origin, Time, Xattr, check_name, check_xattr_name,
};

/// One step of a change. Those of one record happen together, or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A node that was not there: made in the view, or a node of the source that is changed for the first time.
    Make(NodeId, Box<Node>),
    /// Overrides attributes.
    Attributes(NodeId, Attributes),
    /// Adds to the count of links.
    Links(NodeId, i64),
    /// The node stands for another inode of the source from now on: a directory that was replaced by one of the same name.
    Origin(NodeId, Box<Origin>),
    /// Shows or hides what the source has in a directory.
    Opaque(NodeId, bool),
    /// What a name of the directory leads to. None: what the source has shows again.
    Name {
        /// The directory.
        directory: NodeId,
        /// One component.
        name: Vec<u8>,
        /// Where the name leads.
        to: Option<Name>,
        /// Whether a file that had this name until now loses it to another file.
        replaces: bool,
        /// Since when the source's entry of this name does not show. An earlier time that the store has already stays. None: it may show.
        since: Option<Time>,
    },
    /// What an extended attribute is. None: as the origin has it.
    Xattr(NodeId, Vec<u8>, Option<Xattr>),
    /// Sets the length. To 0 gives the file a new, empty data file.
    Truncate {
        /// The file.
        node: NodeId,
        /// The number of the data file from now on. At another length than 0 it is the present one, if there is one.
        data: u64,
        /// Bytes.
        size: u64,
        /// The source's file, if this is the first change of its bytes, and the new length is not 0.
        source: Option<SourceState>,
        /// When.
        time: Time,
        /// The kernel has the data file, which is cut as soon as this is durable. A whole file stays whole, also at length 0.
        lent: bool,
    },
    /// The node has no name, and goes with its last open. The next opening of the store removes it.
    Orphan(NodeId, bool),
    /// Forgets the node, with its bytes, names and extended attributes.
    Remove(NodeId),
    /// Gives a filesystem of the source a number of the store's own.
    Filesystem(u32, Vec<u8>),
    /// The attributes of the node's origin show again, all of them.
    Reset(NodeId),
}

/// Pages that were written, or are zero now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub node: NodeId,
    /// The number of its data file.
    pub data: u64,
    /// The first page.
    pub first: u64,
    /// How many pages. 0: only the length or the time is new.
    pub count: u64,
    /// [`From::Data`] or [`From::Zero`].
    pub from: From,
    /// The file is at least so long now, in bytes.
    pub size: u64,
    /// The source's file, if this is the first change of its bytes.
    pub source: Option<SourceState>,
    /// When.
    pub time: Time,
}

/// A record. After a power cut, names and attributes count up to the last sync, bytes only if a sync names their file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Class M: names, attributes, truncation by request.
    Meta(Vec<Change>),
    /// Class D: pages, with growth and times that came by writing.
    Written(Written),
    /// Class D: all pages of the file are in its data file now.
    Whole {
        /// The file.
        node: NodeId,
        /// The number of its data file.
        data: u64,
    },
    /// Class D: the kernel may write to the data file by itself from now on. None: it does no more.
    Lent {
        /// The file.
        node: NodeId,
        /// The number of its data file.
        data: u64,
        /// What is known of it.
        loan: Option<Loan>,
    },
    /// All of class M up to record `upto` is durable, and so is the class D of these nodes.
    Sync {
        /// The number of a record.
        upto: u64,
        /// Whose bytes are durable.
        nodes: Vec<NodeId>,
    },
}

impl Record {
    /// The data files whose bytes this record is about. Before a file grows, what lies behind its end is written over with zeros.
    pub fn data_files(&self) -> Vec<(NodeId, u64)> {
        match self {
            Self::Written(written) => vec![(written.node, written.data)],
            Self::Whole { node, data } | Self::Lent { node, data, .. } => vec![(*node, *data)],
            Self::Meta(changes) => {
                let cut = |change: &Change| match change {
                    Change::Truncate { node, data, .. } => Some((*node, *data)),
                    _ => None,
                };
                changes.iter().filter_map(cut).collect()
            }
            Self::Sync { .. } => Vec::new(),
        }
    }

    /// What the kernel did with a data file that it has: class D. `size`: 0, or the new length.
    pub fn by_kernel(node: NodeId, data: u64, size: u64, time: Time) -> Self {
        Self::Written(Written {
            node,
            data,
            first: 0,
            count: 0,
            from: From::Data,
            size,
            source: None,
            time,
        })
    }

    /// Changes of one record: their count has two bytes.
    pub const MAX_CHANGES: usize = u16::MAX as usize;

    /// The node, for class D.
    pub fn data_of(&self) -> Option<NodeId> {
        match self {
            Self::Written(Written { node, .. })
            | Self::Whole { node, .. }
            | Self::Lent { node, .. } => Some(*node),
            Self::Meta(_) | Self::Sync { .. } => None,
        }
    }

    /// The record as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            Self::Meta(changes) => {
                to.u8(1).u16(changes.len() as u16);
                changes.iter().for_each(|change| change.put(&mut to));
            }
            Self::Written(written) => written.put(to.u8(2)),
            Self::Whole { node, data } => _ = to.u8(3).u64(node.0).u64(*data),
            Self::Sync { upto, nodes } => {
                to.u8(4).u64(*upto).u32(nodes.len() as u32);
                nodes.iter().for_each(|node| _ = to.u64(node.0));
            }
            Self::Lent { node, data, loan } => {
                to.u8(5).u64(node.0).u64(*data);
                to.option(*loan, |to, loan| loan.put(to));
            }
        }
        to.done()
    }

    /// The record that [`Record::encode`] made into these bytes.
    ///
    /// # Errors
    /// EUCLEAN if there is none.
    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut from = Reader(bytes);
        let record = match from.u8()? {
            1 => {
                let count = from.u16()?;
                Self::Meta(
                    (0..count)
                        .map(|_| Change::get(&mut from))
                        .collect::<io::Result<_>>()?,
                )
            }
            2 => Self::Written(Written::get(&mut from)?),
            3 => Self::Whole {
                node: node(&mut from)?,
                data: from.u64()?,
            },
            4 => {
                let (upto, count) = (from.u64()?, from.u32()?);
                Self::Sync {
                    upto,
                    nodes: (0..count)
                        .map(|_| node(&mut from))
                        .collect::<io::Result<_>>()?,
                }
            }
            5 => Self::Lent {
                node: node(&mut from)?,
                data: from.u64()?,
                loan: from.option(Loan::get)?,
            },
            _ => return Err(damaged()),
        };
        from.end()?;
        Ok(record)
    }
}

fn node(from: &mut Reader<'_>) -> io::Result<NodeId> {
    NodeId::checked(from.u64()?)
}

impl Written {
    /// As a count: from the first page on, none comes from the source any more.
    pub const SOURCE_ENDS: u64 = u64::MAX;
    /// The most pages of one record else. What it may cost a reader is bounded by it.
    pub const MAX_PAGES: u64 = 1 << 14;

    fn put(&self, to: &mut Writer) {
        to.u64(self.node.0)
            .u64(self.data)
            .u64(self.first)
            .u64(self.count);
        to.u8(u8::from(self.from == From::Data)).u64(self.size);
        to.option(self.source, |to, source| source.put(to));
        self.time.put(to);
    }

    fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        let written = Self {
            node: node(from)?,
            data: from.u64()?,
            first: from.u64()?,
            count: from.u64()?,
            from: if from.bool()? { From::Data } else { From::Zero },
            size: from.u64()?,
            source: from.option(SourceState::get)?,
            time: Time::get(from)?,
        };
        let bounded = match written.count {
            Self::SOURCE_ENDS => written.from == From::Zero && written.first <= pages(MAX_SIZE),
            count => count <= Self::MAX_PAGES && written.first <= pages(MAX_SIZE) - count,
        };
        let sound = written.size <= MAX_SIZE && bounded;
        if sound { Ok(written) } else { Err(damaged()) }
    }
}

impl Change {
    /// The node that takes the place of another by this change.
    pub(super) fn placed(&self) -> Option<NodeId> {
        match self {
            Self::Name {
                to: Some(Name::Node(id)),
                replaces: true,
                ..
            } => Some(*id),
            _ => None,
        }
    }

    fn put(&self, to: &mut Writer) {
        match self {
            Self::Make(id, node) => node.put(to.u8(1).u64(id.0)),
            Self::Attributes(id, set) => set.put(to.u8(2).u64(id.0)),
            Self::Links(id, more) => _ = to.u8(3).u64(id.0).i64(*more),
            Self::Opaque(id, opaque) => _ = to.u8(4).u64(id.0).u8(u8::from(*opaque)),
            Self::Name {
                directory,
                name,
                to: leads,
                replaces,
                since,
            } => {
                to.u8(if since.is_some() { 13 } else { 5 })
                    .u64(directory.0)
                    .bytes(name)
                    .u8(u8::from(*replaces));
                to.option(*leads, |to, leads| leads.put(to));
                if let Some(since) = since {
                    since.put(to);
                }
            }
            Self::Xattr(id, name, value) => {
                to.u8(6)
                    .u64(id.0)
                    .bytes(name)
                    .option(value.as_ref(), |to, value| value.put(to));
            }
            Self::Truncate {
                node,
                data,
                size,
                source,
                time,
                lent,
            } => {
                to.u8(if *lent { 12 } else { 7 })
                    .u64(node.0)
                    .u64(*data)
                    .u64(*size)
                    .option(*source, |to, source| source.put(to));
                time.put(to);
            }
            Self::Orphan(id, orphan) => _ = to.u8(8).u64(id.0).u8(u8::from(*orphan)),
            Self::Remove(id) => _ = to.u8(9).u64(id.0),
            Self::Filesystem(number, identity) => _ = to.u8(10).u32(*number).bytes(identity),
            Self::Origin(id, origin) => origin.put(to.u8(11).u64(id.0)),
            Self::Reset(id) => _ = to.u8(14).u64(id.0),
        }
    }

    fn get(from: &mut Reader<'_>) -> io::Result<Self> {
        Ok(match from.u8()? {
            1 => Self::Make(node(from)?, Box::new(Node::get(from)?)),
            2 => Self::Attributes(node(from)?, Attributes::get(from)?),
            3 => Self::Links(node(from)?, from.i64()?),
            4 => Self::Opaque(node(from)?, from.bool()?),
            kind @ (5 | 13) => {
                let (directory, name) = (node(from)?, check_name(from.bytes()?)?.to_vec());
                let (replaces, to) = (from.bool()?, from.option(Name::get)?);
                let since = (kind == 13).then(|| Time::get(from)).transpose()?;
                Self::Name {
                    directory,
                    name,
                    to,
                    replaces,
                    since,
                }
            }
            6 => {
                let (id, name) = (node(from)?, check_xattr_name(from.bytes()?)?.to_vec());
                Self::Xattr(id, name, from.option(Xattr::get)?)
            }
            kind @ (7 | 12) => {
                let (node, data, size) = (node(from)?, from.u64()?, from.u64()?);
                let (source, time) = (from.option(SourceState::get)?, Time::get(from)?);
                if size > MAX_SIZE {
                    return Err(damaged());
                }
                Self::Truncate {
                    node,
                    data,
                    size,
                    source,
                    time,
                    lent: kind == 12,
                }
            }
            8 => Self::Orphan(node(from)?, from.bool()?),
            9 => Self::Remove(node(from)?),
            10 => {
                let (number, identity) = (from.u32()?, from.bytes()?.to_vec());
                if identity.len() > Origin::MAX_IDENTITY {
                    return Err(damaged());
                }
                Self::Filesystem(number, identity)
            }
            11 => Self::Origin(node(from)?, Box::new(Origin::get(from)?)),
            14 => Self::Reset(node(from)?),
            _ => return Err(damaged()),
        })
    }
}
