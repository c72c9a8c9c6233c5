//! How durable a change is before it is answered: O_SYNC, O_DSYNC, and the mount's options sync and dirsync.

use std::path::Path;

use mmfs::fs::Writing;
use mmfs::inode::ROOT;
use rustix::fs::{OFlags, RenameFlags};
use rustix::io::{Errno, Result};

use crate::served::{PLAIN, Served, USER, name, serve, serve_with};

fn dir_sync() -> Served {
    serve_with(|config| config.flags.dir_sync = true)
}

fn sync() -> Served {
    serve_with(|config| config.flags.sync = true)
}

/// Changes names in every way there is, and returns the calls to sync directories that each way has led to.
fn change_names(served: &Served) -> Vec<(&'static str, Vec<String>)> {
    let (file, dir) = (served.file("file", b""), served.directory("dir"));
    served.memory.take_calls();
    let mut synced = Vec::new();
    let mut done = |operation, outcome: Result<()>| {
        assert_eq!(outcome, Ok(()), "{operation}");
        synced.push((operation, served.memory.take_calls_of("sync_names")));
    };
    let made = served.mknod(&USER, ROOT, name("a"), 0o644, 0, 0);
    done("mknod", made.map(drop));
    let made = served.mkdir(&USER, ROOT, name("b"), 0o755, 0);
    done("mkdir", made.map(drop));
    let made = served.symlink(&USER, ROOT, name("c"), Path::new("t"));
    done("symlink", made.map(drop));
    done("link", served.link(file, ROOT, name("d")).map(drop));
    let created = served.create(&USER, ROOT, name("e"), 0o644, 0, OFlags::RDWR);
    done("create", created.map(drop));
    done("unlink", served.unlink(ROOT, name("a")));
    done("rmdir", served.rmdir(ROOT, name("b")));
    let none = RenameFlags::empty();
    let inside = served.rename((ROOT, name("c")), (ROOT, name("f")), none);
    done("rename inside a directory", inside);
    let across = served.rename((ROOT, name("f")), (dir, name("g")), none);
    done("rename to another directory", across);
    synced
}

#[test]
fn a_change_of_names_is_not_synced_by_itself() {
    for (operation, synced) in change_names(&serve()) {
        assert!(synced.is_empty(), "{operation}: {synced:?}");
    }
}

#[test]
fn with_dirsync_or_sync_every_directory_changed_is_synced_once() {
    for served in [dir_sync(), sync()] {
        for (operation, synced) in change_names(&served) {
            let expected: &[&str] = match operation {
                "rename to another directory" => &["sync_names 1.0", "sync_names 3.0"],
                _ => &["sync_names 1.0"],
            };
            assert_eq!(synced, expected, "{operation}");
        }
    }
}

#[test]
fn a_directory_that_cannot_be_synced_fails_the_change() {
    let served = dir_sync();
    served.file("a", b"");
    served.memory.fail_next("sync_names", Errno::IO);
    assert_eq!(served.unlink(ROOT, name("a")), Err(Errno::IO));
    served.memory.fail_next("sync_names", Errno::IO);
    let made = served.mkdir(&USER, ROOT, name("b"), 0o755, 0);
    assert_eq!(made.unwrap_err(), Errno::IO);
}

#[test]
fn a_change_that_took_place_is_never_stale() {
    let served = dir_sync();
    let stale = Errno::STALE;
    served.memory.fail_next("sync_names", stale);
    let made = served.mkdir(&USER, ROOT, name("a"), 0o755, 0);
    assert!(made.is_ok(), "the second time it was synced");
    served.memory.fail_next("sync_names", stale);
    served.memory.fail_next("sync_names", stale);
    let made = served.mkdir(&USER, ROOT, name("b"), 0o755, 0);
    assert_eq!(made.unwrap_err(), Errno::IO);
}

#[test]
fn create_whose_directory_cannot_be_synced_takes_lookup_and_open_back() {
    let served = dir_sync();
    served.memory.fail_next("sync_names", Errno::IO);
    let created = served.create(&USER, ROOT, name("a"), 0o644, 0, OFlags::RDWR);
    assert_eq!(created.unwrap_err(), Errno::IO);
    let calls = served.memory.take_calls();
    assert!(calls.contains(&"close 2.0".into()), "{calls:?}");
    assert!(calls.contains(&"forget 2.0".into()), "{calls:?}");
}

/// The writes that have reached the view, each of them made with one of these flags.
fn writes(served: &Served, flags: &[OFlags]) -> Vec<String> {
    let fh = served.handle(served.file("a", b""), OFlags::RDWR);
    served.memory.take_calls();
    for &flags in flags {
        let how = Writing { flags, ..PLAIN };
        assert_eq!(served.write(fh, 0, b"a", how), Ok(1));
    }
    served.memory.take_calls_of("write")
}

/// As the kernel gives them: O_SYNC has the bit of O_DSYNC in it. (`OFlags::DSYNC` of rustix 1.1 is O_SYNC.)
const FLAGS: [OFlags; 3] = [
    OFlags::empty(),
    OFlags::from_bits_retain(libc::O_DSYNC as u32),
    OFlags::from_bits_retain(libc::O_SYNC as u32),
];

