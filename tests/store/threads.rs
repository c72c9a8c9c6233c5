//! Many threads use one store, while barriers are made. MMFS_STORE_ROUNDS: how often each does what it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use mmfs::store::keeper::Keeper;
use mmfs::store::opening::Rule;
use mmfs::store::{
    Attributes, Change, Kind, Name, Node, NodeId, Origin, PAGE, SourceState, Store, Time,
};
use rustix::io::Errno;

use super::crowd::{Progress, rounds, run};
use super::place::{Place, Random, time};

const NOW: Time = Time {
    seconds: 1,
    nanoseconds: 0,
};
/// Bytes of the source's files. Each byte is 7.
const SOURCE: u64 = 50_000;

fn source() -> Option<SourceState> {
    Some(SourceState {
        size: SOURCE,
        mtime: NOW,
    })
}

fn sevens(at: u64, to: &mut [u8]) -> std::io::Result<()> {
    let len = SOURCE.saturating_sub(at).min(to.len() as u64) as usize;
    to[..len].fill(7);
    to[len..].fill(0);
    Ok(())
}

fn node(kind: Kind) -> Node {
    Node {
        kind,
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
    }
}

fn make(store: &Store, kind: Kind) -> NodeId {
    let id = store.new_number();
    let make = Change::Make(id, Box::new(node(kind)));
    store.change(vec![make]).unwrap();
    id
}

fn name(directory: NodeId, name: &str, to: Option<NodeId>) -> Change {
    Change::Name {
        directory,
        name: name.into(),
        to: to.map(Name::Node),
        replaces: to.is_some(),
        since: None,
    }
}

fn bytes(store: &Store, id: NodeId) -> Vec<u8> {
    let size = store.content(id).unwrap().unwrap().size;
    let mut bytes = vec![0x55; size as usize];
    let len = store.read(id, 0, &mut bytes, &mut sevens).unwrap();
    assert_eq!(len, bytes.len());
    bytes
}

fn work<'a>(
    work: impl Fn(&Progress) + Send + Sync + 'a,
) -> Box<dyn Fn(&Progress) + Send + Sync + 'a> {
    Box::new(work)
}

/// Opens the store after a kill.
fn killed(place: &Place, store: Arc<Store>) -> Arc<Store> {
    drop(store);
    let (store, recovery) = place.open();
    assert_eq!(recovery.rule, Rule::Killed);
    store
}

/// Closes the store and checks it.
fn closed(place: &Place, store: Arc<Store>) {
    let used = store.used();
    store.close().unwrap();
    drop(store);
    let report = place.check();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.bytes, used);
}

/// A file of one thread: what it holds, and its name.
struct Own {
    id: NodeId,
    bytes: Vec<u8>,
    now: Option<SourceState>,
    name: String,
}

impl Own {
    fn step(&mut self, store: &Store, directory: NodeId, random: &mut Random) {
        let (id, size) = (self.id, self.bytes.len() as u64);
        let at = random.below(size + 5000);
        match random.below(16) {
            0..6 => {
                let new = vec![random.next() as u8; 1 + random.below(9000) as usize];
                store
                    .write(id, at, &new, self.now, NOW, &mut sevens)
                    .unwrap();
                let end = at as usize + new.len();
                self.bytes.resize(self.bytes.len().max(end), 0);
                self.bytes[at as usize..end].copy_from_slice(&new);
            }
            6..8 => {
                let to = if random.below(3) == 0 { 0 } else { at };
                store.truncate(id, to, self.now, NOW).unwrap();
                self.bytes.resize(to as usize, 0);
            }
            8 => {
                let range = at..at + random.below(20_000);
                store
                    .punch(id, range.clone(), self.now, NOW, &mut sevens)
                    .unwrap();
                let end = range.end.min(size) as usize;
                self.bytes[(at.min(size)) as usize..end.max(at.min(size) as usize)].fill(0);
            }
            9 => store.make_whole(id, self.now, NOW, &mut sevens).unwrap(),
            10 => store.sync(id, random.below(2) == 0).unwrap(),
            11 => store.sync_names().unwrap(),
            12..14 => {
                let new = format!("{}-{}", id.0, random.below(4));
                if new != self.name {
                    let changes = vec![
                        name(directory, &self.name, None),
                        name(directory, &new, Some(id)),
                    ];
                    store.change(changes).unwrap();
                    self.name = new;
                }
            }
            _ => {}
        }
        self.compare(store, directory);
    }

