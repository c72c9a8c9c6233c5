//! A place to mount in, which leaves nothing behind.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

pub const MMFS: &str = env!("CARGO_BIN_EXE_mmfs");

/// A source with a file `hello` and an empty mount point, in a directory of their own. Dropping it
/// takes down what is left of mounts and processes, and fails the test if there was anything.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = Self { dir };
        fs::create_dir(place.source()).unwrap();
        fs::create_dir(place.mount()).unwrap();
        fs::write(place.source().join("hello"), "hello\n").unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn source(&self) -> PathBuf {
        self.path("source")
    }

    pub fn mount(&self) -> PathBuf {
        self.path("mount")
    }

    /// `mmfs OPTIONS source mount`, to its end or into the background.
    pub fn mmfs(&self, options: &[&str]) -> Output {
        self.run(
            Command::new(MMFS)
                .args(options)
                .arg(self.source())
                .arg(self.mount()),
        )
    }

    pub fn run(&self, command: &mut Command) -> Output {
        command
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Shell lines with `$MMFS`, `$S` and `$M` set.
    pub fn sh(&self, script: &str) -> Output {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", script])
            .env("MMFS", MMFS)
            .env("T", self.dir.path());
        self.run(shell.env("S", self.source()).env("M", self.mount()))
    }

    /// Shell lines in a mount namespace of their own, where `$USER` before a command makes it an
    /// ordinary user's. The mount point is that user's; /etc/fuse.conf is `conf`.
    pub fn sh_as_user(&self, conf: &str, script: &str) -> Output {
        fs::write(self.path("fuse.conf"), conf).unwrap();
        fs::create_dir_all(self.path("dev")).unwrap();
        std::os::unix::fs::chown(self.mount(), Some(1000), Some(1000)).unwrap();
        let setup = "mount -t tmpfs dev dev; mknod -m 666 dev/fuse c 10 229
            mount --bind dev/fuse /dev/fuse; mount --bind fuse.conf /etc/fuse.conf
            USER='setpriv --reuid=1000 --regid=1000 --clear-groups'";
        let script = format!("{setup}\n{script}").replace('\'', "'\\''");
        self.sh(&format!(
            "unshare --mount --propagation private sh -c '{script}'"
        ))
    }

    pub fn start(&self, options: &[&str]) {
        let output = self.mmfs(options);
        assert_eq!(said(&output), (Some(0), String::new()), "mmfs {options:?}");
        assert_eq!(fs::read(self.mount().join("hello")).unwrap(), b"hello\n");
    }

    /// `mmfs -f`, once it is mounted.
    pub fn foreground(&self, options: &[&str]) -> Foreground<'_> {
        let layers = self.layers();
        let mut command = Command::new(MMFS);
        command
            .arg("-f")
            .args(options)
            .arg(self.source())
            .arg(self.mount());
        let log = File::create(self.path("stderr")).unwrap();
        let child = command
            .current_dir(self.dir.path())
            .stderr(log)
            .spawn()
            .unwrap();
        eventually("the mount appears", || self.layers() > layers);
        // Until it answers, a signal would hit mmfs before it knows of its mount.
        assert_eq!(fs::read(self.mount().join("hello")).unwrap(), b"hello\n");
        Foreground { child, place: self }
    }

    /// How many mounts lie on each other at the mount point.
    pub fn layers(&self) -> usize {
        // Another test's mount point may have a name that is no text.
        let table = fs::read("/proc/self/mountinfo").unwrap();
        let table = String::from_utf8_lossy(&table);
        let mount = self.mount();
        table
            .lines()
            .filter(|line| line.split(' ').nth(4) == mount.to_str())
            .count()
    }

    pub fn kind(&self) -> String {
        let table = fs::read("/proc/self/mounts").unwrap();
        let table = String::from_utf8_lossy(&table);
        let mut lines = table
            .lines()
            .rev()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        lines
            .find(|line| Some(line[1]) == self.mount().to_str())
            .map_or("", |line| line[2])
            .into()
    }

    /// Processes that have our directory on their command line.
    pub fn processes(&self) -> Vec<Pid> {
        let ours = self.dir.path().to_str().unwrap();
        let cmdline = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| String::from_utf8_lossy(&cmdline(pid)).contains(ours))
            .filter_map(|pid| Pid::from_raw(pid as i32))
            .collect()
    }

    pub fn daemon(&self) -> Pid {
        match self.processes()[..] {
            [daemon] => daemon,
            ref others => panic!("one daemon expected, not {others:?}"),
        }
    }

    /// Other programs of the machine look at mounts for a moment, and keep them busy meanwhile.
    #[track_caller]
    pub fn umount(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let (code, words) = said(&self.run(Command::new("umount").arg(self.mount())));
            if code == Some(0) {
                return;
            }
            let is_busy = words.contains("busy");
            assert!(is_busy && Instant::now() < deadline, "{words}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn is_quiet(&self) -> bool {
        self.layers() == 0 && self.processes().is_empty()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(3);
        while !self.is_quiet() && Instant::now() < deadline && !std::thread::panicking() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let left = (self.layers(), self.processes());
        for process in &left.1 {
            let _ = kill_process(*process, Signal::KILL);
        }
        while self.layers() > 0 {
            self.run(Command::new("umount").arg("-l").arg(self.mount()));
        }
        if !std::thread::panicking() {
            assert_eq!(left, (0, vec![]), "mounts and processes were left");
        }
    }
}

pub struct Foreground<'a> {
    pub child: Child,
    place: &'a Place,
}

impl Foreground<'_> {
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn end(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the daemon ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub fn ends_well(&mut self) {
        let status = self.end();
        let log = fs::read_to_string(self.place.path("stderr")).unwrap();
        assert_eq!(status.code(), Some(0), "{log}");
    }
}

impl Drop for Foreground<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !happened() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a mount in the background says on a machine without a log.
pub const NO_LOG: &str = "mmfs: log lines are lost from here on: there is neither a journal nor a syslog here; \
                          name a file with --log\n";

/// Exit code, and all that was printed, except [`NO_LOG`]: most machines have a log, those of tests often have none.
pub fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).replace(NO_LOG, "");
    (output.status.code(), text)
}

/// One sentence on standard error that contains `words`, and exit code 1.
#[track_caller]
pub fn refuses(output: &Output, words: &str) {
    let (code, text) = said(output);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.starts_with("mmfs: ") && text.lines().count() == 1,
        "not one sentence: {text}"
    );
    assert!(text.contains(words), "{words:?} is not in: {text}");
}
