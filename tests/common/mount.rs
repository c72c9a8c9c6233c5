//! The guard of one mount: the real binary as a child, taken down again whatever happens.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use tempfile::TempDir;

use super::builder::{Builder, binary};
use super::fuse::{self, MountInfo, mount_at};
use super::tools::{BUSY, find_tool, output_of, text_of, wait_until};
use super::{subject, user, watchdog};

/// A mount must answer, and a daemon must end, within this time.
pub const LIMIT: Duration = Duration::from_secs(10);

/// A mount that answers. Dropped, it takes everything down and fails the test loudly when a mount or a process
/// is left, the daemon did not end with success, or its log tells of an error.
pub struct Mount {
    // `None` once leaked, because something is still mounted in it.
    pub(super) base: Option<TempDir>,
    pub(super) source: PathBuf,
    pub(super) point: PathBuf,
    pub(super) log: PathBuf,
    pub(super) how: Builder,
    pub(super) daemon: Daemon,
}

pub(super) enum Daemon {
    Ended,
    Child(Child),
    // Started without `-f`: not our child, so its end can be seen, its status cannot.
    Background(u32),
}

impl Mount {
    /// A new empty source, mounted with defaults.
    #[track_caller]
    pub fn new() -> Self {
        Self::builder().mount()
    }

    /// This source, mounted with these arguments.
    #[track_caller]
    pub fn over<T: Into<OsString>>(
        source: impl Into<PathBuf>,
        options: impl IntoIterator<Item = T>,
    ) -> Self {
        Self::builder().over(source).options(options).mount()
    }

    /// Everything that can be chosen about a mount.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The source directory, not through the mount.
    pub fn src(&self) -> &Path {
        &self.source
    }

    /// The mount point.
    pub fn mnt(&self) -> &Path {
        &self.point
    }

    /// A directory of this mount's own, outside both trees; it goes with the guard.
    pub fn scratch(&self) -> &Path {
        self.log
            .parent()
            .expect("the log lies in the base directory")
    }

    /// The daemon's process id.
    #[track_caller]
    pub fn daemon_pid(&self) -> u32 {
        self.pid().expect("the daemon runs")
    }

    /// What the daemon has written to standard error so far.
    pub fn log(&self) -> String {
        text_of(&self.log)
    }

    /// What the kernel says about the mount.
    pub fn info(&self) -> Option<MountInfo> {
        mount_at(&self.point)
    }

    /// Runs code that uses the mount under a time limit (see [`watchdog::within`]).
    #[track_caller]
    pub fn within<T>(&self, limit: Duration, work: impl FnOnce() -> T) -> T {
        watchdog::within(limit, &self.point, self.pid(), work)
    }

    /// Unmounts and starts again with the same options: everything the kernel and the daemon remembered is gone.
    #[track_caller]
    pub fn remount(&mut self) {
        let status = self.unmount();
        assert!(
            status.success(),
            "the daemon ended with {status}\n{}",
            self.log()
        );
        self.start();
    }

    /// Kills the daemon, unmounts what is left, and starts again with the same options.
    #[track_caller]
    pub fn kill_and_remount(&mut self) {
        self.signal(Signal::KILL);
        self.wait_end();
        self.start_again();
    }

    /// Unmounts what an ended daemon left, and starts again with the same options.
    #[track_caller]
    pub fn start_again(&mut self) {
        unmount_as_user(&self.point)
            .unwrap_or_else(|e| panic!("umount {}: {e}", self.point.display()));
        self.start();
    }

    /// Unmounts from outside; returns how the daemon ended (success for one in the background, whose status
    /// nobody can see).
    #[track_caller]
    pub fn unmount(&mut self) -> ExitStatus {
        self.within(LIMIT, || unmount_as_user(&self.point))
            .unwrap_or_else(|e| panic!("umount {}: {e}", self.point.display()));
        self.wait_end()
    }

