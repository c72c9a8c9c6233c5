//! A store as it is at one moment, to try changes out on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use super::data::DataFiles;
use super::disk::How;
use super::room::Room;
use super::syncing::Syncing;
use super::tail::Tail;
use super::turn::{Commit, Turn};
use super::undurable::Undurable;
use super::{Log, Store};

impl Store {
    /// What the store says now, apart from the store: what is pretended there ([`Store::pretend`]) changes nothing here. It is only
    /// looked at, as after [`Store::look`], and needs no path. Its new numbers are not to be used for the store.
    pub fn snapshot(&self) -> Self {
        let turn = self.turn.lock();
        let log = self.log.lock();
        Self {
            disk: Arc::clone(&self.disk),
            uuid: self.uuid,
            state: self.state.snapshot(),
            log: Mutex::new(Log {
                // Nothing is written to it: the store is closed.
                tail: Tail::unwritten(0, 1, Arc::clone(log.tail.file())),
                older: None,
                is_closed: true,
                undurable: Undurable::new(0),
            }),
            commit: Mutex::new(Commit::new(0)),
            committed: Condvar::new(),
            syncing: Syncing::default(),
            turn: Mutex::new(Turn {
                next_table: turn.next_table,
                next_tail: turn.next_tail,
                unfinished: None,
                manifest: turn.manifest.clone(),
            }),
            data: DataFiles::new(How::Read),
            loans: Default::default(),
            stripes: [const { Mutex::new(()) }; 64],
            room: Room::new(self.used()),
            next: AtomicU64::new(self.next.load(Ordering::Relaxed)),
            life: Mutex::new(None),
            doubts: false,
            syncs_all: Mutex::new(false),
            bell: super::bell::Bell::default(),
            _lock: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::store::{Base, Change, Kind, Node, NodeId, Store, Time};

    fn a_store(place: &Path) -> Store {
        let base = Base {
            path: "/source".into(),
            filesystem: String::new(),
            root: 2,
            born: None,
        };
        let (opened, _) = Store::make_directory(place, &base).expect("a store");
        opened.store
    }

    fn made(store: &Store) -> NodeId {
        let id = store.new_number();
        let node = Node {
            kind: Kind::File,
            origin: None,
            attributes: Default::default(),
            links: 1,
            opaque: false,
            device: 0,
            target: Vec::new(),
            reached: Vec::new(),
            known: Default::default(),
            known_size: 0,
            place: None,
        };
        let make = Change::Make(id, Box::new(node));
        store.change(vec![make]).expect("room");
        id
    }

    #[test]
    fn what_is_pretended_in_a_snapshot_changes_nothing_else() {
        let place = tempfile::tempdir().expect("a directory");
        let store = a_store(place.path());
        let one = made(&store);
        store.barrier().expect("a table");
        let two = made(&store);
        store
            .write(two, 0, b"bytes", None, Time::default(), &mut |_, _| Ok(()))
            .expect("room");
        let snapshot = store.snapshot();
        let later = made(&store);
        let removed = vec![Change::Remove(one), Change::Remove(two)];
        snapshot.pretend(&[removed]).expect("pretended");
        assert!(snapshot.change(vec![Change::Remove(one)]).is_err());
        let there = |store: &Store, id| store.node(id).expect("no error").is_some();
        for (id, is_there) in [(one, false), (two, false), (later, false)] {
            assert!(there(&store, id));
            assert_eq!(there(&snapshot, id), is_there);
        }
        assert!(store.content(two).expect("no error").is_some());
        store.close().expect("closed");
    }
}