    fn compare(&self, store: &Store, directory: NodeId) {
        assert_eq!(
            store.name(directory, self.name.as_bytes()).unwrap(),
            Some(Name::Node(self.id))
        );
        if store.content(self.id).unwrap().is_some() {
            assert!(
                bytes(store, self.id) == self.bytes,
                "bytes of {:?}",
                self.id
            );
        }
    }
}

#[test]
fn each_thread_finds_its_files_as_it_left_them() {
    let place = Place::new();
    let store = place.open().0;
    let directory = make(&store, Kind::Directory);
    let own = |from_source: bool| {
        let id = make(&store, Kind::File);
        let name_of = format!("{}-0", id.0);
        store
            .change(vec![name(directory, &name_of, Some(id))])
            .unwrap();
        Own {
            id,
            bytes: if from_source {
                vec![7; SOURCE as usize]
            } else {
                Vec::new()
            },
            now: source().filter(|_| from_source),
            name: name_of,
        }
    };
    let teams: Vec<_> = (0..5)
        .map(|_| parking_lot::Mutex::new([own(true), own(false), own(true)]))
        .collect();
    let workers = teams.iter().enumerate().map(|(seed, files)| {
        let store = &store;
        work(move |progress| {
            let (mut files, mut random) = (files.lock(), Random(seed as u64));
            for _ in 0..rounds(200) {
                let file = random.below(3) as usize;
                files[file].step(store, directory, &mut random);
                progress.step();
            }
        })
    });
    run(&store, workers.collect(), Vec::new());
    let mut store = store;
    for _ in 0..2 {
        store = killed(&place, store);
        for files in &teams {
            files
                .lock()
                .iter()
                .for_each(|file| file.compare(&store, directory));
        }
        assert_eq!(store.names(directory, b"", 100).unwrap().len(), 15);
    }
    closed(&place, store);
}

#[test]
fn a_write_beside_others_in_the_same_page_is_not_lost() {
    const THREADS: u64 = 4;
    let place = Place::new();
    let mut store = place.open().0;
    for round in 0..rounds(25) {
        let id = make(&store, Kind::File);
        let worker = |thread: u64| {
            let store = &store;
            work(move |progress| {
                let mut random = Random(round << 8 | thread);
                for count in 0..60 {
                    let at = random.below(SOURCE / PAGE + 2) * PAGE + thread * 512;
                    let new = [(count << 2 | thread) as u8; 512];
                    store
                        .write(id, at, &new, source(), NOW, &mut sevens)
                        .unwrap();
                    if (count + thread) % 30 == 20 {
                        store.make_whole(id, source(), NOW, &mut sevens).unwrap();
                    }
                    if count % 16 == thread {
                        store.sync(id, false).unwrap();
                    }
                    let mut found = [0x55; 512];
                    store.read(id, at, &mut found, &mut sevens).unwrap();
                    assert!(found == new, "{at}: {} instead of {}", found[0], new[0]);
                    progress.step();
                }
            })
        };
        run(&store, (0..THREADS).map(worker).collect(), Vec::new());
        let found = bytes(&store, id);
        for (at, byte) in found.iter().enumerate() {
            let owner = at as u64 % PAGE / 512;
            let untouched = if at < SOURCE as usize { 7 } else { 0 };
            let written = owner < THREADS && u64::from(byte & 3) == owner;
            assert!(written || *byte == untouched, "{at}: {byte}");
        }
        if round % 10 == 0 {
            store = killed(&place, store);
            assert!(bytes(&store, id) == found);
        }
    }
    closed(&place, store);
}

