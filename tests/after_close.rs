//! After close(2) no process sees mmfs writing: one that executes the file at the source at once, or asks for a lease on it,
//! finds it as if its writer had written there. And a client that goes on writing, through a duplicate of the descriptor or
//! a mapping, notices nothing.

mod common;
mod stage;

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::tools;
use common::user::is_root;
use rustix::fs::{FallocateFlags, fallocate};
use stage::{Stage, on_mount, printed};

const MODES: [&[&str]; 4] = [
    &[],
    &["--direct-io"],
    &["--write-path", "region"],
    &["--threads", "1"],
];

/// The ways that programs are written.
const WAYS: [&str; 7] = [
    "write",
    "copy",
    "map",
    "closed-map",
    "pieces",
    "duplicate",
    "nothing",
];

/// Programs for each way and mode: half of them are executed, of the others a lease is taken.
const TIMES: usize = 40;

fn refusals(stage: &Stage, way: &str, mounted: &Path, source: &Path) -> String {
    let mut program = Command::new(stage.program("write_and_run"));
    program.arg(way).arg(mounted).arg(source);
    printed(program.arg(TIMES.to_string()))
}

fn modes() -> impl Iterator<Item = &'static [&'static str]> {
    let passed: &[&str] = &["--passthrough"];
    MODES.into_iter().chain(is_root().then_some(passed))
}

/// A program is executed at the source 700 times, as soon as it is written, and leased as often.
/// (proves: S23)
#[test]
fn a_program_runs_at_the_source_as_soon_as_it_is_closed() {
    for mode in modes() {
        on_mount(mode, |stage| {
            for way in WAYS {
                let (mounted, source) = (stage.mount("program"), stage.source("program"));
                let natively = refusals(stage, way, &stage.plain("p"), &stage.plain("p"));
                let here = refusals(stage, way, &mounted, &source);
                stage.expect_same(&format!("{mode:?}, {way}"), &natively, &here);
            }
        });
    }
}

/// What one does with a duplicate of a descriptor that was closed, told as lines.
struct Told(Vec<String>);

impl Told {
    fn note<T: Debug>(&mut self, what: &str, outcome: std::io::Result<T>) {
        let outcome = outcome.map_err(|e| e.raw_os_error());
        self.0.push(format!("{what}: {outcome:?}"));
    }
}

/// A file, made with this mode, of whose descriptors one is closed already.
fn half_closed(path: &Path, mode: u32) -> File {
    let mut how = OpenOptions::new();
    how.read(true).write(true).create_new(true).mode(mode);
    let mut file = how.open(path).unwrap();
    file.write_all(b"before\n").unwrap();
    file.try_clone().unwrap()
}

fn contents(file: &File) -> std::io::Result<String> {
    let (mut file, mut text) = (file.try_clone()?, String::new());
    file.seek(SeekFrom::Start(0))?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn go_on(dir: &Path) -> Vec<String> {
    let mut told = Told(Vec::new());
    for (name, mode) in [
        ("usual", 0o644),
        ("read-only", 0o444),
        ("unreadable", 0o200),
    ] {
        let mut file = half_closed(&dir.join(name), mode);
        told.note(name, file.write_all(b"after\n"));
        told.note(name, file.set_len(9));
        told.note(name, file.write_all_at(b"at", 100));
        told.note(
            name,
            fallocate(&file, FallocateFlags::empty(), 0, 200).map_err(Into::into),
        );
        told.note(name, contents(&file));
        told.note(name, file.sync_all());
        drop(file.try_clone().unwrap());
        told.note(name, file.sync_data());
        drop(file.try_clone().unwrap());
        told.note(name, file.metadata().map(|meta| meta.len()));
        told.note(name, contents(&file));
    }
    let mut removed = half_closed(&dir.join("removed"), 0o600);
    fs::remove_file(dir.join("removed")).unwrap();
    told.note("removed", removed.write_all(b"after\n"));
    told.note("removed", contents(&removed));

    let path = dir.join("protected");
    let mut protected = half_closed(&path, 0o600);
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    told.note("protected", protected.write_all(b"after\n"));
    drop(protected.try_clone().unwrap());
    told.note("protected", protected.write_all(b"and on\n"));
    told.note("protected", contents(&protected));

    let path = dir.join("shell");
    let script = r#"exec 3>"$1"; echo one >&3; (echo two >&3); chmod 444 "$1"; echo three >&3; cat /dev/null >&3
        rm "$1"; echo four >&3; exec 4<"/proc/$$/fd/3"; cat <&4"#;
    told.note("shell", Ok(tools::sh(script, &[path.as_ref()])));
    let log = File::create(dir.join("log")).unwrap();
    for word in ["one", "two", "three"] {
        let mut echo = Command::new("echo");
        let status = echo.arg(word).stdout(log.try_clone().unwrap()).status();
        told.note("log", status.map(|status| status.code()));
    }
    told.note("log", fs::read_to_string(dir.join("log")));
    told.0
}

/// Whoever has a duplicate of a descriptor that was closed writes, resizes, reads and syncs as before, whatever the
/// file's mode is by then, and whether or not it has a name.
/// (proves: S3)
#[test]
fn a_duplicate_goes_on_as_if_nothing_had_been_closed() {
    for mode in modes() {
        on_mount(mode, |stage| stage.twins(&format!("{mode:?}"), go_on));
    }
}

/// Programs that close what they have mapped store into it as before. Meanwhile no process sees the file open for writing.
/// (proves: S16)
#[test]
fn what_is_stored_after_the_close_arrives() {
    for mode in modes() {
        on_mount(mode, |stage| {
            let bits = if is_root() { 0o6755 } else { 0o755 };
            stage.twins(&format!("{mode:?}"), |dir| {
                let path = dir.join("file");
                fs::write(&path, [b'.'; 20_000]).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
                let mut store = Command::new(stage.program("store"));
                tools::run(store.arg("shared").arg(&path).args(["5000", "65", "9000"]));
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                (fs::read(&path).unwrap(), mode)
            });
        });
    }
}

/// While a client has a file mapped that it has closed, the file can be executed at the source. Then nothing can be
/// written to it, and what was stored is a lost write: every descriptor hears of it once, and the mount goes on.
/// (proves: S41)
#[test]
fn what_cannot_be_written_because_it_is_executed_is_a_lost_write() {
    for mode in MODES {
        on_mount(mode, |stage| {
            let (mounted, source) = (stage.mount("sleeper"), stage.source("sleeper"));
            fs::copy(tools::tool("sleep"), &mounted).unwrap();
            let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
            let file = open(&mounted).unwrap();
            drop(file.try_clone().unwrap());
            let mut running = Command::new(&source).arg("100").spawn().unwrap();
            let refused = file.write_at(b"no", 0).map_err(|e| e.raw_os_error());
            let other = open(&mounted).map_err(|e| e.raw_os_error());
            running.kill().unwrap();
            running.wait().unwrap();
            assert_eq!(refused, Err(Some(libc::ETXTBSY)), "{mode:?}: write");
            assert_eq!(other.err(), Some(Some(libc::ETXTBSY)), "{mode:?}: open");
            file.write_all_at(b"\x7f", 0).unwrap();
            file.sync_all().unwrap();
            drop(file);

            let mut store = Command::new(stage.program("store_late"));
            let store = store.arg(&mounted).arg(&source);
            let lost = printed(store);
            assert_eq!(lost, "EIO, then 0, then 0", "{mode:?}: msync, fsync");
        });
    }
}
