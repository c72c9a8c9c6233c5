//! Everything that is not a plain file's bytes: pipes, sockets, devices, flags, attributes, holes, limits, refusals.

mod common;
mod stage;

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::tools;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{
    CWD, FallocateFlags, FileType, IFlags, Mode, OFlags, SeekFrom, fallocate, ioctl_getflags,
    ioctl_setflags, makedev, mknodat, openat, seek, statvfs,
};
use stage::{KIB, MIB, PAGE, Stage, noise, on_mount, printed, tree};

/// "FIFOs, sockets and devices of the source are never opened by the daemon": with nobody at the other end of a pipe,
/// and devices that would answer, listing, stat, chmod, rename and unlink come back at once, one thread or many.
/// (proves: S34)
#[test]
fn as_root_special_files_block_nobody() {
    for threads in [&[][..], &["--threads", "1"]] {
        on_mount(threads, |stage| {
            let names = make_special_files(&stage.source(""));
            let begin = Instant::now();
            for name in &names {
                let path = stage.mount(name);
                let (shown, there) = (
                    fs::metadata(&path).unwrap(),
                    fs::metadata(stage.source(name)).unwrap(),
                );
                assert_eq!(
                    (shown.mode(), shown.rdev(), shown.ino()),
                    (there.mode(), there.rdev(), there.ino()),
                    "{name}"
                );
                fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
                fs::rename(&path, stage.mount("renamed")).unwrap();
                fs::hard_link(stage.mount("renamed"), &path).unwrap();
                fs::remove_file(stage.mount("renamed")).unwrap();
            }
            assert_eq!(tree::names_in(&stage.mount("")).len(), names.len());
            names
                .iter()
                .for_each(|name| fs::remove_file(stage.mount(name)).unwrap());
            assert!(
                begin.elapsed() < Duration::from_secs(3),
                "took {:?}",
                begin.elapsed()
            );
        });
    }
}

fn make_special_files(directory: &Path) -> [&'static str; 4] {
    let names = ["pipe", "socket", "character", "block"];
    tools::run(Command::new("mkfifo").arg(directory.join(names[0])));
    drop(UnixListener::bind(directory.join(names[1])).unwrap());
    let mode = Mode::from_raw_mode(0o600);
    mknodat(
        CWD,
        directory.join(names[2]),
        FileType::CharacterDevice,
        mode,
        makedev(1, 3),
    )
    .unwrap();
    mknodat(
        CWD,
        directory.join(names[3]),
        FileType::BlockDevice,
        mode,
        makedev(7, 200),
    )
    .unwrap();
    names
}

/// "mknod of every type": made on the mount they are in the source what they are natively.
/// (proves: S34)
#[test]
fn as_root_every_type_of_file_can_be_made() {
    on_mount(&[], |stage| {
        stage.twins("mknod", |dir| {
            let names = make_special_files(dir);
            mknodat(
                CWD,
                dir.join("regular"),
                FileType::RegularFile,
                Mode::from_raw_mode(0o644),
                0,
            )
            .unwrap();
            let of = |name: &str| {
                fs::metadata(dir.join(name))
                    .map(|meta| (meta.mode(), meta.rdev(), meta.size()))
                    .unwrap()
            };
            (names.map(of), of("regular"))
        });
        let there = fs::metadata(stage.source("character")).unwrap();
        assert!(there.file_type().is_char_device() && there.rdev() == makedev(1, 3));
    });
}

/// A pipe on the mount connects two users of the mount.
/// (proves: S34)
#[test]
fn pipes_work_among_users_of_the_mount() {
    on_mount(&[], |stage| {
        tools::run(Command::new("mkfifo").arg(stage.mount("pipe")));
        let path = stage.mount("pipe");
        let writer = std::thread::spawn(move || {
            File::options()
                .write(true)
                .open(path)
                .unwrap()
                .write_all(b"through")
                .unwrap()
        });
        let mut bytes = Vec::new();
        File::open(stage.mount("pipe"))
            .unwrap()
            .read_to_end(&mut bytes)
            .unwrap();
        writer.join().unwrap();
        assert_eq!(bytes, b"through");
    });
}

