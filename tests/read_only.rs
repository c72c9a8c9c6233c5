//! `-r`: nothing that is done on the mount changes the source, and reading it all moves no access time.

mod common;
mod stage;

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::user::{as_user, is_root, let_users_mount, ordinary};
use common::{Builder, Mount, fuse};
use mmfs::sys::truncate::truncate;
use rustix::fs::{AtFlags, CWD, FileType, IFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::fs::{ioctl_setflags, makedev, mknodat, openat, removexattr, setxattr, utimensat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_remount, unmount,
};
use stage::{KIB, Stage, compile, disk, eventually, noise, on, printed, shared};

/// What the source holds: directories, files, and links.
const DIRECTORIES: [&str; 3] = ["", "directory", "directory/below"];
const FILES: [&str; 4] = ["file", "empty", "sparse", "directory/below/small"];
const LINKS: [&str; 2] = ["link", "directory/dangling"];

const DAY: u64 = 86_400;

/// Modes that an ordinary user may use, and one that root may.
fn modes() -> Vec<&'static [&'static str]> {
    let mut modes: Vec<&[&str]> = vec![&[], &["--direct-io"], &["--threads", "1"]];
    modes.extend(is_root().then_some(&["--passthrough"][..]));
    modes
}

/// Makes one of everything, whose access times are due to move by every rule but `noatime`.
fn fill(source: &Path) {
    fs::create_dir_all(source.join("directory/below")).unwrap();
    fs::write(source.join("file"), noise(600 * KIB, 1)).unwrap();
    fs::write(source.join("empty"), b"").unwrap();
    File::create(source.join("sparse"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    fs::write(source.join("directory/below/small"), b"small").unwrap();
    symlink("file", source.join("link")).unwrap();
    symlink("nowhere", source.join("directory/dangling")).unwrap();
    let times = |age: u64| Timespec {
        tv_sec: (stage::now().as_secs() - age) as i64,
        tv_nsec: 0,
    };
    let both = Timestamps {
        last_access: times(5 * DAY),
        last_modification: times(4 * DAY),
    };
    for name in entries() {
        utimensat(CWD, source.join(name), &both, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// A read-only view that says so where it does not open something through a read-only clone of its mount.
fn read_only(builder: Builder) -> Builder {
    builder
        .option("-r")
        .env("RUST_LOG", "warn,mmfs::source=debug")
}

/// Sees that all was opened through clones.
#[track_caller]
fn expect_clones(log: &str) {
    assert!(
        !log.contains("cannot be cloned") && !log.contains("not opened through"),
        "{log}"
    );
}

fn entries() -> impl Iterator<Item = &'static str> {
    DIRECTORIES.into_iter().chain(FILES).chain(LINKS)
}

/// All that stat(2) says of every entry, links not followed; asking moves nothing.
fn state(source: &Path) -> Vec<String> {
    let of = |name: &str| {
        let meta = fs::symlink_metadata(source.join(name)).unwrap();
        let times = [
            (meta.atime(), meta.atime_nsec()),
            (meta.mtime(), meta.mtime_nsec()),
            (meta.ctime(), meta.ctime_nsec()),
        ];
        let rest = (
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.nlink(),
            meta.size(),
            meta.blocks(),
        );
        format!("{name:?}: atime, mtime, ctime {times:?}, {rest:?}")
    };
    entries().map(of).collect()
}

/// Reads everything below `root` in several ways, as `user`.
fn read_all(user: u32, root: &Path, print_mapped: &Path) {
    let script = r#"cd "$1"; { find . -ls; ls -lR; cat file empty sparse directory/below/small link; "$2" file;
         readlink link directory/dangling; getfattr -hdR .; tar cf - .; grep -r small .
        dd if=file bs=4k skip=100 status=none; cp -a . "$(mktemp -d)"; } | wc -c"#;
    let mut shell = as_user(user, "bash");
    shell
        .args(["-ec", script, "sh"])
        .arg(root)
        .arg(print_mapped);
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let read = printed(shell.env("TMPDIR", directory.path()));
    assert!(read.parse::<u64>().unwrap() > 4 << 20, "{read} bytes");
}

/// The differences between two lists of the same length.
fn differences<T: PartialEq + Debug>(before: &[T], after: &[T]) -> Vec<String> {
    let pairs = before
        .iter()
        .zip(after)
        .filter(|(before, after)| before != after);
    pairs
        .map(|(before, after)| format!("{before:?} -> {after:?}"))
        .collect()
}

/// (proves: S50)
#[test]
fn reading_everything_moves_no_access_time_of_the_source() {
    for mode in modes() {
        let base = tempfile::tempdir_in(disk()).unwrap();
        fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
        let source = base.path().join("source");
        fs::create_dir(&source).unwrap();
        fill(&source);
        let before = state(&source);
        let builder = read_only(shared())
            .over(&source)
            .options(mode.iter().copied());
        on(builder, |stage| {
            let uid = rustix::process::geteuid().as_raw();
            for _ in 0..2 {
                read_all(uid, &stage.mount(""), &stage.program("print_mapped"));
            }
            expect_clones(&stage.log());
        });
        assert_eq!(differences(&before, &state(&source)), [""; 0], "{mode:?}");
    }
}

/// An ordinary user's view of what belongs to root: O_NOATIME is the owner's privilege, only root has the read-only clone.
/// (proves: S50)
#[test]
fn as_root_an_ordinary_users_view_moves_no_access_time_of_what_belongs_to_others() {
    let_users_mount();
    let base = tempfile::tempdir_in(disk()).unwrap();
    fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
    let source = base.path().join("source");
    fs::create_dir(&source).unwrap();
    fill(&source);
    let before = state(&source);
    let programs = base.path().join("print_mapped");
    compile("print_mapped", &programs);
    for mode in [&[][..], &["--direct-io"]] {
        let builder = read_only(Mount::builder())
            .over(&source)
            .as_user(ordinary());
        let mount = builder.options(mode.iter().copied()).mount();
        read_all(ordinary(), mount.mnt(), &programs);
        expect_clones(&mount.log());
    }
    assert_eq!(differences(&before, &state(&source)), [""; 0]);
}

/// Does everything that would change the tree at `root`, and says how each ended.
fn change_all(root: &Path) -> Vec<(&'static str, io::Result<()>)> {
    let at = |name: &str| root.join(name);
    let open = |options: &mut OpenOptions| options.open(at("file")).map(drop);
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        },
        last_modification: Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        },
    };
    let truncating = || {
        openat(
            CWD,
            at("file"),
            OFlags::RDONLY | OFlags::TRUNC,
            Mode::empty(),
        )
    };
    let both = || OpenOptions::new().read(true).write(true).open(at("file"));
    let none = XattrFlags::empty();
    let name = c"user.changed";
    let fifo = || mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0);
    let device = || {
        mknodat(
            CWD,
            at("null"),
            FileType::CharacterDevice,
            Mode::RUSR,
            makedev(1, 3),
        )
    };
    let flags = || ioctl_setflags(File::open(at("file"))?, IFlags::NODUMP).map_err(io::Error::from);
    let of = |outcome: Result<(), Errno>| outcome.map_err(io::Error::from);
    vec![
        ("write", open(OpenOptions::new().write(true))),
        ("append", open(OpenOptions::new().append(true))),
        ("map to store, fallocate, FICLONE", both().map(drop)),
        (
            "O_TRUNC",
            open(OpenOptions::new().write(true).truncate(true)),
        ),
        ("O_RDONLY | O_TRUNC", of(truncating().map(drop))),
        ("create", File::create(at("new")).map(drop)),
        (
            "create and read",
            open(OpenOptions::new().read(true).write(true).create(true)),
        ),
        (
            "O_NOATIME to write",
            open(OpenOptions::new().write(true).custom_flags(libc::O_NOATIME)),
        ),
        ("truncate", of(truncate(at("file").to_str().unwrap(), 5))),
        (
            "chmod",
            fs::set_permissions(at("file"), Permissions::from_mode(0o600)),
        ),
        (
            "chmod of a directory",
            fs::set_permissions(at("directory"), Permissions::from_mode(0o700)),
        ),
        (
            "chown",
            std::os::unix::fs::lchown(at("link"), Some(1), Some(1)),
        ),
        ("setxattr", of(setxattr(at("file"), name, b"x", none))),
        ("removexattr", of(removexattr(at("file"), name))),
        (
            "utimes",
            of(utimensat(CWD, at("file"), &times, AtFlags::empty())),
        ),
        (
            "utimes of a link",
            of(utimensat(
                CWD,
                at("link"),
                &times,
                AtFlags::SYMLINK_NOFOLLOW,
            )),
        ),
        ("unlink", fs::remove_file(at("file"))),
        ("rmdir", fs::remove_dir(at("directory/below"))),
        ("mkdir", fs::create_dir(at("new"))),
        ("mkfifo", of(fifo())),
        ("mknod", of(device())),
        ("symlink", symlink("file", at("new"))),
        ("link", fs::hard_link(at("file"), at("new"))),
        ("rename", fs::rename(at("file"), at("new"))),
        ("rename over", fs::rename(at("file"), at("empty"))),
        ("chattr", flags()),
    ]
}

