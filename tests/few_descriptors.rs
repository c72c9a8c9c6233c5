//! Descriptors are kept in reserve: whatever one client has open, the others look names up, stat and list. Whoever opens
//! more files than the daemon may have hears ENFILE. (EMFILE is the client's own limit.)

mod common;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::{self, sleep};
use std::time::Duration;

use common::{Builder, Mount, sh, tools, user};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, getrlimit, setrlimit};

const DIRECTORIES: usize = 40;
const LIMIT: Duration = Duration::from_secs(120);

/// Lets this process, the client, open more than the daemons here may.
fn raise_own_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("setrlimit");
    let enough = limit.current.is_none_or(|n| n > 10_000);
    assert!(enough, "the client cannot open enough: {limit:?}");
}

fn plant(source: &Path, files: usize, of_user: bool) {
    let make = |directory: &Path| fs::create_dir(directory).unwrap();
    for d in 0..DIRECTORIES {
        make(&source.join(format!("d{d}")));
    }
    for f in 0..files {
        let path = source.join(format!("d{}/f{f}", f % DIRECTORIES));
        fs::write(&path, format!("{f}")).unwrap();
    }
    let mut deep = source.join("deep");
    for level in 0..12 {
        make(&deep);
        deep.push(format!("level{level}"));
    }
    if of_user {
        let uid = user::ordinary().to_string();
        sh(r#"chown -R "$1:$1" "$2""#, &[uid.as_ref(), source.as_ref()]);
    }
}

/// What everybody may do at any time, in directories that are new to the kernel as well as in known ones.
fn look_about(mnt: &Path, files: usize, round: usize) {
    let mut listed = 0;
    for d in 0..DIRECTORIES {
        for entry in fs::read_dir(mnt.join(format!("d{d}"))).unwrap() {
            assert!(entry.unwrap().metadata().unwrap().is_file());
            listed += 1;
        }
    }
    assert_eq!(listed, files, "files listed");
    let mut deep = mnt.join("deep");
    for level in 0..11 {
        deep.push(format!("level{level}"));
        assert!(fs::metadata(&deep).unwrap().is_dir());
        assert_eq!(
            fs::read_dir(&deep).unwrap().count(),
            usize::from(level < 10)
        );
    }
    let (new, other) = (mnt.join(format!("new{round}")), mnt.join("other"));
    fs::create_dir(&new).unwrap();
    fs::rename(&new, &other).unwrap();
    fs::remove_dir(&other).unwrap();
    fs::set_permissions(mnt.join("deep"), fs::Permissions::from_mode(0o755)).unwrap();
    rustix::fs::statvfs(mnt).unwrap();
}

fn path(mnt: &Path, n: usize) -> PathBuf {
    mnt.join(format!("d{}/f{n}", n % DIRECTORIES))
}

/// Opens one file after the other until that is refused.
fn open_all(mnt: &Path, files: usize, write: bool) -> (Vec<File>, io::Error) {
    let mut open = Vec::new();
    for n in 0..files {
        match OpenOptions::new()
            .read(true)
            .write(write)
            .open(path(mnt, n))
        {
            Ok(file) => open.push(file),
            Err(error) => return (open, error),
        }
    }
    panic!("{files} files could be opened");
}

fn daemon(limit: u64, as_user: bool, options: &[&str]) -> Builder {
    let builder = Mount::builder().rlimit("nofile", limit);
    let builder = builder
        .option("--allow-other")
        .options(options.iter().copied());
    match as_user {
        true => builder.as_user(user::ordinary()),
        false => builder,
    }
}

fn open_files_leave_room(as_user: bool, modes: &[&[&str]]) {
    raise_own_limit();
    for mode in modes {
        for (limit, least) in [(256, 120), (1024, 800)] {
            for write in [false, true] {
                let what = format!("{mode:?}, limit {limit}, write {write}, user {as_user}");
                let mount = daemon(limit, as_user, mode).mount();
                let files = limit as usize + 100;
                plant(mount.src(), files, as_user);
                mount.within(LIMIT, || {
                    let (mut open, refused) = open_all(mount.mnt(), files, write);
                    assert_eq!(refused.raw_os_error(), Some(libc::ENFILE), "{what}");
                    assert!(open.len() >= least, "{what}: {} files open", open.len());
                    // Beyond the interval at which open files are looked at.
                    for round in 0..2 {
                        look_about(mount.mnt(), files, round);
                        sleep(Duration::from_millis(1100));
                    }
                    for (n, file) in open.iter().enumerate() {
                        let (mut text, number) = ([0; 8], n.to_string());
                        let len = file.read_at(&mut text, 0).unwrap();
                        assert_eq!(&text[..len], number.as_bytes(), "{what}");
                        if write {
                            file.write_all_at(number.as_bytes(), 0).unwrap();
                            drop(file.try_clone().unwrap());
                            file.sync_all().unwrap();
                            file.write_all_at(number.as_bytes(), 0).unwrap();
                        }
                    }
                    look_about(mount.mnt(), files, 3);
                    let again = File::open(path(mount.mnt(), files - 1)).map(drop);
                    assert_eq!(
                        again.unwrap_err().raw_os_error(),
                        Some(libc::ENFILE),
                        "{what}"
                    );
                    open.truncate(open.len() / 2);
                    let more = open_all(mount.mnt(), files, write).0;
                    assert!(
                        open.len() + more.len() >= least,
                        "{what}: again {}",
                        more.len()
                    );
                    look_about(mount.mnt(), files, 4);
                });
            }
        }
    }
}

/// The kernel says that files were closed when their client has gone on, and then they have yet to be made durable. The
/// client can open others at once.
/// (proves: S43)
#[test]
fn as_root_an_open_waits_a_moment_for_files_that_are_being_closed() {
    raise_own_limit();
    for write in [false, true] {
        let mount = daemon(256, false, &[]).mount();
        let files = 356;
        plant(mount.src(), files, false);
        mount.within(LIMIT, || {
            let (mut open, refused) = open_all(mount.mnt(), files, write);
            assert_eq!(refused.raw_os_error(), Some(libc::ENFILE));
            let another = |n| File::open(path(mount.mnt(), files - n));
            drop(open.pop());
            let taken = tools::wait_until(LIMIT, || another(1).map(|file| open.push(file)).is_ok());
            assert!(taken, "write {write}: what one had");
            let closing = thread::spawn(|| {
                sleep(Duration::from_millis(50));
                drop(open);
            });
            let second = another(2);
            assert!(second.is_ok(), "write {write}: {second:?}");
            closing.join().unwrap();
        });
    }
}

/// Thousands of files open for writing take one descriptor each, however long they are open.
/// (proves: S43)
#[test]
fn as_root_files_open_for_writing_take_one_descriptor_each() {
    raise_own_limit();
    let mount = daemon(4096, false, &[]).mount();
    plant(mount.src(), 4196, false);
    mount.within(LIMIT, || {
        let (open, refused) = open_all(mount.mnt(), 4196, true);
        assert_eq!(refused.raw_os_error(), Some(libc::ENFILE));
        assert!(open.len() >= 3600, "{} files open", open.len());
        open.iter()
            .for_each(|file| file.write_all_at(b"x", 0).unwrap());
        sleep(Duration::from_millis(2500));
        look_about(mount.mnt(), 4196, 0);
    });
}

/// (proves: S43)
#[test]
fn as_root_open_files_leave_room_for_others() {
    open_files_leave_room(false, &[&[], &["--passthrough"]]);
}

#[test]
fn as_root_open_files_leave_room_for_others_in_a_users_daemon() {
    user::let_users_mount();
    open_files_leave_room(true, &[&[]]);
}

/// Files that are removed while they are open take no more descriptors than others.
/// (proves: S43)
#[test]
fn as_root_removed_files_leave_room_for_others() {
    raise_own_limit();
    for (as_user, limit) in [(false, 256), (false, 1024), (true, 1024)] {
        user::let_users_mount();
        let mount = daemon(limit, as_user, &[]).mount();
        let files = limit as usize + 100;
        plant(mount.src(), files, as_user);
        mount.within(LIMIT, || {
            let (open, refused) = open_all(mount.mnt(), files, true);
            assert_eq!(refused.raw_os_error(), Some(libc::ENFILE), "limit {limit}");
            (0..open.len()).for_each(|n| fs::remove_file(path(mount.mnt(), n)).unwrap());
            look_about(mount.mnt(), files - open.len(), 0);
            for (n, file) in open.iter().enumerate() {
                file.write_all_at(b"still here", 0).unwrap();
                assert_eq!(file.metadata().unwrap().len(), 10, "{n}");
            }
            look_about(mount.mnt(), files - open.len(), 1);
        });
    }
}

/// Directories that are held open, more of them than the daemon may have descriptors, are listed, synced and have their
/// flags set all the same, and files can be opened.
/// (proves: S43)
#[test]
fn as_root_open_directories_leave_room_for_others() {
    raise_own_limit();
    let mount = daemon(256, false, &[]).mount();
    plant(mount.src(), 400, false);
    mount.within(LIMIT, || {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held: Vec<_> = (0..600)
            .map(|n| {
                let path = mount.mnt().join(format!("d{}", n % DIRECTORIES));
                rustix::fs::open(path, flags, Mode::empty()).unwrap()
            })
            .collect();
        look_about(mount.mnt(), 400, 0);
        for directory in &held {
            let names = rustix::fs::Dir::read_from(directory).unwrap();
            assert_eq!(names.count(), 12, "names listed");
            rustix::fs::fsync(directory).expect("fsync");
            rustix::fs::fdatasync(directory).expect("fdatasync");
            let flags = rustix::fs::ioctl_getflags(directory).expect("lsattr");
            rustix::fs::ioctl_setflags(directory, flags).expect("chattr");
        }
        let (open, _) = open_all(mount.mnt(), 400, false);
        assert!(open.len() >= 100, "{} files open", open.len());
        look_about(mount.mnt(), 400, 1);
    });
}

/// A limit that is too small for the threads is refused before anything is mounted; by default there are as many threads as it
/// is enough for.
#[test]
fn a_limit_that_is_too_small_for_the_threads_is_refused() {
    for (limit, threads) in [(64, 256), (128, 128), (256, 256), (24, 1)] {
        let threads = threads.to_string();
        for how in [&["--foreground"][..], &[]] {
            let builder = Mount::builder().rlimit("nofile", limit);
            let options = ["--threads", &threads]
                .into_iter()
                .chain(how.iter().copied());
            let refusal = builder.options(options).refused();
            let stderr = String::from_utf8_lossy(&refusal.stderr);
            assert_eq!(refusal.status.code(), Some(1), "{limit}: {stderr}");
            let said = stderr.starts_with("mmfs: ") && stderr.contains(&limit.to_string());
            assert!(said && stderr.contains("--threads"), "{limit}: {stderr}");
        }
    }
    for limit in [36, 48, 64] {
        let mount = Mount::builder().rlimit("nofile", limit).mount();
        plant(mount.src(), 40, false);
        mount.within(LIMIT, || {
            look_about(mount.mnt(), 40, 0);
            let (open, refused) = open_all(mount.mnt(), 40, true);
            assert_eq!(refused.raw_os_error(), Some(libc::ENFILE), "limit {limit}");
            look_about(mount.mnt(), 40, 1);
            drop(open);
        });
    }
}
