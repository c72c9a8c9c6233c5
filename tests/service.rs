//! What a service manager hears and reads, with a socket of ours in its place.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::builder::binary;
use common::fuse::{kill, mount_at, require_device};
use common::tools::{output_of, wait_until};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(10);

struct Service {
    directory: tempfile::TempDir,
    socket: UnixDatagram,
    child: Child,
}

impl Service {
    /// `mmfs -f`, started as a unit of Type=notify is.
    fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        require_device();
        let prefix = tempfile::Builder::new().prefix("mmfs-test-").tempdir();
        let directory = prefix.expect("a directory");
        for name in ["src", "mnt"] {
            fs::create_dir(directory.path().join(name)).expect("mkdir");
        }
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(LIMIT)).expect("a time limit");
        let log = fs::File::create(directory.path().join("log")).expect("a log file");
        let stream = log.metadata().expect("fstat");
        let mut command = Command::new(binary());
        command.arg("-f").args(arguments);
        command.args([directory.path().join("src"), directory.path().join("mnt")]);
        command
            .env_remove("RUST_LOG")
            .env("NOTIFY_SOCKET", directory.path().join("notify"))
            .env(
                "JOURNAL_STREAM",
                format!("{}:{}", stream.dev(), stream.ino()),
            )
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(log);
        let child = command.spawn().expect("mmfs starts");
        Self {
            directory,
            socket,
            child,
        }
    }

    fn hear(&self) -> String {
        let mut message = [0; 256];
        let length = self.socket.recv(&mut message);
        let length = length.unwrap_or_else(|e| panic!("nothing is said: {e}\n{}", self.log()));
        String::from_utf8_lossy(&message[..length]).trim().into()
    }

    fn point(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).expect("the log")
    }

    fn signal(&self, signal: Signal) {
        kill(self.child.id(), signal);
    }

    fn ends_with(&mut self, code: i32) {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return assert_eq!(status.code(), Some(code), "{}", self.log());
            }
            assert!(Instant::now() < end, "mmfs does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if mount_at(&self.point()).is_some() {
            let mut unmount = Command::new("fusermount3");
            let _ = output_of(unmount.args(["-uz"]).arg(self.point()));
            assert!(std::thread::panicking(), "the mount was left");
        }
    }
}

#[test]
fn ready_is_said_when_the_mount_is_there_and_stopping_before_it_goes() {
    let mut service = Service::start(&[], &[]);
    assert_eq!(service.hear(), "READY=1");
    assert!(mount_at(&service.point()).is_some());
    fs::write(service.point().join("file"), "text").expect("it answers");
    service.signal(Signal::TERM);
    assert_eq!(service.hear(), "STOPPING=1");
    service.ends_with(0);
    assert!(mount_at(&service.point()).is_none());
}

#[test]
fn an_unmount_from_outside_is_a_stop_too() {
    let mut service = Service::start(&[], &[]);
    assert_eq!(service.hear(), "READY=1");
    let unmount = output_of(Command::new("fusermount3").arg("-u").arg(service.point()));
    assert!(unmount.status.success(), "{unmount:?}");
    assert_eq!(service.hear(), "STOPPING=1");
    service.ends_with(0);
}

#[test]
fn a_watchdog_is_fed_twice_in_its_time() {
    let mut service = Service::start(&[], &[("WATCHDOG_USEC", "400000")]);
    assert_eq!(service.hear(), "READY=1");
    assert_eq!(service.hear(), "WATCHDOG=1");
    let start = Instant::now();
    for _ in 0..3 {
        assert_eq!(service.hear(), "WATCHDOG=1");
    }
    let taken = start.elapsed();
    assert!((500..2000).contains(&taken.as_millis()), "{taken:?}");
    service.signal(Signal::TERM);
    while service.hear() != "STOPPING=1" {}
    service.ends_with(0);
}

#[test]
fn another_process_watchdog_is_not_ours() {
    let environment = [("WATCHDOG_USEC", "100000"), ("WATCHDOG_PID", "1")];
    let mut service = Service::start(&[], &environment);
    assert_eq!(service.hear(), "READY=1");
    service.signal(Signal::TERM);
    assert_eq!(service.hear(), "STOPPING=1");
    service.ends_with(0);
}

#[test]
fn the_journal_reads_a_priority_before_every_line() {
    let mut service = Service::start(&["-vv"], &[]);
    assert_eq!(service.hear(), "READY=1");
    service.signal(Signal::TERM);
    service.ends_with(0);
    let log = service.log();
    let mounted = format!(
        "<6>{:?} is mounted on",
        service.directory.path().join("src")
    );
    assert!(log.contains(&mounted), "{log}");
    assert!(log.contains("<7>"), "{log}");
    let prefixed = |line: &str| ["<3>", "<4>", "<6>", "<7>"].contains(&&line[..3]);
    assert!(log.lines().all(prefixed), "{log}");
}

