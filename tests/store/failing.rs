//! Each call of the seam fails once, at each place of a script.
//!
//! `MMFS_SEED` takes another script. Of `MMFS_FAILING_STEP` places one is tried.

use std::collections::BTreeSet;
use std::path::Path;

use mmfs::store::opening::Options;
use mmfs::store::{
    Attributes, Change, Disk as _, Kind, Name, NodeId, Store, Time, Unwanted, Xattr,
};

use super::crash::discard;
use super::cuts::{Cuts, Effort, setting};
use super::fake::{Failure, FakeDisk};
use super::image::{Call, Random, parent};
use super::judge::Bounds;
use super::recorded::{Model, Op};
use super::script::Run;
use super::setup::{new_image, node, options, to};

const FAILURES: [Failure; 5] = [
    Failure::Errno(libc::EIO),
    Failure::Errno(libc::ENOSPC),
    Failure::Errno(libc::EDQUOT),
    Failure::Errno(libc::EOPNOTSUPP),
    Failure::Short,
];

/// A script whose operations can be done again, with a failure.
fn script(seed: u64, cookies: &Path) -> Run {
    let mut run = Run::first(&options(Some(cookies)), seed);
    run.go_on(26);
    run.must(Op::Reopen);
    run.go_on(6);
    run
}

/// What the store shows now is what was answered.
fn look(run: &Run, lost: &BTreeSet<NodeId>) -> Result<(), String> {
    let all = run.model.everything(run.model.pos);
    let bounds = Bounds {
        live: true,
        grain: 1,
        lost: lost.clone(),
        ..Bounds::new(&run.model, &all, run.model.pos)
    };
    match &run.store {
        Some(store) => bounds.judge(store).map(drop),
        None => Ok(()),
    }
}

/// The files of which a sync failed.
fn lost(run: &Run) -> BTreeSet<NodeId> {
    let mut paths = std::collections::BTreeMap::new();
    for entry in &run.entries {
        if let Call::Create { path, ino } = &entry.call {
            paths.insert(*ino, path.clone());
        }
    }
    let failed = run.entries.iter().flat_map(|entry| {
        let of_directory = |path: &&String| match &entry.call {
            Call::FailedSync { ino } => paths.get(ino) == Some(path),
            Call::FailedSyncDirectory { path: directory } => parent(path) == directory,
            _ => false,
        };
        paths.values().filter(of_directory)
    });
    let id = |path: &String| -> Option<NodeId> {
        let name = path.strip_prefix("data/")?.split('/').nth(1)?;
        Some(NodeId(
            u64::from_str_radix(name.split('-').next()?, 16).ok()?,
        ))
    };
    failed.filter_map(id).collect()
}

/// Does the operations again, with one failure. Returns the run, if something failed.
fn replay(
    plan: &Model,
    cookies: &Path,
    place: u64,
    failure: Failure,
) -> Result<Option<Run>, String> {
    std::fs::read_dir(cookies)
        .unwrap()
        .for_each(|old| std::fs::remove_file(old.unwrap().path()).unwrap());
    let mut run = Run::new(
        &new_image(),
        Model::new(Default::default(), Default::default()),
        &options(Some(cookies)),
        1,
    );
    run.disk.set_cookies(cookies);
    run.disk.fail(place, failure);
    for (op, time) in plan.ops.iter().zip(&plan.times).skip(1) {
        run.model.time = *time;
        numbers(&run, op);
        let mut done = run.perform(op);
        if run.disk.has_failed() {
            run.model.doubt();
        }
        if let Err(error) = &done {
            if error.raw_os_error().is_none() {
                return Err(format!("{op:?}: {error:?} has no errno"));
            }
            let after = |error: String| format!("after a failed {op:?}: {error}");
            if let Some(store) = run.store.clone() {
                run.model.apply_failed(op, &store).map_err(after)?;
                look(&run, &BTreeSet::new()).map_err(after)?;
            }
            done = run.perform(op);
        }
        done.map_err(|error| format!("{op:?} fails again: {error}"))?;
        run.model.apply(op);
        if run.disk.has_failed() {
            run.model.doubt();
        }
        run.model.end(op.clone());
    }
    if !run.disk.has_failed() {
        return Ok(None);
    }
    look(&run, &BTreeSet::new()).map_err(|error| format!("at the end: {error}"))?;
    run.end();
    Ok(Some(run))
}

