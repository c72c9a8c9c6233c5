//! Rule 3: the disk fails. Bad ranges give EIO and good ones their bytes; a write lost after it was acknowledged is
//! reported to every handle that was open for writing, once each; a file that never answers delays its own
//! readers only: not other files, not `ls`, not a detaching unmount.

mod common;
mod survive;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use common::subject::is_in_mode;
use common::{LoopFs, Mount, fuse, tools};
use rustix::process::Signal;
use survive::faulty::{self, Faulty};
use survive::{Figures, daemon, pattern};

const MB: u64 = 1 << 20;

// ---- a source that does not answer

#[test]
#[ignore = "no test: the process that `Faulty::mount` starts"]
fn faulty_server() {
    faulty::serve_if_asked();
}

/// (proves: S42)
#[test]
fn files_that_never_answer_hold_up_their_own_readers_only() {
    if is_in_mode("--threads 1", "there are no spare threads") {
        return;
    }
    let figures = Figures::of("survives_failing_disk: never answers");
    for (options, files) in [
        (&["--allow-other"][..], 1),
        (&["--allow-other", "--direct-io"], 1),
        (&["--allow-other"], faulty::NEVER_ANSWERING),
        (&["--allow-other", "--direct-io"], faulty::NEVER_ANSWERING),
    ] {
        let source = Faulty::mount("faulty_server");
        let mut mount = Mount::builder()
            .over(source.path())
            .options(options.iter().copied())
            .expect_log("reply")
            .mount();
        // There are fewer event loops than requests: one that waits for a file that never answers must not be the last.
        let (stop, path) = (Arc::new(AtomicBool::new(false)), mount.mnt().join("good0"));
        let busy = [(); 4].map(|()| keep_reading(path.clone(), stop.clone()));
        let mut readers: Vec<Child> = (0..64)
            .map(|n| reader(&mount.mnt().join(format!("never{}", n % files)), n))
            .collect();
        thread::sleep(Duration::from_millis(500));
        figures.fault();
        others_are_served(mount.mnt(), &options.join(" "), &figures);
        stop.store(true, Relaxed);
        let pages = busy.map(|one| one.join().expect("a reader"));
        figures.expect(
            "every reader goes on",
            pages.iter().all(|n| *n > 1000),
            true,
        );
        figures.note(format!("pages read meanwhile: {pages:?}"));
        // The mount is busy: a signal detaches it, whatever hangs.
        let (point, began) = (mount.mnt().to_owned(), Instant::now());
        mount.signal(Signal::TERM);
        let gone = tools::wait_until(Duration::from_secs(5), || fuse::mount_at(&point).is_none());
        if !gone {
            figures.hang(format!("{options:?}: not detached within 5 s"));
        }
        figures.note(format!(
            "files that never answer: {files}, detached after {:?}",
            began.elapsed()
        ));
        source.cut();
        let ended = tools::wait_until(Duration::from_secs(10), || {
            readers
                .iter_mut()
                .all(|r| r.try_wait().is_ok_and(|s| s.is_some()))
        });
        figures.expect(
            &format!("{options:?}: readers end once the source is cut off"),
            ended,
            true,
        );
        readers.iter_mut().for_each(|r| drop(r.kill()));
        figures.expect(
            &format!("{options:?}: the daemon's end"),
            mount.wait_end().success(),
            true,
        );
    }
    figures.finish();
}

