//! Syncs that fail: who is told, and what is left on the disk.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use mmfs::store::{Change, Kind, NodeId, Store};

use super::fake::{Failure, FakeDisk};
use super::image::Call;
use super::recorded::Op;
use super::script::Run;
use super::setup::{node, options, to};

const EIO: Failure = Failure::Errno(libc::EIO);

/// A file with bytes that are not durable.
fn new_file(run: &mut Run, name: u32) -> NodeId {
    let root = *run.model.ids.first().unwrap();
    let id = run.store().new_number();
    let name = to(root, format!("lost{name}").as_bytes(), id, false);
    run.must(Op::Change(vec![
        Change::Make(id, node(Kind::File, 0)),
        name,
    ]));
    write(run, id, 1);
    id
}

fn write(run: &mut Run, id: NodeId, version: u32) {
    run.must(Op::Write {
        id,
        at: 0,
        len: 10_000,
        version,
    });
}

fn first() -> Run {
    let mut run = Run::first(&options(None), 1);
    run.go_on(1);
    run
}

/// Each sync of a data file fails.
fn fail_data(disk: &FakeDisk) {
    let failing = disk.clone();
    disk.set_beside(Some(Box::new(move |path| {
        if path.starts_with("data/") {
            failing.fail(0, EIO);
        }
    })));
}

fn is_lost(done: std::io::Result<()>) -> bool {
    match done {
        Ok(()) => false,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
            true
        }
    }
}

#[test]
fn a_sync_that_fails_is_told_once_to_who_asked() {
    let mut run = first();
    let id = new_file(&mut run, 1);
    fail_data(&run.disk);
    assert!(is_lost(run.store().sync(id, false)));
    run.disk.set_beside(None);
    assert!(!is_lost(run.store().sync(id, false)));
    assert!(!is_lost(run.store().barrier()));
    assert!(!is_lost(run.store().close()));
}

#[test]
fn what_a_barrier_lost_is_told_to_the_next_who_syncs_the_file() {
    let mut run = first();
    let (id, other) = (new_file(&mut run, 1), new_file(&mut run, 2));
    run.must(Op::Sync {
        id: other,
        data_only: false,
    });
    fail_data(&run.disk);
    run.store().barrier().unwrap();
    run.disk.set_beside(None);
    assert!(!is_lost(run.store().sync(other, false)));
    assert!(is_lost(run.store().sync(id, true)));
    assert!(!is_lost(run.store().sync(id, false)));
    assert!(!is_lost(run.store().close()));
}

#[test]
fn what_nobody_was_told_is_told_by_close() {
    let mut run = first();
    let id = new_file(&mut run, 1);
    fail_data(&run.disk);
    run.store().barrier().unwrap();
    run.disk.set_beside(None);
    write(&mut run, id, 2);
    assert!(is_lost(run.store().close()));
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    File,
    Names,
    Barrier,
}

fn sync(store: &Store, id: NodeId, by: By) -> std::io::Result<()> {
    match by {
        By::File => store.sync(id, false),
        By::Names => store.sync_names(),
        By::Barrier => store.barrier(),
    }
}

