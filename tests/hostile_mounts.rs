//! Mounts that claim to be mmfs's and are not: the user who mounts chooses the mount's options, and what it answers.

mod common;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use common::builder::binary;
use common::{fuse, tools, user};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry,
    ReplyWrite, ReplyXattr, Request, SessionACL, WriteFlags,
};
use mmfs::report::{self, Status, Trace};

const POINT: &str = "MMFS_TEST_HOSTILE_POINT";
const ANSWERS: &str = "MMFS_TEST_HOSTILE_ANSWERS";

/// All mounts are asked in some tests: there is one of these at a time.
static ONE: Mutex<()> = Mutex::new(());

/// A mount with the mark of mmfs, served by this test program, started once more.
struct Hostile {
    point: tempfile::TempDir,
    child: Child,
    _alone: MutexGuard<'static, ()>,
}

impl Hostile {
    /// One that gives no answers, or those of this name: see `Server::getxattr`.
    fn mount(answers: &str) -> Self {
        let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let point = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(std::env::current_exe().expect("our own path"));
        command.args(["--exact", "hostile_server", "--ignored"]);
        command.env(POINT, point.path()).env(ANSWERS, answers);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().expect("ourselves");
        let this = Hostile {
            point,
            child,
            _alone,
        };
        let mounted = || fuse::mount_at(this.path()).is_some();
        assert!(tools::wait_until(Duration::from_secs(10), mounted));
        this
    }

    fn path(&self) -> &Path {
        self.point.path()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        fuse::abort(self.path(), None);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "no test: the process that `Hostile::mount` starts"]
fn hostile_server() {
    let Some(point) = std::env::var_os(POINT) else {
        return;
    };
    let answers = std::env::var(ANSWERS).unwrap_or_default();
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("hostile".into()),
        MountOption::CUSTOM(format!("max_read={}", u32::from_be_bytes(*b"mmfs"))),
    ];
    if user::is_root() {
        config.acl = SessionACL::All;
    }
    let session = fuser::Session::new(Server::new(answers), point, &config).expect("a mount");
    std::mem::forget(session.spawn().expect("event loops"));
    loop {
        std::thread::park();
    }
}

struct Server {
    answers: String,
    /// Once a file was renamed, nothing is answered that has to do with names or bytes.
    is_mute: AtomicBool,
}

const TTL: Duration = Duration::from_secs(1);

impl Server {
    fn new(answers: String) -> Self {
        let is_mute = AtomicBool::new(false);
        Self { answers, is_mute }
    }

    fn attr(ino: INodeNo) -> FileAttr {
        let is_root = ino == INodeNo::ROOT;
        FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: match is_root {
                true => FileType::Directory,
                false => FileType::RegularFile,
            },
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Server {
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &Self::attr(ino));
    }

    fn lookup(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        match self.is_mute.load(SeqCst) {
            true => std::mem::forget(reply),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let attr = Self::attr(INodeNo(if name == "log" { 2 } else { 3 }));
        let flags = FopenFlags::empty();
        reply.created(&TTL, &attr, Generation(0), FileHandle(0), flags);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.is_mute.load(SeqCst) {
            true => std::mem::forget(reply),
            false => reply.written(data.len() as u32),
        }
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.is_mute.store(true, SeqCst);
        reply.ok();
    }

    fn getxattr(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, reply: ReplyXattr) {
        let name = String::from_utf8_lossy(name.as_bytes());
        match (&*self.answers, name.strip_prefix("system.mmfs.1.trace.")) {
            // A reply that is dropped would be sent.
            ("mute", _) => std::mem::forget(reply),
            (_, Some(from)) => reply.data(&endless(from.parse().expect("a number"))),
            (_, None) if name.starts_with("system.mmfs.1.") => reply.data(&lies()),
            _ => reply.error(Errno::ENODATA),
        }
    }
}

/// There are always more requests.
fn endless(from: u64) -> Vec<u8> {
    let requests = (from..from + 100).map(|number| report::Request {
        number,
        kind: "read".into(),
        ..report::Request::default()
    });
    let trace = Trace {
        next: from + 100,
        requests: requests.collect(),
        ..Trace::default()
    };
    serde_json::to_vec(&trace).expect("JSON")
}

/// A daemon ends whose PID file lies on a filesystem that reads requests and does not answer them. With a file of it open
/// it needs a second signal.
fn ends_without_its_pid_file(is_busy: bool) {
    let stopped = Hostile::mount("files");
    let base = tempfile::tempdir().expect("a directory");
    let [source, point] = ["source", "mount"].map(|name| base.path().join(name));
    for path in [&source, &point] {
        std::fs::create_dir(path).expect("a directory");
    }
    std::fs::write(source.join("file"), "text").expect("a file");
    let mut command = Command::new(binary());
    command.arg("-f").stdin(Stdio::null());
    command.arg("--pidfile").arg(stopped.path().join("pid"));
    if !is_busy {
        command.arg("--log").arg(stopped.path().join("log"));
    }
    let mut child = command
        .args([&source, &point])
        .spawn()
        .expect("mmfs starts");
    let answers = || std::fs::read(point.join("file")).is_ok();
    let has_answered = tools::wait_until(Duration::from_secs(10), answers);
    let open = is_busy.then(|| std::fs::File::open(point.join("file")));
    for _ in 0..if is_busy { 2 } else { 1 } {
        let pid = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let is_gone = || fuse::mount_at(&point).is_none();
        tools::wait_until(Duration::from_secs(10), is_gone);
    }
    let has_ended = tools::wait_until(Duration::from_secs(20), || {
        child.try_wait().expect("our own child").is_some()
    });
    drop(stopped);
    let _ = child.kill();
    child.wait().expect("the end");
    drop(open);
    assert!(has_answered && has_ended, "{has_answered} {has_ended}");
}

/// A thread that waits for the answer to a request that was read would keep the daemon.
/// (proves: S27)
#[test]
fn a_pid_file_on_a_filesystem_that_does_not_answer_keeps_no_daemon() {
    for is_busy in [false, true] {
        ends_without_its_pid_file(is_busy);
    }
}

/// Numbers and names that no mount has.
fn lies() -> Vec<u8> {
    let kinds = ["read", "read", "\u{1}", "\u{2}", "\u{9b}2J\u{202e}"];
    let requests = kinds.map(|kind| report::Requests {
        kind: kind.into(),
        count: u64::MAX,
        ..report::Requests::default()
    });
    let status = Status {
        requests: requests.into(),
        version: "\u{9b}2J\u{7f}".into(),
        uptime_us: u64::MAX,
        since: u64::MAX,
        ..Status::default()
    };
    serde_json::to_vec(&status).expect("JSON")
}

/// What it prints, and its exit code, if it ends in time. It is a child that can be ended, and no other process has its output open.
#[track_caller]
fn ends(words: &[&str], path: Option<&Path>) -> (String, Option<i32>) {
    let mut command = Command::new(binary());
    command.args(words).args(path).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("mmfs starts");
    let (mut out, mut errors) = (child.stdout.take(), child.stderr.take());
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.as_mut().map(|out| out.read_to_string(&mut text));
        errors
            .as_mut()
            .map(|errors| errors.read_to_string(&mut text));
        text
    });
    let mut status = None;
    let ended = tools::wait_until(Duration::from_secs(20), || {
        status = child.try_wait().expect("our own child");
        status.is_some() && reader.is_finished()
    });
    let _ = child.kill();
    assert!(ended, "{words:?} does not end: {status:?}");
    let code = status.and_then(|status| status.code());
    (reader.join().expect("a reader"), code)
}

