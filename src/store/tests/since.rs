//! Since when a name of the store hides the source's.

use super::super::codec::Writer;
use super::super::effects::encoded;
use super::super::record::Record;
use super::super::state::Puts;
use super::*;

const fn at(seconds: i64) -> Time {
    Time {
        seconds,
        nanoseconds: 5,
    }
}

fn named(directory: NodeId, to: Option<Name>, since: Option<Time>) -> Change {
    Change::Name {
        directory,
        name: b"name".to_vec(),
        to,
        replaces: false,
        since,
    }
}

/// A store with a directory.
fn with_directory(place: &Path) -> (Store, NodeId) {
    let store = new_store(place);
    let id = store.new_number();
    let directory = Node {
        kind: Kind::Directory,
        ..*node()
    };
    let made = Change::Make(id, Box::new(directory));
    store.change(vec![made]).unwrap();
    (store, id)
}

#[test]
fn the_first_time_stays_until_the_sources_entry_shows() {
    let place = tempfile::tempdir().unwrap();
    let (store, id) = with_directory(place.path());
    let file = new_file(&store);
    let to_file = Some(Name::Node(file));
    let name = |to, since| {
        store.change(vec![named(id, to, since)]).unwrap();
        assert_eq!(store.name(id, b"name").unwrap(), to);
        store.hidden_since(id, b"name").unwrap()
    };
    assert_eq!(store.hidden_since(id, b"name").unwrap(), None);
    // The name of an unchanged place, and what stands in its place later.
    assert_eq!(name(to_file, None), None);
    assert_eq!(name(Some(Name::Hidden), Some(at(7))), Some(at(7)));
    assert_eq!(name(to_file, Some(at(8))), Some(at(7)));
    assert_eq!(name(to_file, None), Some(at(7)));
    assert_eq!(name(None, Some(at(9))), None);
    assert_eq!(name(to_file, None), None);
    // In one record, too.
    let both = vec![
        named(id, Some(Name::Hidden), Some(at(10))),
        named(id, to_file, Some(at(11))),
    ];
    store.change(both).unwrap();
    assert_eq!(store.hidden_since(id, b"name").unwrap(), Some(at(10)));
    store.barrier().unwrap();
    assert_eq!(name(Some(Name::Hidden), Some(at(12))), Some(at(10)));
    store.close().unwrap();
    drop(store);
    let store = open(place.path());
    assert_eq!(store.hidden_since(id, b"name").unwrap(), Some(at(10)));
    assert_eq!(store.names(id, b"", 9).unwrap().len(), 1);
    let late = Time {
        seconds: 0,
        nanoseconds: 1_000_000_000,
    };
    let bad = named(id, Some(Name::Hidden), Some(late));
    assert_eq!(errno(store.change(vec![bad])), Some(libc::EINVAL));
    drop(store);
    let report = check::check(place.path(), false).unwrap();
    assert_eq!((report.hidden, report.problems.len()), (1, 0));
}

/// Stores that were written before times were recorded.
#[test]
fn a_name_without_a_time_can_be_read() {
    let place = tempfile::tempdir().unwrap();
    let (store, id) = with_directory(place.path());
    let value = encoded(|to| _ = to.u64(0));
    let puts = Puts::from([(key::name(id, b"name"), Some(value.clone()))]);
    store.state.put(puts);
    assert_eq!(store.name(id, b"name").unwrap(), Some(Name::Hidden));
    assert_eq!(store.hidden_since(id, b"name").unwrap(), None);
    // It gets one with its next change.
    store
        .change(vec![named(id, Some(Name::Hidden), Some(at(3)))])
        .unwrap();
    assert_eq!(store.hidden_since(id, b"name").unwrap(), Some(at(3)));
    for wrong in [&[0; 4][..], &[0; 11], &[0; 13], &[255; 12]] {
        let value = [&value[..], wrong].concat();
        let puts = Puts::from([(key::name(id, b"name"), Some(value))]);
        store.state.put(puts);
        let refused = Some(libc::EUCLEAN);
        assert_eq!(errno(store.hidden_since(id, b"name").map(drop)), refused);
        assert_eq!(errno(store.name(id, b"name").map(drop)), refused);
    }
}

#[test]
fn a_record_without_a_time_is_as_it_was() {
    let id = NodeId(NodeId::FIRST);
    let mut old = Writer::default();
    old.u8(1).u16(1).u8(5).u64(id.0).bytes(b"name").u8(0);
    let bytes = old.u8(1).u64(0).done();
    let record = |since| Record::Meta(vec![named(id, Some(Name::Hidden), since)]);
    assert_eq!(Record::decode(&bytes).unwrap(), record(None));
    assert_eq!(record(None).encode(), bytes);
    let with = record(Some(at(1)));
    assert_eq!(with.encode().len(), bytes.len() + 12);
    assert_eq!(Record::decode(&with.encode()).unwrap(), with);
}
