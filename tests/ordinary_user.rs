//! The mount of an ordinary user, through fusermount3: everything that user may do natively works there, and what only
//! root can do is refused as natively.
//!
//! Run as root, each test runs itself again as an ordinary user: nobody else may enter that user's mount.

mod common;
mod stage;

use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use common::tools;
use common::user::{as_user, is_root, let_users_mount, ordinary};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, RenameFlags, XattrFlags, copy_file_range,
    fallocate, linkat, mknodat, renameat_with, setxattr,
};
use stage::{KIB, MIB, PAGE, Stage, assert_same_bytes, noise, on_mount, printed, tree};

/// Runs the test as an ordinary user: at once if we are one, else by this program once more, for this test alone.
#[track_caller]
fn ordinarily(name: &str, test: impl Fn(&Stage)) {
    if !is_root() {
        for options in [
            &[][..],
            &["--window-size", "64K"],
            &["--write-path", "region"],
            &["--direct-io"],
        ] {
            on_mount(options, &test);
        }
        return;
    }
    let_users_mount();
    let place = tempfile::Builder::new()
        .prefix("mmfs-user-")
        .tempdir_in(stage::disk())
        .unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    // Copies, by another process: the user may not be able to enter the directory of this one, and a file that this
    // process has open for writing could not be executed.
    let files = [std::env::current_exe().unwrap(), common::builder::binary()];
    for (file, copy) in files.iter().zip(["test", "mmfs"]) {
        tools::run(Command::new("cp").arg(file).arg(place.path().join(copy)));
    }
    tools::run(Command::new("cp").args(["-r", "tests"]).arg(place.path()));
    let mut again = as_user(ordinary(), place.path().join("test"));
    again
        .args(["--exact", name, "--nocapture"])
        .current_dir(place.path())
        .env("MMFS_BIN", place.path().join("mmfs"));
    let said = printed(&mut again);
    assert!(
        said.contains("1 passed"),
        "no test of the name {name}: {said}"
    );
}

/// Reading, writing, appending, truncating, growing, punching, copying, syncing.
/// (proves: S36)
#[test]
fn bytes() {
    ordinarily("bytes", |stage| {
        stage.twins("bytes of a file", |dir| {
            let path = dir.join("file");
            fs::write(&path, noise(300 * KIB + 11, 1)).unwrap();
            let mut file = File::options().read(true).write(true).open(&path).unwrap();
            file.write_all_at(b"in place", 100 * KIB - 3).unwrap();
            file.write_all_at(b"beyond the end", 400 * KIB).unwrap();
            File::options()
                .append(true)
                .open(&path)
                .unwrap()
                .write_all(b"appended")
                .unwrap();
            file.set_len(350 * KIB).unwrap();
            file.set_len(500 * KIB).unwrap();
            fallocate(
                &file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                10 * KIB,
                70 * KIB,
            )
            .unwrap();
            fallocate(&file, FallocateFlags::empty(), 500 * KIB, PAGE).unwrap();
            let (mut from, mut to) = (5, 450 * KIB + 1);
            let copied =
                copy_file_range(&file, Some(&mut from), &file, Some(&mut to), 20_000).unwrap();
            file.sync_all().unwrap();
            file.sync_data().unwrap();
            file.seek(SeekFrom::End(-100)).unwrap();
            let mut tail = Vec::new();
            file.read_to_end(&mut tail).unwrap();
            (
                copied,
                tail,
                file.metadata().unwrap().len(),
                fs::read(&path).unwrap(),
            )
        });
        assert_same_bytes(
            "source",
            &fs::read(stage.mount("file")).unwrap(),
            &fs::read(stage.source("file")).unwrap(),
        );
    });
}

/// Programs that map files: reading, storing and counting together.
/// (proves: S36)
#[test]
fn mappings() {
    ordinarily("mappings", |stage| {
        let mut bytes = noise(2 * MIB + 1, 2);
        fs::write(stage.source("file"), &bytes).unwrap();
        let output =
            tools::run(Command::new(stage.program("print_mapped")).arg(stage.mount("file")));
        assert_same_bytes("mapped", &bytes, &output.stdout);
        let mut store = Command::new(stage.program("store"));
        printed(
            store
                .arg("shared")
                .arg(stage.mount("file"))
                .args(["1048570", "33", "50"]),
        );
        bytes[1_048_570..1_048_620].fill(b'!');
        assert_same_bytes("stored", &bytes, &fs::read(stage.source("file")).unwrap());

        let shared = stage.mount("shared");
        let count = |words: &[&str]| {
            let mut count = Command::new(stage.program("count_together"));
            count.arg(words[0]).arg(&shared).args(&words[1..]);
            count
        };
        printed(&mut count(&["init"]));
        let mut other = count(&["count", "50000", "2"]);
        let mut other = other.stdout(std::process::Stdio::null()).spawn().unwrap();
        tools::run(&mut count(&["count", "50000", "2"]));
        assert!(other.wait().unwrap().success());
        let mut counters = [0; 16];
        File::open(stage.source("shared"))
            .unwrap()
            .read_exact_at(&mut counters, PAGE + 8)
            .unwrap();
        assert_eq!(
            counters,
            [100_000i64.to_ne_bytes(), 100_000i64.to_ne_bytes()].concat()[..]
        );
    });
}

