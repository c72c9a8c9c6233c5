//! Which file is which: inode numbers, hard links, reused numbers, other filesystems below, odd and enormous files.

mod common;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use common::{Mount, tools};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};
use stage::{CLOCK_STEP, MIB, PAGE, Stage, assert_same_bytes, noise, on_mount, printed, tree};

/// "st_ino and d_ino equal the source's", for every kind of entry, through stat, readdir and fstat.
/// (proves: S1)
#[test]
fn numbers_are_the_sources() {
    on_mount(&[], |stage| {
        let source = stage.source("");
        fs::create_dir_all(source.join("a/b/c")).unwrap();
        fs::write(source.join("a/file"), "x").unwrap();
        std::os::unix::fs::symlink("file", source.join("a/link")).unwrap();
        tools::run(Command::new("mkfifo").arg(source.join("a/b/pipe")));
        fs::write(stage.mount("a/b/made on the mount"), "y").unwrap();
        fs::create_dir(stage.mount("a/b/also made")).unwrap();

        let (natively, shown) = (numbers(&source), numbers(&stage.mount("")));
        assert_eq!(natively.len(), 8);
        assert_eq!(natively, shown);
        let opened = File::open(stage.mount("a/file"))
            .unwrap()
            .metadata()
            .unwrap()
            .ino();
        assert_eq!(opened, natively[Path::new("a/file")].0, "fstat");
    });
}

/// Of every entry: st_ino and d_ino.
fn numbers(root: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap().map(Result::unwrap) {
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            found.insert(
                entry.path().strip_prefix(root).unwrap().to_owned(),
                (meta.ino(), entry.ino()),
            );
            waiting.extend(meta.is_dir().then(|| entry.path()));
        }
    }
    found
}

/// What the kernel shows of a file: number, links, size, mtime, ctime.
fn shown(path: &Path) -> (u64, u64, u64, (i64, i64), (i64, i64)) {
    let meta = fs::metadata(path).unwrap();
    let times = (
        (meta.mtime(), meta.mtime_nsec()),
        (meta.ctime(), meta.ctime_nsec()),
    );
    (meta.ino(), meta.nlink(), meta.size(), times.0, times.1)
}

/// "hard links show as hard links, with one size, time and count under every name at once": after a write, a
/// truncation, a link and an unlink through one name the others show it without waiting for any timeout.
/// (proves: S2)
#[test]
fn names_of_one_file_agree_at_once() {
    on_mount(&[], |stage| {
        let names = ["one", "two", "directory/three"].map(|name| stage.mount(name));
        fs::create_dir(stage.mount("directory")).unwrap();
        fs::write(&names[0], noise(2 * PAGE, 1)).unwrap();
        let all_agree = |names: &[PathBuf], what: &str| {
            let views: BTreeSet<_> = names.iter().map(|name| shown(name)).collect();
            assert_eq!(views.len(), 1, "after {what}: {views:?}");
            assert_eq!(
                views.first().unwrap(),
                &shown(&stage.source("one")),
                "after {what}, and in the source"
            );
            assert_eq!(
                views.first().unwrap().1,
                names.len() as u64,
                "link count after {what}"
            );
        };
        for known in 1..names.len() {
            fs::hard_link(&names[0], &names[known]).unwrap();
            all_agree(&names[..=known], "link");
        }
        sleep(2 * CLOCK_STEP);
        File::options()
            .append(true)
            .open(&names[2])
            .and_then(|file| file.write_at(b"more", 0))
            .unwrap();
        all_agree(&names, "append");
        File::options()
            .write(true)
            .open(&names[1])
            .and_then(|file| file.set_len(10))
            .unwrap();
        all_agree(&names, "truncate");
        fs::remove_file(&names[2]).unwrap();
        all_agree(&names[..2], "unlink");
    });
}