/// Makes the mount writable from outside, and sees every change refused all the same.
fn expect_refusals(source: &Path, (mount, below): (&Path, &str), what: &str) {
    let before = state(source);
    mount_remount(mount, MountFlags::empty(), c"").unwrap();
    let table = fs::read("/proc/self/mounts").unwrap();
    let table = String::from_utf8_lossy(&table);
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(1).map(Path::new) == Some(mount));
    assert!(
        line.is_some_and(|line| line.contains(" rw,")),
        "{what}: {line:?}"
    );
    let refused = |outcome: &io::Result<()>| {
        let errno = outcome.as_ref().err().and_then(io::Error::raw_os_error);
        errno == Some(libc::EROFS)
    };
    let others: Vec<_> = change_all(&mount.join(below))
        .into_iter()
        .filter(|(_, end)| !refused(end))
        .collect();
    assert!(others.is_empty(), "{what}: {others:?}");
    assert_eq!(differences(&before, &state(source)), [""; 0], "{what}");
}

/// (proves: S50)
#[test]
fn as_root_a_view_that_is_remounted_to_write_refuses_every_change() {
    for mode in modes() {
        on(
            shared().option("-r").options(mode.iter().copied()),
            |stage| {
                fill(&stage.source(""));
                let root = stage.mount("");
                expect_refusals(&stage.source(""), (&root, ""), &format!("{mode:?}"));
            },
        );
    }
}