/// The script took numbers from the store: they are taken here too.
fn numbers(run: &Run, op: &Op) {
    let Op::Change(changes) = op else { return };
    for change in changes {
        if let Change::Make(id, _) = change {
            while run.store().new_number() < *id {}
        }
    }
}

#[test]
fn a_failed_call_loses_nothing() {
    let seed = setting("MMFS_SEED", 3);
    let step = setting("MMFS_FAILING_STEP", 2);
    let cookies = tempfile::tempdir().unwrap();
    let mut plan = script(seed, cookies.path());
    let calls = plan.disk.calls();
    plan.end();
    let mut tried = 0;
    for place in (seed % step..calls).step_by(step as usize) {
        for failure in FAILURES {
            let place_of = |error: String| {
                format!(
                    "MMFS_SEED={seed}, call {place}, {failure:?}: {error}\n{}",
                    plan.model.told()
                )
            };
            let run = replay(&plan.model, cookies.path(), place, failure);
            let Some(run) = run
                .map_err(place_of)
                .unwrap_or_else(|error| panic!("{error}"))
            else {
                continue;
            };
            tried += 1;
            after_the_end(&run, cookies.path(), place)
                .map_err(place_of)
                .unwrap_or_else(|error| panic!("{error}"));
        }
    }
    assert!(tried > 40, "{tried} failures");
}

/// The run ended without a close: a kill loses nothing, and a power cut nothing that a sync answered.
fn after_the_end(run: &Run, cookies: &Path, place: u64) -> Result<(), String> {
    let mut random = Random(place);
    if run.last_cookie.is_none() {
        return Err("the cookie is gone".to_owned());
    }
    for loses in [true, false] {
        let cuts = Cuts {
            lost: lost(run),
            grain: 1,
            loses,
            ..Cuts::of(run, &run.entries)
        };
        cuts.kill(cookies, 2, &mut random)?;
        let effort = Effort {
            cuts: 2,
            orders: 1,
            second: 0,
        };
        cuts.cut_power(effort, &mut random)?;
    }
    Ok(())
}

/// Fills the disk. Returns the files.
fn fill(run: &mut Run) -> Vec<NodeId> {
    run.go_on(1);
    let root = *run.model.ids.first().unwrap();
    let mut files = Vec::new();
    for version in 1..10_000 {
        let id = run.store().new_number();
        let name = to(root, format!("fill{version}").as_bytes(), id, false);
        let make = Op::Change(vec![Change::Make(id, node(Kind::File, 0)), name]);
        let len = 40_000;
        let write = Op::Write {
            id,
            at: 0,
            len,
            version,
        };
        for op in [make, write] {
            match run.perform(&op) {
                Ok(()) => {
                    run.model.apply(&op);
                    run.model.end(op.clone());
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{op:?}");
                    let store = run.store.clone().unwrap();
                    run.model.apply_failed(&op, &store).unwrap();
                    look(run, &BTreeSet::new()).unwrap_or_else(|error| panic!("{op:?}: {error}"));
                    return files;
                }
            }
        }
        files.push(id);
    }
    panic!("the disk is never full");
}

fn emptied(id: NodeId) -> Op {
    Op::Truncate {
        id,
        size: 0,
        more: Vec::new(),
    }
}