/// Names: making, linking, renaming with every flag, removing; modes and umask.
/// (proves: S36)
#[test]
fn names() {
    ordinarily("names", |stage| {
        let script = r#"cd "$1"; umask 027
            mkdir -p a/b/c; echo one > a/one; ln a/one a/b/two; ln -s ../one a/b/link; mkfifo a/pipe; mkdir -m 2770 a/group
            mv a/one a/b/c/three; mv -T a/b a/renamed; rm a/renamed/two; touch -d @1234567890.5 a/renamed/c
            chmod 4751 a/renamed/c/three; cp -a a a-copy; rm -r a-copy/renamed; cat a/renamed/c/three"#;
        stage.twins("names", |dir| {
            let said = printed(Command::new("bash").args(["-ec", script, "bash"]).arg(dir));
            let shape = |(path, entry): (std::path::PathBuf, tree::Entry)| {
                format!(
                    "{path:?} {:o} {:?} {} {} {:?}",
                    entry.mode, entry.owner, entry.links, entry.size, entry.target
                )
            };
            (
                said,
                tree::tree(dir).into_iter().map(shape).collect::<Vec<_>>(),
            )
        });
        tree::assert_same_tree(&stage.source(""), &stage.mount(""));
        stage.twins("rename flags", |dir| {
            fs::write(dir.join("x"), "x").unwrap();
            fs::write(dir.join("y"), "y").unwrap();
            let rename = |flags| renameat_with(CWD, dir.join("x"), CWD, dir.join("y"), flags);
            let answers = [
                rename(RenameFlags::NOREPLACE),
                rename(RenameFlags::EXCHANGE),
                rename(RenameFlags::empty()),
            ];
            (
                answers,
                tree::names_in(dir),
                fs::read(dir.join("y")).unwrap(),
            )
        });
    });
}

/// "Hard links show as hard links", numbers are the source's.
/// (proves: S36)
#[test]
fn links() {
    ordinarily("links", |stage| {
        fs::write(stage.mount("one"), noise(PAGE, 1)).unwrap();
        fs::hard_link(stage.mount("one"), stage.mount("two")).unwrap();
        symlink("one", stage.mount("soft")).unwrap();
        linkat(
            CWD,
            stage.mount("soft"),
            CWD,
            stage.mount("three"),
            AtFlags::SYMLINK_FOLLOW,
        )
        .unwrap();
        File::options()
            .append(true)
            .open(stage.mount("two"))
            .unwrap()
            .write_all(b"more")
            .unwrap();
        let expected = (
            fs::metadata(stage.source("one")).unwrap().ino(),
            3,
            PAGE + 4,
        );
        for name in ["one", "two", "three", "soft"] {
            let meta = fs::metadata(stage.mount(name)).unwrap();
            assert_eq!((meta.ino(), meta.nlink(), meta.size()), expected, "{name}");
        }
        fs::remove_file(stage.mount("one")).unwrap();
        assert_eq!(fs::metadata(stage.mount("two")).unwrap().nlink(), 2);
        assert_eq!(
            fs::read(stage.mount("three")).unwrap().len() as u64,
            PAGE + 4
        );
    });
}

/// Extended attributes of the user's, and ACLs.
/// (proves: S36)
#[test]
fn attributes() {
    ordinarily("attributes", |stage| {
        let script = r#"cd "$1"; mkdir d; echo x > f; setfattr -n user.x -v y f; setfattr -n user.d -v z d
            setfacl -m u:4321:rw,g:4322:r f; setfacl -d -m u:4321:rwx d; touch d/inherits; mkdir d/e
            setfattr -x user.d d; getfacl -R . ; getfattr -Rd ."#;
        stage.twins("attributes", |dir| {
            let said = printed(Command::new("bash").args(["-ec", script, "bash"]).arg(dir));
            said.lines().map(str::to_owned).collect::<Vec<_>>()
        });
        tree::assert_same_tree(&stage.source(""), &stage.mount(""));
    });
}

/// A directory of thousands of entries.
/// (proves: S36)
#[test]
fn a_large_directory() {
    ordinarily("a_large_directory", |stage| {
        fs::create_dir(stage.mount("large")).unwrap();
        for number in 0..3000 {
            File::create(stage.mount("large").join(format!("file-{number}"))).unwrap();
        }
        assert_eq!(
            tree::names_in(&stage.mount("large")),
            tree::names_in(&stage.source("large"))
        );
        let checked =
            printed(Command::new(stage.program("directory_positions")).arg(stage.mount("large")));
        assert_eq!(checked, "3002");
        fs::remove_dir_all(stage.mount("large")).unwrap();
        assert!(tree::names_in(&stage.source("")).is_empty());
    });
}

