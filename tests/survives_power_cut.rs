//! Real filesystems after real power cuts: what was synced is there, and nothing is there that was never done.
//!
//! A store on a filesystem in an image is under load. The image is copied at random moments, at one moment each, and the copy is
//! mounted: the filesystem recovers, the store recovers, and both are compared with what was done. `MMFS_CUTS` is the number of
//! cuts on each filesystem.

mod common;
mod power_cut;
mod survive;

use std::path::Path;
use std::time::{Duration, Instant};

use mmfs::store::Store;
use mmfs::store::check::check;
use mmfs::store::opening::Rule;

use power_cut::disk::Disk;
use power_cut::history::Durable;
use power_cut::load::{Load, Shared};
use power_cut::verify::{Compared, verify};
use survive::Rng;

/// Cuts of one store. Then there is a new one.
const CUTS_OF_A_STORE: u64 = 10;

fn cuts(kind: &'static str) {
    let given = std::env::var("MMFS_CUTS")
        .ok()
        .and_then(|cuts| cuts.parse().ok());
    let cuts: u64 = given.unwrap_or(5);
    let (mut rng, disk, began) = (Rng::new(), Disk::new(kind), Instant::now());
    let (mut done, mut steps) = (0, 0);
    let mut total = Compared::default();
    while done < cuts {
        let place = disk.path().join("store");
        let load = Load::start(&place, &mut rng);
        for _ in 0..CUTS_OF_A_STORE.min(cuts - done) {
            std::thread::sleep(Duration::from_millis(20 + rng.below(400)));
            let compared = cut(&disk, load.shared(), done);
            total.files += compared.files;
            total.sectors += compared.sectors;
            total.durable += compared.durable;
            total.beyond += compared.beyond;
            done += 1;
        }
        steps += load.end();
        std::fs::remove_dir_all(&place).expect("the store goes");
    }
    println!(
        "survives_power_cut: {kind}: cuts={done} steps={steps} compared: {total:?}, {} s",
        began.elapsed().as_secs()
    );
    assert!(
        total.files > cuts && total.durable > 0,
        "there was something to compare"
    );
}

/// One power cut, and what comes of it.
fn cut(disk: &Disk, shared: &Shared, number: u64) -> Compared {
    let durable: Vec<Durable> = shared
        .durable
        .iter()
        .map(|durable| durable.lock().unwrap().clone())
        .collect();
    let cut = disk.cut(number);
    // Whatever is begun later is not in the image.
    let _stopped = shared.gate.write().unwrap();
    let store = cut.mount().join("store");
    recovered(&store, shared, &durable)
}

fn recovered(path: &Path, shared: &Shared, durable: &[Durable]) -> Compared {
    let report =
        check(path, true).unwrap_or_else(|error| panic!("the store cannot be checked: {error:?}"));
    assert_eq!(report.problems, Vec::<String>::new());
    let (opened, _) = Store::open_directory(path, true)
        .unwrap_or_else(|error| panic!("the store does not open: {error:?}"));
    assert_eq!(opened.recovery.rule, Rule::PowerCut);
    let compared = verify(&opened.store, shared, durable);
    opened.store.close().expect("the store closes");
    drop(opened);
    let report = check(path, true).expect("what was closed can be checked");
    assert_eq!(
        (report.recovery.rule, report.problems),
        (Rule::Closed, Vec::new())
    );
    compared
}

#[test]
fn ext4_after_a_power_cut() {
    cuts("ext4");
}

#[test]
fn xfs_after_a_power_cut() {
    cuts("xfs");
}

#[test]
fn btrfs_after_a_power_cut() {
    cuts("btrfs");
}