#[test]
fn a_full_disk_takes_what_frees_space() {
    for left in 0..2 {
        let mut run = Run::first(&options(None), 1);
        run.disk.set_capacity(Some(1500 + left));
        let files = fill(&mut run);
        let free = |run: &Run| run.store().free().unwrap();
        let before = free(&run);
        // What the reserve is for.
        for (n, id) in files.iter().enumerate().take(files.len() / 2) {
            run.must(match n % 3 {
                0 => emptied(*id),
                1 => Op::Change(vec![
                    Change::Name {
                        directory: *run.model.ids.first().unwrap(),
                        name: format!("fill{}", n + 1).into_bytes(),
                        to: None,
                        replaces: false,
                        since: None,
                    },
                    Change::Remove(*id),
                ]),
                _ => Op::Sync {
                    id: *id,
                    data_only: false,
                },
            });
        }
        run.must(Op::SyncNames);
        look(&run, &BTreeSet::new()).unwrap();
        run.must(Op::Barrier);
        assert!(
            free(&run) > before + 40_000 * files.len() as u64 / 6,
            "{left}: {before}, then {}",
            free(&run)
        );
        let id = *files.last().unwrap();
        run.must(Op::Write {
            id,
            at: 40_000,
            len: 40_000,
            version: 20_000,
        });
        look(&run, &BTreeSet::new()).unwrap();
        run.end();
        let effort = Effort {
            cuts: 3,
            orders: 1,
            second: 0,
        };
        let cuts = Cuts {
            grain: 1,
            ..Cuts::of(&run, &run.entries)
        };
        cuts.cut_power(effort, &mut Random(left))
            .unwrap_or_else(|error| panic!("{left}: {error}"));
    }
}

#[test]
fn what_frees_nothing_leaves_the_reserve_to_what_does() {
    let mut run = Run::first(&options(None), 1);
    run.disk.set_capacity(Some(1500));
    let files = fill(&mut run);
    let root = *run.model.ids.first().unwrap();
    let store = run.store.clone().unwrap();
    let name = |n: usize, to| Change::Name {
        directory: root,
        name: format!("fill{n}").into_bytes(),
        to,
        replaces: false,
        since: None,
    };
    // Writes in place go on, with their times as long as there is room for these.
    for seconds in 0..30_000 {
        let time = Time {
            seconds,
            nanoseconds: 0,
        };
        let id = files[0];
        store
            .write(id, 0, b"again", None, time, &mut |_, _| Ok(()))
            .unwrap();
        if seconds % 1000 == 0 {
            store.sync(id, false).unwrap();
        }
    }
    let mut renames = 0;
    let refused = loop {
        let (from, to) = [(1, 100_000), (100_000, 1)][renames % 2];
        let changes = vec![name(from, None), name(to, Some(Name::Node(files[0])))];
        match store.change(changes) {
            Ok(()) => renames += 1,
            Err(error) => break error,
        }
        assert!(renames < 100_000);
    };
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    for (n, id) in files.iter().enumerate().skip(2).take(60) {
        store
            .change(vec![name(n + 1, None), Change::Remove(*id)])
            .unwrap();
    }
    store.truncate(files[1], 0, None, Time::default()).unwrap();
    store.sync_names().unwrap();
    store.barrier().unwrap();
    store.change(vec![name(1, None)]).unwrap();
}

/// The directory has not been changed before: it is made in the store first.
#[test]
fn a_full_disk_takes_the_removal_of_a_name_of_the_source() {
    let mut run = Run::first(&options(None), 1);
    run.disk.set_capacity(Some(1500));
    fill(&mut run);
    let root = *run.model.ids.first().unwrap();
    let store = run.store.clone().unwrap();
    let chmod = || store.change(vec![Change::Attributes(root, Attributes::default())]);
    let refused = (0..100_000).find_map(|_| chmod().err()).unwrap();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    for n in 0..200 {
        let directory = store.new_number();
        let name = to(
            root,
            format!("of the source {n}").as_bytes(),
            directory,
            false,
        );
        let made = node(Kind::Directory, 1000 + n);
        store
            .change(vec![Change::Make(directory, made), name])
            .unwrap();
        let hidden = Change::Name {
            directory,
            name: b"gone".to_vec(),
            to: Some(Name::Hidden),
            replaces: false,
            since: None,
        };
        store.change(vec![hidden]).unwrap();
        store.sync_names().unwrap();
    }
}

#[test]
fn a_store_on_a_full_disk_closes_and_opens() {
    let mut run = Run::first(&options(None), 1);
    run.disk.set_capacity(Some(750));
    let files = fill(&mut run);
    // Less than the reserve of a tail.
    run.must(emptied(files[0]));
    run.must(Op::SyncNames);
    let refused = run.perform(&Op::Barrier).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    run.must(Op::Reopen);
    look(&run, &BTreeSet::new()).unwrap();
    for id in &files[1..] {
        run.must(emptied(*id));
    }
    run.must(Op::SyncNames);
    run.must(Op::Barrier);
    look(&run, &BTreeSet::new()).unwrap();
}

