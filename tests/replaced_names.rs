//! Names that are replaced while they are used, behind the mount and through it. Whoever uses such a name meets one of the
//! inodes it led to, or finds no name where there is a moment without one: never ESTALE, and never EIO.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirEntryExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::{Builder, LoopFs, Mount, tools};
use rustix::fs::{AtFlags, CWD, RenameFlags, Timestamps, XattrFlags};

const FOR: Duration = Duration::from_millis(1500);
const LIMIT: Duration = Duration::from_secs(60);

const NONE: &[i32] = &[];
const ABSENT: &[i32] = &[libc::ENOENT];

/// The modes that differ in what the kernel keeps and in who serves it.
const MODES: [&[&str]; 4] = [
    &[],
    &["--direct-io"],
    &["--threads", "1"],
    &["--attr-timeout", "0", "--entry-timeout", "0"],
];

type Use<'a> = (&'a str, Box<dyn Fn() -> io::Result<()> + Sync + 'a>);

fn using<'a>(name: &'a str, what: impl Fn() -> io::Result<()> + Sync + 'a) -> Use<'a> {
    (name, Box::new(what))
}

/// Runs `replace` at full speed while two clients each do each of `uses`, which may fail with errors `allowed`.
fn hammer(what: &str, replace: impl Fn(u64) + Sync, uses: &[Use<'_>], allowed: &[i32]) {
    let ended = AtomicBool::new(false);
    let failures = Mutex::new(BTreeMap::<String, u64>::new());
    let (replaced, used) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let began = Instant::now();
            while began.elapsed() < FOR {
                replace(replaced.fetch_add(1, Relaxed));
            }
            ended.store(true, Relaxed);
        });
        for (name, run) in uses.iter().chain(uses) {
            let (failures, ended, used) = (&failures, &ended, &used);
            scope.spawn(move || {
                while !ended.load(Relaxed) {
                    used.fetch_add(1, Relaxed);
                    let Err(error) = run() else { continue };
                    if error
                        .raw_os_error()
                        .is_none_or(|errno| !allowed.contains(&errno))
                    {
                        let mut failures = failures.lock().unwrap();
                        *failures.entry(format!("{name}: {error}")).or_default() += 1;
                    }
                }
            });
        }
    });
    let (replaced, used) = (replaced.into_inner(), used.into_inner());
    eprintln!("{what}: replaced {replaced} times, used {used} times");
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{what}: {failures:#?} of {used} uses, replaced {replaced} times"
    );
}

/// Reads a file that is always written as one page of one byte, or cut by a client.
fn read_whole(path: &Path) -> io::Result<()> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    match bytes.iter().all(|&b| b == bytes[0]) {
        true => Ok(()),
        false => Err(io::Error::other("bytes of two versions")),
    }
}

fn put(path: &Path, n: u64) {
    // A client may have taken the name meanwhile.
    let _ = fs::write(path, [n as u8; 4096]);
}

/// What clients do to a file by its name.
fn uses_of_a_file<'a>(name: &'a Path, scratch: &'a Path) -> Vec<Use<'a>> {
    vec![
        using("open and read", move || read_whole(name)),
        using("stat", move || fs::metadata(name).map(drop)),
        using("open to write", move || {
            OpenOptions::new().write(true).open(name).map(drop)
        }),
        using("creat", move || File::create(name).map(drop)),
        using("open with O_CREAT", move || {
            let mut how = OpenOptions::new();
            how.read(true)
                .append(true)
                .create(true)
                .open(name)
                .map(drop)
        }),
        using("chmod", move || {
            fs::set_permissions(name, Permissions::from_mode(0o644))
        }),
        using("utimensat", move || {
            let now = rustix::fs::Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_NOW,
            };
            let times = Timestamps {
                last_access: now,
                last_modification: now,
            };
            Ok(rustix::fs::utimensat(CWD, name, &times, AtFlags::empty())?)
        }),
        using("setxattr", move || {
            Ok(rustix::fs::setxattr(
                name,
                c"user.a",
                b"v",
                XattrFlags::empty(),
            )?)
        }),
        using("listxattr", move || {
            Ok(rustix::fs::listxattr(name, &mut [0u8; 256]).map(drop)?)
        }),
        using("link and rename onto another", move || {
            let nth = format!("{:?}", thread::current().id());
            let (one, other) = (
                scratch.join(format!("{nth}-one")),
                scratch.join(format!("{nth}-other")),
            );
            let _ = fs::remove_file(&one);
            fs::hard_link(name, &one)?;
            fs::rename(&one, &other)
        }),
    ]
}

