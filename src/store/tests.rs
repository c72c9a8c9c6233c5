//! Faults of the store that its other tests do not show each time.

mod parts;
mod since;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::opening::Options;
use super::*;

const NOW: Time = Time {
    seconds: 9,
    nanoseconds: 0,
};

fn new_store(place: &Path) -> Store {
    let base = Base {
        path: "/source".into(),
        filesystem: String::new(),
        root: 2,
        born: None,
    };
    make(&Directory::open(place).unwrap(), &base).unwrap();
    open(place)
}

fn open(place: &Path) -> Store {
    let disk = Arc::new(Directory::open(place).unwrap());
    let options = Options::default();
    Store::open(disk, &options).unwrap().store
}

fn new_file(store: &Store) -> NodeId {
    let id = store.new_number();
    store.change(vec![Change::Make(id, node())]).unwrap();
    id
}

fn node() -> Box<Node> {
    Box::new(Node {
        kind: Kind::File,
        origin: None,
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

fn no_source(_: u64, _: &mut [u8]) -> io::Result<()> {
    panic!("nothing comes from a source");
}

fn errno(done: io::Result<()>) -> Option<i32> {
    done.unwrap_err().raw_os_error()
}

#[test]
fn a_sweep_leaves_a_data_file_until_its_truncation_is_durable() {
    let place = tempfile::tempdir().unwrap();
    let store = new_store(place.path());
    let id = new_file(&store);
    store
        .write(id, 0, b"old", None, NOW, &mut no_source)
        .unwrap();
    store.close().unwrap();
    drop(store);
    let store = open(place.path());
    let first = store.next.load(Ordering::Relaxed);
    let old = store.content(id).unwrap().unwrap();
    let file = place.path().join(data::path(id, old.data));
    store.truncate(id, 0, None, NOW).unwrap();
    store.sweep(first).unwrap();
    assert!(file.exists());
    // A power cut now: nothing was synced.
    drop(store);
    let store = open(place.path());
    assert_eq!(store.content(id).unwrap(), Some(old));
    store.truncate(id, 0, None, NOW).unwrap();
    store.close().unwrap();
    assert!(!file.exists());
}

#[test]
fn a_read_goes_on_while_the_file_is_truncated() {
    let place = tempfile::tempdir().unwrap();
    let store = new_store(place.path());
    let id = new_file(&store);
    let now = Some(SourceState {
        size: 2 * PAGE,
        mtime: NOW,
    });
    store
        .write(id, PAGE, &[1; PAGE as usize], now, NOW, &mut no_source)
        .unwrap();
    let mut cut = |_: u64, _: &mut [u8]| {
        store.truncate(id, 0, now, NOW)?;
        store.write(id, 0, b"new", now, NOW, &mut no_source)?;
        store.barrier()
    };
    let mut found = [0x55; 2 * PAGE as usize];
    assert_eq!(store.read(id, 0, &mut found, &mut cut).unwrap(), 3);
    assert_eq!(&found[..3], b"new");
}

#[test]
fn a_change_that_no_reader_takes_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let store = new_store(place.path());
    let id = new_file(&store);
    let late = Time {
        seconds: 0,
        nanoseconds: 1_000_000_000,
    };
    let odd = Some(SourceState {
        size: 1 << 63,
        mtime: NOW,
    });
    for (now, time) in [(None, late), (odd, NOW)] {
        let refused = Some(libc::EINVAL);
        let source = &mut no_source;
        assert_eq!(errno(store.write(id, 0, b"x", now, time, source)), refused);
        assert_eq!(errno(store.truncate(id, 1, now, time)), refused);
        assert_eq!(errno(store.punch(id, 0..1, now, time, source)), refused);
        assert_eq!(errno(store.make_whole(id, now, time, source)), refused);
    }
    let many = vec![Change::Orphan(id, false); (1 << 16) + 1];
    assert_eq!(errno(store.change(many)), Some(libc::E2BIG));
    let long = Change::Filesystem(1, vec![1; 5000]);
    assert_eq!(errno(store.change(vec![long])), Some(libc::EINVAL));
    let far = Change::Links(id, 1 << 40);
    assert_eq!(errno(store.change(vec![far])), Some(libc::EINVAL));
    store.close().unwrap();
    drop(store);
    assert_eq!(open(place.path()).node(id).unwrap(), Some(*node()));
}