/// Takes flags from files again when dropped: what is immutable could not be removed.
struct Flagged(Vec<std::path::PathBuf>);

impl Drop for Flagged {
    fn drop(&mut self) {
        for path in &self.0 {
            // It may be gone, or never have got the flag.
            let _ = Command::new("chattr").arg("-ia").arg(path).status();
        }
    }
}

/// "FS_IOC_GETFLAGS/SETFLAGS ioctls": lsattr and chattr show and set the source's flags, on files and directories, and
/// the flags bind.
/// (proves: S32)
#[test]
fn as_root_inode_flags_are_the_sources() {
    on_mount(&[], |stage| {
        let _cleanup = Flagged(vec![
            stage.source("file"),
            stage.source("dir"),
            stage.plain("file"),
            stage.plain("dir"),
        ]);
        stage.twins("flags", |dir| {
            fs::write(dir.join("file"), "bytes").unwrap();
            fs::create_dir(dir.join("dir")).unwrap();
            let mut seen = Vec::new();
            for (flag, name) in [
                (IFlags::NOATIME, "file"),
                (IFlags::NODUMP, "dir"),
                (IFlags::APPEND, "file"),
                (IFlags::IMMUTABLE, "file"),
            ] {
                let file = File::open(dir.join(name)).unwrap();
                let set = ioctl_getflags(&file).and_then(|old| ioctl_setflags(&file, old | flag));
                seen.push((format!("{flag:?}"), set, flags_of(dir), refusals(dir)));
            }
            tools::run(
                Command::new("chattr")
                    .args(["-i", "-a"])
                    .arg(dir.join("file")),
            );
            seen.push(("none".into(), Ok(()), flags_of(dir), refusals(dir)));
            seen
        });
        assert_eq!(flags_of(&stage.mount("")), flags_of(&stage.source("")));
    });
}

/// "Inode flags are the source's": setting one moves the ctime, which the kernel does not expect of an ioctl, and it is
/// seen at once, however long attributes may be believed.
/// (proves: S32)
#[test]
fn as_root_a_flag_moves_the_ctime_at_once() {
    on_mount(&["--attr-timeout", "60"], |stage| {
        fs::write(stage.mount("file"), "bytes").unwrap();
        fs::create_dir(stage.mount("dir")).unwrap();
        for name in ["file", "dir"] {
            let open = File::open(stage.mount(name)).unwrap();
            let ctime = |meta: fs::Metadata| (meta.ctime(), meta.ctime_nsec());
            let before = ctime(open.metadata().unwrap());
            // More than a tick of the kernel's clock.
            std::thread::sleep(Duration::from_millis(20));
            let flags = ioctl_getflags(&open).unwrap();
            ioctl_setflags(&open, flags | IFlags::NODUMP).unwrap();
            let there = ctime(fs::metadata(stage.source(name)).unwrap());
            assert_ne!(there, before, "{name}");
            assert_eq!(ctime(open.metadata().unwrap()), there, "{name}");
        }
    });
}

fn flags_of(dir: &Path) -> String {
    printed(Command::new("lsattr").arg(".").current_dir(dir))
}

/// Which of three changes a file's flags refuse, and how.
fn refusals(dir: &Path) -> [Option<i32>; 3] {
    let file = dir.join("file");
    let write = File::options().write(true).open(&file).map(drop);
    let append = File::options()
        .append(true)
        .open(&file)
        .and_then(|mut file| file.write_all(b"more"));
    let rename =
        fs::rename(&file, dir.join("other")).and_then(|()| fs::rename(dir.join("other"), &file));
    [write, append, rename].map(|result| result.err().and_then(|error| error.raw_os_error()))
}

