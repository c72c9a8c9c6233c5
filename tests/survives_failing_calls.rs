//! Rule 7: any system call may fail. For every call that an operation makes on the source, and for its first,
//! second, ... use, strace makes that one fail. The client gets an errno (or a fallback's success, which must
//! then be true), the daemon lives, the next operations work, and no descriptor or mapping leaks.

mod common;
mod survive;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Mount, tools};
use survive::strace::Strace;
use survive::{Figures, Rng, daemon, length, soak};

#[path = "survive/operations.rs"]
mod operations;
use operations::{OPERATIONS, Operation, Place};

/// What the daemon may call on the source's paths, and errors these calls are known to give. Not among them:
/// close and munmap, for an injected call is not made, and would leak by itself.
const CALLS: &[(&str, &[&str])] = &[
    ("openat", &["EIO", "ENOMEM", "EMFILE", "EINTR"]),
    ("open_by_handle_at", &["ESTALE", "ENOMEM", "EMFILE"]),
    ("name_to_handle_at", &["EOPNOTSUPP", "ENOMEM"]),
    ("statx", &["EIO", "ENOMEM", "ESTALE"]),
    ("getdents64", &["EIO", "ENOMEM"]),
    ("lseek", &["EIO"]),
    ("pread64", &["EIO", "EINTR"]),
    ("pwrite64", &["ENOSPC", "EIO", "EINTR", "EDQUOT"]),
    ("pwritev2", &["ENOSPC", "EIO", "EOPNOTSUPP"]),
    ("ftruncate", &["EIO", "ENOSPC", "EINTR"]),
    ("fallocate", &["ENOSPC", "EIO", "EINTR"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("fdatasync", &["EIO"]),
    ("mmap", &["ENOMEM", "EACCES", "EAGAIN"]),
    ("mremap", &["ENOMEM", "EFAULT"]),
    ("mprotect", &["ENOMEM", "EACCES"]),
    ("madvise", &["ENOMEM", "EIO"]),
    ("mkdirat", &["ENOSPC", "EIO"]),
    ("mknodat", &["ENOSPC", "EIO"]),
    ("symlinkat", &["ENOSPC", "EIO"]),
    ("linkat", &["ENOSPC", "EMLINK"]),
    ("unlinkat", &["EIO", "ENOSPC"]),
    ("renameat2", &["EIO", "ENOSPC"]),
    ("readlinkat", &["EIO"]),
    ("fchownat", &["EIO", "EDQUOT"]),
    ("fchmodat", &["EIO"]),
    ("chmod", &["EIO"]),
    ("utimensat", &["EIO", "EPERM"]),
    ("getxattr", &["EIO"]),
    ("fgetxattr", &["EIO", "ENOMEM"]),
    ("setxattr", &["ENOSPC", "EIO"]),
    ("listxattr", &["EIO"]),
    ("removexattr", &["EIO"]),
    ("fstatfs", &["EIO"]),
    ("copy_file_range", &["EIO", "ENOSPC"]),
    ("capset", &["EPERM"]),
    ("capget", &["EPERM"]),
];

/// (proves: S46)
#[test]
fn every_system_call_may_fail() {
    let (figures, mut rng) = (Figures::of("survives_failing_calls"), Rng::new());
    // The region has every call there is; the long form shows the other ways beside it.
    let ways: &[&[&str]] = match soak() {
        Some(_) => &[&["--write-path", "region"], &[], &["--direct-io"]],
        None => &[&["--write-path", "region"]],
    };
    for way in ways {
        let time = length(40) / ways.len() as u32;
        one_way(way, time, &figures, &mut rng);
    }
    figures.finish();
}

fn one_way(way: &[&str], time: Duration, figures: &Figures, rng: &mut Rng) {
    // One worker, whose two event loops take turns: strace counts the calls of each. An allocator that is content with brk(2), so that calls about
    // mappings are the daemon's own.
    let mount = Mount::builder()
        .options(["--threads", "1"])
        .options(way.iter().copied())
        .env(
            "GLIBC_TUNABLES",
            "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=4294967296",
        )
        .expect_log("reply")
        .mount();
    let pid = mount.daemon_pid();
    mount.within(time + Duration::from_secs(60), || {
        let mut cases = all_cases(&mount, figures);
        let deadline = Instant::now() + time;
        let (all, mut done) = (cases.len(), 0);
        // In an order that differs from run to run, should the time not do for all of them.
        while let (Some(case), true) = (take_any(&mut cases, rng), Instant::now() < deadline) {
            run_case(&mount, &case, done, figures);
            done += 1;
            if !daemon::lives(pid) {
                figures.divergence(format!("the daemon ended: {case:?}\n{}", mount.log()));
                figures.exit();
                break;
            }
        }
        figures.note(format!("{way:?}: cases={done}/{all}"));
    });
}

#[derive(Debug, Clone)]
struct Case {
    operation: &'static Operation,
    call: &'static str,
    error: &'static str,
    nth: u64,
}

fn take_any(cases: &mut Vec<Case>, rng: &mut Rng) -> Option<Case> {
    let at = rng.below(cases.len() as u64) as usize;
    (!cases.is_empty()).then(|| cases.swap_remove(at))
}

fn traced_calls() -> String {
    let names: Vec<_> = CALLS.iter().map(|(name, _)| *name).collect();
    names.join(",")
}

/// Runs every operation once undisturbed, to see which calls it makes and how often.
fn all_cases(mount: &Mount, figures: &Figures) -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, operation) in OPERATIONS.iter().enumerate() {
        let warm = Place::new(mount, &format!("warm{n}"), operation);
        let outcome = operation.run(&warm);
        figures.expect(operation.name, outcome.map_err(|e| e.to_string()), Ok(()));
        let place = Place::new(mount, &format!("seen{n}"), operation);
        let strace = Strace::attach(
            mount.daemon_pid(),
            &traced_calls(),
            &[],
            &mount.scratch().join("strace"),
        );
        let outcome = operation.run(&place);
        let log = strace.detach();
        figures.expect(operation.name, outcome.map_err(|e| e.to_string()), Ok(()));
        let mut uses: BTreeMap<&str, u64> = BTreeMap::new();
        for name in log.lines().filter_map(called) {
            if let Some((name, _)) = CALLS.iter().find(|(known, _)| *known == name) {
                *uses.entry(name).or_default() += 1;
            }
        }
        cases.extend(
            uses.iter()
                .flat_map(|(call, count)| cases_of(operation, call, *count)),
        );
    }
    cases
}