/// A request that its server has read cannot be cancelled: the process that made it waits for the answer, and no signal ends it.
#[test]
fn a_server_that_never_answers_delays_no_question() {
    let mute = Hostile::mount("mute");
    let began = Instant::now();
    for words in [&["status"][..], &["status", "--json"], &["trace"]] {
        let (text, code) = ends(words, Some(mute.path()));
        assert_eq!(code, Some(1), "{words:?}: {text}");
        assert!(text.contains("did not answer within"), "{text}");
    }
    // Three questions wait by now, and no list adds another one to them.
    let (text, code) = ends(&["status"], None);
    let start = format!("{}  not asked: earlier questions", mute.path().display());
    assert!(text.lines().any(|line| line.starts_with(&start)), "{text}");
    assert_eq!(code, Some(0));
    assert!(began.elapsed() < Duration::from_secs(60));
}

/// A question without an answer would keep the mount busy. Its server is out of sight in a namespace of other processes.
#[test]
fn as_root_a_mount_that_does_not_answer_is_unmounted_without_a_question() {
    let mute = Hostile::mount("mute");
    let script = "unshare --mount --propagation private --pid --fork sh -c 'mount -t proc proc /proc && exec \"$0\" unmount \"$1\"' \"$@\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(binary());
    let output = shell.arg(mute.path()).output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("no daemon of it was found here"), "{text}");
}

/// Each question that is not answered is a process that cannot be ended.
#[test]
fn a_watch_asks_a_server_that_does_not_answer_once() {
    let mute = Hostile::mount("mute");
    let mut command = Command::new(binary());
    command.args(["status", "--watch"]).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::null()).spawn().expect("mmfs starts");
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let seen = || {
        let text = std::fs::read_to_string(&children).unwrap_or_default();
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<HashSet<_>>()
    };
    // A round takes three seconds and a pause of one. A child that has been there for longer hangs.
    let (mut before, mut most) = (HashSet::new(), 0);
    for _ in 0..4 {
        let now = seen();
        most = most.max(now.intersection(&before).count());
        before = now;
        std::thread::sleep(Duration::from_secs(6));
    }
    child.kill().expect("kill");
    // Before it is waited for, which would never end if it asked by itself.
    drop(mute);
    child.wait().expect("the end");
    assert_eq!(most, 1);
}

#[test]
fn lies_are_shown_and_do_no_harm() {
    let liar = Hostile::mount("lies");
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["status", "--prometheus"],
    ] {
        for path in [None, Some(liar.path())] {
            let (text, code) = ends(words, path);
            assert_eq!(code, Some(0), "{words:?}: {text}");
            let plain = |char: char| char == '\n' || !(char.is_control() || char == '\u{202e}');
            assert!(text.chars().all(plain), "{words:?}: {text:?}");
        }
    }
    let (text, _) = ends(&["status", "--prometheus"], Some(liar.path()));
    let series = text.lines().filter_map(|line| line.rsplit_once(' '));
    let mut series: Vec<_> = series.map(|(series, _)| series).collect();
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    assert_eq!(series.len(), all, "{text}");
}

#[test]
fn a_mount_where_requests_never_cease_is_traced_to_an_end() {
    let busy = Hostile::mount("endless");
    let (text, code) = ends(&["trace"], Some(busy.path()));
    let lines = text.lines().count();
    assert_eq!(code, Some(0));
    assert!((4096..4300).contains(&lines), "{lines}");
}
