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

/// (proves: S44)
#[test]
fn as_root_remembering_and_forgetting_leaves_memory_where_it_was() {
    let figures = Figures::default();
    let (files, rounds) = if soak().is_some() {
        (1_000_000, 10)
    } else {
        (60_000, 4)
    };
    let mount = Mount::builder()
        .options(["--entry-timeout", "600", "--attr-timeout", "600"])
        .mount();
    plant(mount.src(), files);
    let pid = mount.daemon_pid();
    let rss = || daemon::status_kb(pid, "RssAnon") << 10;
    mount.within(
        Duration::from_secs(if soak().is_some() { 3600 } else { 90 }),
        || {
            let empty = rss();
            let mut first = 0;
            for round in 0..rounds {
                walk(mount.mnt(), files, &figures);
                let full = rss();
                if round == 0 {
                    figures.note(format!(
                        "bytes per inode={}",
                        full.saturating_sub(empty) / files as u64
                    ));
                    figures.expect(
                        "bytes per remembered inode under 250",
                        full.saturating_sub(empty) / (files as u64) < 250,
                        true,
                    );
                }
                forget();
                thread::sleep(Duration::from_millis(300));
                let after = rss();
                if round == 0 {
                    first = after;
                }
                figures.note(format!(
                    "round {round}: {}K -> {}K",
                    full >> 10,
                    after >> 10
                ));
                figures.expect(
                    "memory after forgetting, against the first time + 10 %",
                    after <= first + first / 10,
                    true,
                );
            }
        },
    );
    figures.expect("descriptors", daemon::descriptors(pid) < 70_000, true);
    if !daemon::lives(pid) {
        figures.exit();
    }
    drop(mount);
    figures.finish("survives_memory");
}

fn plant(source: &Path, files: usize) {
    for d in 0..files / PER_DIRECTORY {
        let directory = source.join(format!("d{d}"));
        fs::create_dir(&directory).expect("mkdir");
        for f in 0..PER_DIRECTORY {
            fs::File::create(directory.join(format!("f{f}"))).expect("create");
        }
    }
}

/// Lists and looks at every file: the kernel remembers them all then.
fn walk(mnt: &Path, files: usize, figures: &Figures) {
    let output = tools::output_of(
        std::process::Command::new("find")
            .arg(mnt)
            .args(["-type", "f", "-size", "-1"]),
    );
    figures.operation();
    let found = output.stdout.iter().filter(|b| **b == b'\n').count();
    figures.expect("files found", found, files);
}

/// Has the kernel drop its names and inodes.
fn forget() {
    fs::write("/proc/sys/vm/drop_caches", "2").expect("drop_caches");
}