#[test]
fn all_changes_on_a_full_disk_can_be_discarded() {
    for capacity in [700, 750, 1500] {
        let mut run = Run::first(&options(None), 1);
        run.disk.set_capacity(Some(capacity));
        fill(&mut run);
        all_is_given_up(&mut run);
    }
}

/// A store that cannot be opened any more, because there is no room for the table of what its tail has.
#[test]
fn a_full_disk_that_has_no_room_for_a_table_lets_all_changes_be_discarded() {
    let mut run = Run::first(&options(None), 1);
    run.go_on(1);
    let root = *run.model.ids.first().unwrap();
    for n in 0..60 {
        let name = format!("user.{n}").into_bytes();
        let value = Some(Xattr::Set(vec![n; 60_000]));
        let change = Change::Xattr(root, name, value);
        run.store().change(vec![change]).unwrap();
    }
    run.store().sync_names().unwrap();
    let taken = (1 << 40) - run.disk.free().unwrap() / 4096;
    run.disk.set_capacity(Some(taken));
    run.store = None;
    let refused = run.open().unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    all_is_given_up(&mut run);
}

/// As after a kill, without what a close gives back.
fn all_is_given_up(run: &mut Run) {
    run.store = None;
    discard(&run.disk, &run.options).unwrap();
    run.open().unwrap();
    let root = *run.model.ids.first().unwrap();
    assert_eq!(run.store().node(root).unwrap(), None);
    assert_eq!(run.store().used(), 0);
}

/// A call that fails leaves all changes or none, and the next try succeeds.
#[test]
fn a_discard_that_fails_leaves_all_or_nothing() {
    let mut run = Run::first(&options(None), 7);
    run.go_on(40);
    run.must(Op::Reopen);
    let root = *run.model.ids.first().unwrap();
    run.store = None;
    let image = run.disk.image();
    for failure in FAILURES {
        // From there on, files are removed.
        for place in (0..20).chain((20..).step_by(17)) {
            let disk = FakeDisk::of(image.clone());
            disk.fail(place, failure);
            let unwanted = Unwanted::open(disk.clone(), &run.options);
            let done = unwanted.map(Unwanted::discard);
            let failed = disk.has_failed();
            disk.fail(u64::MAX / 2, failure);
            let opened = Store::open(std::sync::Arc::new(disk.clone()), &run.options).unwrap();
            let is_gone = opened.store.node(root).unwrap().is_none();
            assert!(
                is_gone || !matches!(done, Ok(Ok(()))),
                "{failure:?} {place}"
            );
            drop(opened);
            discard(&disk, &run.options).unwrap();
            let names: Vec<_> = disk.image().names.into_keys().collect();
            assert_eq!(names, ["base", "format", "state"], "{failure:?} {place}");
            if !failed {
                break;
            }
        }
    }
}

#[test]
fn an_opening_that_fails_changes_nothing() {
    let cookies = tempfile::tempdir().unwrap();
    let mut run = Run::first(&options(Some(cookies.path())), 5);
    run.go_on(25);
    run.store = None;
    let image = run.disk.image();
    let cookie = std::fs::read_dir(cookies.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let text = std::fs::read(&cookie).unwrap();
    let all = run.model.everything(run.model.pos);
    let bounds = Bounds::new(&run.model, &all, run.model.pos);
    let open = |disk: &FakeDisk, options: &Options| {
        Store::open(std::sync::Arc::new(disk.clone()), options)
    };
    for failure in FAILURES {
        for place in 0.. {
            std::fs::write(&cookie, &text).unwrap();
            let disk = FakeDisk::of(image.clone());
            disk.fail(place, failure);
            let first = open(&disk, &run.options);
            let failed = disk.has_failed();
            disk.fail(u64::MAX / 2, failure);
            let store = match first {
                Ok(opened) => opened.store,
                Err(_) => open(&disk, &run.options).expect("the second opening").store,
            };
            bounds
                .judge(&store)
                .unwrap_or_else(|error| panic!("call {place}, {failure:?}: {error}"));
            let was_last = !failed && place > disk.calls();
            if was_last {
                break;
            }
        }
    }
}
