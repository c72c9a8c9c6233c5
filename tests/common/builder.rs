//! How a mount is to be, and making it so.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use super::fuse::{self, mount_at};
use super::mount::{Daemon, LIMIT, Mount};
use super::tools::output_of;
use super::user;

/// The program under test: `MMFS_BIN` names another one.
pub fn binary() -> PathBuf {
    std::env::var_os("MMFS_BIN").map_or_else(|| env!("CARGO_BIN_EXE_mmfs").into(), PathBuf::from)
}

/// How the next mount is to be.
#[derive(Default)]
pub struct Builder {
    pub(super) source: Option<PathBuf>,
    pub(super) point: Option<PathBuf>,
    pub(super) parent: Option<PathBuf>,
    pub(super) options: Vec<OsString>,
    pub(super) user: Option<u32>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) limits: Vec<String>,
    pub(super) wrapper: Vec<OsString>,
    pub(super) expected_log: Vec<String>,
    pub(super) background: bool,
}

impl Builder {
    /// Serves this existing directory instead of a new empty one.
    pub fn over(mut self, source: impl Into<PathBuf>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Mounts at this existing directory instead of a new one.
    pub fn at(mut self, point: impl Into<PathBuf>) -> Self {
        self.point = Some(point.into());
        self
    }

    /// Makes the new directories below this one instead of the system's temporary directory.
    pub fn inside(mut self, parent: impl Into<PathBuf>) -> Self {
        self.parent = Some(parent.into());
        self
    }

    /// Adds one argument before source and mount point.
    pub fn option(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Adds arguments before source and mount point.
    pub fn options<T: Into<OsString>>(mut self, options: impl IntoIterator<Item = T>) -> Self {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// Runs the daemon as this user, to whom new directories then belong.
    #[allow(clippy::wrong_self_convention, reason = "it reads as what it does")]
    pub fn as_user(mut self, uid: u32) -> Self {
        self.user = Some(uid);
        self
    }

    /// Sets a variable in the daemon's environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Limits a resource of the daemon, by prlimit(1)'s name: `as`, `nofile`, `fsize`, ...
    pub fn rlimit(mut self, resource: &str, limit: u64) -> Self {
        self.limits.push(format!("--{resource}={limit}"));
        self
    }

    /// Runs the daemon by this command, given what to run as its last arguments; it must replace itself.
    pub fn by<T: Into<OsString>>(mut self, command: impl IntoIterator<Item = T>) -> Self {
        self.wrapper = command.into_iter().map(Into::into).collect();
        self
    }

    /// A line of the daemon's log with this text in it is no failure, even if it is an error.
    pub fn expect_log(mut self, text: impl Into<String>) -> Self {
        self.expected_log.push(text.into());
        self
    }

    /// Without `-f`: the parent must exit 0, and when it does the mount must answer already.
    pub fn background(mut self) -> Self {
        self.background = true;
        self
    }

    /// Mounts; fails the test when the mount does not answer in time.
    #[track_caller]
    pub fn mount(self) -> Mount {
        fuse::require_device();
        let mut mount = self.prepare();
        mount.start();
        mount
    }

    /// Runs the program where a refusal is expected, to its end: what it said and how it ended. A mount that
    /// came about nevertheless is taken down and fails the test.
    #[track_caller]
    pub fn refused(self) -> Output {
        fuse::require_device();
        let mount = self.prepare();
        let before = mount_at(&mount.point);
        let (ended, watch) = channel::<()>();
        let (point, old) = (mount.point.clone(), before.clone());
        let watchdog = thread::spawn(move || {
            if watch.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout)
                && mount_at(&point) != old
            {
                fuse::abort(&point, None);
            }
        });
        let output = output_of(&mut mount.command());
        drop(ended);
        watchdog.join().expect("the watchdog does not panic");
        let after = mount_at(&mount.point);
        if after != before {
            fuse::abort(&mount.point, None);
            panic!("expected a refusal, got {after:?}, {output:?}");
        }
        output
    }

    fn prepare(self) -> Mount {
        let parent = self.parent.clone().unwrap_or_else(std::env::temp_dir);
        let parent =
            fs::canonicalize(&parent).unwrap_or_else(|e| panic!("{}: {e}", parent.display()));
        let base = tempfile::Builder::new()
            .prefix("mmfs-test-")
            .tempdir_in(parent)
            .expect("a temporary directory");
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let source = self.directory(self.source.as_deref(), &base.path().join("src"));
        let point = self.directory(self.point.as_deref(), &base.path().join("mnt"));
        let log = base.path().join("log");
        Mount {
            base: Some(base),
            source,
            point,
            log,
            how: self,
            daemon: Daemon::Ended,
        }
    }

    // The directory given, or a new one that belongs to the user. One that does not exist is passed on as it
    // is: the program is to refuse it.
    fn directory(&self, given: Option<&Path>, new: &Path) -> PathBuf {
        if let Some(path) = given {
            return fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        }
        fs::create_dir(new).unwrap_or_else(|e| panic!("mkdir {}: {e}", new.display()));
        if let Some(uid) = self.user {
            user::give_to(uid, new);
        }
        new.to_owned()
    }
}