/// A client that reads a file which never answers is killed, and the view unmounted: its daemon gives the source up all the
/// same, within the moment that S51 names.
/// (proves: S51)
#[test]
fn a_view_that_was_unmounted_waits_for_no_source() {
    if is_in_mode(
        "--direct-io",
        "a killed reader waits for the reply, in its file",
    ) {
        return;
    }
    for options in [&["--threads", "1"][..], &["--threads", "4"], &["-r"]] {
        let source = Faulty::mount("faulty_server");
        let builder = Mount::builder().over(source.path());
        let builder = builder.options(options.iter().copied());
        let mut mount = builder.expect_log("reply").mount();
        let mut client = reader(&mount.mnt().join("never0"), 0);
        thread::sleep(Duration::from_millis(500));
        client.kill().expect("our own child");
        let (view, below) = (mount.mnt().to_owned(), source.path().to_owned());
        // On a thread: umount(2) itself waits for a reply that is being written.
        let unmounted = |path: PathBuf, limit| {
            let (done, answer) = channel();
            let none = rustix::mount::UnmountFlags::empty();
            let unmount = move || rustix::mount::unmount(&path, none).is_ok();
            thread::spawn(move || done.send(tools::wait_until(limit, unmount)));
            let answer = answer.recv_timeout(2 * limit);
            if answer.is_err() {
                source.cut();
            }
            answer == Ok(true)
        };
        let first = unmounted(view, Duration::from_secs(5));
        assert!(first, "{options:?}: the view is busy");
        let second = unmounted(below, Duration::from_secs(1));
        assert!(second, "{options:?}: the source is busy");
        assert!(mount.wait_end().success(), "{options:?}");
        client.wait().expect("our own child");
    }
}

/// Reads page after page around the cache: how many.
fn keep_reading(path: PathBuf, stop: Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let file = File::open(path).expect("open");
        let mut pages = 0;
        while !stop.load(Relaxed) {
            let page = pages % (MB / 4096) * 4096;
            let (one, gone) = (NonZeroU64::new(4096), rustix::fs::Advice::DontNeed);
            rustix::fs::fadvise(&file, page, one, gone).expect("fadvise");
            file.read_exact_at(&mut [0; 4096], page).expect("read");
            pages += 1;
        }
        pages
    })
}

// Every one at another place, so that each has a request of its own.
fn reader(path: &Path, n: u64) -> Child {
    let mut command = Command::new("dd");
    command
        .arg(format!("if={}", path.display()))
        .args(["of=/dev/null", "bs=4096", "count=1"]);
    command
        .arg(format!("skip={}", n * 4))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("dd starts")
}

/// Runs `work` on a thread; None and a hang when it takes longer than two seconds.
fn promptly<T: Send + 'static>(
    what: &str,
    figures: &Figures,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(work()));
    let done = receiver.recv_timeout(Duration::from_secs(2)).ok();
    if done.is_none() {
        figures.hang(format!("{what}\n{}", common::watchdog::stuck_tasks(None)));
    }
    done
}

fn others_are_served(mnt: &Path, what: &str, figures: &Figures) {
    for n in 0..8 {
        let (path, what) = (
            mnt.join(format!("good{n}")),
            format!("{what}: another file"),
        );
        let Some(read) = promptly(&what, figures, move || fs::read(path)) else {
            return;
        };
        let bytes = figures.outcome(&what, &[], read);
        let right =
            bytes.is_some_and(|b| b.len() as u64 == MB && b.iter().all(|byte| *byte == b'g'));
        figures.expect(&what, right, true);
    }
    let (path, what) = (mnt.join("eio"), format!("{what}: eio"));
    if let Some(failed) = promptly(&what, figures, move || fs::read(path)) {
        let errno = failed.err().and_then(|e| e.raw_os_error());
        figures.expect(&what, errno, Some(libc::EIO));
    }
    let (directory, what) = (mnt.to_owned(), format!("{what}: ls -l"));
    let list = move || tools::output_of(Command::new("ls").arg("-l").arg(directory));
    if let Some(listed) = promptly(&what, figures, list) {
        figures.expect(&what, listed.status.success(), true);
    }
}

// ---- a source that has lost part of its medium

/// A filesystem on a loop device whose image can be damaged.
struct Damaged {
    disk: LoopFs,
    image: PathBuf,
}

impl Damaged {
    fn new(parent: Option<&Path>) -> Self {
        // In blocks of whole pages: of a write that begins within a page the medium has, the loop device makes a
        // success, however much of the rest is lost.
        let mkfs = ["-O", "^has_journal", "-b", "4096"];
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let disk = LoopFs::inside(&parent, "ext4", 64 * MB, &mkfs, "loop");
        let image = disk.path().with_file_name("image");
        Damaged { disk, image }
    }