/// "an inode stays findable when the name it was found by goes and others remain": by unlink and by rename, on the mount
/// and behind it, with an open handle and without.
/// (proves: S3)
#[test]
fn a_file_outlives_the_name_it_was_found_by() {
    on_mount(&[], |stage| {
        for (round, behind) in [false, true].into_iter().enumerate() {
            let bytes = noise(PAGE, round as u64);
            let (first, second) = (format!("first-{round}"), format!("second-{round}"));
            let remover = if behind {
                stage.source(&first)
            } else {
                stage.mount(&first)
            };
            fs::write(stage.mount(&first), &bytes).unwrap();
            let number = fs::metadata(stage.mount(&first)).unwrap().ino();
            fs::hard_link(stage.source(&first), stage.source(&second)).unwrap();
            fs::remove_file(remover).unwrap();
            let meta = fs::metadata(stage.mount(&second)).unwrap();
            assert_eq!(
                (meta.ino(), meta.size()),
                (number, PAGE),
                "behind: {behind}"
            );
            assert_eq!(
                fs::read(stage.mount(&second)).unwrap(),
                bytes,
                "behind: {behind}"
            );

            let third = format!("third-{round}");
            let open = File::open(stage.mount(&second)).unwrap();
            fs::rename(stage.source(&second), stage.source(&third)).unwrap();
            assert_eq!(
                open.metadata().unwrap().size(),
                PAGE,
                "fstat after a rename behind the mount"
            );
            assert_eq!(
                fs::read(stage.mount(&third)).unwrap(),
                bytes,
                "behind: {behind}"
            );
        }
    });
}

/// An open file without any name keeps its bytes and takes new ones, as everywhere.
/// (proves: S3)
#[test]
fn an_open_file_outlives_its_last_name() {
    on_mount(&[], |stage| {
        stage.twins("unlinked while open", |dir| {
            let path = dir.join("file");
            fs::write(&path, noise(2 * PAGE, 1)).unwrap();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            fs::remove_file(&path).unwrap();
            file.write_all_at(b"written after the end", PAGE).unwrap();
            file.set_len(3 * PAGE).unwrap();
            let mut bytes = vec![0; 3 * PAGE as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            file.sync_all().unwrap();
            let meta = file.metadata().unwrap();
            (bytes, meta.nlink(), meta.size())
        });
    });
}

/// "inode number reuse never shows bytes of another file to a new opener": a name made and deleted again and again, on
/// the mount; other names behind the mount; and one name behind a mount that believes nothing longer than it asks.
/// (proves: S4)
#[test]
fn a_reused_number_never_shows_old_bytes() {
    on_mount(&[], |stage| {
        let mut numbers = BTreeSet::new();
        for round in 0..300 {
            numbers.insert(replace_and_read(
                &stage.mount("same"),
                &stage.mount("same"),
                round,
            ));
        }
        assert!(
            numbers.len() < 300,
            "no number was used twice: this proves nothing"
        );
        for round in 300..600 {
            let name = format!("other-{round}");
            replace_and_read(&stage.source(&name), &stage.mount(&name), round);
        }
    });
    on_mount(&["--attr-timeout", "0", "--entry-timeout", "0"], |stage| {
        for round in 0..300 {
            replace_and_read(&stage.source("same"), &stage.mount("same"), round);
        }
    });
}

/// Makes a file of bytes of its own, all rounds of one size, reads it and removes it; returns its number.
fn replace_and_read(made: &Path, read: &Path, round: u64) -> u64 {
    let bytes = noise(3 * PAGE, round + 1);
    fs::write(made, &bytes).unwrap();
    assert_same_bytes(&format!("round {round}"), &bytes, &fs::read(read).unwrap());
    let number = fs::metadata(read).unwrap().ino();
    fs::remove_file(made).unwrap();
    number
}

/// A tmpfs, or another mount, that goes when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn at(point: PathBuf) -> Tmpfs {
        Self::of_kind("tmpfs", point)
    }

    fn of_kind(kind: &str, point: PathBuf) -> Tmpfs {
        fs::create_dir_all(&point).unwrap();
        mount(kind, &point, kind, MountFlags::empty(), None).unwrap();
        Tmpfs(point)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(errno) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("umount {}: {errno}", self.0.display());
        }
    }
}

