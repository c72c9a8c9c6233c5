//! The changes of `Store::change` that an operation means.

use std::collections::BTreeMap;

use mmfs::store::{Attributes, Change, Kind, Name, Node, NodeId, Origin, SourceState, Time, Xattr};

use super::model::Model;
use super::operation::{Meta, NAMES, SIZES, SLOTS, XattrIs};
use super::place::time;

/// The nodes that operations name.
pub struct Slots {
    pub ids: Vec<NodeId>,
    /// The number and state of the source's file, for a file that began as one.
    pub sources: Vec<Option<(u64, SourceState)>>,
    made: Vec<bool>,
    /// Number and size of the source's file, of all nodes that ever were.
    origins: BTreeMap<NodeId, (u64, u64)>,
}

impl Slots {
    pub fn new(ids: &[NodeId]) -> Self {
        Self {
            ids: ids.to_vec(),
            sources: vec![None; SLOTS],
            made: vec![false; SLOTS],
            origins: BTreeMap::new(),
        }
    }

    pub fn was_made(&self, slot: usize) -> bool {
        self.made[slot]
    }

    pub fn renew(&mut self, slot: usize, id: NodeId) {
        (self.ids[slot], self.made[slot], self.sources[slot]) = (id, false, None);
    }

    pub fn made(&mut self, id: NodeId, node: &Node) {
        let Some(slot) = self.ids.iter().position(|slot| *slot == id) else {
            return;
        };
        self.made[slot] = true;
        let origin = node.origin.as_ref().filter(|_| node.kind == Kind::File);
        self.sources[slot] = origin.map(|origin| {
            let size = u64::from_le_bytes(origin.identity[..8].try_into().expect("8 bytes"));
            self.origins.insert(id, (origin.number, size));
            let mtime = time(origin.number);
            (origin.number, SourceState { size, mtime })
        });
    }

    pub fn bytes_of(&self, id: NodeId) -> Option<(u64, u64)> {
        self.origins.get(&id).copied()
    }
}

pub fn name(index: usize) -> Vec<u8> {
    let names: [&[u8]; NAMES] = [
        b"a",
        b"b",
        b"a.b",
        b"B",
        b"\xff\xfe",
        b"...",
        &[b'x'; 255],
        "\u{e9}".as_bytes(),
    ];
    names[index].to_vec()
}

fn node(kind: Kind, origin: Option<(u64, usize)>) -> Node {
    let plain = Attributes {
        mode: Some(0o640),
        uid: Some(1),
        gid: Some(2),
        atime: Some(time(3)),
        mtime: Some(time(4)),
        ctime: Some(time(5)),
        btime: None,
    };
    Node {
        kind,
        origin: origin.map(|(number, size)| Origin {
            filesystem: 1,
            number,
            identity: (SIZES[size] as u64).to_le_bytes().to_vec(),
        }),
        attributes: origin.map_or(plain, |_| Attributes::default()),
        links: i64::from(origin.is_none()),
        opaque: false,
        device: 7,
        target: if kind == Kind::Symlink {
            b"to/where".to_vec()
        } else {
            Vec::new()
        },
        reached: b"way".to_vec(),
        known: Attributes::default(),
        known_size: 9,
        place: None,
    }
}

/// The changes, worked out one after the other on a copy of the model.
pub fn of(steps: &[Meta], slots: &Slots, model: &Model, milliseconds: u64) -> Vec<Change> {
    let mut scratch = Model {
        meta: model.meta.clone(),
        ..Model::default()
    };
    let mut all = Vec::new();
    for step in steps {
        let changes = one(step, slots, &scratch, milliseconds);
        let again = |change: &Change| {
            let removed = |id: &NodeId| all.contains(&Change::Remove(*id));
            matches!(change, Change::Make(id, _) if removed(id))
        };
        if changes.iter().any(again) {
            continue;
        }
        // What fails here fails in the store too, with all that comes before and behind it.
        let _ = scratch.change(&changes);
        all.extend(changes);
    }
    all
}

fn names_of(id: NodeId, model: &Model) -> Vec<Change> {
    let names = model
        .meta
        .names
        .iter()
        .filter(|(_, to)| **to == Name::Node(id));
    let change = |((directory, name), _): (&(NodeId, Vec<u8>), _)| Change::Name {
        directory: *directory,
        name: name.clone(),
        to: (name.len() % 2 == 0).then_some(Name::Hidden),
        replaces: false,
        since: None,
    };
    names.map(change).collect()
}

/// Whether `directory` lies in `id`, or is it.
fn lies_in(mut directory: NodeId, id: NodeId, model: &Model) -> bool {
    loop {
        if directory == id {
            return true;
        }
        let node = model.meta.nodes.get(&directory);
        let Some((parent, _)) = node.and_then(|node| node.place.as_ref()) else {
            return false;
        };
        directory = *parent;
    }
}

