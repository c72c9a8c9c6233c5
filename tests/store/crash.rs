//! Power cuts and kills at each point of random scripts.
//!
//! `MMFS_SEED` begins with another script. `MMFS_CRASH_SCRIPTS`, `MMFS_CRASH_CUTS` (of 100 points), `MMFS_CRASH_ORDERS` and
//! `MMFS_CRASH_SECOND` (of 1,000 images) say how much is tried.

use std::sync::Arc;

use mmfs::store::check::Report;
use mmfs::store::opening::Options;
use mmfs::store::{Base, PAGE, Store, make};

use super::fake::FakeDisk;
use super::file_model::{FileModel, Side};
use super::image::{Cutter, Entry, Image, Random};
use super::judge::{Bounds, Choice, read_page};
use super::model::{Meta, Model, Promise};
use super::script::{Run, base, new_image, options};

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Of 100 points.
    pub cuts: u64,
    /// Random images at each point, beside the three that are always built.
    pub orders: u64,
    /// Of 1,000 images: the store goes on, and the power is cut again.
    pub second: u64,
}

pub fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok());
    value.unwrap_or(default)
}

/// What a cut in this list of calls is allowed to leave.
fn bounds<'a>(model: &'a Model, answered: usize, killed: &'a mut Promise) -> Bounds<'a> {
    let end = |op: usize| model.ends.get(op).map_or(model.pos, |(_, pos)| *pos);
    if let Some(last) = answered.checked_sub(1) {
        *killed = model.ends[last].0.as_ref().clone();
    }
    Bounds {
        model,
        promise: killed,
        max: end(answered),
    }
}

/// How many operations are answered when so many calls were made.
fn answered(run: &Run, entries: &[Entry], calls: usize) -> usize {
    entries
        .get(calls)
        .map_or(run.model.ops.len(), |entry| entry.op)
}

/// Opens what a power cut left, and compares it with what is allowed.
fn recover(image: &Image, bounds: &Bounds<'_>) -> Result<(Choice, Store, FakeDisk), String> {
    let disk = FakeDisk::of(image.clone());
    let opened = Store::open(Arc::new(disk.clone()), &options(None));
    let store = opened
        .map_err(|error| format!("it does not open: {error:?}"))?
        .store;
    Ok((bounds.judge(&store)?, store, disk))
}

/// Cuts the power at points of a run. Returns how many images were opened.
///
/// # Errors
/// A sentence about the first image that is not as it should be.
pub fn cut_power(
    run: &Run,
    entries: &[Entry],
    effort: Effort,
    random: &mut Random,
) -> Result<u64, String> {
    let mut cutter = Cutter::new(&run.start, true);
    let mut images = 0;
    for calls in 0..=entries.len() {
        if calls > 0 {
            cutter.advance(&entries[calls - 1].call);
        }
        if !random.chance(effort.cuts) && calls < entries.len() {
            continue;
        }
        let mut promise = Promise::default();
        let answered = answered(run, entries, calls);
        let bounds = bounds(&run.model, answered, &mut promise);
        for order in 0..3 + effort.orders {
            let image = match order {
                0 => cutter.strict(),
                1 => cutter.landed(),
                2 => cutter.torn(random),
                _ => cutter.random(random),
            };
            images += 1;
            let wrong = |error: String| {
                let op = run.model.ops.get(answered);
                let near = &entries[calls.saturating_sub(12)..calls];
                let near: Vec<_> = near.iter().map(|entry| shorter(entry)).collect();
                format!(
                    "cut after {calls} calls, image {order}, before the answer of {answered} {op:?}: {error}\nlast calls: {near:#?}"
                )
            };
            let (choice, store, disk) = recover(&image, &bounds).map_err(wrong)?;
            if random.below(1000) < effort.second {
                images += after_recovery(&bounds, &image, (choice, store, disk), random)
                    .map_err(|error| wrong(format!("afterwards: {error}")))?;
            }
        }
    }
    Ok(images)
}

fn shorter(entry: &Entry) -> String {
    format!("{} {:?}", entry.op, entry.call)
        .chars()
        .take(150)
        .collect()
}

/// A store that recovered opens again, is sound, and goes on: then the power is cut again.
fn after_recovery(
    bounds: &Bounds<'_>,
    image: &Image,
    (choice, store, disk): (Choice, Store, FakeDisk),
    random: &mut Random,
) -> Result<u64, String> {
    let model = survivors(bounds.model, &choice, &store)?;
    drop(store);
    let report = Report::of(&disk, &options(None)).map_err(|error| format!("{error:?}"))?;
    if !report.problems.is_empty() {
        return Err(format!("the check finds {:?}", report.problems));
    }
    let again = Store::open(Arc::new(disk), &options(None));
    let again = again
        .map_err(|error| format!("it does not open again: {error:?}"))?
        .store;
    let all = model.everything(model.pos);
    Bounds {
        model: &model,
        promise: &all,
        max: model.pos,
    }
    .judge(&again)
    .map_err(|error| format!("the second opening: {error}"))?;
    // All that recovery showed is durable before anybody sees it.
    let mut run = Run::new(image, model, &options(None), random.next());
    run.model.ends[0].0 = Arc::new(all);
    run.go_on(random.below(12) as usize);
    run.end();
    let effort = Effort {
        cuts: 20,
        orders: 1,
        second: 0,
    };
    let images = cut_power(&run, &run.entries, effort, random);
    images.map_err(|error| format!("{error}\nsecond life: {}", run.model.told()))
}