fn cases_of(operation: &'static Operation, call: &'static str, count: u64) -> Vec<Case> {
    let errors = CALLS
        .iter()
        .find(|(name, _)| *name == call)
        .map_or(&[][..], |(_, errors)| errors);
    let errors = if soak().is_some() {
        errors
    } else {
        &errors[..errors.len().min(2)]
    };
    let each = |nth| {
        errors.iter().map(move |error| Case {
            operation,
            call,
            error,
            nth,
        })
    };
    (1..=count.min(12)).flat_map(each).collect()
}

// "1234 openat(5, ..."
fn called(line: &str) -> Option<&str> {
    line.split_once(' ')?.1.trim_start().split('(').next()
}

fn run_case(mount: &Mount, case: &Case, n: usize, figures: &Figures) {
    let pid = mount.daemon_pid();
    let place = Place::new(mount, &format!("case{n}"), case.operation);
    let injection = format!("{}:error={}:when={}", case.call, case.error, case.nth);
    let log = mount.scratch().join("strace");
    let strace = Strace::attach(pid, case.call, &[injection], &log);
    let outcome = case.operation.run(&place);
    let injected = strace.detach().contains("(INJECTED)");
    if injected {
        figures.fault();
    }
    figures.operation();
    if let Err(error) = outcome {
        figures.error(&error);
        let name = errno_of(case.error);
        // Its own error, or one that says that the file cannot be reached; EIO also where it says nothing else.
        let honest = [name, libc::EIO, libc::ESTALE];
        if !error.raw_os_error().is_some_and(|e| honest.contains(&e)) {
            figures.divergence(format!("{case:?}: {error}"));
        }
    }
    if let Err(error) = case.operation.intact(&place) {
        figures.divergence(format!("{case:?} left a wrong state: {error}"));
    }
    if let Err(error) = probe(mount, n) {
        figures.divergence(format!("after {case:?} the next operations fail: {error}"));
    }
    let held = daemon::held_files(pid, mount.src());
    figures.expect(&format!("{case:?}: held afterwards"), held, Vec::new());
    tools::run(
        std::process::Command::new("rm")
            .arg("-rf")
            .arg(mount.src().join(format!("case{n}"))),
    );
}

/// A little of everything, undisturbed.
fn probe(mount: &Mount, n: usize) -> io::Result<()> {
    let name = format!("probe{n}");
    let (through, native) = (mount.mnt().join(&name), mount.src().join(&name));
    std::fs::write(&through, "some bytes")?;
    same(&std::fs::read(&native)?, b"some bytes")?;
    same(&std::fs::read(&through)?, b"some bytes")?;
    if !lists(mount.mnt(), &name)? {
        return Err(io::Error::other("a new name is not listed"));
    }
    std::fs::remove_file(through)
}

fn lists(directory: &Path, name: &str) -> io::Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        if entry?.file_name() == name {
            return Ok(true);
        }
    }
    Ok(false)
}

fn same(found: &[u8], wanted: &[u8]) -> io::Result<()> {
    match found == wanted {
        true => Ok(()),
        false => Err(io::Error::other("other bytes than were written")),
    }
}

fn errno_of(name: &str) -> i32 {
    match name {
        "EIO" => libc::EIO,
        "ENOMEM" => libc::ENOMEM,
        "EMFILE" => libc::EMFILE,
        "EINTR" => libc::EINTR,
        "ESTALE" => libc::ESTALE,
        "EOPNOTSUPP" => libc::EOPNOTSUPP,
        "ENOSPC" => libc::ENOSPC,
        "EDQUOT" => libc::EDQUOT,
        "EACCES" => libc::EACCES,
        "EAGAIN" => libc::EAGAIN,
        "EFAULT" => libc::EFAULT,
        "EMLINK" => libc::EMLINK,
        "EPERM" => libc::EPERM,
        other => panic!("{other}?"),
    }
}