    /// Sends the daemon a signal; `wait_end` tells what came of it.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        fuse::kill(self.daemon_pid(), signal);
    }

    /// Waits for the daemon to end by itself, as after a signal.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        let status = self.join(LIMIT).unwrap_or_else(|| {
            panic!(
                "the daemon did not end within {LIMIT:?}\n{}{}",
                watchdog::stuck_tasks(self.pid()),
                self.log()
            )
        });
        self.daemon = Daemon::Ended;
        status
    }

    fn pid(&self) -> Option<u32> {
        match &self.daemon {
            Daemon::Ended => None,
            Daemon::Child(child) => Some(child.id()),
            Daemon::Background(pid) => Some(*pid),
        }
    }

    // prlimit and setpriv replace themselves, so the child's process id is the daemon's.
    pub(super) fn command(&self) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if !self.how.limits.is_empty() {
            words.push("prlimit".into());
            words.extend(self.how.limits.iter().map(Into::into));
            words.push("--".into());
        }
        words.extend(self.how.wrapper.iter().cloned());
        words.extend(self.how.user.map(user::become_user).unwrap_or_default());
        words.push(binary().into());
        if !self.how.background {
            words.push("-f".into());
        }
        words.extend(subject::arguments(
            &self.how.options,
            &self.source,
            &self.point,
        ));
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_remove("RUST_LOG")
            .env("RUST_BACKTRACE", "1");
        command.envs(self.how.env.iter().map(|(name, value)| (name, value)));
        command
    }

    #[track_caller]
    pub(super) fn start(&mut self) {
        let before = mount_at(&self.point);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log file");
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        if self.how.background {
            let status = child.wait().expect("our own child");
            assert!(
                status.success(),
                "{command:?} ended with {status}\n{}",
                self.log()
            );
            let pids = processes_about(&self.point);
            assert_ne!(
                mount_at(&self.point),
                before,
                "the parent left before the mount was there"
            );
            self.daemon = Daemon::Background(*pids.first().expect("a daemon in the background"));
        } else {
            self.daemon = Daemon::Child(child);
        }
        let mounted = wait_until(LIMIT, || {
            self.has_ended() || mount_at(&self.point) != before
        });
        if !mounted || self.has_ended() || !self.answers() {
            let status = self.join(Duration::ZERO);
            fuse::abort(&self.point, self.pid());
            panic!(
                "{command:?} does not answer (ended: {status:?}):\n{}",
                self.log()
            );
        }
    }

    // A first request, asked by a thread of its own: it may never come back.
    fn answers(&self) -> bool {
        let (answer, answered) = channel();
        // As the mounting user: nobody else, root included, may enter without --allow-other.
        let mut question = self
            .how
            .user
            .map_or_else(|| Command::new("stat"), |uid| user::as_user(uid, "stat"));
        question.arg(&self.point);
        // Nobody waits for an answer that comes too late.
        thread::spawn(move || answer.send(output_of(&mut question).status.success()));
        answered.recv_timeout(LIMIT) == Ok(true)
    }

    fn has_ended(&mut self) -> bool {
        self.join(Duration::ZERO).is_some()
    }

    // How the daemon ended, `None` if it does not within the limit.
    fn join(&mut self, limit: Duration) -> Option<ExitStatus> {
        let mut status = None;
        wait_until(limit, || {
            status = match &mut self.daemon {
                Daemon::Ended => Some(ExitStatus::default()),
                Daemon::Child(child) => child.try_wait().expect("our own child"),
                Daemon::Background(pid) => (!is_alive(*pid)).then(ExitStatus::default),
            };
            status.is_some()
        });
        status
    }

    // Takes everything down, by ever ruder means; returns what was not as it should be.
    fn take_down(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if matches!(self.daemon, Daemon::Ended) {
            self.check_leftovers(&mut problems);
            return problems;
        }
        let ended = self.has_ended();
        if ended {
            subject::EXITS.fetch_add(1, Relaxed);
        }
        if ended && self.info().is_none() {
            problems.push("the daemon ended by itself".into());
        } else if let Err(reason) = self.within(LIMIT, || unmount_as_user(&self.point)) {
            problems.push(format!("umount: {reason}"));
            fuse::abort(&self.point, None);
        }
        match self.join(LIMIT) {
            Some(status) if status.success() => {}
            Some(status) => problems.push(format!("the daemon ended with {status}")),
            None => {
                problems.push(format!(
                    "the daemon did not end\n{}",
                    watchdog::stuck_tasks(self.pid())
                ));
                fuse::abort(&self.point, self.pid());
                self.join(LIMIT);
            }
        }
        self.daemon = Daemon::Ended;
        self.check_leftovers(&mut problems);
        problems
    }

    fn check_leftovers(&self, problems: &mut Vec<String>) {
        if let Some(left) = self
            .info()
            .filter(|mount| mount.fs_type.starts_with("fuse"))
        {
            problems.push(format!("still mounted: {left:?}"));
            fuse::abort(&self.point, None);
        }
        if !wait_until(BUSY, || processes_about(&self.point).is_empty()) {
            problems.push(format!(
                "processes left: {:?}",
                processes_about(&self.point)
            ));
        }
        let log = self.log();
        let expected = |line: &str| {
            self.how
                .expected_log
                .iter()
                .any(|text| line.contains(text.as_str()))
        };
        let tells = |line: &&str| {
            ["panicked", "ERROR", "SIGSEGV", "SIGBUS"]
                .iter()
                .any(|word| line.contains(word))
        };
        problems.extend(
            log.lines()
                .filter(tells)
                .filter(|line| !expected(line))
                .map(|line| format!("log: {line}")),
        );
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let problems = self.take_down();
        let below = fuse::mounts_below(self.scratch());
        if !below.is_empty() {
            // Removing the directory now would remove what is mounted in it.
            let _ = self.base.take().map(TempDir::keep);
        }
        if problems.is_empty() && below.is_empty() {
            return;
        }
        let report = format!(
            "{}: {problems:#?} {below:#?}\nlog:\n{}",
            self.point.display(),
            text_of(&self.log)
        );
        if thread::panicking() || subject::peer().is_some() {
            eprintln!("also, {report}");
        } else {
            panic!("{report}");
        }
    }
}

// As root by the system call, else by fusermount3. A mount that stays busy is detached, and an error.
fn unmount_as_user(point: &Path) -> Result<(), String> {
    let mut reason = String::new();
    let gone = wait_until(BUSY, || match unmount_once(point, false) {
        Ok(()) => true,
        Err(why) => {
            reason = why;
            false
        }
    });
    if gone {
        return Ok(());
    }
    let lazily = unmount_once(point, true);
    Err(format!("{reason} (lazily: {lazily:?})"))
}

fn unmount_once(point: &Path, lazily: bool) -> Result<(), String> {
    if user::is_root() {
        let flags = if lazily {
            UnmountFlags::DETACH
        } else {
            UnmountFlags::empty()
        };
        return unmount(point, flags | UnmountFlags::NOFOLLOW).map_err(|errno| errno.to_string());
    }
    let program = find_tool("fusermount3").ok_or("fusermount3 is not installed")?;
    let output = output_of(
        Command::new(program)
            .arg(if lazily { "-uz" } else { "-u" })
            .arg(point),
    );
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(reason)
    }
}

// Every other process that has this path as an argument of its own.
fn processes_about(point: &Path) -> Vec<u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let names = |pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments
            .split(|byte| *byte == 0)
            .any(|argument| OsStr::new(&*String::from_utf8_lossy(argument)) == point)
    };
    pids.filter(|pid| *pid != std::process::id())
        .filter(names)
        .collect()
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