/// A model of what was found.
fn survivors(model: &Model, choice: &Choice, store: &Store) -> Result<Model, String> {
    let ids = || model.ids.iter().copied();
    let meta = Meta::read(store, ids()).map_err(|error| error.to_string())?;
    let mut files = std::collections::BTreeMap::new();
    for (id, file) in &model.files {
        if !meta.nodes.contains_key(id) {
            continue;
        }
        let mut new = FileModel {
            source: file.source,
            ..FileModel::default()
        };
        if let Some(mut state) = file.state(choice.meta, choice.data[id]) {
            for page in file.pages(&state) {
                if state.side(page) == Side::Data {
                    let bytes = read_page(store, *id, page)?;
                    let bytes: [u8; PAGE as usize] = bytes.try_into().expect("a page");
                    new.land(0, 0, page, Arc::new(bytes));
                }
            }
            state.incarnation = 0;
            (new.base, new.live) = (Some(state.clone()), Some(state));
        }
        files.insert(*id, new);
    }
    let mut survivors = Model::new(meta, files);
    survivors.ids = model.ids.clone();
    survivors.time = model.time;
    Ok(survivors)
}

/// One random script, cut everywhere.
pub fn script(seed: u64, length: usize) -> Run {
    let mut run = Run::first(&options(None), seed);
    // On half of the disks syncfs(2) may do less.
    run.disk.set_syncs_all(seed % 2 == 0);
    run.go_on(length);
    run.end();
    run
}

#[test]
fn a_power_cut_leaves_what_was_synced_and_nothing_invented() {
    let first = setting("MMFS_SEED", 1);
    let effort = Effort {
        cuts: setting("MMFS_CRASH_CUTS", 20),
        orders: setting("MMFS_CRASH_ORDERS", 2),
        second: setting("MMFS_CRASH_SECOND", 20),
    };
    let mut images = 0;
    for seed in first..first + setting("MMFS_CRASH_SCRIPTS", 12) {
        let run = script(seed, 30 + seed as usize % 30);
        match cut_power(&run, &run.entries, effort, &mut Random(seed)) {
            Ok(count) => images += count,
            Err(error) => panic!("MMFS_SEED={seed}: {error}\n{}", run.model.told()),
        }
    }
    println!("{images} images");
}

/// Kills the daemon at points of a run.
fn kill(
    run: &Run,
    cookies: &std::path::Path,
    cuts: u64,
    random: &mut Random,
) -> Result<u64, String> {
    let mut cutter = Cutter::new(&run.start, true);
    let mut images = 0;
    let file = std::fs::read_dir(cookies)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    for calls in 0..=run.entries.len() {
        if calls > 0 {
            cutter.advance(&run.entries[calls - 1].call);
        }
        if !random.chance(cuts) && calls < run.entries.len() {
            continue;
        }
        let _ = std::fs::remove_file(&file);
        let cookie = run.entries.get(calls).map(|entry| entry.cookie.clone());
        if let Some(cookie) = cookie.unwrap_or(run.last_cookie.clone()) {
            std::fs::write(&file, cookie).unwrap();
        }
        let answered = answered(run, &run.entries, calls);
        let end = |op: usize| {
            run.model
                .ends
                .get(op)
                .map_or(run.model.pos, |(_, pos)| *pos)
        };
        let promise = answered
            .checked_sub(1)
            .map_or(Promise::default(), |op| run.model.everything(end(op)));
        let bounds = Bounds {
            model: &run.model,
            promise: &promise,
            max: end(answered),
        };
        let disk = FakeDisk::of(cutter.landed());
        let opened = Store::open(Arc::new(disk), &run.options);
        images += 1;
        let error = match opened {
            Ok(opened) => bounds.judge(&opened.store).err(),
            Err(error) => Some(format!("it does not open: {error:?}")),
        };
        if let Some(error) = error {
            return Err(format!(
                "killed after {calls} calls, before the answer of {answered}: {error}"
            ));
        }
    }
    Ok(images)
}

#[test]
fn a_kill_loses_nothing_that_was_answered() {
    let first = setting("MMFS_SEED", 1);
    for seed in first..first + setting("MMFS_CRASH_SCRIPTS", 12) {
        let cookies = tempfile::tempdir().unwrap();
        let mut run = Run::first(&options(Some(cookies.path())), seed ^ 0xABCD_0000);
        run.go_on(40);
        run.end();
        let killed = kill(
            &run,
            cookies.path(),
            setting("MMFS_CRASH_CUTS", 20),
            &mut Random(seed),
        );
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
