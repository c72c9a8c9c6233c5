//! A commit that ends before anything is changed: by a full disk, or by a signal.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

use crate::committed::{
    assert_committed, bytes, commit, diff, done, mmfs, place, refused, write_files,
};
use crate::common::loopfs::LoopFs;
use crate::common::private::private;
use crate::common::snapshot::{Snapshot, assert_same, snapshot, without_atimes};
use crate::common::{builder, tools};

/// Changes whose bytes need room, and ones that need none.
fn change(view: &Path, len: usize) -> Snapshot {
    let at = |name: &str| view.join(name);
    fs::write(at("a"), "other").unwrap();
    fs::rename(at("old"), at("new")).unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::create_dir_all(at("d/new/e")).unwrap();
    fs::write(at("d/new/e/large"), bytes("large", len)).unwrap();
    fs::write(at("z"), "other").unwrap();
    snapshot(view)
}

fn fill_source(source: &Path) {
    write_files(source, &["a", "old", "gone", "d/f", "z"]);
    for path in ["d", ""] {
        let long_ago = UNIX_EPOCH + Duration::from_secs(700_000_000);
        let directory = File::open(source.join(path)).unwrap();
        directory.set_modified(long_ago).unwrap();
    }
}

fn full_disk(source: &Path) {
    let (_place, _, store) = place();
    fs::create_dir_all(source).unwrap();
    fill_source(source);
    let ballast = source.with_file_name("ballast");
    let mut mount = private(source, &store, &[]);
    let view = change(mount.mnt(), 8 << 20);
    mount.unmount();
    let (before, changes) = (without_atimes(snapshot(source)), diff(&store));
    let file = File::create(&ballast).unwrap();
    let filled = (0..).map(|at| file.write_all_at(&[1; 65_536], at * 65_536));
    assert!(filled.take_while(Result::is_ok).count() > 0);
    for room in [0, 4 << 20] {
        let len = file.metadata().unwrap().len();
        file.set_len(len - room).unwrap();
        refused(&commit(&store, &[]), 1, "No space left on device");
        let output = commit(&store, &[]);
        refused(&output, 1, "nothing was changed");
        let now = without_atimes(snapshot(source));
        assert_same(&before, &now, "the source was changed");
        assert_eq!(diff(&store), changes);
        done(&mmfs(&["check"], &store));
    }
    drop(file);
    fs::remove_file(&ballast).unwrap();
    done(&commit(&store, &[]));
    assert_committed(&view, source, &store);
}

#[test]
fn as_root_a_full_disk_leaves_the_source_as_it_was() {
    let fs = LoopFs::new("ext4", 32 << 20);
    full_disk(&fs.path().join("source"));
}

#[test]
fn as_root_a_full_tmpfs_leaves_the_source_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let mut mount = Command::new("mount");
    tools::run(
        mount
            .args(["-t", "tmpfs", "-o", "size=20m", "tmpfs"])
            .arg(place.path()),
    );
    full_disk(&place.path().join("source"));
    tools::unmount_idle(place.path()).unwrap();
}

#[test]
fn a_signal_while_it_copies_leaves_the_source_as_it_was() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let (_place, source, _) = place();
        // On a filesystem of its own: so bytes have to be copied.
        let apart = tempfile::tempdir_in("/dev/shm").unwrap();
        let store = apart.path().join("store");
        fill_source(&source);
        let mut mount = private(&source, &store, &[]);
        let view = change(mount.mnt(), 128 << 20);
        mount.unmount();
        let (before, changes) = (without_atimes(snapshot(&source)), diff(&store));
        // Whoever started the tests may ignore signals.
        let mut command = Command::new(tools::tool("env"));
        command
            .arg("--default-signal=HUP,INT,TERM")
            .arg(builder::binary())
            .arg("commit")
            .arg(&store)
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        // It copies when the large file is there.
        let is_copying = || {
            let directory = fs::read_dir(source.join("d")).unwrap();
            let mut names = directory.map(|entry| entry.unwrap().file_name());
            let temporary = names.find(|name| name.to_string_lossy().starts_with(".mmfs-commit-"));
            temporary.is_some_and(|name| source.join("d").join(name).join("e/large").exists())
        };
        let began = tools::wait_until(Duration::from_secs(20), is_copying);
        kill_process(pid, signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(began, "{output:?}");
        refused(&output, 1, "ended by a signal");
        let now = without_atimes(snapshot(&source));
        assert_same(&before, &now, "the source was changed");
        assert_eq!(diff(&store), changes);
        done(&mmfs(&["check"], &store));
        done(&commit(&store, &[]));
        assert_committed(&view, &source, &store);
    }
}