/// "other filesystems mounted below the source are shown too, without number collisions": two tmpfs, whose numbers are
/// the same one by one, mounted before and after the mount was made; their files are different files.
/// (proves: S1, S5)
#[test]
fn as_root_filesystems_below_are_shown_without_collisions() {
    on_mount(&[], |stage| {
        let below = ["first", "deeper/second"].map(|name| Tmpfs::at(stage.source(name)));
        let mut by_number = BTreeMap::new();
        for (place, tmpfs) in ["first", "deeper/second"].iter().zip(&below) {
            for name in 0..20 {
                fs::write(tmpfs.0.join(name.to_string()), format!("{place} {name}")).unwrap();
            }
            fs::write(
                stage.mount(place).join("made on the mount"),
                format!("{place} made"),
            )
            .unwrap();
        }
        assert_eq!(
            fs::metadata(below[0].0.join("7")).unwrap().ino(),
            fs::metadata(below[1].0.join("7")).unwrap().ino()
        );
        for path in tree::tree(&stage.mount("")).into_keys() {
            let meta = fs::metadata(stage.mount(&path)).unwrap();
            let other = by_number.insert((meta.dev(), meta.ino()), path.clone());
            assert_eq!(other, None, "same number as {}", path.display());
            if meta.is_file() {
                let bytes = fs::read(stage.mount(&path)).unwrap();
                assert_same_bytes(
                    &path.display().to_string(),
                    &fs::read(stage.source(&path)).unwrap(),
                    &bytes,
                );
            }
        }
        assert!(by_number.len() >= 2 * 21 + 3, "{by_number:?}");
        let error = fs::rename(stage.mount("first/1"), stage.mount("1")).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(libc::EXDEV),
            "a rename across filesystems"
        );
    });
}

/// "Other filesystems below get numbers of their own": a tmpfs below the source is replaced by another filesystem that
/// gets its device number. The new one has its own properties, and its inodes are not taken for the old one's.
/// (proves: S1, S5)
#[test]
fn as_root_a_filesystem_that_replaces_another_under_its_number_is_not_taken_for_it() {
    for kind in ["proc", "tmpfs"] {
        on_mount(&["--attr-timeout", "0", "--entry-timeout", "0"], |stage| {
            let replaced = (0..100).any(|_| is_told_apart(stage, kind));
            assert!(
                replaced,
                "no device number was used twice: this proves nothing"
            );
        });
    }
}

/// Replaces a tmpfs by a filesystem of this kind. False, and nothing was tried, if its device number is another one.
fn is_told_apart(stage: &Stage, kind: &str) -> bool {
    let (behind, shown) = (stage.source("below/version"), stage.mount("below/version"));
    let numbers = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        (meta.dev(), meta.ino())
    };
    let old = Tmpfs::at(stage.source("below"));
    fs::write(&behind, "old").unwrap();
    assert_eq!(fs::read(&shown).unwrap(), b"old");
    let ((device, _), old_number) = (numbers(&behind), numbers(&shown));
    drop(old);
    let new = Tmpfs::of_kind(kind, stage.source("below"));
    if kind == "tmpfs" {
        fs::write(&behind, "new").unwrap();
    }
    if numbers(&new.0).0 != device {
        return false;
    }
    let bytes = fs::read(&shown).unwrap();
    assert_same_bytes(kind, &fs::read(&behind).unwrap(), &bytes);
    assert!(!bytes.is_empty() && numbers(&shown) != old_number, "{kind}");
    true
}

/// "Hard links are hard links", also where a filesystem is mounted at several places: its inodes are the same at each.
/// (proves: S1, S2)
#[test]
fn as_root_bind_mounts_show_the_same_inodes() {
    on_mount(&[], |stage| {
        let _below = Tmpfs::at(stage.source("below"));
        for from in ["dir", "below"] {
            fs::create_dir_all(stage.source(from)).unwrap();
            fs::write(stage.source(from).join("file"), from).unwrap();
            let bound = format!("{from} bound");
            fs::create_dir(stage.source(&bound)).unwrap();
            mount_bind(stage.source(from), stage.source(&bound)).unwrap();
            let _bound = Tmpfs(stage.source(&bound));
            let of = |dir: &str| fs::metadata(stage.mount(dir).join("file")).unwrap().ino();
            assert_eq!(of(from), of(&bound), "{from}");
        }
    });
}