fn past_the_cache(sync: bool) -> Served {
    serve_with(|config| (config.direct_io, config.flags.sync) = (true, sync))
}

#[test]
fn a_write_past_the_cache_is_as_durable_as_its_flags_say() {
    let expected = [
        "write 2.0 keeps_setid Cached",
        "write 2.0 keeps_setid Data",
        "write 2.0 keeps_setid Full",
    ];
    assert_eq!(writes(&past_the_cache(false), &FLAGS), expected);
}

/// The kernel sends an FSYNC by itself.
#[test]
fn a_synchronous_write_through_the_cache_is_left_to_the_fsync_that_follows() {
    assert_eq!(
        writes(&serve(), &FLAGS),
        ["write 2.0 keeps_setid Cached"; 3]
    );
}

/// It may be asynchronous, and then the kernel sends no FSYNC.
#[test]
fn an_o_direct_write_is_as_durable_as_its_flags_say() {
    let flags = FLAGS.map(|flags| flags | OFlags::DIRECT);
    let expected = [
        "write 2.0 direct keeps_setid Cached",
        "write 2.0 direct keeps_setid Data",
        "write 2.0 direct keeps_setid Full",
    ];
    assert_eq!(writes(&serve(), &flags), expected);
}

/// Other opens stay with the cache.
#[test]
fn an_open_with_o_direct_goes_past_the_cache() {
    let direct = OFlags::RDWR | OFlags::DIRECT;
    for (flags, sync, expected) in [
        (direct | FLAGS[1], false, true),
        (direct, true, true),
        (direct, false, true),
        (OFlags::RDWR | FLAGS[2], false, false),
    ] {
        let served = serve_with(|config| config.flags.sync = sync);
        let opened = served.open(&USER, served.file("a", b""), flags).unwrap();
        assert_eq!(opened.direct_io, expected, "{flags:?} {sync}");
        assert!(
            opened.may_pass_through,
            "the kernel may serve it all the same"
        );
    }
}

/// As natively: stores are made durable by msync(2).
#[test]
fn a_write_for_a_client_s_mapping_is_not_synchronous() {
    let served = past_the_cache(true);
    let fh = served.handle(served.file("a", b"a"), OFlags::RDWR);
    served.memory.take_calls();
    let how = Writing {
        from_mapping: true,
        ..PLAIN
    };
    assert_eq!(served.write(fh, 0, b"a", how), Ok(1));
    let calls = served.memory.take_calls_of("write");
    assert!(
        calls.iter().all(|call| call.ends_with("Cached")),
        "{calls:?}"
    );
}

#[test]
fn with_dirsync_a_write_is_as_durable_as_its_flags_say() {
    let flags = [OFlags::empty()];
    let expected = ["write 2.0 keeps_setid Cached"];
    assert_eq!(writes(&dir_sync(), &flags), expected);
}

#[test]
fn with_sync_every_write_is_fully_durable_that_no_fsync_follows() {
    let full = "write 2.0 keeps_setid Full";
    assert_eq!(writes(&past_the_cache(true), &FLAGS), [full; 3]);
    let cached = "write 2.0 keeps_setid Cached";
    assert_eq!(writes(&sync(), &FLAGS), [full, cached, cached]);
}

#[test]
fn a_close_syncs_with_sync_on_close_only() {
    for (sync_on_close, expected) in [(false, "flush 2.0 not synced"), (true, "flush 2.0 synced")] {
        let served = serve_with(|config| config.sync_on_close = sync_on_close);
        let fh = served.handle(served.file("a", b""), OFlags::RDWR);
        served.memory.take_calls();
        assert_eq!(served.flush(fh), Ok(()));
        assert_eq!(served.memory.take_calls(), [expected]);
    }
}

#[test]
fn fsync_and_fdatasync_are_told_apart() {
    let served = serve();
    let fh = served.handle(served.file("a", b""), OFlags::RDWR);
    served.memory.take_calls();
    served.fsync(fh, false).unwrap();
    served.fsync(fh, true).unwrap();
    assert_eq!(
        served.memory.take_calls(),
        ["sync 2.0 all", "sync 2.0 data"]
    );
}

#[test]
fn a_lost_write_is_told_by_flush_and_fsync() {
    let served = serve();
    let fh = served.handle(served.file("a", b""), OFlags::RDWR);
    served.memory.fail_next("flush", Errno::IO);
    assert_eq!(served.flush(fh), Err(Errno::IO));
    served.memory.fail_next("sync", Errno::NOSPC);
    assert_eq!(served.fsync(fh, true), Err(Errno::NOSPC));
    assert_eq!(served.fsync(fh, true), Ok(()));
}

#[test]
fn what_waits_in_open_files_is_applied_at_the_end() {
    let served = serve();
    let fh = served.handle(served.file("a", b""), OFlags::RDWR);
    served.handle(served.file("b", b""), OFlags::RDONLY);
    served.release(fh).unwrap();
    served.memory.take_calls();
    served.settle();
    assert_eq!(served.memory.take_calls(), ["settle 3.0"]);
}