#[test]
fn a_refusal_is_an_error_of_the_journal_and_never_ready() {
    let mut service = Service::start(&["--auto-unmount", "--log", "/missing/log"], &[]);
    service.ends_with(1);
    assert!(
        service.log().starts_with("<3>cannot open the log file"),
        "{}",
        service.log()
    );
    service.socket.set_nonblocking(true).expect("nonblocking");
    assert!(service.socket.recv(&mut [0; 9]).is_err());
}

#[test]
fn without_the_journal_lines_have_no_priority() {
    let mut service = Service::start(&["-v"], &[("JOURNAL_STREAM", "1:2")]);
    assert_eq!(service.hear(), "READY=1");
    service.signal(Signal::TERM);
    service.ends_with(0);
    let log = service.log();
    assert!(log.contains("INFO") && !log.contains("<6>"), "{log}");
}

/// What a health check must know: the mount answers, but shows a directory in which nothing can be any more.
#[test]
fn check_tells_of_a_source_that_was_removed_or_made_anew() {
    let check = |service: &Service| {
        let output = output_of(Command::new(binary()).arg("--check").arg(service.point()));
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), words)
    };
    for options in [
        &[][..],
        &["-r"],
        &["--fsname", "data"],
        &["--fsname", "/another"],
    ] {
        let mut service = Service::start(options, &[]);
        assert_eq!(service.hear(), "READY=1");
        let source = service.directory.path().join("src");
        let says = |end: &str| {
            let answer = check(&service);
            assert!(
                answer.0 == Some(1) && answer.1.contains(end),
                "{options:?}: {answer:?}"
            );
        };
        assert_eq!(check(&service), (Some(0), String::new()));
        // A renamed source is the same directory.
        let moved = source.with_extension("moved");
        fs::rename(&source, &moved).expect("rename");
        assert_eq!(check(&service), (Some(0), String::new()), "{options:?}");
        fs::remove_dir(&moved).expect("rmdir");
        says(&format!(
            "shows the old source {source:?}, which was removed; "
        ));
        fs::create_dir(&source).expect("mkdir");
        says(&format!(
            "shows the old source {source:?}, which was removed and replaced; "
        ));
        service.signal(Signal::TERM);
        service.ends_with(0);
    }
}

/// Docker kills a health check that takes too long: no process may go on asking in its place.
fn killed_leaves_nobody(check: &mut Command) {
    let mut check = check.spawn().expect("a check");
    let children = format!("/proc/{0}/task/{0}/children", check.id());
    let mut asking = String::new();
    let found = wait_until(LIMIT, || {
        asking = fs::read_to_string(&children).unwrap_or_default();
        !asking.is_empty()
    });
    assert!(found, "the check asks nobody");
    check.kill().expect("kill");
    check.wait().expect("the check's end");
    // Where no process reaps orphans it stays as a zombie.
    let status = format!("/proc/{}/status", asking.trim());
    let gone = || fs::read_to_string(&status).map_or(true, |status| status.contains("State:\tZ"));
    assert!(wait_until(LIMIT, gone), "process {asking} still asks");
}

/// A stopped daemon is what a hung one looks like from outside.
#[test]
fn check_tells_an_answering_mount_from_a_hung_a_dead_and_a_missing_one() {
    let mut service = Service::start(&[], &[]);
    assert_eq!(service.hear(), "READY=1");
    let check = || {
        let output = output_of(Command::new(binary()).arg("--check").arg(service.point()));
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), words)
    };
    assert_eq!(check(), (Some(0), String::new()));
    service.signal(Signal::STOP);
    killed_leaves_nobody(Command::new(binary()).arg("--check").arg(service.point()));
    let hung = check();
    service.signal(Signal::CONT);
    assert!(
        hung.0 == Some(1) && hung.1.contains("does not answer"),
        "{hung:?}"
    );
    assert_eq!(check(), (Some(0), String::new()));
    service.signal(Signal::KILL);
    while mount_at(&service.point()).is_some() && check().0 == Some(0) {}
    let dead = check();
    assert!(dead.0 == Some(1) && dead.1.contains("has died"), "{dead:?}");
    let unmount = output_of(Command::new("fusermount3").arg("-u").arg(service.point()));
    assert!(unmount.status.success(), "{unmount:?}");
    let missing = check();
    assert!(
        missing.0 == Some(1) && missing.1.contains("is not a FUSE mount"),
        "{missing:?}"
    );
    let _ = service.child.wait();
}