    /// Where on the medium the file's bytes are: (offset in the file, offset on the medium, length).
    fn extents(&self, file: &Path) -> Vec<(u64, u64, u64)> {
        let output = tools::run(Command::new("filefrag").args(["-e", "-v", "-b1"]).arg(file));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers = |line: &str| -> Vec<u64> {
            let fields = line
                .split(|c: char| !c.is_ascii_digit())
                .filter(|f| !f.is_empty());
            fields.filter_map(|f| f.parse().ok()).collect()
        };
        let lines = text
            .lines()
            .filter(|line| line.trim_start().starts_with(|c: char| c.is_ascii_digit()));
        let rows = lines.map(numbers).filter(|n| n.len() >= 6);
        rows.map(|n| (n[1], n[3], n[5])).collect()
    }
}

/// (proves: S41)
#[test]
fn a_bad_range_is_eio_and_a_good_one_its_bytes() {
    let figures = Figures::of("survives_failing_disk: bad ranges");
    for options in [&["--direct-io"][..], &[]] {
        let damaged = Damaged::new(None);
        let native = damaged.disk.path().join("file");
        let tag = pattern::tag(7);
        let len = 16 * MB;
        fs::write(&native, pattern::bytes(tag, 0, len as usize)).expect("write");
        tools::run(Command::new("sync").arg("-f").arg(&native));
        let extents = damaged.extents(&native);
        let (_, medium, _) = extents
            .iter()
            .find(|e| e.0 <= 8 * MB && 8 * MB < e.0 + e.2)
            .copied()
            .expect("an extent");
        let cut = extents
            .iter()
            .find(|e| e.1 == medium)
            .map(|e| e.1 + (8 * MB - e.0))
            .expect("an extent");
        let mount = Mount::builder()
            .over(damaged.disk.path())
            .options(options.iter().copied())
            .expect_log("reply")
            .mount();
        File::options()
            .write(true)
            .open(&damaged.image)
            .and_then(|f| f.set_len(cut))
            .expect("truncate");
        forget_pages(&native);
        figures.fault();
        let bad = |offset: u64| {
            extents
                .iter()
                .any(|e| e.0 <= offset && offset < e.0 + e.2 && e.1 + (offset - e.0) >= cut)
        };
        mount.within(Duration::from_secs(30), || {
            read_both(&mount.mnt().join("file"), tag, len, bad, &figures)
        });
        alive(&mount, &figures);
        drop(mount);
        // Whole again, so that it can be unmounted in peace.
        File::options()
            .write(true)
            .open(&damaged.image)
            .and_then(|f| f.set_len(64 * MB))
            .expect("truncate");
    }
    figures.finish();
}

fn forget_pages(path: &Path) {
    let file = File::open(path).expect("open");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
}

fn read_both(
    path: &Path,
    tag: pattern::Tag,
    len: u64,
    bad: impl Fn(u64) -> bool,
    figures: &Figures,
) {
    let file = File::open(path).expect("open");
    let mut page = vec![0; 4096];
    let (mut refused, mut wanted) = (0, 0);
    for offset in (0..len).step_by(64 << 10) {
        wanted += u64::from(bad(offset));
        match figures.outcome("read", &[libc::EIO], file.read_at(&mut page, offset)) {
            Some(n) => figures.expect(
                &format!("{offset}"),
                page[..n] == pattern::bytes(tag, offset, 4096)[..],
                true,
            ),
            None => refused += 1,
        }
    }
    figures.expect("bad pages refused", refused, wanted);
    figures.note(format!("bad pages {wanted}"));
}

fn alive(mount: &Mount, figures: &Figures) {
    if !daemon::lives(mount.daemon_pid()) {
        figures.exit();
    }
}

// ---- a source that loses writes