/// "lseek SEEK_DATA/SEEK_HOLE" find the source's holes, also after punching and zeroing through the mount.
/// (proves: S33)
#[test]
fn holes_are_where_the_source_has_them() {
    on_mount(&[], |stage| {
        stage.twins("holes", |dir| {
            let file = File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(dir.join("file"))
                .unwrap();
            file.set_len(10 * MIB).unwrap();
            for at in [0, MIB + 17, 5 * MIB, 10 * MIB - 1] {
                file.write_all_at(b"x", at).unwrap();
            }
            file.sync_all().unwrap();
            let before = holes(&file);
            fallocate(
                &file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                5 * MIB - 100,
                64 * KIB,
            )
            .unwrap();
            fallocate(&file, FallocateFlags::ZERO_RANGE, 20 * KIB, 100).unwrap();
            fallocate(&file, FallocateFlags::KEEP_SIZE, 10 * MIB, MIB).unwrap();
            file.sync_all().unwrap();
            let meta = file.metadata().unwrap();
            (
                before,
                holes(&file),
                meta.size(),
                meta.blocks(),
                fs::read(dir.join("file"))
                    .unwrap()
                    .iter()
                    .map(|b| u64::from(*b))
                    .sum::<u64>(),
            )
        });
    });
}

/// Where data and holes begin, one after the other, and what is said at and beyond the end.
fn holes(file: &File) -> Vec<rustix::io::Result<u64>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(data) = seek(file, SeekFrom::Data(at)) {
        at = seek(file, SeekFrom::Hole(data)).unwrap();
        found.extend([Ok(data), Ok(at)]);
    }
    let size = file.metadata().unwrap().size();
    found.extend([
        seek(file, SeekFrom::Data(size)),
        seek(file, SeekFrom::Hole(size)),
        seek(file, SeekFrom::Hole(size + 1)),
    ]);
    found
}

/// "statfs": size, block size and number of files are the source's, on the mount's root and below.
/// (proves: S33)
#[test]
fn statfs_is_the_sources() {
    on_mount(&[], |stage| {
        fs::write(stage.source("file"), "x").unwrap();
        for name in ["", "file"] {
            let [shown, there] =
                [stage.mount(name), stage.source(name)].map(|path| statvfs(path).unwrap());
            let fixed = |s: &rustix::fs::StatVfs| {
                (s.f_bsize, s.f_frsize, s.f_blocks, s.f_files, s.f_namemax)
            };
            assert_eq!(fixed(&shown), fixed(&there), "{name}");
            // Others use the disk meanwhile.
            assert!(
                shown.f_bfree.abs_diff(there.f_bfree) < there.f_blocks / 20,
                "{name}"
            );
            assert!(
                shown.f_bavail.abs_diff(there.f_bavail) < there.f_blocks / 20,
                "{name}"
            );
        }
    });
}

/// "poll": a file is always ready, and says so at once.
#[test]
fn files_are_always_ready() {
    on_mount(&[], |stage| {
        stage.twins("poll", |dir| {
            let file = File::options()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .open(dir.join("file"))
                .unwrap();
            let mut polled = [PollFd::new(
                &file,
                PollFlags::IN | PollFlags::OUT | PollFlags::PRI,
            )];
            let begin = Instant::now();
            let ready = poll(
                &mut polled,
                Some(&rustix::time::Timespec {
                    tv_sec: 3,
                    tv_nsec: 0,
                }),
            )
            .unwrap();
            assert!(
                begin.elapsed() < Duration::from_secs(1),
                "{}: waited {:?}",
                dir.display(),
                begin.elapsed()
            );
            (ready, polled[0].revents())
        });
    });
}

