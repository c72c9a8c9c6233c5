//! Power cuts and kills at each point of random scripts.
//!
//! `MMFS_SEED` begins with another script. `MMFS_CRASH_SCRIPTS`, `MMFS_CRASH_CUTS` (of 100 points), `MMFS_CRASH_ORDERS` and
//! `MMFS_CRASH_SECOND` (of 1,000 images) say how much is tried.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use mmfs::store::check::Report;
use mmfs::store::keeper::Keeper;
use mmfs::store::opening::{Options, Rule};
use mmfs::store::{Base, Change, Kind, Store, Unwanted, make};

use super::cuts::{Cuts, Effort, setting};
use super::fake::FakeDisk;
use super::image::{Cutter, Image, Random};
use super::script::Run;
use super::setup::{base, new_image, node, options};

/// A random script. `cookies`: it may be killed on its way.
pub fn script(seed: u64, cookies: Option<&Path>) -> Run {
    let mut run = Run::first(&options(cookies), seed);
    // On half of the disks syncfs(2) may do less.
    run.disk.set_syncs_all(seed % 2 == 0);
    if seed % 16 == 8 {
        run.make_many(34);
    }
    run.go_on(30 + seed as usize % 30);
    run.end();
    run
}

fn seeds() -> Range<u64> {
    let first = setting("MMFS_SEED", 1);
    first..first + setting("MMFS_CRASH_SCRIPTS", 12)
}

#[test]
fn a_power_cut_leaves_what_was_synced_and_nothing_invented() {
    let effort = Effort {
        cuts: setting("MMFS_CRASH_CUTS", 15),
        orders: setting("MMFS_CRASH_ORDERS", 2),
        second: setting("MMFS_CRASH_SECOND", 20),
    };
    let mut images = 0;
    for seed in seeds() {
        let cookies = tempfile::tempdir().unwrap();
        let run = script(seed, Some(cookies.path()));
        match Cuts::of(&run, &run.entries).cut_power(effort, &mut Random(seed)) {
            Ok(count) => images += count,
            Err(error) => panic!("MMFS_SEED={seed}: {error}\n{}", run.model.told()),
        }
    }
    println!("{images} images");
}

/// A file is cut and grown, the daemon is killed, and power is cut while the next one makes its first barrier.
#[test]
fn zeros_behind_a_cut_are_durable_with_the_growth_that_a_kill_left() {
    let effort = Effort {
        cuts: 100,
        orders: 30,
        second: 0,
    };
    let cookies = tempfile::tempdir().unwrap();
    let run = script(5_000_103, Some(cookies.path()));
    Cuts::of(&run, &run.entries)
        .cut_power(effort, &mut Random(5_000_103))
        .unwrap();
}

#[test]
fn a_kill_loses_nothing_that_was_answered() {
    let cuts = setting("MMFS_CRASH_CUTS", 15);
    for seed in seeds() {
        let cookies = tempfile::tempdir().unwrap();
        let mut run = Run::first(&options(Some(cookies.path())), seed ^ 0xABCD_0000);
        run.disk.set_cookies(cookies.path());
        run.go_on(40);
        run.end();
        let killed = Cuts::of(&run, &run.entries).kill(cookies.path(), cuts, &mut Random(seed));
        if let Err(error) = killed {
            panic!("MMFS_SEED={seed}: {error}\n{}", run.model.told());
        }
    }
}

#[test]
fn a_store_that_is_half_made_is_made_anew() {
    let disk = FakeDisk::default();
    make(&disk, &base()).unwrap();
    let (mut cutter, mut random) = (Cutter::new(&Image::default(), true), Random(1));
    let entries = disk.take_entries();
    for calls in 0..=entries.len() {
        if calls > 0 {
            cutter.advance(&entries[calls - 1].call);
        }
        let orders = if (4..250).contains(&calls) { 1 } else { 30 };
        for order in 0..2 + orders {
            let image = match order {
                0 => cutter.strict(),
                1 => cutter.landed(),
                _ => cutter.random(&mut random),
            };
            let disk = FakeDisk::of(image);
            let there = Store::open(Arc::new(disk.clone()), &options(None));
            match there {
                Ok(_) => {}
                Err(mmfs::store::opening::OpenError::NotAStore) if calls < entries.len() => {
                    make(&disk, &base()).unwrap();
                    Store::open(Arc::new(disk.clone()), &options(None)).unwrap();
                }
                Err(error) => panic!("cut after {calls} calls, image {order}: {error:?}"),
            }
            let report = Report::of(&disk, &options(None)).unwrap();
            assert_eq!(
                report.base,
                Some(base()),
                "cut after {calls} calls, image {order}"
            );
        }
    }
}