/// What a filesystem is mounted with at a place holds there, whatever it is mounted with elsewhere: a bind mount that is
/// read-only.
/// (proves: S1)
#[test]
fn as_root_bind_mounts_keep_their_own_flags() {
    for mode in [&[][..], &["--passthrough"], &["--direct-io"]] {
        on_mount(mode, |stage| {
            let _below = Tmpfs::at(stage.source("below"));
            for from in ["dir", "below"] {
                fs::create_dir_all(stage.source(from)).unwrap();
                fs::write(stage.source(from).join("file"), from).unwrap();
                let bound = stage.source(format!("{from} bound"));
                fs::create_dir(&bound).unwrap();
                mount_bind(stage.source(from), &bound).unwrap();
                let _bound = Tmpfs(bound.clone());
                let flags = MountFlags::BIND | MountFlags::RDONLY;
                mount_remount(&bound, flags, "").unwrap();

                let (shown, other) = (stage.mount(format!("{from} bound")), stage.mount(from));
                let name = shown.join("file");
                let refused = |done: std::io::Result<()>| {
                    let errno = done.unwrap_err().raw_os_error();
                    assert_eq!(errno, Some(libc::EROFS), "{mode:?} {from}");
                };
                fs::write(other.join("file"), "written").unwrap();
                let before = fs::metadata(bound.join("file")).unwrap();
                refused(fs::write(&name, "changed"));
                refused(File::options().append(true).open(&name).map(drop));
                refused(fs::set_permissions(&name, Permissions::from_mode(0o600)));
                refused(fs::write(shown.join("new"), ""));
                refused(fs::remove_file(&name));
                assert_eq!(fs::read(&name).unwrap(), b"written", "{mode:?} {from}");
                let after = fs::metadata(bound.join("file")).unwrap();
                let times =
                    |meta: &fs::Metadata| (meta.atime_nsec(), meta.mtime_nsec(), meta.mode());
                assert_eq!(times(&before), times(&after), "{mode:?} {from}");
                fs::write(other.join("file"), "as ever").unwrap();
            }
        });
    }
}

/// Access times go by the flags of the place, too.
/// (proves: S20)
#[test]
fn as_root_bind_mounts_move_access_times_by_their_own_flags() {
    on_mount(&[], |stage| {
        let below = Tmpfs::at(stage.source("below"));
        let strict = |place: &Path, flags: MountFlags| {
            mount_remount(place, MountFlags::BIND | flags, "").unwrap();
        };
        strict(&below.0, MountFlags::STRICTATIME);
        fs::write(below.0.join("file"), "read").unwrap();
        let bound = stage.source("bound");
        fs::create_dir(&bound).unwrap();
        mount_bind(&below.0, &bound).unwrap();
        let _bound = Tmpfs(bound.clone());
        strict(&bound, MountFlags::NOATIME);
        let accessed = || {
            fs::metadata(below.0.join("file"))
                .unwrap()
                .accessed()
                .unwrap()
        };
        for (place, moves) in [("bound", false), ("below", true), ("bound", false)] {
            let before = accessed();
            sleep(CLOCK_STEP);
            assert_eq!(fs::read(stage.mount(place).join("file")).unwrap(), b"read");
            assert_eq!(accessed() != before, moves, "{place}");
        }
    });
}

/// A read-only bind mount is no less so where all of the source was read-only when the mount was made.
#[test]
fn as_root_a_read_only_bind_mount_stays_one_when_its_source_becomes_writable() {
    let source = tempfile::tempdir().unwrap();
    let source = Tmpfs::at(source.path().join("source"));
    for dir in ["dir", "bound"] {
        fs::create_dir(source.0.join(dir)).unwrap();
    }
    fs::write(source.0.join("dir/file"), "bytes").unwrap();
    let remount = |place: &Path, flags| mount_remount(place, MountFlags::BIND | flags, "").unwrap();
    remount(&source.0, MountFlags::RDONLY);
    let mount = Mount::builder().over(&source.0).mount();
    mount.within(Duration::from_secs(20), || {
        assert!(fs::write(mount.mnt().join("dir/file"), "changed").is_err());
        remount(&source.0, MountFlags::empty());
        let bound = Tmpfs(source.0.join("bound"));
        mount_bind(source.0.join("dir"), &bound.0).unwrap();
        remount(&bound.0, MountFlags::RDONLY);
        let refused = fs::write(mount.mnt().join("bound/file"), "changed").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        assert_eq!(fs::read(mount.mnt().join("bound/file")).unwrap(), b"bytes");
        fs::write(mount.mnt().join("dir/file"), "changed").unwrap();
    });
    drop(mount);
}