/// A view whose mount another program has made.
struct Foreign {
    base: tempfile::TempDir,
    daemon: Child,
}

impl Foreign {
    fn by(script: &str) -> Self {
        let base = tempfile::tempdir_in(disk()).unwrap();
        for name in ["source", "mount", "bin"] {
            fs::create_dir(base.path().join(name)).unwrap();
        }
        let program = base.path().join("bin/mmfs");
        fs::copy(common::builder::binary(), &program).unwrap();
        fill(&base.path().join("source"));
        let mut shell = Command::new("bash");
        shell.args(["-euc", script, "sh"]).current_dir(base.path());
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env(
            "PATH",
            format!(
                "{}:{path}:/usr/sbin:/sbin",
                base.path().join("bin").display()
            ),
        );
        let daemon = shell.stdin(Stdio::null()).spawn().unwrap();
        let this = Foreign { base, daemon };
        eventually("it answers", || this.mount().join("file").exists());
        this
    }

    fn source(&self) -> PathBuf {
        self.base.path().join("source")
    }

    fn mount(&self) -> PathBuf {
        self.base.path().join("mount")
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let outcome = unmount(self.mount(), UnmountFlags::DETACH);
        let ended = self.daemon.wait();
        eprintln!("umount: {outcome:?}, the end: {ended:?}");
        eventually("it ends", || fuse::mount_at(&self.mount()).is_none());
    }
}

