//! Operations that happen while a sync, a barrier or a close of another thread is under way: always at the same points.

use std::sync::Arc;

use parking_lot::Mutex;

use super::cuts::{Cuts, Effort, setting};
use super::image::Random;
use super::recorded::{Model, Op};
use super::script::Run;
use super::setup::{options, perform};

/// An operation that happens beside another, and how it ended.
struct Beside {
    op: Op,
    /// Syncs of files that come before it.
    wait: u64,
    done: Option<std::io::Result<()>>,
}

/// Whether it may make something durable itself: then it cannot run while the tail is synced.
fn may_sync(model: &Model, op: &Op) -> bool {
    match op {
        Op::Change(_) | Op::Truncate { size: 0, .. } => false,
        Op::Write { id, .. }
        | Op::Truncate { id, .. }
        | Op::Punch { id, .. }
        | Op::MakeWhole { id } => !model.files[id].cuts.is_empty(),
        _ => true,
    }
}

/// Does `op`, and something else in the middle of it.
fn do_both(run: &mut Run, op: Op) {
    let beside = loop {
        match run.choose() {
            Op::Open | Op::Barrier | Op::Reopen | Op::Kill | Op::Sync { .. } | Op::SyncNames => {}
            op => break op,
        }
    };
    let wait = run.random.below(4);
    let state = Arc::new(Mutex::new(Beside {
        op: beside.clone(),
        wait,
        done: None,
    }));
    let before = run.model.clone();
    let number = run.model.ops.len();
    let syncs = may_sync(&before, &beside);
    let (store, disk, model) = (
        Arc::clone(run.store.as_ref().unwrap()),
        run.disk.clone(),
        before.clone(),
    );
    let shared = Arc::clone(&state);
    run.disk.set_beside(Some(Box::new(move |path| {
        let mut state = shared.lock();
        if state.done.is_some() || (syncs && path.starts_with("tails")) {
            return;
        }
        if state.wait > 0 {
            state.wait -= 1;
            return;
        }
        state.done = Some(perform(&store, &model, &state.op));
        disk.set_op(number + 1);
    })));
    run.perform(&op).unwrap();
    run.disk.set_beside(None);
    let done = state.lock().done.take();
    if let Some(done) = done {
        done.unwrap();
        run.model.apply(&beside);
        run.model.end(beside);
    }
    run.model.apply_of(&before, &op);
    run.model.end(op);
}

/// One script with operations beside its syncs.
fn race(seed: u64, effort: Effort) {
    let mut run = Run::first(&options(None), seed ^ 0x7777_0000);
    run.go_on(6);
    for _ in 0..35 {
        run.tick();
        match run.choose() {
            op @ (Op::Sync { .. } | Op::SyncNames | Op::Barrier) => do_both(&mut run, op),
            op => run.must(op),
        }
        if run.random.chance(15) {
            let op = run.choose_sync();
            do_both(&mut run, op);
        }
    }
    run.end();
    let cut = Cuts::of(&run, &run.entries).cut_power(effort, &mut Random(seed));
    if let Err(error) = cut {
        panic!("MMFS_SEED={seed}: {error}\n{}", run.model.told());
    }
}

/// A write made all of its file durable, and then wrote, while a sync of that file was under way. Later writes counted as synced.
#[test]
fn a_sync_under_way_does_not_cover_bytes_that_land_later() {
    let effort = Effort {
        cuts: 100,
        orders: 0,
        second: 0,
    };
    race(92, effort);
}

#[test]
fn a_sync_promises_what_was_answered_before_it_whatever_happens_beside_it() {
    let first = setting("MMFS_SEED", 1);
    let effort = Effort {
        cuts: setting("MMFS_CRASH_CUTS", 15),
        orders: setting("MMFS_CRASH_ORDERS", 2),
        second: setting("MMFS_CRASH_SECOND", 10),
    };
    for seed in first..first + setting("MMFS_CRASH_SCRIPTS", 12) {
        race(seed, effort);
    }
}