/// "mmfs mounts among them are shown as empty directories", whatever `--subtype` calls them: one that lies inside its
/// own source, and one of another mmfs, also with one thread.
/// (proves: S5)
#[test]
fn own_mounts_of_any_subtype_are_shown_as_empty_directories() {
    for subtype in ["mmfs", "other"] {
        let base = tempfile::tempdir().unwrap();
        let points = ["source/inner", "source/own"].map(|name| base.path().join(name));
        points
            .iter()
            .for_each(|point| fs::create_dir_all(point).unwrap());
        let options = ["--subtype", subtype, "--threads", "1"];
        let source = base.path().join("source");
        let at = |point: &Path| Mount::builder().over(&source).at(point).options(options);
        let (inner, own) = (at(&points[0]).mount(), at(&points[1]).mount());
        for mount in [&inner, &own] {
            mount.within(Duration::from_secs(10), || {
                for name in ["inner", "own"] {
                    let path = mount.mnt().join(name);
                    let names = fs::read_dir(&path).unwrap().count();
                    assert_eq!(names, 0, "{subtype}: {}", path.display());
                }
            });
        }
    }
}

/// "Files above 2^40 bytes": read, written, grown and cut beyond that border.
#[test]
fn files_may_exceed_two_to_the_fortieth() {
    on_mount(&[], |stage| {
        let border = 1u64 << 40;
        stage.twins("a file of 1 TiB", |dir| {
            let path = dir.join("giant");
            let file = File::options()
                .create_new(true)
                .read(true)
                .write(true)
                .open(&path)
                .unwrap();
            let mut sizes = Vec::new();
            for at in [border - 5, border + MIB - 5, 2 * border + 1] {
                file.write_all_at(b"0123456789", at).unwrap();
                let mut bytes = [1; 20];
                file.read_exact_at(&mut bytes[..15], at - 5).unwrap();
                sizes.push((fs::metadata(&path).unwrap().size(), bytes));
            }
            file.set_len(border + 3).unwrap();
            sizes.push((file.metadata().unwrap().size(), [0; 20]));
            file.set_len(border + 5).unwrap();
            let mut bytes = [1; 20];
            file.read_exact_at(&mut bytes[..10], border - 5).unwrap();
            sizes.push((file.metadata().unwrap().size(), bytes));
            sizes
        });
        fs::remove_file(stage.plain("giant")).unwrap();
    });
}

/// "Names are bytes (invalid UTF-8, 255 bytes long, newlines)": made, listed, read, renamed, linked and removed.
/// (proves: S6)
#[test]
fn names_are_bytes() {
    let longest = [b'n'; 255];
    let names: [&[u8]; 8] = [
        b"\xff\xfe\x80",
        b"line\nbreak",
        &longest,
        b" ",
        b"-rf",
        b"\\",
        b"\x01\x7f",
        b"\xed\xa0\x80.surrogate",
    ];
    on_mount(&[], |stage| {
        for (round, name) in names.into_iter().map(OsStr::from_bytes).enumerate() {
            stage.twins(&format!("{name:?}"), |dir| {
                let (path, other) = (dir.join(name), dir.join(format!("other-{round}")));
                fs::create_dir(&other).unwrap();
                fs::write(&path, name.as_bytes()).unwrap();
                fs::rename(&path, other.join(name)).unwrap();
                fs::hard_link(other.join(name), &path).unwrap();
                std::os::unix::fs::symlink(name, other.join("link")).unwrap();
                let listed = (tree::names_in(dir), tree::names_in(&other));
                let target = fs::read_link(other.join("link")).unwrap();
                let bytes = fs::read(other.join(name)).unwrap();
                fs::remove_file(&path).unwrap();
                fs::remove_dir_all(&other).unwrap();
                (listed, target, bytes)
            });
        }
        stage.twins("a name of 256 bytes", |dir| {
            let path = dir.join(OsStr::from_bytes(&[b'n'; 256]));
            [
                fs::write(&path, "x"),
                fs::create_dir(&path),
                fs::metadata(&path).map(drop),
            ]
            .map(|result| result.unwrap_err().raw_os_error())
        });
    });
}