#[test]
fn a_file_is_synced_and_read_while_others_truncate_it() {
    let place = Place::new();
    let store = place.open().0;
    let id = make(&store, Kind::File);
    store.truncate(id, 1, None, NOW).unwrap();
    let (store_of, last) = (&store, AtomicU8::new(0));
    let last = &last;
    let writer = |thread: u8| {
        work(move |progress| {
            for round in 0..rounds(200) {
                let to = if round % 4 == 3 { 5000 } else { 0 };
                store_of.truncate(id, to, None, NOW).unwrap();
                let new = vec![thread; 3 * PAGE as usize + 10];
                store_of
                    .write(id, round % 3 * 100, &new, None, NOW, &mut sevens)
                    .unwrap();
                progress.step();
            }
        })
    };
    let sync = || {
        work(move |progress: &Progress| {
            store_of.sync(id, false).unwrap();
            progress.step();
        })
    };
    let reader = || {
        work(move |_: &Progress| {
            let mut found = vec![0; 5 * PAGE as usize];
            let len = store_of.read(id, 0, &mut found, &mut sevens).unwrap();
            assert!(found[..len].iter().all(|byte| *byte < 4), "bytes of nobody");
            last.store(found[0], Ordering::Relaxed);
        })
    };
    let workers = vec![writer(1), writer(2), writer(3)];
    run(
        &store,
        workers,
        vec![sync(), sync(), sync(), reader(), reader()],
    );
    let found = bytes(&store, id);
    let store = killed(&place, store);
    assert!(bytes(&store, id) == found);
    // Its sweep removes the data files that the killed life had no more time for.
    drop(Keeper::start(&store, true).unwrap());
    closed(&place, store);
    assert_eq!(place.data_files().len(), 1);
}

#[test]
fn what_was_cut_off_does_not_come_back_with_growth() {
    let place = Place::new();
    let store = place.open().0;
    // The same stripe for all: 64 numbers lie between them.
    let file = |_| {
        let id = make(&store, Kind::File);
        (1..64).for_each(|_| _ = store.new_number());
        id
    };
    let files: Vec<_> = (0..4).map(file).collect();
    let store_of = &store;
    let worker = |id: NodeId| {
        work(move |progress| {
            for round in 0..rounds(150) {
                let ones = [1; 3 * PAGE as usize];
                store_of
                    .write(id, 0, &ones, None, NOW, &mut sevens)
                    .unwrap();
                store_of.truncate(id, 5000, None, NOW).unwrap();
                let at = if round % 2 == 0 { 9000 } else { 6000 };
                if round % 3 == 0 {
                    store_of.truncate(id, at, None, NOW).unwrap();
                }
                store_of
                    .write(id, at, &[2; 100], None, NOW, &mut sevens)
                    .unwrap();
                let found = bytes(store_of, id);
                assert_eq!(found.len() as u64, at + 100);
                assert!(found[..5000].iter().all(|byte| *byte == 1));
                assert!(
                    found[5000..at as usize].iter().all(|byte| *byte == 0),
                    "it came back"
                );
                progress.step();
            }
        })
    };
    let sync = |id: NodeId| work(move |_: &Progress| store_of.sync(id, true).unwrap());
    let workers = files.iter().map(|id| worker(*id)).collect();
    run(&store, workers, files.iter().map(|id| sync(*id)).collect());
    let found: Vec<_> = files.iter().map(|id| bytes(&store, *id)).collect();
    let store = killed(&place, store);
    for (id, found) in files.iter().zip(found) {
        assert!(bytes(&store, *id) == found);
    }
    closed(&place, store);
}

