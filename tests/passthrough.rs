//! `--passthrough`: the kernel serves open files by itself, and what cannot be handed over is served as without it.
//! That semantics stay the same is shown by the other tests, run with MMFS_TEST_OPTIONS=--passthrough.

mod common;
mod stage;

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::user::{as_user, give_to, ordinary};
use common::{Builder, Mount, tools};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use stage::{KIB, Stage, assert_same_bytes, noise, on, printed, shared};

/// A mount that logs its requests.
fn passing() -> Builder {
    // The name of a capability, not an error.
    shared()
        .env("RUST_LOG", "warn,fuser=debug")
        .expect_log("FUSE_ABORT_ERROR")
        .option("--passthrough")
}

/// Reads, writes and appends what a client does with a file, and says how many READ and WRITE requests that took.
#[track_caller]
fn requests_for_using(stage: &Stage, name: &str) -> usize {
    let before = stage.log().len();
    let (bytes, more) = (noise(300 * KIB, 1), noise(5000, 2));
    fs::write(stage.source(name), &bytes).unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(stage.mount(name))
        .unwrap();
    file.write_all_at(&more, 1000).unwrap();
    fs::OpenOptions::new()
        .append(true)
        .open(stage.mount(name))
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"end"))
        .unwrap();
    let mut expected = bytes;
    expected[1000..6000].copy_from_slice(&more);
    expected.extend(b"end");
    for path in [stage.mount(name), stage.source(name)] {
        assert_same_bytes(name, &expected, &fs::read(path).unwrap());
    }
    let log = stage.log();
    let count = |request: &str| log[before..].matches(request).count();
    count(" READ ") + count(" WRITE ")
}

/// (proves: S49)
#[test]
fn as_root_the_kernel_serves_open_files_by_itself() {
    on(passing(), |stage| {
        assert_eq!(requests_for_using(stage, "file"), 0, "requests for bytes");
        // What changes behind the mount is seen at once by those who have the file open.
        let file = File::open(stage.mount("file")).unwrap();
        fs::write(stage.source("file"), b"new").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 3);
        assert_eq!(&buffer[..3], b"new");
        // A new file, too.
        let before = stage.log().len();
        fs::write(stage.mount("new"), noise(300 * KIB, 3)).unwrap();
        let log = stage.log();
        assert!(log[before..].contains(" CREATE "), "a file is created");
        assert!(!log[before..].contains(" WRITE "), "{}", &log[before..]);
        assert_same_bytes(
            "new",
            &noise(300 * KIB, 3),
            &fs::read(stage.source("new")).unwrap(),
        );
        assert_eq!(fs::metadata(stage.mount("new")).unwrap().len(), 300 * KIB);
    });
}

/// Whoever may not hand over files, does without; the log says why.
/// A store through a client's mapping moves the times that are shown once the mapping is gone, however long attributes
/// may be believed.
/// (proves: S49)
#[test]
fn as_root_stores_move_the_times_that_are_shown() {
    on(
        passing().options(["--attr-timeout", "60", "--entry-timeout", "60"]),
        |stage| {
            let file = stage.mount("file");
            fs::write(&file, noise(8 * KIB, 3)).unwrap();
            let mtime = |path: &Path| {
                let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MTIME).unwrap();
                (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec)
            };
            let before = mtime(&file);
            std::thread::sleep(2 * stage::CLOCK_STEP);
            tools::run(
                Command::new(stage.program("store"))
                    .arg("shared")
                    .arg(&file)
                    .args(["100", "33", "50"]),
            );
            let there = mtime(&stage.source("file"));
            assert_ne!(there, before);
            // The kernel does not wait for the answer to the file's release.
            tools::wait_until(Duration::from_secs(5), || mtime(&file) == there);
            assert_eq!(mtime(&file), there);
        },
    );
}

/// (proves: S49)
#[test]
fn without_the_privilege_files_are_served_from_maps() {
    on(
        Mount::builder()
            .as_user(ordinary())
            .env("RUST_LOG", "warn,fuser=debug")
            .expect_log("FUSE_ABORT_ERROR")
            .option("--passthrough"),
        |stage| {
            fs::write(stage.source("file"), b"bytes").unwrap();
            give_to(ordinary(), &stage.source("file"));
            let read = as_user(ordinary(), "cat")
                .arg(stage.mount("file"))
                .output()
                .unwrap();
            assert_eq!(read.stdout, b"bytes");
            let log = stage.log();
            assert!(
                log.contains("passthrough needs CAP_SYS_ADMIN: files are served from maps"),
                "{log}"
            );
            assert!(log.contains(" READ "), "{log}");
        },
    );
}