/// "name_to_handle_at on the mount is refused at once: better than handles that go ESTALE."
/// (proves: S35)
#[test]
fn exported_handles_are_refused() {
    on_mount(&[], |stage| {
        fs::write(stage.source("file"), "x").unwrap();
        fs::create_dir(stage.source("directory")).unwrap();
        let ask = |path: &Path| printed(Command::new(stage.program("export_handle")).arg(path));
        for name in ["", "file", "directory"] {
            assert_eq!(ask(&stage.mount(name)), "EOPNOTSUPP", "{name}");
            assert_eq!(ask(&stage.source(name)), "ok", "{name} in the source");
        }
    });
}

/// "Where fuser 0.18 cannot (O_TMPFILE), the caller gets the errno it would get from a filesystem without the feature";
/// collapse and insert "the kernel's FUSE itself refuses".
#[test]
fn what_is_impossible_is_refused_with_its_errno() {
    on_mount(&[], |stage| {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let error = openat(CWD, stage.mount(""), flags, Mode::from_raw_mode(0o600)).unwrap_err();
        assert_eq!(error, rustix::io::Errno::OPNOTSUPP, "O_TMPFILE");
        let file = File::create(stage.mount("file")).unwrap();
        file.set_len(8 * PAGE).unwrap();
        for flags in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
            assert_eq!(
                fallocate(&file, flags, 0, PAGE).unwrap_err(),
                rustix::io::Errno::OPNOTSUPP,
                "{flags:?}"
            );
        }
    });
}

/// Ways of opening: what O_EXCL, O_APPEND, O_TRUNC, O_DIRECT, O_SYNC, O_DIRECTORY and O_NOFOLLOW answer and do.
#[test]
fn open_flags_work_as_natively() {
    let ways = [
        OFlags::RDWR,
        OFlags::WRONLY | OFlags::APPEND,
        OFlags::RDWR | OFlags::TRUNC,
        OFlags::RDWR | OFlags::SYNC,
        OFlags::RDWR | OFlags::DSYNC,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
        OFlags::RDONLY | OFlags::DIRECTORY,
        OFlags::RDWR | OFlags::NOFOLLOW,
        OFlags::RDWR | OFlags::NOATIME,
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC,
    ];
    on_mount(&[], |stage| {
        for way in ways {
            stage.twins(&format!("{way:?}"), |dir| {
                std::fs::create_dir_all(dir.join("directory")).unwrap();
                let _ = std::os::unix::fs::symlink("file", dir.join("link"));
                ["file", "absent", "directory", "link"].map(|name| opened(dir, name, way))
            });
        }
    });
}

fn opened(dir: &Path, name: &str, way: OFlags) -> (Option<rustix::io::Errno>, u64, Vec<u8>) {
    fs::write(dir.join("file"), noise(PAGE, 1)).unwrap();
    let _ = fs::remove_file(dir.join("absent"));
    let answer = openat(CWD, dir.join(name), way, Mode::from_raw_mode(0o600));
    if let Ok(file) = &answer {
        // Refused on descriptors that are not open for writing, on the mount as natively: the bytes tell.
        let _ = rustix::io::write(file, b"written");
        let _ = rustix::io::pwrite(file, b"at ten", 10);
    }
    let bytes = fs::read(dir.join(name)).unwrap_or_default();
    (answer.err(), bytes.len() as u64, bytes)
}

/// O_DIRECT reads and writes, which passthrough_ll fails, at every alignment the source takes.
#[test]
fn direct_io_reads_and_writes() {
    for options in [&[][..], &["--direct-io"]] {
        on_mount(options, direct_copy);
    }
}

fn direct_copy(stage: &Stage) {
    let bytes = noise(3 * MIB, 5);
    fs::write(stage.source("from"), &bytes).unwrap();
    let mut dd = Command::new("dd");
    dd.args(["bs=64k", "iflag=direct", "oflag=direct", "status=none"]);
    let paths = [("if", stage.mount("from")), ("of", stage.mount("to"))];
    tools::run(dd.args(paths.map(|(key, path)| format!("{key}={}", path.display()))));
    stage::assert_same_bytes("O_DIRECT", &bytes, &fs::read(stage.source("to")).unwrap());
}