/// By mount(8), as from fstab, and adopted from the program that has mounted /dev/fuse.
/// (proves: S50)
#[test]
fn as_root_however_it_was_mounted_a_read_only_view_refuses_every_change() {
    let scripts = [
        "mount.fuse3 mmfs#$PWD/source $PWD/mount -o ro,allow_other",
        "exec 3<>/dev/fuse
        mount -i -t fuse.mmfs -o fd=3,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other source mount
        exec mmfs -f -r --allow-other source /dev/fd/3",
    ];
    for script in scripts {
        let view = Foreign::by(script);
        expect_refusals(&view.source(), (&view.mount(), ""), script);
        let programs = view.base.path().join("print_mapped");
        compile("print_mapped", &programs);
        let before = state(&view.source());
        read_all(0, &view.mount(), &programs);
        assert_eq!(
            differences(&before, &state(&view.source())),
            [""; 0],
            "{script}"
        );
    }
}

/// A filesystem below the source, mounted before the view or after it, is shown, unchanged by reading, refuses changes, and
/// can be unmounted while nothing of it is open; while something is, it is busy.
/// (proves: S5, S50)
#[test]
fn as_root_what_is_mounted_below_is_read_only_too() {
    for mode in modes() {
        let base = tempfile::tempdir_in(disk()).unwrap();
        let source = base.path().join("source");
        let points = ["before", "after"].map(|name| source.join(name));
        points
            .iter()
            .for_each(|point| fs::create_dir_all(point).unwrap());
        let tmpfs = |point: &Path| {
            mount("tmpfs", point, "tmpfs", MountFlags::empty(), None).unwrap();
            fill(point);
        };
        tmpfs(&points[0]);
        let builder = read_only(shared())
            .over(&source)
            .options(mode.iter().copied());
        on(builder, |stage| {
            tmpfs(&points[1]);
            let found = printed(
                Command::new("find")
                    .arg(stage.mount(""))
                    .args(["-name", "small"]),
            );
            assert_eq!(found.lines().count(), 2, "{mode:?}: {found}");
            for name in ["before", "after"] {
                below(stage, name, &format!("{mode:?}, mounted {name}"));
            }
            expect_clones(&stage.log());
        });
    }
}

fn below(stage: &Stage, name: &str, what: &str) {
    let (source, view) = (stage.source(name), stage.mount(name));
    eventually("it is shown", || view.join("file").exists());
    let before = state(&source);
    read_all(0, &view, &stage.program("print_mapped"));
    assert_eq!(differences(&before, &state(&source)), [""; 0], "{what}");
    let shown = fs::metadata(view.join("file")).unwrap().ino();
    assert_ne!(shown, fs::metadata(stage.source(".")).unwrap().ino());
    expect_refusals(&source, (&stage.mount(""), name), what);
    let file = File::open(view.join("file")).unwrap();
    assert_eq!(
        unmount(&source, UnmountFlags::empty()),
        Err(Errno::BUSY),
        "{what}: a file is open"
    );
    let mut bytes = vec![0; 1000];
    file.read_exact_at(&mut bytes, 300 * KIB).unwrap();
    assert_eq!(
        bytes,
        noise(600 * KIB, 1)[300 * KIB as usize..][..1000],
        "{what}"
    );
    drop(file);
    let directory = fs::read_dir(view.join("directory")).unwrap();
    assert_eq!(
        unmount(&source, UnmountFlags::empty()),
        Err(Errno::BUSY),
        "{what}: a directory is"
    );
    drop(directory);
    eventually("it is unmounted", || {
        unmount(&source, UnmountFlags::empty()).is_ok()
    });
}