/// Attributes, some of them set: `bits` says which.
fn attributes(bits: u64, milliseconds: u64) -> Attributes {
    let some = |bit: u64| (bits >> bit & 1 == 1).then_some((bits >> 8) as u32);
    let moment = |bit| some(bit).map(|_| time(milliseconds + bit));
    Attributes {
        mode: some(0).map(|mode| mode & 0o7777),
        uid: some(1),
        gid: some(2),
        atime: moment(3),
        mtime: moment(4),
        ctime: moment(5),
        btime: moment(6),
    }
}

fn one(step: &Meta, slots: &Slots, model: &Model, milliseconds: u64) -> Vec<Change> {
    let id = |slot: &usize| slots.ids[*slot];
    match step {
        Meta::Make { slot, kind, origin } => {
            vec![Change::Make(id(slot), Box::new(node(*kind, *origin)))]
        }
        Meta::Attributes(slot, bits) => {
            vec![Change::Attributes(
                id(slot),
                attributes(*bits, milliseconds),
            )]
        }
        Meta::Links(slot, more) => vec![Change::Links(id(slot), *more)],
        Meta::Reset(slot) => vec![Change::Reset(id(slot))],
        Meta::Opaque(slot, opaque) => vec![Change::Opaque(id(slot), *opaque)],
        Meta::Name {
            directory,
            name: index,
            to,
            replaces,
        } => {
            let (directory, to, name) = (id(directory), id(to), name(*index));
            let is_directory = |node: &Node| node.kind == Kind::Directory;
            let mut changes = Vec::new();
            if model.meta.nodes.get(&to).is_some_and(is_directory) {
                if lies_in(directory, to, model) {
                    return changes;
                }
                changes = names_of(to, model);
            }
            if model.meta.orphans.contains(&to) {
                changes.push(Change::Orphan(to, false));
            }
            let to = Some(Name::Node(to));
            changes.push(Change::Name {
                directory,
                name,
                to,
                replaces: *replaces,
                since: replaces.then_some(time(milliseconds)),
            });
            changes
        }
        Meta::Unname {
            directory,
            name: index,
            hidden,
        } => vec![Change::Name {
            directory: id(directory),
            name: name(*index),
            to: hidden.then_some(Name::Hidden),
            replaces: false,
            since: Some(time(milliseconds)),
        }],
        Meta::Xattr {
            slot,
            name: index,
            value,
        } => {
            let value = match value {
                XattrIs::Set(len) => Some(Xattr::Set(vec![b'v'; *len])),
                XattrIs::Hidden => Some(Xattr::Hidden),
                XattrIs::AsBefore => None,
            };
            vec![Change::Xattr(id(slot), name(*index), value)]
        }
        // The root stays.
        Meta::Orphan(0, _) | Meta::Remove(0) => Vec::new(),
        Meta::Orphan(slot, orphan) => {
            let mut changes = if *orphan {
                names_of(id(slot), model)
            } else {
                Vec::new()
            };
            changes.push(Change::Orphan(id(slot), *orphan));
            changes
        }
        Meta::Remove(slot) => {
            let mut changes = names_of(id(slot), model);
            changes.push(Change::Remove(id(slot)));
            changes
        }
        Meta::Filesystem(number, len) => vec![Change::Filesystem(*number, vec![3; *len])],
        Meta::Bad(slot, which) => vec![bad(id(slot), slots.ids[0], *which)],
    }
}

/// A change with a value that no store takes.
fn bad(id: NodeId, root: NodeId, which: u64) -> Change {
    let make = |work: &dyn Fn(&mut Node)| {
        let mut node = node(Kind::Symlink, None);
        work(&mut node);
        Change::Make(id, Box::new(node))
    };
    let late = Time {
        seconds: 1,
        nanoseconds: 1_000_000_000,
    };
    let named = |name: &[u8]| Change::Name {
        directory: root,
        name: name.to_vec(),
        to: Some(Name::Hidden),
        replaces: false,
        since: None,
    };
    let xattr =
        |name: &[u8], len| Change::Xattr(root, name.to_vec(), Some(Xattr::Set(vec![0; len])));
    match which {
        0 => make(&|node| node.attributes.mode = Some(0o10000)),
        1 => make(&|node| node.links = -(1 << 40)),
        2 => make(&|node| node.target = b"a\0b".to_vec()),
        3 => make(&|node| node.opaque = true),
        4 => make(&|node| node.target = vec![b'a'; 4097]),
        5 => make(&|node| node.attributes.btime = Some(late)),
        6 => Change::Attributes(
            root,
            Attributes {
                mode: Some(1 << 12),
                ..Attributes::default()
            },
        ),
        7 => Change::Attributes(
            root,
            Attributes {
                atime: Some(late),
                ..Attributes::default()
            },
        ),
        8 => named(b""),
        9 => named(b"."),
        10 => named(b".."),
        11 => named(b"a/b"),
        12 => named(&[b'x'; 256]),
        13 => xattr(b"", 1),
        14 => xattr(b"a\0", 1),
        _ => xattr(b"a", 65537),
    }
}