/// A new file renamed over the name, `through` the mount or at the source.
fn files_replaced(builder: Builder, through: bool, what: &str) {
    let mount = builder.mount();
    mount.within(LIMIT, || {
        let at = if through { mount.mnt() } else { mount.src() };
        let (new, old, name) = (at.join("new"), at.join("name"), mount.mnt().join("name"));
        fs::create_dir(mount.src().join("scratch")).expect("mkdir");
        let scratch = mount.mnt().join("scratch");
        put(&old, 0);
        let replace = |n| {
            put(&new, n);
            fs::rename(&new, &old).expect("rename");
        };
        // A link to what has lost its last name is ENOENT natively, too.
        let mut uses = uses_of_a_file(&name, &scratch);
        let linking = uses.split_off(uses.len() - 1);
        hammer(what, replace, &uses, NONE);
        hammer(what, replace, &linking, ABSENT);
    });
}

/// (proves: S3)
#[test]
fn a_file_replaced_behind_the_mount_can_be_used() {
    for options in MODES {
        files_replaced(
            Mount::builder().options(options.iter().copied()),
            false,
            &format!("{options:?}"),
        );
    }
}

/// (proves: S3)
#[test]
fn a_file_replaced_through_the_mount_can_be_used() {
    for options in MODES {
        files_replaced(
            Mount::builder().options(options.iter().copied()),
            true,
            &format!("{options:?}"),
        );
    }
}

/// (proves: S3)
#[test]
fn as_root_a_file_replaced_on_other_filesystems_can_be_used() {
    let tmpfs = Mounted::new("tmpfs", "size=96M");
    let dir = |name: &str| {
        let path = tmpfs.0.path().join(name);
        fs::create_dir(&path).expect("mkdir");
        path
    };
    let [plain, lower, upper, work] = ["plain", "lower", "upper", "work"].map(dir);
    let (lower, upper, work) = (lower.display(), upper.display(), work.display());
    let overlay = Mounted::new(
        "overlay",
        &format!("lowerdir={lower},upperdir={upper},workdir={work}"),
    );
    let xfs = LoopFs::new("xfs", 320 << 20);
    for source in [&plain, &overlay.0.path().to_owned(), &xfs.path().to_owned()] {
        for options in [&["--allow-other"][..], &["--allow-other", "--threads", "1"]] {
            let builder = Mount::builder()
                .over(source)
                .options(options.iter().copied());
            files_replaced(builder, false, &format!("{} {options:?}", source.display()));
            fs::remove_dir_all(source.join("scratch")).expect("rm");
        }
    }
}

/// One that is removed and made again: clients find it or not, and a client that makes it where there is none has it.
/// (proves: S3)
#[test]
fn a_file_removed_and_made_again_is_there_or_not() {
    for options in MODES {
        let mount = Mount::builder().options(options.iter().copied()).mount();
        mount.within(LIMIT, || {
            let (at, name) = (mount.src().join("name"), mount.mnt().join("name"));
            fs::create_dir(mount.src().join("scratch")).expect("mkdir");
            let scratch = mount.mnt().join("scratch");
            let flip = |n| {
                put(&at, n);
                let _ = fs::remove_file(&at);
            };
            let (making, others) = uses_of_a_file(&name, &scratch)
                .into_iter()
                .partition::<Vec<_>, _>(|(name, _)| {
                    name.contains("creat") || name.contains("O_CREAT")
                });
            hammer(&format!("{options:?}"), flip, &making, NONE);
            hammer(&format!("{options:?}"), flip, &others, ABSENT);
        });
    }
}

/// Makes a directory with a file at the source, puts it in place of `dir` and removes the old one.
fn replace_directory(source: &Path, n: u64) {
    let (new, dir) = (source.join("new"), source.join("dir"));
    fs::create_dir(&new).expect("mkdir");
    put(&new.join("name"), n);
    rustix::fs::renameat_with(CWD, &new, CWD, &dir, RenameFlags::EXCHANGE).expect("exchange");
    fs::remove_dir_all(&new)
        .or_else(|_| fs::remove_dir_all(&new))
        .expect("rm");
}

/// (proves: S3)
#[test]
fn names_below_a_directory_that_is_replaced_can_be_used() {
    for options in MODES {
        let mount = Mount::builder().options(options.iter().copied()).mount();
        mount.within(LIMIT, || {
            let (dir, name) = (mount.mnt().join("dir"), mount.mnt().join("dir/name"));
            fs::create_dir(mount.src().join("dir")).expect("mkdir");
            put(&mount.src().join("dir/name"), 0);
            let uses = [
                using("open and read", || read_whole(&name)),
                using("stat", || fs::metadata(&name).map(drop)),
                using("chmod", || {
                    fs::set_permissions(&name, Permissions::from_mode(0o644))
                }),
                using("list", || {
                    fs::read_dir(&dir)?.try_for_each(|entry| entry.map(drop))
                }),
            ];
            // Who has found the old directory finds nothing in it once it is being removed, natively too.
            hammer(
                &format!("{options:?}"),
                |n| replace_directory(mount.src(), n),
                &uses,
                ABSENT,
            );
        });
    }
}