/// suid, sgid and times move as natively, for every call of tests/c/one_call.c.
/// (proves: S36)
#[test]
fn special_bits_and_times() {
    let calls = [
        "write",
        "append",
        "truncate",
        "ftruncate",
        "grow",
        "fallocate",
        "punch",
        "zero",
        "copy",
        "chown_same",
        "store",
    ];
    ordinarily("special_bits_and_times", |stage| {
        for call in calls {
            stage.twins(call, |dir| {
                let file = dir.join(call);
                fs::write(&file, noise(2 * PAGE, 1)).unwrap();
                File::open(&file)
                    .unwrap()
                    .set_modified(std::time::UNIX_EPOCH)
                    .unwrap();
                fs::set_permissions(&file, Permissions::from_mode(0o6777)).unwrap();
                let answer = printed(Command::new(stage.program("one_call")).arg(call).arg(&file));
                let meta = fs::metadata(&file).unwrap();
                (answer, meta.mode(), meta.size(), meta.mtime() > 0)
            });
        }
    });
}

/// What an ordinary user cannot read or write in his source he cannot through his mount either; what he may only
/// read or only write works. Left out: to run a file that he may execute but not read. The daemon, which is that user,
/// cannot read it for the kernel.
/// (proves: S36)
#[test]
fn permissions() {
    ordinarily("permissions", |stage| {
        for mode in [0o000, 0o200, 0o400, 0o600, 0o444, 0o500] {
            stage.twins(&format!("mode {mode:o}"), |dir| {
                let file = dir.join("file");
                fs::write(&file, noise(PAGE, 1)).unwrap();
                fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
                let read = fs::read(&file).map_err(|error| error.raw_os_error());
                let write = File::options()
                    .write(true)
                    .open(&file)
                    .and_then(|file| file.write_all_at(b"written", 20));
                let append = File::options()
                    .append(true)
                    .open(&file)
                    .and_then(|mut file| file.write_all(b"appended"));
                let execute = Command::new(&file).status().map(drop);
                let answers = [write, append, execute]
                    .map(|result| result.map_err(|error| error.raw_os_error()));
                fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
                let left = fs::read(&file).unwrap();
                fs::remove_file(&file).unwrap();
                (read, answers, left)
            });
        }
    });
}

/// The same for directories: one may be listed but not entered, entered but not listed, or neither.
/// (proves: S36)
#[test]
fn permissions_of_directories() {
    ordinarily("permissions_of_directories", |stage| {
        for mode in [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600, 0o700] {
            stage.twins(&format!("mode {mode:o}"), |dir| {
                let base = dir.join("directory");
                fs::create_dir(&base).unwrap();
                fs::write(base.join("file"), "bytes").unwrap();
                fs::set_permissions(&base, Permissions::from_mode(mode)).unwrap();
                let listed = fs::read_dir(&base).map(|entries| {
                    entries
                        .map(|entry| entry.unwrap().file_name())
                        .collect::<Vec<_>>()
                });
                let listed = listed.map_err(|error| error.raw_os_error());
                let answers = [
                    fs::metadata(base.join("file")).map(drop),
                    fs::read(base.join("file")).map(drop),
                    fs::write(base.join("new"), "x"),
                    fs::rename(base.join("file"), base.join("renamed")),
                    fs::create_dir(base.join("below")),
                    Command::new("true").current_dir(&base).status().map(drop),
                    File::open(&base).and_then(|directory| directory.sync_all()),
                ];
                fs::set_permissions(&base, Permissions::from_mode(0o700)).unwrap();
                let left = tree::names_in(&base);
                fs::remove_dir_all(&base).unwrap();
                (
                    listed,
                    answers.map(|result| result.map_err(|error| error.raw_os_error())),
                    left,
                )
            });
        }
    });
}

/// Left out above, because only root can do it; refused here as it is natively: owners and groups of others, devices,
/// trusted.* and security.capability, immutable and append-only flags.
/// (proves: S36)
#[test]
fn what_only_root_can_do_is_refused_as_natively() {
    ordinarily("what_only_root_can_do_is_refused_as_natively", |stage| {
        stage.twins("root's alone", |dir| {
            let file = dir.join("file");
            fs::write(&file, "x").unwrap();
            let owner = chown(&file, Some(0), None).map_err(|error| error.raw_os_error());
            let group = chown(&file, None, Some(0)).map_err(|error| error.raw_os_error());
            let device = mknodat(
                CWD,
                dir.join("null"),
                FileType::CharacterDevice,
                Mode::RWXU,
                rustix::fs::makedev(1, 3),
            );
            let attributes = ["trusted.x", "security.capability", "system.x"]
                .map(|name| setxattr(&file, name, b"value", XattrFlags::empty()));
            let flags = ["+i", "+a"].map(|flag| {
                tools::output_of(Command::new("chattr").arg(flag).arg(&file))
                    .status
                    .success()
            });
            (owner, group, device, attributes, flags, root_owned(dir))
        });
    });
}

/// Writing where only root may, below the source: the errors of /etc seen from here.
fn root_owned(dir: &Path) -> Option<i32> {
    symlink("/etc", dir.join("etc")).unwrap();
    fs::write(dir.join("etc/mmfs-test"), "x")
        .unwrap_err()
        .raw_os_error()
}
