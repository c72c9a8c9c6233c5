//! Rule 5: memory does not grow. Files by the thousand (long form: by the million) are looked up, listed and
//! forgotten over and over; the daemon's memory stays where it was after the first time, and the bytes it takes for
//! one remembered inode are measured.

mod common;
mod survive;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use common::{Mount, tools};
use survive::{Figures, daemon, soak};

const PER_DIRECTORY: usize = 1000;

/// Two trees take turns: were one of them not forgotten, the other one would come on top of it.
///
/// (proves: S44)
#[test]
fn as_root_remembering_and_forgetting_leaves_memory_where_it_was() {
    let figures = Figures::of("survives_memory");
    let (files, rounds) = if soak().is_some() {
        (1_000_000, 10)
    } else {
        (60_000, 6)
    };
    let mount = Mount::builder()
        .options(["--entry-timeout", "600", "--attr-timeout", "600"])
        .mount();
    let trees = ["one", "other"];
    trees
        .iter()
        .for_each(|tree| plant(&mount.src().join(tree), files));
    let pid = mount.daemon_pid();
    let rss = || daemon::status_kb(pid, "RssAnon") << 10;
    let limit = Duration::from_secs(if soak().is_some() { 3600 } else { 120 });
    mount.within(limit, || {
        let (empty, mut most) = (rss(), 0);
        for round in 0..rounds {
            let found = walk(&mount.mnt().join(trees[round % 2]), files, &figures);
            let full = rss();
            forget();
            figures.note(format!("{}K -> {}K,", full >> 10, rss() >> 10));
            // Other programs make the kernel forget early now and then: less is no failure, nor the measure.
            if round < rounds / 2 {
                price(full.saturating_sub(empty), found, &figures);
                most = most.max(full);
                continue;
            }
            let what = format!("memory in round {round}, {full} bytes, against {most} + 10 %");
            figures.expect(&what, full <= most + most / 10, true);
        }
        let what = "memory in the end, against the first rounds + 10 %";
        figures.expect(what, rss() <= most + most / 10, true);
    });
    figures.expect_of_ours("descriptors", daemon::descriptors(pid) < 70_000, true);
    if !daemon::lives(pid) {
        figures.exit();
    }
    drop(mount);
    figures.finish();
}

fn price(bytes: u64, files: usize, figures: &Figures) {
    let each = bytes / files.max(1) as u64;
    figures.note(format!("bytes per inode={each}"));
    figures.expect_of_ours("bytes per remembered inode under 250", each < 250, true);
}

fn plant(source: &Path, files: usize) {
    fs::create_dir(source).expect("mkdir");
    for d in 0..files / PER_DIRECTORY {
        let directory = source.join(format!("d{d}"));
        fs::create_dir(&directory).expect("mkdir");
        for f in 0..PER_DIRECTORY {
            fs::File::create(directory.join(format!("f{f}"))).expect("create");
        }
    }
}

/// Lists and looks at every file, so that the kernel remembers them all; how many there were.
fn walk(mnt: &Path, files: usize, figures: &Figures) -> usize {
    let output = tools::output_of(
        std::process::Command::new("find")
            .arg(mnt)
            .args(["-type", "f", "-size", "-1"]),
    );
    figures.operation();
    let found = output.stdout.iter().filter(|b| **b == b'\n').count();
    figures.expect("files found", found, files);
    found
}

/// Has the kernel drop its names and inodes.
fn forget() {
    // Names used lately get a second chance, and inodes go after their names.
    for _ in 0..3 {
        fs::write("/proc/sys/vm/drop_caches", "2").expect("drop_caches");
    }
    thread::sleep(Duration::from_secs(1));
}