/// Runs `one`. Its call on the file meets an error, which it has not told yet when the calls of `others`, one after the other,
/// have ended well. Returns what each answered.
fn beside(one: By, others: &[By]) -> (Run, NodeId, Vec<std::io::Result<()>>) {
    let mut run = first();
    let id = new_file(&mut run, 1);
    // It takes the place of another, so that whoever makes names durable makes its bytes durable.
    let root = *run.model.ids.first().unwrap();
    run.must(Op::Change(vec![to(root, b"lost1", id, true)]));
    let store: Arc<Store> = run.store.clone().unwrap();
    let (tell, told) = mpsc::channel();
    let (shared, disk) = (Arc::clone(&store), run.disk.clone());
    let all = others.to_vec();
    run.disk.set_beside(Some(Box::new(move |path| {
        if !path.starts_with("data/") {
            return;
        }
        for by in all.iter().copied() {
            let (tell, store, before) = (tell.clone(), Arc::clone(&shared), disk.calls());
            std::thread::spawn(move || tell.send(sync(&store, id, by)));
            // Not for ever: who believes that there is nothing to sync makes no call.
            for _ in 0..1000 {
                if disk.calls() != before {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            // The call has ended well. Time to answer, for who does not wait.
            std::thread::sleep(Duration::from_millis(100));
        }
        disk.fail(0, EIO);
    })));
    let mut answers = vec![sync(&store, id, one)];
    run.disk.set_beside(None);
    answers.extend(others.iter().map(|_| told.recv().unwrap()));
    (run, id, answers)
}

/// The kernel tells one of two who sync a file at the same time. The other waits to hear of it.
#[test]
fn of_two_syncs_at_the_same_time_both_are_told() {
    for (one, other) in [
        (By::File, By::File),
        (By::File, By::Names),
        (By::Names, By::File),
        (By::Names, By::Names),
        (By::Barrier, By::Names),
    ] {
        let (run, id, answers) = beside(one, &[other]);
        let lost: Vec<_> = answers.into_iter().map(is_lost).collect();
        assert_eq!(lost, [one != By::Barrier, true], "{one:?} and {other:?}");
        let again = is_lost(run.store().sync(id, false));
        assert_eq!(
            again,
            one != By::File && other != By::File,
            "{one:?} and {other:?}: told later"
        );
        assert!(!is_lost(run.store().sync(id, false)));
    }
}

/// A barrier that ended well beside a failed sync called the file durable, and the next sync had nothing to do.
#[test]
fn a_barrier_beside_a_failed_sync_hides_no_error() {
    let (run, id, answers) = beside(By::File, &[By::Barrier, By::File]);
    let lost: Vec<_> = answers.into_iter().map(is_lost).collect();
    assert!(lost[0] && lost[1..].contains(&true), "{lost:?}");
    run.store().barrier().unwrap();
    run.store().sync(id, false).ok();
    assert!(!is_lost(run.store().sync(id, false)));
}

/// Each barrier tries to merge it, and each that cannot leaves one table more.
#[test]
fn a_table_that_cannot_be_read_ends_no_barriers() {
    let mut run = first();
    let make = |run: &Run, count: u32| {
        for _ in 0..count {
            let id = run.store().new_number();
            let change = vec![Change::Make(id, node(Kind::File, 0))];
            run.store().change(change).unwrap();
        }
        run.store().barrier()
    };
    make(&run, 6000).unwrap();
    let before: Vec<_> = run.disk.image().names.into_keys().collect();
    make(&run, 300).unwrap();
    run.store().close().unwrap();
    run.store = None;
    let mut image = run.disk.image();
    let small = image
        .names
        .iter()
        .filter(|(name, _)| name.starts_with("tables/") && !before.contains(name));
    let ino = small.map(|(_, ino)| *ino).next().expect("a small table");
    image.apply(&Call::Write {
        ino,
        at: 9000,
        bytes: [0xee].into(),
    });
    let disk = FakeDisk::of(image);
    for _ in 0..3 {
        let opened = Store::open(Arc::new(disk.clone()), &options(None)).unwrap();
        for n in 0..50 {
            let id = opened.store.new_number();
            let change = vec![Change::Make(id, node(Kind::File, 0))];
            opened.store.change(change).unwrap();
            let done = opened.store.barrier();
            done.unwrap_or_else(|error| panic!("barrier {n}: {error}"));
        }
        opened.store.close().unwrap();
    }
    let tables = disk
        .image()
        .names
        .into_keys()
        .filter(|name| name.starts_with("tables/"));
    assert!(tables.count() < 12);
}

/// With many files, all are synced by one call. If that fails, each is synced by itself.
#[test]
fn a_failed_sync_of_the_filesystem_loses_nothing() {
    let of_data = |run: &mut Run| {
        let calls = run.disk.take_entries().into_iter().map(|entry| entry.call);
        calls
            .filter(|call| matches!(call, Call::Sync { .. } | Call::SyncAll))
            .collect::<Vec<_>>()
    };
    let dirty = || {
        let mut run = first();
        (0..40).for_each(|n| _ = new_file(&mut run, n));
        run.disk.take_entries();
        run
    };
    let mut run = dirty();
    run.store().barrier().unwrap();
    assert!(matches!(of_data(&mut run)[0], Call::SyncAll));
    let mut shown = 0;
    for place in 0..12 {
        let mut run = dirty();
        run.disk.fail(place, EIO);
        let done = run.store().barrier();
        let calls = of_data(&mut run);
        let synced_all = calls.iter().any(|call| matches!(call, Call::SyncAll));
        if done.is_ok() && run.disk.has_failed() && !synced_all {
            assert!(calls.len() > 40, "each file is synced: {}", calls.len());
            shown += 1;
        }
    }
    assert_eq!(shown, 1, "one of these calls is that of the filesystem");
}

/// A barrier that fails at the same place over and over.
#[test]
fn a_barrier_that_fails_again_and_again_leaves_no_more_files() {
    let count = |run: &Run, of: &str| {
        let names = run.disk.image().names;
        names.keys().filter(|name| name.starts_with(of)).count()
    };
    let mut failed = 0;
    for (place, again) in (0..20).flat_map(|place| (0..20).map(move |again| (place, again))) {
        let mut run = first();
        new_file(&mut run, 1);
        run.store().barrier().unwrap();
        new_file(&mut run, 2);
        let before = (count(&run, "tables/"), count(&run, "tails/"));
        for place in [place, again] {
            run.disk.fail(place, EIO);
            failed += usize::from(run.store().barrier().is_err());
            let now = (count(&run, "tables/"), count(&run, "tails/"));
            assert!(
                now.0 <= before.0 + 1 && now.1 <= before.1 + 1,
                "place {place}: tables and tails were {before:?} and are {now:?}"
            );
        }
    }
    assert!(failed > 200, "{failed} barriers failed");
}
