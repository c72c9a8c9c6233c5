//! A new store, and an operation on a store.

use std::io;
use std::ops::Range;

use mmfs::store::opening::Options;
use mmfs::store::{Attributes, Base, Change, Kind, Name, Node, NodeId, Origin, Store, Time, make};

use super::fake::FakeDisk;
use super::file_model::pattern;
use super::image::Image;
use super::recorded::{Model, Op};

/// Since when a name hides the source's.
pub const SINCE: Time = Time {
    seconds: -1,
    nanoseconds: 999_999_999,
};

/// What a store looks like when it was made.
pub fn new_image() -> Image {
    let disk = FakeDisk::default();
    make(&disk, &base()).unwrap();
    disk.image()
}

pub fn base() -> Base {
    Base {
        path: "/somewhere".into(),
        filesystem: "1234".into(),
        root: 2,
        born: None,
    }
}

/// Opens the store as after a power cut, or as `cookies` tell.
pub fn options(cookies: Option<&std::path::Path>) -> Options {
    Options {
        after_power_cut: cookies.is_none(),
        cookies: cookies.map(Into::into),
        device: 7,
        ..Options::default()
    }
}

/// Does it on a store. What the operation needs to know of the file, the model tells.
pub fn perform(store: &Store, model: &Model, op: &Op) -> io::Result<()> {
    let source_of = |id: NodeId| {
        move |at: u64, to: &mut [u8]| {
            pattern(id, 0, at, to);
            Ok(())
        }
    };
    let time = model.time;
    match op {
        Op::Open | Op::Reopen | Op::Kill => Ok(()),
        Op::Change(changes) => store.change(changes.clone()),
        Op::Write {
            id,
            at,
            len,
            version,
        } => {
            let mut bytes = vec![0; *len as usize];
            pattern(*id, *version, *at, &mut bytes);
            store.write(
                *id,
                *at,
                &bytes,
                model.source(*id),
                time,
                &mut source_of(*id),
            )
        }
        Op::Truncate { id, size, more } => {
            store.truncate_with(*id, *size, (model.source(*id), time), more.clone())
        }
        Op::Punch {
            id,
            range: Range { start, end },
        } => store.punch(
            *id,
            *start..*end,
            model.source(*id),
            time,
            &mut source_of(*id),
        ),
        Op::MakeWhole { id } => store.make_whole(*id, model.source(*id), time, &mut source_of(*id)),
        Op::Sync { id, data_only } => store.sync(*id, *data_only),
        Op::SyncNames => store.sync_names(),
        Op::Barrier => store.barrier(),
    }
}

/// A node. `source`: the length of the source's file, 0 for none.
pub fn node(kind: Kind, source: u64) -> Box<Node> {
    let origin = (source > 0).then(|| Origin {
        filesystem: 1,
        number: source,
        identity: Vec::new(),
    });
    Box::new(Node {
        kind,
        origin,
        attributes: Attributes::default(),
        links: 1,
        opaque: false,
        device: 0,
        target: Vec::new(),
        reached: Vec::new(),
        known: Attributes::default(),
        known_size: 0,
        place: None,
    })
}

/// A name that leads to a node.
pub fn to(directory: NodeId, name: &[u8], id: NodeId, replaces: bool) -> Change {
    Change::Name {
        directory,
        name: name.to_vec(),
        to: Some(Name::Node(id)),
        replaces,
        since: replaces.then_some(SINCE),
    }
}
