//! What these tests stand on: a mount of a source, and a plain twin beside it.
//!
//! The twin is an ordinary directory of the same filesystem. What a test does on the mount it does there too, and
//! expects the same: the source's filesystem is the specification.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod trace;
pub mod tree;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::tools::{self, wait_until};
use crate::common::user;
use crate::common::{Builder, Mount};

/// The page size the edges of these tests are made of.
pub const PAGE: u64 = 4096;
pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// File times are taken from a clock that stands still for up to this long.
pub const CLOCK_STEP: Duration = Duration::from_millis(10);

/// No test here may take longer.
const LIMIT: Duration = Duration::from_secs(120);

/// A mount of a source, and the source's plain twin.
pub struct Stage {
    mount: Mount,
    plain: PathBuf,
    programs: PathBuf,
    differences: Mutex<Vec<String>>,
}

/// Runs the test on a mount with these options.
#[track_caller]
pub fn on_mount(options: &[&str], test: impl FnOnce(&Stage)) {
    on(Mount::builder().options(options.iter().copied()), test);
}

/// Runs the test on a mount as the builder has it, under a time limit.
#[track_caller]
pub fn on(builder: Builder, test: impl FnOnce(&Stage)) {
    let stage = Stage::new(builder);
    stage.mount.within(LIMIT, || test(&stage));
    let differences = stage.differences.lock().unwrap().split_off(0);
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

/// A mount that every user may enter, as far as its owner may allow that: an ordinary user is alone.
pub fn shared() -> Builder {
    let everybody = user::is_root().then_some("--allow-other");
    Mount::builder().options(everybody)
}

impl Stage {
    #[track_caller]
    fn new(builder: Builder) -> Stage {
        let mount = builder.inside(disk()).mount();
        let (plain, programs) = (
            mount.scratch().join("plain"),
            mount.scratch().join("programs"),
        );
        for directory in [&plain, &programs] {
            fs::create_dir(directory).unwrap();
        }
        Stage {
            mount,
            plain,
            programs,
            differences: Mutex::default(),
        }
    }

    /// The path of this name in the directory that is served.
    pub fn source(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount.src().join(name)
    }

    /// The path of this name in the ordinary directory that shows what is right.
    pub fn plain(&self, name: impl AsRef<Path>) -> PathBuf {
        self.plain.join(name)
    }

    /// The path of this name on the mount.
    pub fn mount(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount.mnt().join(name)
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.mount.daemon_pid()
    }

    /// What the daemon logged so far.
    pub fn log(&self) -> String {
        self.mount.log()
    }

    /// The program made from `tests/c/NAME.c`, where every user may run it.
    #[track_caller]
    pub fn program(&self, name: &str) -> PathBuf {
        let program = self.programs.join(name);
        if !program.exists() {
            compile(name, &program);
        }
        program
    }

    /// Does the same in the plain directory and on the mount, and expects the same answers; the test goes on with
    /// others, will tell all that differ, and fails.
    pub fn twins<T: PartialEq + Debug>(&self, what: &str, mut act: impl FnMut(&Path) -> T) {
        let natively = act(&self.plain);
        let mounted = act(self.mount.mnt());
        self.expect_same(what, &natively, &mounted);
    }

    /// Notes a difference between what is natively so and what is so on the mount.
    pub fn expect_same<T: PartialEq + Debug>(&self, what: &str, natively: &T, mounted: &T) {
        if natively != mounted {
            let (natively, mounted) = (format!("{natively:#?}"), format!("{mounted:#?}"));
            let [left, right] = [missing(&natively, &mounted), missing(&mounted, &natively)];
            let report = format!("  {what}\n    natively:     {left}\n    on the mount: {right}");
            self.differences.lock().unwrap().push(report);
        }
    }
}

// The lines of one text that the other has not, a few of them: values here may be long lists.
fn missing(text: &str, other: &str) -> String {
    let there: BTreeSet<&str> = other.lines().collect();
    let lines = text.lines().filter(|line| !there.contains(line)).take(6);
    lines.map(str::trim).collect::<Vec<_>>().join(" ")
}

/// A directory on the disk: /tmp may be a tmpfs, which differs in what these tests are about.
pub fn disk() -> PathBuf {
    std::env::var_os("MMFS_TEST_DIR").map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

// Beside its place first and then moved there, so that two threads cannot see half of it.
#[track_caller]
pub fn compile(name: &str, program: &Path) {
    let source = Path::new("tests/c").join(name).with_extension("c");
    let unfinished = program.with_extension(format!("{:?}", thread::current().id()));
    let mut cc = Command::new(tools::tool("cc"));
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o"])
        .arg(&unfinished)
        .arg(source);
    tools::run(&mut cc);
    fs::rename(unfinished, program).unwrap();
}

/// What a command that must succeed printed, without the last line's end.
#[track_caller]
pub fn printed(command: &mut Command) -> String {
    String::from_utf8_lossy(&tools::run(command).stdout)
        .trim_end()
        .to_owned()
}

/// A command with its arguments.
pub fn command<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Waits until something is true, and fails with its name when it does not come true in time.
#[track_caller]
pub fn eventually(what: &str, check: impl FnMut() -> bool) {
    assert!(
        wait_until(Duration::from_secs(10), check),
        "not within 10 s: {what}"
    );
}

/// The time since the epoch.
pub fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock that was set")
}

/// When the inode last changed.
pub fn changed(meta: &Metadata) -> SystemTime {
    UNIX_EPOCH
        + Duration::new(
            meta.ctime().unsigned_abs(),
            u32::try_from(meta.ctime_nsec()).unwrap(),
        )
}

/// Bytes without a pattern that a wrong offset could hide behind, the same for the same seed.
pub fn noise(length: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length as usize + 8);
    while (bytes.len() as u64) < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length as usize);
    bytes
}

/// Compares long byte strings without printing them: the first difference is enough.
#[track_caller]
pub fn assert_same_bytes(what: &str, expected: &[u8], found: &[u8]) {
    let differs = expected.iter().zip(found).position(|(a, b)| a != b);
    assert!(
        expected.len() == found.len() && differs.is_none(),
        "{what}: {} bytes expected, {} found, first difference at {differs:?}",
        expected.len(),
        found.len()
    );
}