/// (proves: S41)
#[test]
fn a_lost_write_is_reported_to_every_writer_once() {
    let figures = Figures::of("survives_failing_disk: lost writes");
    for options in [&[][..], &["--write-path", "region"], &["--direct-io"]] {
        let tmpfs = Tmpfs::new(72 * MB);
        let damaged = Damaged::new(Some(tmpfs.0.path()));
        let native = damaged.disk.path().join("file");
        fs::write(&native, vec![1; 8 * MB as usize]).expect("write");
        tools::run(Command::new("sync").arg("-f").arg(&native));
        let mount = Mount::builder()
            .over(damaged.disk.path())
            .options(options.iter().copied())
            .mount();
        // The image keeps its room but where the file is; then the tmpfs is filled.
        make_room_nowhere(&damaged, &native, tmpfs.0.path());
        figures.fault();
        mount.within(Duration::from_secs(30), || {
            lose(&mount, &options.join(" "), &figures)
        });
        alive(&mount, &figures);
        drop(mount);
        fs::remove_file(tmpfs.0.path().join("ballast")).expect("unlink");
    }
    figures.finish();
}

struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(size: u64) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("mount");
        tools::run(
            command
                .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
                .arg(directory.path()),
        );
        Tmpfs(directory)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        tools::output_of(Command::new("umount").arg("-l").arg(self.0.path()));
    }
}

fn make_room_nowhere(damaged: &Damaged, file: &Path, tmpfs: &Path) {
    let image = File::options()
        .write(true)
        .open(&damaged.image)
        .expect("open");
    rustix::fs::fallocate(&image, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 64 * MB)
        .expect("fallocate");
    let how = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    for (_, medium, len) in damaged.extents(file) {
        rustix::fs::fallocate(&image, how, medium, len).expect("punch");
    }
    let mut ballast = File::create(tmpfs.join("ballast")).expect("create");
    let filled = io::copy(&mut io::repeat(1).take(1 << 30), &mut ballast);
    assert!(filled.is_err(), "the tmpfs has no end");
}

/// Two writers and a bystander who opens later.
fn lose(mount: &Mount, what: &str, figures: &Figures) {
    let path = mount.mnt().join("file");
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .expect("open")
    };
    let (first, second) = (open(), open());
    let native = OpenOptions::new()
        .write(true)
        .open(mount.src().join("file"))
        .expect("open");
    figures.outcome("write", &[], first.write_all_at(&[2; MB as usize], 0));
    // Others make the kernel write: the loss happens here, where no descriptor of the test gets an error.
    tools::output_of(Command::new("sync").arg("-f").arg(mount.src()));
    thread::sleep(Duration::from_millis(1500));
    let told = |file: &File| file.sync_all().map_err(|e| e.raw_os_error().unwrap_or(0));
    // ENOSPC or EIO: what the medium said.
    let Err(natively) = told(&native) else {
        assert!(common::subject::peer().is_some(), "the write was not lost");
        return figures.note("nothing was lost".into());
    };
    let copies = [first.try_clone(), second.try_clone()].map(|f| f.expect("dup"));
    for copy in copies {
        figures.expect(
            &format!("{what}: close of a duplicate"),
            close(copy),
            Err(natively),
        );
    }
    // A child that inherits a descriptor closes it at its end, and no process reads the error of that close.
    let inherited = first.try_clone().expect("dup");
    let child = Command::new("sleep").arg("0").stdin(inherited).status();
    assert!(child.expect("sleep starts").success());
    for (name, file) in [("first", &first), ("second", &second)] {
        figures.expect(
            &format!("{what}: fsync of the {name} writer"),
            told(file),
            Err(natively),
        );
        figures.expect(&format!("{what}: its next fsync"), told(file), Ok(()));
        figures.error_named("lost");
    }
    figures.expect(
        &format!("{what}: fsync of who came later"),
        told(&open()),
        Ok(()),
    );
    figures.operation();
}

fn close(file: File) -> Result<(), i32> {
    let _ = file.as_raw_fd();
    let number = file.into_raw_fd();
    #[allow(unsafe_code)] // close(2)'s answer is what is looked at here, and std throws it away.
    // SAFETY: the descriptor was just given up by its owner, and is closed once.
    match unsafe { libc::close(number) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
    }
}