/// (proves: S3)
#[test]
fn a_symbolic_link_that_is_replaced_can_be_followed() {
    for options in MODES {
        let mount = Mount::builder().options(options.iter().copied()).mount();
        mount.within(LIMIT, || {
            let (new, link) = (mount.src().join("new"), mount.src().join("link"));
            for n in 0..2 {
                fs::create_dir(mount.src().join(format!("{n}"))).expect("mkdir");
                put(&mount.src().join(format!("{n}/name")), n);
            }
            symlink("0", &link).expect("symlink");
            let replace = |n| {
                symlink(format!("{}", n % 2), &new).expect("symlink");
                fs::rename(&new, &link).expect("rename");
            };
            let (link, name) = (mount.mnt().join("link"), mount.mnt().join("link/name"));
            let uses = [
                using("readlink", || fs::read_link(&link).map(drop)),
                using("open and read", || read_whole(&name)),
                using("lstat", || fs::symlink_metadata(&link).map(drop)),
            ];
            hammer(&format!("{options:?}"), replace, &uses, NONE);
        });
    }
}

/// (proves: S3)
#[test]
fn a_program_that_is_replaced_can_be_run() {
    let mount = Mount::builder().options(["-o", "exec"]).mount();
    mount.within(LIMIT, || {
        let (new, old) = (mount.src().join("new"), mount.src().join("name"));
        let replace = |_| {
            fs::copy("/bin/true", &new).expect("copy");
            fs::rename(&new, &old).expect("rename");
            thread::sleep(Duration::from_millis(1));
        };
        replace(0);
        let name = mount.mnt().join("name");
        let run = || match Command::new(&name).status()?.success() {
            true => Ok(()),
            false => Err(io::Error::other("failed")),
        };
        hammer("execve", replace, &[using("run", run)], NONE);
    });
}

/// What is held for those who are about to open it is not shown to those who come later.
/// (proves: S10)
#[test]
fn who_opens_a_name_after_it_was_replaced_reads_the_new_file() {
    let mount = Mount::builder()
        .options(["--attr-timeout", "0", "--entry-timeout", "0"])
        .mount();
    mount.within(LIMIT, || {
        let at = |name| mount.src().join(name);
        let (new, old, name) = (at("new"), at("name"), mount.mnt().join("name"));
        for n in 0..2000_u64 {
            fs::write(&new, n.to_string()).expect("write");
            fs::rename(&new, &old).expect("rename");
            let read = fs::read_to_string(&name).expect("open");
            assert_eq!(read, n.to_string());
        }
    });
}

/// Numbers that the source uses again at once are shown as they are, by stat and in listings.
/// (proves: S1)
#[test]
fn a_number_that_is_used_again_is_shown() {
    let mount = Mount::builder().mount();
    mount.within(LIMIT, || {
        let at = |name| mount.src().join(name);
        let (new, old, name) = (at("new"), at("name"), mount.mnt().join("name"));
        for n in 0..200 {
            for _ in 0..1 + n % 3 {
                put(&new, n);
                fs::rename(&new, &old).expect("rename");
            }
            let open = File::open(&name).expect("open");
            let natively = fs::metadata(&old).expect("stat").ino();
            let shown = open.metadata().expect("fstat").ino();
            let listed = fs::read_dir(mount.mnt())
                .expect("open")
                .map(|entry| entry.expect("an entry").ino());
            if n % 2 == 0 {
                drop(open);
            }
            // Names are believed for a second, which may end between the two.
            let later = fs::metadata(&name).expect("stat").ino();
            assert!([shown, natively].contains(&later), "{shown} {later}");
            assert!(shown == natively || n > 0, "{shown} {natively}");
            assert_eq!(listed.collect::<Vec<_>>(), [natively]);
        }
    });
}

/// The descriptors that are held go by themselves.
/// (proves: S3)
#[test]
fn nothing_is_held_of_a_replaced_file_a_moment_later() {
    let mount = Mount::builder().mount();
    mount.within(LIMIT, || {
        let (new, old, name) = (
            mount.src().join("new"),
            mount.src().join("name"),
            mount.mnt().join("name"),
        );
        for n in 0..100 {
            put(&new, n);
            fs::rename(&new, &old).expect("rename");
            read_whole(&name).expect("read");
        }
        let held = || held_below(mount.daemon_pid(), &mount.src().join("n"));
        let gone = tools::wait_until(Duration::from_secs(10), || held().is_empty());
        assert!(gone, "{:?}", held());
    });
}

/// What the daemon has open whose path begins with `path`.
fn held_below(daemon: u32, path: &Path) -> Vec<PathBuf> {
    let fds = fs::read_dir(format!("/proc/{daemon}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let paths = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
    let below = |at: &PathBuf| at.to_string_lossy().starts_with(&*path.to_string_lossy());
    paths.filter(below).collect()
}

struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(kind: &str, options: &str) -> Self {
        let at = tempfile::tempdir().expect("a directory");
        let mut mount = Command::new("mount");
        tools::run(mount.args(["-t", kind, "-o", options, kind]).arg(at.path()));
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        tools::output_of(Command::new("umount").arg("-l").arg(self.0.path()));
    }
}