/// What changes behind the mount is seen when the timeouts are over, and a stable file's bytes are never mixed up.
/// (proves: S53)
#[test]
fn changes_behind_the_mount_are_seen() {
    on_mount(&[], |stage| {
        let (file, source) = (stage.mount("file"), stage.source("file"));
        fs::write(&source, noise(2 * PAGE, 1)).unwrap();
        assert_eq!(fs::read(&file).unwrap(), noise(2 * PAGE, 1));
        for (round, size) in [(2, 2 * PAGE), (3, 5 * PAGE), (4, 100), (5, 100)] {
            sleep(Duration::from_millis(20));
            fs::write(&source, noise(size, round)).unwrap();
            sleep(Duration::from_millis(1100));
            assert_same_bytes(
                &format!("round {round}"),
                &noise(size, round),
                &fs::read(&file).unwrap(),
            );
        }
        fs::remove_file(&source).unwrap();
        sleep(Duration::from_millis(1100));
        assert_eq!(
            fs::metadata(&file).unwrap_err().raw_os_error(),
            Some(libc::ENOENT)
        );
        fs::create_dir(&source).unwrap();
        sleep(Duration::from_millis(1100));
        assert!(fs::metadata(&file).unwrap().is_dir());
        assert_eq!(
            printed(Command::new("stat").args(["-c", "%i"]).arg(&file)),
            fs::metadata(&source).unwrap().ino().to_string()
        );
    });
}

/// Who keeps a file open sees what changes behind the mount within a second or so: its bytes, its size, its times.
/// (proves: S53)
#[test]
fn an_open_file_shows_changes_behind_the_mount() {
    for options in [&[][..], &["--direct-io"]] {
        on_mount(options, |stage| {
            let source = stage.source("file");
            fs::write(&source, noise(2 * PAGE, 1)).unwrap();
            let file = File::open(stage.mount("file")).unwrap();
            for (round, size) in [(2, 2 * PAGE), (3, 5 * PAGE), (4, 100)] {
                fs::write(&source, noise(size, round)).unwrap();
                sleep(Duration::from_millis(1500));
                // fstat first, as tail -f does.
                assert_eq!(
                    file.metadata().unwrap().size(),
                    size,
                    "{options:?}, round {round}"
                );
                let mut bytes = vec![0; size as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                assert_same_bytes(
                    &format!("{options:?}, round {round}"),
                    &noise(size, round),
                    &bytes,
                );
                assert_eq!(
                    file.read_at(&mut [0], size).unwrap(),
                    0,
                    "{options:?}, round {round}: the end"
                );
            }
        });
    }
}

/// `ls -i`, `du -l`, tar and rsync rely on it: a file with two names is counted once.
/// (proves: S2)
#[test]
fn tools_see_hard_links() {
    on_mount(&[], |stage| {
        fs::write(stage.source("one"), noise(MIB, 1)).unwrap();
        fs::hard_link(stage.source("one"), stage.source("two")).unwrap();
        stage_du(stage, 1);
        fs::copy(stage.source("one"), stage.source("three")).unwrap();
        stage_du(stage, 2);
    });
}

fn stage_du(stage: &Stage, mebibytes: u64) {
    let total = printed(
        Command::new("du")
            .args(["-s", "--apparent-size", "--block-size=1M"])
            .arg(stage.mount("")),
    );
    // The directory itself adds a little, which is rounded up.
    let total: u64 = total.split('\t').next().unwrap().parse().unwrap();
    assert_eq!(total, mebibytes + 1, "du counts every file once");
}