#[test]
fn a_store_at_its_limit_stays_below_it_and_frees_what_is_removed() {
    const LIMIT: u64 = 100 * PAGE;
    let place = Place::new();
    let store = place.open().0;
    store.set_limit(Some(LIMIT));
    let store_of = &store;
    let worker = |thread: u64| {
        work(move |progress| {
            let (mut random, mut files) = (Random(thread), Vec::new());
            let mut refused = 0;
            for _ in 0..rounds(200) {
                let id = make(store_of, Kind::File);
                files.push(id);
                let new = vec![1; random.below(20 * PAGE) as usize + 1];
                let done = store_of.write(id, random.below(9000), &new, None, NOW, &mut sevens);
                assert!(store_of.used() <= LIMIT);
                if let Err(error) = done {
                    assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
                    refused += 1;
                    let gone = files.swap_remove(random.below(files.len() as u64) as usize);
                    store_of.change(vec![Change::Remove(gone)]).unwrap();
                    assert_eq!(store_of.content(gone).unwrap(), None);
                }
                store_of.sync(id, false).unwrap();
                progress.step();
            }
            assert!(refused > 0, "the limit was never reached");
        })
    };
    run(&store, (0..4).map(worker).collect(), Vec::new());
    let used = store.used();
    let store = killed(&place, store);
    assert_eq!(store.used(), used);
    closed(&place, store);
}

#[test]
fn names_are_looked_up_while_they_change() {
    let place = Place::new();
    let store = place.open().0;
    let root = make(&store, Kind::Directory);
    let (left, right, moved) = (
        make(&store, Kind::Directory),
        make(&store, Kind::Directory),
        make(&store, Kind::Directory),
    );
    let changes = vec![
        name(root, "l", Some(left)),
        name(root, "r", Some(right)),
        name(left, "m", Some(moved)),
    ];
    store.change(changes).unwrap();
    let store_of = &store;
    let origin = || Origin {
        filesystem: 1,
        number: 5,
        identity: b"five".to_vec(),
    };
    let mover = work(move |progress| {
        let mut sides = [left, right];
        for _ in 0..rounds(1000) {
            let changes = vec![name(sides[0], "m", None), name(sides[1], "m", Some(moved))];
            store_of.change(changes).unwrap();
            sides.reverse();
            progress.step();
        }
    });
    let maker = work(move |progress| {
        for _ in 0..rounds(1000) {
            let id = store_of.new_number();
            let mut new = node(Kind::File);
            new.origin = Some(origin());
            let make = Change::Make(id, Box::new(new));
            store_of
                .change(vec![make, name(root, "f", Some(id))])
                .unwrap();
            store_of
                .change(vec![name(root, "f", None), Change::Remove(id)])
                .unwrap();
            progress.step();
        }
    });
    let reader = |seed: u64| {
        work(move |_: &Progress| {
            for side in [left, right] {
                let to = store_of.name(side, b"m").unwrap();
                assert!(to.is_none_or(|to| to == Name::Node(moved)));
                assert!(store_of.names(side, b"", 10).unwrap().len() <= 1);
            }
            store_of.name(root, b"f").unwrap();
            store_of.by_origin(&origin()).unwrap();
            let names = store_of.names(root, b"", 1 + seed as usize).unwrap();
            assert!(!names.is_empty());
            store_of.node(moved).unwrap().unwrap();
        })
    };
    run(
        &store,
        vec![mover, maker],
        vec![reader(0), reader(1), reader(9)],
    );
    let store = killed(&place, store);
    assert_eq!(store.by_origin(&origin()).unwrap(), None);
    assert_eq!(store.names(root, b"", 10).unwrap().len(), 2);
    let attributes = Attributes {
        ctime: Some(time(5)),
        ..Attributes::default()
    };
    store
        .change(vec![Change::Attributes(moved, attributes)])
        .unwrap();
    closed(&place, store);
}