#[track_caller]
fn a_users_write_takes_suid_and_sgid(stage: &Stage) {
    tools::run(
        as_user(ordinary(), "dd")
            .args(["if=/dev/zero", "count=1", "conv=notrunc", "status=none"])
            .arg(format!("of={}", stage.mount("file").display())),
    );
    let mode = fs::metadata(stage.source("file")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o777, "suid and sgid went");
}

/// What the kernel would get wrong is not handed over: access times under `noatime`, writes under `sync`, and files with
/// suid or sgid.
/// (proves: S49)
#[test]
fn as_root_what_the_kernel_would_get_wrong_is_served_from_maps() {
    for option in ["noatime", "sync"] {
        on(passing().options(["-o", option]), |stage| {
            assert!(requests_for_using(stage, "file") > 0, "{option}");
            assert!(
                stage.log().contains("files are served from maps"),
                "{option}"
            );
        });
    }
    on(passing(), |stage| {
        let file = stage.source("file");
        fs::write(&file, b"bytes").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o6777)).unwrap();
        a_users_write_takes_suid_and_sgid(stage);
        assert!(stage.log().contains(" WRITE "));
    });
}

/// A file that gets suid while the kernel serves it loses it to the next writer.
/// (proves: S49)
#[test]
fn as_root_suid_given_to_an_open_file_does_not_outlive_a_write() {
    on(passing(), |stage| {
        let file = stage.source("file");
        fs::write(&file, b"bytes").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o777)).unwrap();
        let held = File::open(stage.mount("file")).unwrap();
        fs::set_permissions(stage.mount("file"), Permissions::from_mode(0o6777)).unwrap();
        a_users_write_takes_suid_and_sgid(stage);
        drop(held);
    });
}

/// Handing over keeps no source file from being executed once its writers have closed it.
/// (proves: S49)
#[test]
fn as_root_a_program_that_is_still_read_can_be_executed() {
    on(passing(), |stage| {
        fs::copy("/bin/true", stage.mount("program")).unwrap();
        let writer = OpenOptions::new()
            .write(true)
            .open(stage.mount("program"))
            .unwrap();
        let reader = File::open(stage.mount("program")).unwrap();
        drop(writer);
        for program in [stage.source("program"), stage.mount("program")] {
            stage::eventually("the program runs", || {
                Command::new(&program).status().is_ok()
            });
        }
        drop(reader);
    });
}

/// A source that is stacked itself takes the kernel's last level of stacking.
/// (proves: S49)
#[test]
fn as_root_an_overlay_is_passed_through() {
    let base = tempfile::tempdir_in(stage::disk()).unwrap();
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| {
        let directory = base.path().join(name);
        fs::create_dir(&directory).unwrap();
        directory
    });
    fs::write(lower.join("below"), b"below").unwrap();
    let overlay = Overlay::mount(&lower, &upper, &work, &merged);
    on(passing().over(&merged), |stage| {
        assert_eq!(fs::read(stage.mount("below")).unwrap(), b"below");
        // A writer has the file copied up under the reader.
        let reader = File::open(stage.mount("below")).unwrap();
        fs::write(stage.mount("below"), b"above").unwrap();
        assert_eq!(fs::read(stage.source("below")).unwrap(), b"above");
        assert_eq!(fs::read(stage.mount("below")).unwrap(), b"above");
        drop(reader);
        let log = stage.log();
        assert!(!log.contains(" READ ") && !log.contains(" WRITE "), "{log}");
    });
    drop(overlay);
}

struct Overlay<'a>(&'a Path);

impl<'a> Overlay<'a> {
    fn mount(lower: &Path, upper: &Path, work: &Path, merged: &'a Path) -> Self {
        let [lower, upper, work] = [lower, upper, work].map(Path::display);
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let mut command = Command::new("mount");
        printed(
            command
                .args(["-t", "overlay", "overlay", "-o", &options])
                .arg(merged),
        );
        Overlay(merged)
    }
}

impl Drop for Overlay<'_> {
    fn drop(&mut self) {
        let _ = tools::unmount_idle(self.0);
    }
}
