//! What a store does, in a few lines each.

use std::sync::Arc;

use mmfs::store::check::check;
use mmfs::store::keeper::Keeper;
use mmfs::store::opening::{OpenError, Rule};
use mmfs::store::{
    Attributes, Base, Change, Directory, Kind, Name, Node, NodeId, Origin, SourceState, Store,
    Time, Xattr, make,
};

const NOW: Time = Time {
    seconds: 1_000_000_000,
    nanoseconds: 5,
};

fn base() -> Base {
    Base {
        path: "/some/where\nelse".into(),
        filesystem: "1234".into(),
        root: 2,
        born: Some(NOW),
    }
}

fn new_store(path: &std::path::Path) {
    make(&Directory::open(path).unwrap(), &base()).unwrap();
}

fn open(path: &std::path::Path) -> (Store, Rule) {
    let (opened, found) = Store::open_directory(path, false).unwrap();
    assert_eq!(found, base());
    (opened.store, opened.recovery.rule)
}

fn node(kind: Kind) -> Box<Node> {
    let attributes = Attributes {
        mode: Some(0o644),
        uid: Some(0),
        gid: Some(0),
        ..Attributes::default()
    };
    Box::new(Node {
        kind,
        origin: None,
        attributes,
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

fn name(directory: NodeId, name: &str, to: NodeId) -> Change {
    Change::Name {
        directory,
        name: name.into(),
        to: Some(Name::Node(to)),
        replaces: false,
        since: None,
    }
}

fn no_source(_: u64, _: &mut [u8]) -> std::io::Result<()> {
    panic!("nothing comes from a source");
}

/// What lies behind the end of a data file gives its room back after a kill, too.
#[test]
fn what_was_cut_off_before_a_kill_gives_its_room_back() {
    let place = tempfile::tempdir().unwrap();
    new_store(place.path());
    let (store, _) = open(place.path());
    let file = store.new_number();
    store
        .change(vec![Change::Make(file, node(Kind::File))])
        .unwrap();
    let bytes = vec![7; 1 << 20];
    store
        .write(file, 0, &bytes, None, NOW, &mut no_source)
        .unwrap();
    store.barrier().unwrap();
    store.truncate(file, 100, None, NOW).unwrap();
    drop(store);
    let (store, rule) = open(place.path());
    assert_eq!(rule, Rule::Killed);
    store.barrier().unwrap();
    let content = store.content(file).unwrap().unwrap();
    let data = store.data_file(file, &content).unwrap().unwrap();
    assert!(data.size().unwrap() <= 4096);
}

#[test]
fn what_was_changed_is_there_after_a_kill_and_after_a_close() {
    let place = tempfile::tempdir().unwrap();
    new_store(place.path());
    let (store, rule) = open(place.path());
    assert_eq!(rule, Rule::Closed);
    let (root, file, from_source) = (store.new_number(), store.new_number(), store.new_number());
    store
        .change(vec![
            Change::Make(root, node(Kind::Directory)),
            Change::Make(file, node(Kind::File)),
            name(root, "file", file),
            Change::Xattr(file, b"user.a".to_vec(), Some(Xattr::Set(b"b".to_vec()))),
            Change::Make(from_source, node(Kind::File)),
            name(root, "changed", from_source),
        ])
        .unwrap();
    store
        .write(file, 3, b"hello", None, NOW, &mut no_source)
        .unwrap();
    let source = Some(SourceState {
        size: 10_000,
        mtime: NOW,
    });
    let mut sevens = |_: u64, to: &mut [u8]| {
        to.fill(7);
        Ok(())
    };
    store
        .write(from_source, 4090, b"0123456789", source, NOW, &mut sevens)
        .unwrap();
    drop(store);
    for expected in [Rule::Killed, Rule::Closed] {
        let (store, rule) = open(place.path());
        assert_eq!(rule, expected);
        assert_eq!(store.names(root, b"", 10).unwrap().len(), 2);
        assert_eq!(store.name(root, b"file").unwrap(), Some(Name::Node(file)));
        assert_eq!(store.xattrs(file).unwrap().len(), 1);
        let mut bytes = [1; 20];
        assert_eq!(store.read(file, 0, &mut bytes, &mut no_source).unwrap(), 8);
        assert_eq!(&bytes[..8], b"\0\0\0hello");
        let mut bytes = vec![1; 20_000];
        assert_eq!(
            store.read(from_source, 0, &mut bytes, &mut sevens).unwrap(),
            10_000
        );
        let mut wanted = vec![7; 10_000];
        wanted[4090..4100].copy_from_slice(b"0123456789");
        assert!(bytes[..10_000] == wanted);
        assert_eq!(store.used(), 4096 * 3);
        store.close().unwrap();
    }
    let report = check(place.path(), false).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
}

#[test]
fn a_store_that_is_open_is_not_opened_again() {
    let place = tempfile::tempdir().unwrap();
    new_store(place.path());
    let (store, _) = open(place.path());
    assert!(matches!(
        Store::open_directory(place.path(), false),
        Err(OpenError::InUse)
    ));
    store.close().unwrap();
}

#[test]
fn the_keeper_makes_barriers_while_much_is_changed() {
    let place = tempfile::tempdir().unwrap();
    new_store(place.path());
    let store = Arc::new(open(place.path()).0);
    let keeper = Keeper::start(&store, true).unwrap();
    let root = store.new_number();
    store
        .change(vec![Change::Make(root, node(Kind::Directory))])
        .unwrap();
    for number in 0..50_000 {
        let id = store.new_number();
        store
            .change(vec![
                Change::Make(id, node(Kind::File)),
                name(root, &number.to_string(), id),
            ])
            .unwrap();
    }
    drop(keeper);
    drop(store);
    let (store, rule) = open(place.path());
    assert_eq!(rule, Rule::Killed);
    let (mut count, mut last) = (0, Vec::new());
    loop {
        let names = store.names(root, &last, 1000).unwrap();
        let Some((name, _)) = names.last() else { break };
        last = name.clone();
        count += names.len();
    }
    assert_eq!(count, 50_000);
    store.close().unwrap();
    assert!(
        std::fs::read_dir(place.path().join("tables"))
            .unwrap()
            .count()
            < 5
    );
}

#[test]
fn a_directory_stands_for_the_one_that_replaced_it() {
    let place = tempfile::tempdir().unwrap();
    new_store(place.path());
    let (store, _) = open(place.path());
    let origin = |number| Origin {
        filesystem: 1,
        number,
        identity: vec![1, 2],
    };
    let (first, second) = (store.new_number(), store.new_number());
    let made = |number| {
        Box::new(Node {
            origin: Some(origin(number)),
            ..*node(Kind::Directory)
        })
    };
    store
        .change(vec![
            Change::Make(first, made(7)),
            Change::Make(second, made(8)),
        ])
        .unwrap();
    let moves = |id, number| store.change(vec![Change::Origin(id, Box::new(origin(number)))]);
    assert_eq!(
        moves(first, 8).unwrap_err().kind(),
        std::io::ErrorKind::AlreadyExists
    );
    moves(first, 9).unwrap();
    assert_eq!(store.by_origin(&origin(7)).unwrap(), None);
    assert_eq!(store.by_origin(&origin(9)).unwrap(), Some(first));
    moves(second, 7).unwrap();
    let own = store.new_number();
    store
        .change(vec![Change::Make(own, node(Kind::Directory))])
        .unwrap();
    assert_eq!(
        moves(own, 10).unwrap_err().raw_os_error(),
        Some(libc::EINVAL)
    );
    store.close().unwrap();
    drop(store);
    assert_eq!(
        check(place.path(), false).unwrap().problems,
        Vec::<String>::new()
    );
}

/// A write after utimensat(2) has no time of a write before it to compare with.
#[test]
fn a_write_after_the_times_were_set_has_its_own_time() {
    let place = tempfile::tempdir().unwrap();
    new_store(place.path());
    let (store, _) = open(place.path());
    let file = store.new_number();
    store
        .change(vec![Change::Make(file, node(Kind::File))])
        .unwrap();
    let write = || store.write(file, 0, b"hello", None, NOW, &mut no_source);
    write().unwrap();
    let set = Attributes {
        mtime: Some(Time::default()),
        ctime: Some(Time::default()),
        ..Attributes::default()
    };
    store.change(vec![Change::Attributes(file, set)]).unwrap();
    write().unwrap();
    assert_eq!(store.content(file).unwrap().unwrap().mtime, Some(NOW));
    store.close().unwrap();
}

/// What a record holds is counted in two bytes, and a value is never longer than a block of a table.
#[test]
fn a_change_that_no_record_can_hold_is_refused() {
    let place = tempfile::tempdir().unwrap();
    new_store(place.path());
    let (store, _) = open(place.path());
    let file = store.new_number();
    let make = Change::Make(file, node(Kind::File));
    store.change(vec![make]).unwrap();
    let many = vec![Change::Orphan(file, false); 65_540];
    let errno = |done: std::io::Result<()>| done.unwrap_err().raw_os_error();
    assert_eq!(errno(store.change(many)), Some(libc::E2BIG));
    let long = Change::Filesystem(1, vec![b'i'; 1_048_560]);
    assert_eq!(errno(store.change(vec![long])), Some(libc::EINVAL));
    drop(store);
    let (store, rule) = open(place.path());
    assert_eq!(rule, Rule::Killed);
    assert!(store.node(file).unwrap().is_some());
    store.close().unwrap();
}

#[test]
fn a_store_is_made_once_by_those_who_make_it_together() {
    for _ in 0..20 {
        let place = tempfile::tempdir().unwrap();
        let make = || Store::make_directory(place.path(), &base());
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(make)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1);
        let refused = made
            .iter()
            .filter(|made| matches!(made, Err(OpenError::InUse)));
        assert_eq!(refused.count(), 2);
        drop(made);
        assert!(open(place.path()).0.close().is_ok());
    }
}

#[test]
fn a_first_write_that_fails_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    new_store(place.path());
    let (store, _) = open(place.path());
    let file = store.new_number();
    store
        .change(vec![Change::Make(file, node(Kind::File))])
        .unwrap();
    let source = Some(SourceState {
        size: 10_000,
        mtime: NOW,
    });
    let mut fails = |_: u64, _: &mut [u8]| Err(std::io::Error::from_raw_os_error(libc::EIO));
    store
        .write(file, 5, b"x", source, NOW, &mut fails)
        .unwrap_err();
    assert_eq!(store.content(file).unwrap(), None);
    let directories = std::fs::read_dir(place.path().join("data")).unwrap();
    let files = directories.map(|entry| std::fs::read_dir(entry.unwrap().path()).unwrap().count());
    assert_eq!(files.sum::<usize>(), 0);
    store.close().unwrap();
}