#[test]
fn a_power_cut_while_the_base_is_set_leaves_one_of_the_two() {
    let start = new_image();
    let disk = FakeDisk::of(start.clone());
    let store = Store::open(Arc::new(disk.clone()), &options(None))
        .unwrap()
        .store;
    let other = Base {
        path: "/else/where".into(),
        ..base()
    };
    store.set_base(&other).unwrap();
    let (mut cutter, mut random) = (Cutter::new(&start, true), Random(1));
    let entries = disk.take_entries();
    for calls in 0..=entries.len() {
        if calls > 0 {
            cutter.advance(&entries[calls - 1].call);
        }
        for order in 0..20 {
            let image = match order {
                0 => cutter.strict(),
                1 => cutter.landed(),
                _ => cutter.random(&mut random),
            };
            let report = Report::of(&FakeDisk::of(image), &Options::default()).unwrap();
            let found = report
                .base
                .unwrap_or_else(|| panic!("none after {calls} calls, image {order}"));
            assert!(found == other || (found == base() && calls < entries.len()));
        }
    }
}

/// What a store has.
fn held(disk: &FakeDisk) -> [u64; 5] {
    let report = Report::of(disk, &options(None)).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    let Report {
        nodes,
        names,
        hidden,
        bytes,
        files,
        ..
    } = report;
    [nodes, names, hidden, bytes, files]
}

/// Gives up all changes.
pub fn discard(disk: &FakeDisk, options: &Options) -> io::Result<()> {
    Unwanted::open(disk.clone(), options).unwrap().discard()
}

#[test]
fn a_power_cut_while_all_is_discarded_leaves_all_or_nothing() {
    let nothing = held(&FakeDisk::of(new_image()));
    for seed in seeds() {
        let run = script(seed, None);
        let start = run.disk.image();
        let before = held(&FakeDisk::of(start.clone()));
        assert_ne!(before, nothing);
        let disk = FakeDisk::of(start.clone());
        discard(&disk, &options(None)).unwrap();
        let (mut cutter, mut random) = (Cutter::new(&start, true), Random(seed));
        let entries = disk.take_entries();
        let (mut kept, mut gone) = (0, 0);
        for calls in 0..=entries.len() {
            if calls > 0 {
                cutter.advance(&entries[calls - 1].call);
            }
            for order in 0..5 {
                let image = match order {
                    0 => cutter.strict(),
                    1 => cutter.landed(),
                    2 => cutter.torn(&mut random),
                    _ => cutter.random(&mut random),
                };
                let disk = FakeDisk::of(image);
                let found = held(&disk);
                kept += u32::from(found == before);
                gone += u32::from(found == nothing);
                assert!(
                    found == nothing || (found == before && calls < entries.len()),
                    "MMFS_SEED={seed}: {found:?} after {calls} calls, image {order}"
                );
                let again = Store::open(Arc::new(disk.clone()), &options(None)).unwrap();
                let store = Arc::new(again.store);
                // As a mount does.
                drop(Keeper::start(&store, again.recovery.rule != Rule::Closed).unwrap());
                let id = store.new_number();
                let made = vec![Change::Make(id, node(Kind::File, 0))];
                store.change(made).unwrap();
                store.close().unwrap();
                if found == nothing {
                    let left = disk.image();
                    let data = left.names.keys().find(|path| path.starts_with("data"));
                    assert_eq!(
                        data, None,
                        "MMFS_SEED={seed}: after {calls} calls, image {order}"
                    );
                }
            }
        }
        assert!(kept > 0 && gone > 0);
        let left = disk.image();
        let files: Vec<_> = left.names.keys().collect();
        assert_eq!(files, ["base", "format", "state"]);
    }
}

#[test]
fn the_end_of_a_commit_can_be_gone_on_with_after_a_power_cut() {
    for seed in seeds() {
        let disk = FakeDisk::of(script(seed, None).disk.image());
        let opened = Store::open(Arc::new(disk.clone()), &options(None)).unwrap();
        opened.store.close().unwrap();
        drop(opened);
        disk.take_entries();
        let start = disk.image();
        let unwanted = Unwanted::open(disk.clone(), &options(None)).unwrap();
        assert!(!unwanted.is_ending());
        unwanted.end().unwrap();
        let (mut cutter, mut random) = (Cutter::new(&start, true), Random(seed));
        let entries = disk.take_entries();
        for calls in 0..=entries.len() {
            if calls > 0 {
                cutter.advance(&entries[calls - 1].call);
            }
            let images = [
                cutter.strict(),
                cutter.landed(),
                cutter.torn(&mut random),
                cutter.random(&mut random),
            ];
            for image in images {
                let disk = FakeDisk::of(image);
                let again = Unwanted::open(disk.clone(), &options(None)).unwrap();
                assert!(again.is_ending() || calls < entries.len());
                again.end().unwrap();
                let left = disk.image();
                let files: Vec<_> = left.names.keys().collect();
                assert_eq!(files, ["base", "format", "state"], "after {calls} calls");
                assert_eq!(held(&disk), [0; 5]);
            }
        }
    }
}