/// Where the mount cannot be cloned, the log says so, changes are refused, and files and directories of the daemon's
/// user keep their access times; those of symbolic links may move.
/// (proves: S50)
#[test]
fn as_root_without_a_clone_changes_are_refused_and_the_log_says_so() {
    let programs = tempfile::tempdir_in(disk()).unwrap();
    let program = programs.path().join("refuse_calls");
    compile("refuse_calls", &program);
    let by = [program.to_str().unwrap(), "open_tree", "--"];
    for mode in modes() {
        on(
            shared().option("-r").options(mode.iter().copied()).by(by),
            |stage| {
                assert!(stage.log().contains("cannot be cloned"), "{}", stage.log());
                fill(&stage.source(""));
                let before = state(&stage.source(""));
                read_all(0, &stage.mount(""), &stage.program("print_mapped"));
                let moved = differences(&before, &state(&stage.source("")));
                let of_links = |line: &String| line.contains("link") || line.contains("dangling");
                assert!(moved.iter().all(of_links), "{mode:?}: {moved:#?}");
                let root = stage.mount("");
                expect_refusals(&stage.source(""), (&root, ""), &format!("{mode:?}"));
            },
        );
    }
}

/// A mount below the source that cannot be cloned is opened without a clone: the log says so once, changes are refused, and
/// files and directories keep their access times.
/// (proves: S50)
#[test]
fn as_root_the_log_says_once_which_mount_is_opened_without_a_clone() {
    for mode in modes() {
        let base = tempfile::tempdir_in(disk()).unwrap();
        let source = base.path().join("source");
        let point = source.join("unbindable");
        fs::create_dir_all(&point).unwrap();
        mount("tmpfs", &point, "tmpfs", MountFlags::empty(), None).unwrap();
        mount_change(&point, MountPropagationFlags::UNBINDABLE).unwrap();
        fill(&point);
        let before = state(&point);
        let builder = read_only(shared())
            .over(&source)
            .options(mode.iter().copied());
        on(builder, |stage| {
            let root = stage.mount("");
            read_all(0, &root.join("unbindable"), &stage.program("print_mapped"));
            let moved = differences(&before, &state(&point));
            let of_links = |line: &String| line.contains("link") || line.contains("dangling");
            assert!(moved.iter().all(of_links), "{mode:?}: {moved:#?}");
            expect_refusals(&point, (&root, "unbindable"), &format!("{mode:?}"));
            let log = stage.log();
            let told = log.lines().filter(|line| {
                line.contains("without a read-only clone") && line.contains("source/unbindable")
            });
            assert_eq!(told.count(), 1, "{mode:?}: {log}");
        });
        let _ = unmount(&point, UnmountFlags::DETACH);
    }
}

/// Its own mount inside the source is an empty directory, and delays no request.
/// (proves: S5)
#[test]
fn a_read_only_view_may_lie_in_its_own_source() {
    let base = tempfile::tempdir_in(disk()).unwrap();
    fs::set_permissions(base.path(), Permissions::from_mode(0o755)).unwrap();
    let source = base.path().join("source");
    fs::create_dir_all(source.join("view")).unwrap();
    fs::write(source.join("file"), b"bytes").unwrap();
    let builder = Mount::builder().over(&source).at(source.join("view"));
    let mount = builder.option("-r").mount();
    assert_eq!(fs::read(mount.mnt().join("file")).unwrap(), b"bytes");
    assert_eq!(fs::read_dir(mount.mnt().join("view")).unwrap().count(), 0);
    assert_eq!(
        printed(Command::new("find").arg(mount.mnt()))
            .lines()
            .count(),
        3
    );
}

/// The source's device is not said to be free while the view holds it: umount of the source is busy, not lazy.
/// (proves: S50)
#[test]
fn as_root_the_source_is_busy_while_it_is_viewed() {
    let disk = common::LoopFs::new("ext4", 32 << 20);
    fs::write(disk.path().join("file"), b"bytes").unwrap();
    let mut mount = Mount::over(disk.path(), ["-r"]);
    assert_eq!(fs::read(mount.mnt().join("file")).unwrap(), b"bytes");
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(
        unmount(disk.path(), UnmountFlags::empty()),
        Err(Errno::BUSY)
    );
    assert!(mount.unmount().success());
}
