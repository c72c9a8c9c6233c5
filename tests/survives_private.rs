//! A private view whose daemon is killed, or whose machine loses its power, under load.
//!
//! Killed: every operation that was answered is there. Power cut: the store's filesystem is in an image that is copied at random
//! moments. The copy is mounted, the filesystem recovers, the store is checked after the second rule, and a view is mounted over
//! it: what was synced is there, and nothing is there that was never done. `MMFS_CUTS` and `MMFS_KILLS` are how many.

mod common;
#[path = "power_cut/disk.rs"]
mod disk;
#[path = "power_cut/history.rs"]
mod history;
mod private_load;
mod survive;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::{Mount, builder, tools};
use history::{Durable, SOURCE};
use private_load::load::Load;
use private_load::verify::{Compared, verify};
use rustix::process::Signal;
use survive::Rng;

/// Ends of one store. Then there is a new one.
const ENDS_OF_A_STORE: u64 = 10;
/// Files of the source.
const POOL: usize = 100;

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().expect("a number"))
}

/// A source with files of sevens, and their names.
fn source() -> (tempfile::TempDir, Vec<PathBuf>) {
    let source = tempfile::tempdir().expect("a source");
    fs::create_dir_all(source.path().join("base/deeper")).expect("mkdir");
    let names = (0..POOL).map(|n| format!("base/{}f{n}", ["", "deeper/"][n % 2]));
    let names: Vec<PathBuf> = names.map(PathBuf::from).collect();
    for name in &names {
        fs::write(source.path().join(name), vec![7; SOURCE as usize]).expect("a file");
    }
    (source, names)
}

/// Names, lengths and times of the source.
fn state(source: &Path) -> String {
    let mut find = Command::new("find");
    let how = find
        .arg(source)
        .args(["-printf", "%P %y %m %n %s %T@ %C@\n"]);
    String::from_utf8(tools::output_of(how).stdout).expect("names")
}

fn private(source: &Path, store: &Path) -> Mount {
    let builder = Mount::builder().over(source).option("--private");
    builder.option(store).mount()
}

fn sound(store: &Path, options: &[&str]) {
    let mut check = Command::new(builder::binary());
    tools::run(check.arg("check").args(options).arg(store));
}

#[test]
fn no_answered_operation_is_lost_when_the_daemon_is_killed() {
    let (kills, mut rng, began) = (number("MMFS_KILLS", 10), Rng::new(), Instant::now());
    let (source, names) = source();
    let before = state(source.path());
    let (mut done, mut steps) = (0, 0);
    let mut total = Compared::default();
    while done < kills {
        let place = tempfile::tempdir().expect("a directory");
        let store = place.path().join("store");
        let (mut mount, mut pool) = (private(source.path(), &store), names.clone());
        for _ in 0..ENDS_OF_A_STORE.min(kills - done) {
            let load = Load::start(mount.mnt(), &format!("d{done}"), pool, &mut rng);
            std::thread::sleep(Duration::from_millis(20 + rng.below(400)));
            mount.signal(Signal::KILL);
            let shared = load.shared.clone();
            let (left, answered) = load.end();
            (pool, steps) = (left, steps + answered);
            mount.kill_and_remount();
            let durable: Vec<Durable> = shared
                .answered()
                .into_iter()
                .map(|steps| Durable {
                    meta: steps,
                    all: steps,
                    ..Durable::default()
                })
                .collect();
            verify(mount.mnt(), &shared, &durable, &mut total);
            done += 1;
        }
        drop(mount);
        sound(&store, &[]);
    }
    assert_eq!(state(source.path()), before);
    println!(
        "survives_private: kills={done} steps={steps} compared: {total:?}, {} s",
        began.elapsed().as_secs()
    );
    assert!(total.files > kills && total.durable > 0);
}

fn cuts(kind: &'static str) {
    let (cuts, mut rng, began) = (number("MMFS_CUTS", 5), Rng::new(), Instant::now());
    let (source, names) = source();
    let before = state(source.path());
    let disk = disk::Disk::new(kind);
    let (mut done, mut steps) = (0, 0);
    let mut total = Compared::default();
    while done < cuts {
        let store = disk.path().join("store");
        let mount = private(source.path(), &store);
        let load = Load::start(mount.mnt(), &format!("d{done}"), names.clone(), &mut rng);
        for _ in 0..ENDS_OF_A_STORE.min(cuts - done) {
            std::thread::sleep(Duration::from_millis(20 + rng.below(400)));
            let durable = load.shared.durable();
            let cut = disk.cut(done);
            // Whatever is begun later is not in the image.
            let _stopped = load.shared.gate.write().unwrap();
            let store = cut.mount().join("store");
            sound(&store, &["--after-power-cut"]);
            let view = private(source.path(), &store);
            verify(view.mnt(), &load.shared, &durable, &mut total);
            drop(view);
            sound(&store, &[]);
            done += 1;
        }
        steps += load.end().1;
        drop(mount);
        fs::remove_dir_all(&store).expect("the store goes");
    }
    assert_eq!(state(source.path()), before);
    println!(
        "survives_private: {kind}: cuts={done} steps={steps} compared: {total:?}, {} s",
        began.elapsed().as_secs()
    );
    assert!(total.files > cuts && total.durable > 0);
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
