use super::*;
use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

/// A mapping of `pages` pages, of a file truncated to `left` pages.
fn truncated(pages: usize, left: usize) -> (File, MmapRaw, usize) {
    let page = rustix::param::page_size();
    let file = tempfile::tempfile().unwrap();
    file.set_len((pages * page) as u64).unwrap();
    let map = MmapOptions::new().len(pages * page).map_raw(&file).unwrap();
    file.set_len((left * page) as u64).unwrap();
    (file, map, page)
}

#[test]
fn copies_whole_and_counts_what_came_before_a_fault() {
    let handler = install().unwrap();
    let (_file, map, page) = truncated(3, 2);
    let mut buffer = vec![7u8; 3 * page];
    for (from, len) in [
        (0, 0),
        (0, 1),
        (5, 15),
        (0, 2 * page),
        (1, 2 * page - 1),
        (0, 3 * page),
        (33, 2 * page),
        (2 * page, 9),
    ] {
        let within = len.min(2 * page - from);
        let expected = if within == len {
            Ok(())
        } else {
            Err(Fault { copied: within })
        };
        // SAFETY: `from + len` is within map and buffer, which are distinct.
        unsafe {
            let into = copy(handler, map.as_mut_ptr().add(from), buffer.as_ptr(), len);
            let out = copy(handler, buffer.as_mut_ptr(), map.as_ptr().add(from), len);
            // aarch64 copies 16 bytes per step.
            let fits = |got: Result<(), Fault>| match (got, expected) {
                (Err(a), Err(b)) => a.copied <= b.copied && b.copied - a.copied < 16,
                (a, b) => a == b,
            };
            assert!(
                fits(into) && fits(out),
                "{from} {len}: {into:?} {out:?}, expected {expected:?}"
            );
        }
        assert!(buffer.iter().all(|&b| b == 7));
    }
}

#[test]
fn faults_of_several_threads_stay_apart() {
    let handler = install().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            scope.spawn(move || {
                let (file, map, page) = truncated(2, 1);
                let mut buffer = vec![thread; 2 * page];
                for _ in 0..5_000 {
                    // SAFETY: both are two pages long and distinct.
                    let (into, out) = unsafe {
                        let into = copy(handler, map.as_mut_ptr(), buffer.as_ptr(), 2 * page);
                        (
                            into,
                            copy(handler, buffer.as_mut_ptr(), map.as_ptr(), 2 * page),
                        )
                    };
                    assert_eq!(
                        (into, out),
                        (Err(Fault { copied: page }), Err(Fault { copied: page }))
                    );
                }
                assert!(buffer.iter().all(|&b| b == thread));
                drop(file);
            });
        }
    });
}

/// Runs the test `name` of this module in a process of its own. The environment tells it that it is the child.
fn child(name: &str) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        &format!("mapping::guard::tests::{name}"),
        "--test-threads=1",
    ]);
    command.env("MMFS_CHILD", "1").output().unwrap().status
}

fn is_child() -> bool {
    std::env::var_os("MMFS_CHILD").is_some()
}

fn set_handler(handler: libc::sighandler_t) {
    // SAFETY: SIG_DFL, SIG_IGN, or a function of one integer that makes async-signal-safe calls only.
    unsafe { libc::signal(libc::SIGBUS, handler) };
}

/// A plain load beyond the end: SIGBUS outside of the copy loop.
fn fault_elsewhere() {
    let (_file, map, _) = truncated(1, 0);
    // SAFETY: mapped and readable; the SIGBUS is what the test wants.
    unsafe { map.as_ptr().read_volatile() };
}

#[test]
fn a_fault_elsewhere_reaches_the_earlier_handler() {
    extern "C" fn exit_42(_: libc::c_int) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(42) }
    }
    if is_child() {
        set_handler(exit_42 as extern "C" fn(libc::c_int) as libc::sighandler_t);
        install().unwrap();
        fault_elsewhere();
    }
    assert_eq!(
        child("a_fault_elsewhere_reaches_the_earlier_handler").code(),
        Some(42)
    );
}

#[test]
fn a_fault_elsewhere_kills_where_it_would_have_killed() {
    if is_child() {
        install().unwrap(); // The earlier handler is the standard library's.
        fault_elsewhere();
    }
    assert_eq!(
        child("a_fault_elsewhere_kills_where_it_would_have_killed").signal(),
        Some(libc::SIGBUS)
    );
}

#[test]
fn a_fault_elsewhere_kills_where_the_signal_is_ignored() {
    if is_child() {
        set_handler(libc::SIG_IGN);
        install().unwrap();
        // SAFETY: raise has no conditions.
        unsafe { libc::raise(libc::SIGBUS) }; // Ignored, as before.
        fault_elsewhere();
    }
    assert_eq!(
        child("a_fault_elsewhere_kills_where_the_signal_is_ignored").signal(),
        Some(libc::SIGBUS)
    );
}

#[test]
fn a_sent_signal_kills_by_default() {
    if is_child() {
        set_handler(libc::SIG_DFL);
        install().unwrap();
        // SAFETY: raise has no conditions.
        unsafe { libc::raise(libc::SIGBUS) };
    }
    assert_eq!(
        child("a_sent_signal_kills_by_default").signal(),
        Some(libc::SIGBUS)
    );
}
