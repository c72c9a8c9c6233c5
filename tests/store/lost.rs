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

/// The kernel tells one of two who sync a file at the same time. The other waits to hear of it.
#[test]
fn of_two_syncs_at_the_same_time_both_are_told() {
    let mut run = first();
    let id = new_file(&mut run, 1);
    let store: Arc<Store> = run.store.clone().unwrap();
    let (tell, told) = mpsc::channel();
    let (beside, disk) = (Arc::clone(&store), run.disk.clone());
    run.disk.set_beside(Some(Box::new(move |path| {
        if !path.starts_with("data/") {
            return;
        }
        let (tell, store, before) = (tell.clone(), Arc::clone(&beside), disk.calls());
        std::thread::spawn(move || tell.send(store.sync(id, false)));
        while disk.calls() == before {
            std::thread::sleep(Duration::from_millis(1));
        }
        // The other one's call has ended well. Time for it to answer, if it does.
        std::thread::sleep(Duration::from_millis(100));
        disk.fail(0, EIO);
    })));
    let one = store.sync(id, false);
    run.disk.set_beside(None);
    let other = told.recv().unwrap();
    assert!(is_lost(one), "who met the error");
    assert!(is_lost(other), "who synced at the same time");
    assert!(!is_lost(store.sync(id, false)));
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
