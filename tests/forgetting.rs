//! The operations on the shared view, without a mount: an inode that is remembered stays reachable, whatever others
//! look up and forget at the same moment.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use mmfs::actor::Actor;
use mmfs::config::{Access, Config, LogConfig, MountFlags, WritePath};
use mmfs::fs::Fs;
use mmfs::inode::ROOT;
use mmfs::sys::identity::Caller;
use mmfs::view::shared::Shared;

const FOR: Duration = Duration::from_secs(3);

/// Threads that look up and forget the name that another one makes and removes.
const ONLOOKERS: usize = 4;

const SOMEBODY: Actor = Actor {
    caller: Caller { uid: 0, gid: 0 },
    pid: 1,
};

#[derive(Clone, Copy)]
enum Kind {
    File,
    Directory,
}

#[test]
fn a_removed_directory_is_reachable_whoever_forgets_it_meanwhile() {
    remove_among_onlookers(Kind::Directory);
}

#[test]
fn a_removed_file_is_reachable_whoever_forgets_it_meanwhile() {
    remove_among_onlookers(Kind::File);
}

fn serve(source: &Path) -> Arc<Fs<Shared>> {
    let config = Config {
        store: None,
        source: source.into(),
        mount_point: "/".into(),
        foreground: true,
        access: Access::Owner,
        auto_unmount: false,
        threads: 1,
        window_size: 1 << 20,
        map_budget: Some(1 << 28),
        write_path: WritePath::Auto,
        sync_on_close: false,
        attr_timeout: Duration::ZERO,
        entry_timeout: Duration::ZERO,
        direct_io: false,
        passthrough: false,
        flags: MountFlags::default(),
        fsname: "test".into(),
        subtype: "mmfs".into(),
        log: LogConfig::default(),
        pid_file: None,
    };
    Fs::new(&config, |reporter| Shared::open(&config, reporter)).expect("a source")
}

fn remove_among_onlookers(kind: Kind) {
    let source = tempfile::tempdir().expect("a directory");
    let served = serve(source.path());
    let ended = AtomicBool::new(false);
    let name = OsStr::new("name");
    let rounds = thread::scope(|scope| {
        for _ in 0..ONLOOKERS {
            scope.spawn(|| {
                while !ended.load(Relaxed) {
                    if let Ok(entry) = served.lookup(&SOMEBODY, ROOT, name) {
                        served.forget(entry.attr.ino, 1);
                    }
                }
            });
        }
        let began = Instant::now();
        let mut rounds = 0;
        // Ends the others also when it panics.
        let _end = EndOnDrop(&ended);
        while began.elapsed() < FOR {
            remove_and_look(&served, source.path(), name, kind);
            rounds += 1;
        }
        rounds
    });
    assert!(rounds > 10, "{rounds} rounds");
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Who has looked up an inode can ask for its attributes until that lookup is forgotten, though its name has gone.
fn remove_and_look(served: &Fs<Shared>, source: &Path, name: &OsStr, kind: Kind) {
    match kind {
        Kind::File => drop(File::create(source.join(name)).expect("create")),
        Kind::Directory => fs::create_dir(source.join(name)).expect("mkdir"),
    }
    let entry = served.lookup(&SOMEBODY, ROOT, name).expect("lookup");
    match kind {
        Kind::File => served.unlink(ROOT, name).expect("unlink"),
        Kind::Directory => served.rmdir(ROOT, name).expect("rmdir"),
    }
    for _ in 0..3 {
        let attr = served.getattr(entry.attr.ino, None);
        assert_eq!(attr.map(|attr| attr.mode), Ok(entry.attr.mode));
        thread::yield_now();
    }
    served.forget(entry.attr.ino, 1);
}
