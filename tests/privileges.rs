//! What a change takes from a file besides its bytes: suid, sgid, security.capability, and for a program the right to
//! be executed while it is written.

mod common;
mod stage;

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::tools::{self, wait_until};
use common::user::{as_user, give_to, is_root, ordinary};
use rustix::fs::{AtFlags, CWD, StatxFlags, XattrFlags, statx};
use stage::{KIB, PAGE, Stage, noise, on, on_mount, printed, shared};

const CAPABILITY: &str = "security.capability";
/// cap_net_raw=ep as capabilities(7) lays it out: version 2 and effective, permitted, inheritable, and the same for
/// capabilities above 31.
const NET_RAW: [u8; 20] = [
    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// The calls of tests/c/one_call.c.
const CALLS: [&str; 19] = [
    "write",
    "write_empty",
    "pwrite",
    "append",
    "truncate",
    "truncate_same",
    "ftruncate",
    "grow",
    "fallocate",
    "keep_size",
    "punch",
    "zero",
    "copy",
    "chown_same",
    "chown_none",
    "chmod_same",
    "open_trunc",
    "open_only",
    "store",
];
/// All special bits; sgid without group execution; suid without any.
const PERMISSIONS: [u32; 3] = [0o6777, 0o2767, 0o4666];
/// Both write paths, with and without the kernel's page cache; `nosuid` is the default of no FUSE mount by root.
const MODES: [&[&str]; 3] = [&[], &["--write-path", "region"], &["--direct-io"]];

/// A file of two pages.
fn make(file: &Path, owner: u32, permissions: u32) {
    fs::write(file, noise(2 * PAGE, 1)).unwrap();
    give_to(owner, file);
    fs::set_permissions(file, Permissions::from_mode(permissions)).unwrap();
}

/// What the call answers, and the file's permissions and capabilities after it.
fn after(stage: &Stage, call: &str, caller: u32, file: &Path) -> (String, u32, Option<usize>) {
    let mut command = as_user(caller, stage.program("one_call"));
    let answer = printed(command.arg(call).arg(file));
    (answer, mode_alone(file) & 0o7777, capability(file))
}

/// The mode as execve(2) and `stat -c %a` take it: size and times are not asked for, for which the kernel would ask the
/// daemon after a write in any case.
fn mode_alone(file: &Path) -> u32 {
    let found = statx(CWD, file, AtFlags::empty(), StatxFlags::MODE).unwrap();
    found.stx_mode.into()
}

fn capability(file: &Path) -> Option<usize> {
    rustix::fs::getxattr(file, CAPABILITY, &mut [0; 64]).ok()
}

/// Everybody who may write to whose files: the owner; as root also root to a user's, a stranger to root's.
fn parties() -> Vec<(u32, u32)> {
    let user = ordinary();
    let all = [(user, user), (0, user), (0, 0), (user, 0)];
    all.into_iter()
        .take(if is_root() { 4 } else { 1 })
        .collect()
}

/// Runs a check for every mode of the mount, call, caller and owner. Left out: a stranger's chown to -1, -1, refused
/// natively. The kernel sends the daemon the same request for it as for a stranger's write, which is allowed.
fn for_each_call(mut check: impl FnMut(&Stage, &str, u32, u32)) {
    for mode in MODES {
        on(shared().options(mode.iter().copied()), |stage| {
            for call in CALLS {
                for (caller, owner) in parties() {
                    if call != "chown_none" || caller == 0 || caller == owner {
                        check(stage, call, caller, owner);
                    }
                }
            }
        });
    }
}

/// "06777 loses its bits exactly where ext4 takes them, as root and as the owner": compared call by call with the same
/// on a plain directory, and seen alike on the mount and in the source.
/// (proves: S22)
#[test]
fn special_bits_go_where_they_go_natively() {
    for_each_call(|stage, call, caller, owner| {
        for permissions in PERMISSIONS {
            let name = format!("{call}-{caller}-{owner}-{permissions:o}");
            stage.twins(&name, |dir| {
                make(&dir.join(&name), owner, permissions);
                after(stage, call, caller, &dir.join(&name))
            });
            let modes = [stage.mount(&name), stage.source(&name)]
                .map(|path| fs::metadata(path).unwrap().mode());
            stage.expect_same(
                &format!("{name}, in the source and shown"),
                &modes[1],
                &modes[0],
            );
        }
    });
}

/// security.capability goes "when the source filesystem would drop" it.
/// (proves: S22)
#[test]
fn as_root_capabilities_go_where_they_go_natively() {
    for_each_call(|stage, call, caller, owner| {
        let name = format!("{call}-{caller}-{owner}");
        stage.twins(&name, |dir| {
            let file = dir.join(&name);
            make(&file, owner, 0o777);
            rustix::fs::setxattr(&file, CAPABILITY, &NET_RAW, XattrFlags::empty()).unwrap();
            after(stage, call, caller, &file)
        });
        let [shown, there] =
            [stage.mount(&name), stage.source(&name)].map(|path| capability(&path));
        stage.expect_same(&format!("{name}, in the source and shown"), &there, &shown);
    });
}

/// Special bits that stay are honoured to the last: after root's write a file keeps them, as natively, and loses them
/// with the owner's next write through a handle that was open before.
/// (proves: S22)
#[test]
fn as_root_an_open_handle_takes_the_bits_of_its_caller() {
    on_mount(&["--allow-other"], |stage| {
        stage.twins("two handles", |dir| {
            let file = dir.join("file");
            make(&file, ordinary(), 0o6777);
            let root = File::options().write(true).open(&file).unwrap();
            root.write_all_at(b"root", 0).unwrap();
            let first = fs::metadata(&file).unwrap().mode();
            let mut user = as_user(ordinary(), "dd");
            user.args([
                "if=/dev/zero",
                "bs=8",
                "count=1",
                "conv=notrunc",
                "status=none",
            ]);
            tools::run(user.arg(format!("of={}", file.display())));
            let second = fs::metadata(&file).unwrap().mode();
            (first, second)
        });
    });
}

/// "1,000 writes send at most one GETXATTR to the daemon (counted)": in the daemon's own log of its requests, as the
/// owner and as root, in every mode; two where the first write takes special bits, after which the kernel asks anew.
/// Left out: root's writes to a file that keeps its special bits. The kernel asks before each, whatever the filesystem.
/// (proves: S22)
#[test]
fn a_thousand_writes_ask_for_one_attribute_at_most() {
    let user = ordinary();
    for mode in MODES {
        for (owner, permissions, most) in [(0, 0o644, 1), (user, 0o644, 1), (user, 0o6777, 2)] {
            if owner == 0 && !is_root() {
                continue;
            }
            // The name of a capability, not an error.
            let logging = shared()
                .env("RUST_LOG", "fuser=debug")
                .expect_log("FUSE_ABORT_ERROR");
            on(logging.options(mode.iter().copied()), |stage| {
                make(&stage.source("file"), owner, permissions);
                let asked = asked_in_a_thousand_writes(stage, owner);
                assert!(
                    asked <= most,
                    "{mode:?}, {permissions:o} by {owner}: {asked} GETXATTR for 1,000 writes"
                );
            });
        }
    }
}

/// How many GETXATTR come with 1,000 writes to the file, none of which the kernel has to split.
fn asked_in_a_thousand_writes(stage: &Stage, writer: u32) -> usize {
    let before = stage.log().len();
    let mut dd = as_user(writer, "dd");
    dd.args([
        "if=/dev/zero",
        "bs=8",
        "count=1000",
        "conv=notrunc",
        "status=none",
    ]);
    tools::run(dd.arg(format!("of={}", stage.mount("file").display())));
    let log = stage.log();
    // Finding the file asks for the ACLs of its directories: that is not the writes' doing.
    let opened = log[before..]
        .split_once(" OPEN ")
        .expect("an OPEN request in the log")
        .1;
    let count = |request: &str| opened.matches(&format!(" {request} ")).count();
    assert_eq!(count("WRITE"), 1000, "WRITE requests in the log");
    count("GETXATTR")
}

/// "A program written through the mount runs from mount and source at once, readers or not": one process reads it all
/// the while, from before the writer was done.
/// (proves: S23)
#[test]
fn a_program_runs_as_soon_as_it_is_written() {
    for mode in MODES {
        for read_meanwhile in [false, true] {
            on_mount(mode, |stage| {
                write_and_run(
                    stage,
                    read_meanwhile,
                    &format!("{mode:?}, read {read_meanwhile}"),
                )
            });
        }
    }
}

fn write_and_run(stage: &Stage, read_meanwhile: bool, what: &str) {
    let program = stage.mount("program");
    let mut writer = start_writing(&program);
    let reader = read_meanwhile.then(|| File::open(&program).unwrap());
    let read = |offset| {
        let mut bytes = [0; 4096];
        reader
            .iter()
            .for_each(|file| file.read_exact_at(&mut bytes, offset).unwrap());
    };
    read(0);
    let busy = Command::new(&program).arg("early").output().unwrap_err();
    assert_eq!(
        busy.raw_os_error(),
        Some(libc::ETXTBSY),
        "{what}: run while written"
    );
    drop(writer.stdin.take());
    assert!(writer.wait().unwrap().success());

    let run = |word: &str| printed(Command::new(&program).arg(word));
    assert_eq!(run("from the mount"), "from the mount", "{what}");
    // The kernel tells the daemon of the last close without waiting for it.
    let mut last = String::new();
    let ran = wait_until(Duration::from_secs(1), || {
        let result = Command::new(stage.source("program")).arg("hello").output();
        last = format!("{result:?}");
        result.is_ok_and(|output| output.stdout == b"hello\n")
    });
    assert!(ran, "{what}, from the source: {last}");
    read(8 * KIB);
    assert_eq!(run("again"), "again", "{what}");
}

/// A process that writes a program, overwrites its beginning in place, which makes windows writable, and keeps it open
/// for writing until its own input ends.
fn start_writing(program: &Path) -> Child {
    let script = r#"exec >"$1"; cat "$2"; chmod 755 "$1"
        dd if="$2" of="$1" bs=4096 count=2 conv=notrunc status=none; echo written >&2; read -r end || true"#;
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, "sh"])
        .arg(program)
        .arg(tools::tool("echo"));
    let mut writer = shell
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut written = [0; 8];
    writer
        .stderr
        .as_mut()
        .unwrap()
        .read_exact(&mut written)
        .unwrap();
    writer
}
