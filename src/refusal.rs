//! Errors of the program: one sentence for the terminal, and an exit code.

mod usage;

use std::fmt::{Display, Formatter, Result as Formatted};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::service;
use crate::terminal::{for_shell, one_line};

/// The exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// The mount answers (background) or has ended cleanly (foreground).
    Success = 0,
    /// Refused or failed. One sentence has been printed.
    Failure = 1,
    /// The command line is invalid.
    Usage = 2,
    /// `mmfs commit` has found that the source has changed, too, and has left it as it is.
    Conflicts = 3,
    /// `mmfs diff --exit-code` has found changes.
    Changes = 4,
    /// `mmfs run` itself failed. Otherwise its exit code is that of the command.
    RunFailed = 125,
    /// `mmfs run` cannot run the command.
    CommandNotRun = 126,
    /// `mmfs run` does not find the command.
    CommandNotFound = 127,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// One of the two paths of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// SRC.
    Source,
    /// MNT.
    MountPoint,
}

/// A mount whose daemon has died.
#[derive(Debug, PartialEq, Eq)]
pub struct DeadMount {
    /// The absolute path of the mount point.
    pub mount_point: PathBuf,
    /// Whether `mmfs unmount` can unmount it.
    pub is_ours: bool,
    /// Whether the path of the command line is its mount point.
    pub is_at_path: bool,
}

/// An error of the program. `Display` is the sentence for the terminal.
#[derive(Debug)]
pub enum StartError {
    /// The command line is invalid, or asks for help.
    Usage(clap::Error),
    /// A path of the command line cannot be reached.
    Unreachable(Role, PathBuf, Errno),
    /// A path of the command line leads to a directory that was removed, or that is in another mount namespace.
    NoPath(Role, PathBuf),
    /// The filesystem of a path does not answer.
    NoAnswer(Role, PathBuf),
    /// The user may not read or search the source.
    SourceForbidden(PathBuf),
    /// fusermount3 would refuse this mount point to an ordinary user.
    MountPointForbidden(PathBuf),
    /// A path of the command line is the mount point of a dead FUSE mount, or lies in one: that mount, if it was found.
    Dead(Role, PathBuf, Option<DeadMount>),
    /// The mount point has a mount of mmfs that answers.
    Occupied(PathBuf),
    /// The mount point has a mount of mmfs whose daemon lives and whose source answers as a dead mount does.
    OccupiedSourceDead(PathBuf),
    /// A path of the command line is the mount point of such a mount, or lies in one: its mount point.
    SourceDead(Role, PathBuf, PathBuf),
    /// A mount gives no answer, and why.
    NotAnswered(PathBuf, String),
    /// `--check` has found no FUSE mount at this path.
    NotMounted(PathBuf),
    /// `--check` has found that the source of a mount was removed. The fields are the source (empty if unknown), the mount point, and
    /// whether another directory has the source's path now.
    SourceRemoved(PathBuf, PathBuf, bool),
    /// The mount point is `/dev/fd/N`, and N is not a mounted /dev/fuse.
    Descriptor(PathBuf, String),
    /// The limit of open files is too low for this number of threads.
    FewDescriptors {
        /// RLIMIT_NOFILE.
        limit: usize,
        /// Worker threads.
        threads: usize,
        /// The lowest limit that is enough for them.
        needed: usize,
    },
    /// /dev/fuse cannot be opened.
    Device(Errno),
    /// fusermount3, which mounts for ordinary users, is not installed.
    HelperMissing,
    /// /etc/fuse.conf does not allow ordinary users to use allow_other.
    OthersForbidden,
    /// fusermount3 refused, with its message.
    Helper(String),
    /// mount(2) failed.
    Mount(PathBuf, Errno),
    /// The kernel and mmfs did not agree on a protocol after the mount.
    Handshake(io::Error),
    /// The log file cannot be opened.
    Log(PathBuf, io::Error),
    /// The directory of the store cannot be made or found.
    Store(PathBuf, io::Error),
    /// Store, source and mount point do not lie apart: the store, and the other path.
    StoreInside(PathBuf, PathBuf),
    /// Others than root may have written the store, and another program has mounted without nosuid or nodev.
    StoreOwner(PathBuf),
    /// Others than root may have written the store, and root lets all users access the mount.
    StoreShared(PathBuf),
    /// Others than root may have written the store, and the mount that another program has passed cannot be found.
    StoreUnseen(PathBuf),
    /// The directory of the store is root's, and this file in it is not.
    StoreFiles(PathBuf, PathBuf),
    /// The PID file cannot be written.
    PidFile(PathBuf, io::Error),
    /// The source cannot be opened for serving.
    Filesystem(PathBuf, io::Error),
    /// The background process could not be started, or ended before the mount answered.
    Background(String),
    /// A system call failed: the action, as in "cannot {action}", and its error.
    System(&'static str, io::Error),
    /// A verb failed: its sentence.
    Verb(String),
    /// The event loops failed after the mount had answered.
    Session(io::Error),
}

impl StartError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(error) if error.exit_code() == 0 => ExitCode::Success,
            Self::Usage(_) => ExitCode::Usage,
            _ => ExitCode::Failure,
        }
    }

    /// As `exit_code`, after `print` has returned `printed`. Help that could not be written is a failure, unless the reader has closed
    /// the stream.
    pub fn exit_code_after(&self, printed: io::Result<()>) -> ExitCode {
        let is_lost = printed.is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe);
        match self.exit_code() {
            ExitCode::Success if is_lost => ExitCode::Failure,
            code => code,
        }
    }

    /// Prints the sentence to standard error, or help to standard output.
    ///
    /// # Errors
    /// Those of write(2).
    pub fn print(&self) -> io::Result<()> {
        match self {
            Self::Usage(error) if error.exit_code() == 0 => error.print(),
            _ => io::Write::write_fmt(
                &mut io::stderr(),
                format_args!(
                    "{}{}\n",
                    service::prefix(log::Level::Error),
                    one_line(&self.to_string())
                ),
            ),
        }
    }
}

/// Prints a note to standard error. An error of the write is ignored.
pub fn note(sentence: impl Display) {
    let line = one_line(&sentence.to_string());
    let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("mmfs: {line}\n"));
}

impl From<clap::Error> for StartError {
    fn from(error: clap::Error) -> Self {
        Self::Usage(error)
    }
}

impl std::error::Error for StartError {}

impl Display for Role {
    fn fmt(&self, f: &mut Formatter<'_>) -> Formatted {
        f.write_str(match self {
            Self::Source => "source",
            Self::MountPoint => "mount point",
        })
    }
}

impl Display for StartError {
    fn fmt(&self, f: &mut Formatter<'_>) -> Formatted {
        match self {
            Self::Usage(error) if error.exit_code() == 0 => write!(f, "{error}"),
            Self::Usage(error) => f.write_str(&usage::sentence(error)),
            Self::NotAnswered(path, why) => write!(f, "{path:?}: {why}"),
            Self::Unreachable(role, path, errno) => write_unreachable(f, *role, path, *errno),
            Self::NoPath(role, path) => write!(
                f,
                "{role} {path:?} has no path here: it was removed, or lies in another mount namespace; \
                 name a directory that exists here"
            ),
            Self::NoAnswer(role, path) => write!(
                f,
                "{role} {path:?} lies on a filesystem that does not answer; \
                 unmount that or repair its server first"
            ),
            Self::SourceForbidden(path) => write!(
                f,
                "source {path:?} may not be read and searched by you; \
                 ask its owner for r-x, or run mmfs as a user who may"
            ),
            Self::MountPointForbidden(path) => write!(
                f,
                "mount point {path:?} is not allowed for you: \
                 it must be writable for you, and owned by you if it is sticky; \
                 use a directory of your own, or run mmfs as root"
            ),
            Self::Dead(role, path, mount) => write_dead(f, *role, path, mount.as_ref()),
            Self::Occupied(path) => write!(
                f,
                "mount point {path:?} is in use: a mount of mmfs is there already; \
                 unmount it first with: mmfs unmount {}",
                for_shell(path)
            ),
            Self::OccupiedSourceDead(_) | Self::SourceDead(..) => write_source_dead(f, self),
            Self::SourceRemoved(source, mount_point, is_replaced) => {
                write_source_removed(f, source, mount_point, *is_replaced)
            }
            Self::NotMounted(path) => write!(f, "{path:?} is not a FUSE mount"),
            Self::Descriptor(path, why) => write!(f, "{path:?} is not a mounted /dev/fuse: {why}"),
            Self::Device(errno) => write_device(f, *errno),
            Self::FewDescriptors {
                limit,
                threads,
                needed,
            } => write!(
                f,
                "this process may open {limit} files (ulimit -Hn), and with --threads {threads} it needs {needed}: \
                 raise the limit, or lower --threads"
            ),
            Self::HelperMissing | Self::OthersForbidden | Self::Helper(_) => write_helper(f, self),
            Self::Mount(path, errno) => write_mount(f, path, *errno),
            Self::Handshake(error) => write!(f, "the kernel refused the session: {error}"),
            Self::Store(..)
            | Self::StoreInside(..)
            | Self::StoreOwner(_)
            | Self::StoreShared(_)
            | Self::StoreUnseen(_)
            | Self::StoreFiles(..) => write_store(f, self),
            Self::Log(path, error) => write!(
                f,
                "cannot open the log file {path:?}: {error}; \
                 name one in a directory that you may write to"
            ),
            Self::PidFile(path, error) => write!(
                f,
                "cannot write the PID file {path:?}: {error}; \
                 name another one, in a directory that you may write to"
            ),
            Self::Filesystem(path, error) => write!(f, "cannot serve source {path:?}: {error}"),
            Self::Background(why) | Self::Verb(why) => f.write_str(why),
            Self::System(what, error) => write!(f, "cannot {what}: {error}"),
            Self::Session(error) => write!(f, "the connection to the kernel failed: {error}"),
        }
    }
}

fn write_source_removed(
    f: &mut Formatter<'_>,
    source: &Path,
    mount_point: &Path,
    is_replaced: bool,
) -> Formatted {
    if source.as_os_str().is_empty() {
        return write!(
            f,
            "mount point {mount_point:?} still shows a directory that was removed; unmount it and mount it again"
        );
    }
    let now = if is_replaced { " and replaced" } else { "" };
    write!(
        f,
        "mount point {mount_point:?} still shows the old source {source:?}, which was removed{now}; \
         unmount it and mount it again"
    )
}

fn write_unreachable(f: &mut Formatter<'_>, role: Role, path: &Path, errno: Errno) -> Formatted {
    match errno {
        Errno::NOENT if role == Role::MountPoint => write!(
            f,
            "mount point {path:?} does not exist; make it with: mkdir {} \
             (the order is mmfs SRC MNT)",
            for_shell(path)
        ),
        Errno::NOENT => write!(
            f,
            "source {path:?} does not exist; check the spelling \
             (the order is mmfs SRC MNT)"
        ),
        Errno::NOTDIR => write!(
            f,
            "{role} {path:?} is not a directory; name one (the order is mmfs SRC MNT)"
        ),
        Errno::ACCESS if rustix::process::geteuid().is_root() => write!(
            f,
            "{role} {path:?} cannot be reached: permission denied even to root \
             (another user's FUSE mount admits its owner only)"
        ),
        Errno::ACCESS => write!(
            f,
            "{role} {path:?} cannot be reached: permission denied for you; \
             ask for x on every directory above it, or run mmfs as a user who has it"
        ),
        Errno::OVERFLOW => write!(
            f,
            "{role} {path:?} lies in a FUSE mount of another user namespace (a container's), in which your user does not exist; \
             enter that namespace with nsenter, and run mmfs there"
        ),
        _ => write!(f, "{role} {path:?} cannot be reached: {errno}"),
    }
}

fn write_dead(
    f: &mut Formatter<'_>,
    role: Role,
    path: &Path,
    mount: Option<&DeadMount>,
) -> Formatted {
    let Some(mount) = mount else {
        return write!(
            f,
            "{role} {path:?} lies in a FUSE mount whose daemon has died \
             (Transport endpoint is not connected); clear that mount with: mmfs unmount MNT, \
             or with fusermount3 -u MNT if it belongs to another program"
        );
    };
    let place = &mount.mount_point;
    let word = for_shell(place);
    let way_out = match mount.is_ours {
        true => "mmfs unmount",
        false => "fusermount3 -u",
    };
    match mount.is_at_path {
        true => write!(
            f,
            "{role} {path:?} is covered by a FUSE mount whose daemon has died \
             (Transport endpoint is not connected); clear it with: {way_out} {word}"
        ),
        false => write!(
            f,
            "{role} {path:?} lies in the FUSE mount at {place:?}, whose daemon has died \
             (Transport endpoint is not connected); clear that mount with: {way_out} {word}"
        ),
    }
}

fn write_source_dead(f: &mut Formatter<'_>, error: &StartError) -> Formatted {
    match error {
        StartError::SourceDead(role, path, mount_point) => write!(
            f,
            "{role} {path:?} cannot be reached: the daemon of the mount at {mount_point:?} lives, but its own source lies in \
             a dead mount (Transport endpoint is not connected); clear that, then mount {mount_point:?} again"
        ),
        StartError::OccupiedSourceDead(path) => write!(
            f,
            "mount point {path:?} is in use: a mount of mmfs is there already, and its own source lies in a dead mount \
             (Transport endpoint is not connected); unmount it first with: mmfs unmount {}",
            for_shell(path)
        ),
        _ => Ok(()),
    }
}

fn write_store(f: &mut Formatter<'_>, error: &StartError) -> Formatted {
    match error {
        StartError::Store(store, error) => write_store_missing(f, store, error),
        StartError::StoreInside(store, other) => write!(
            f,
            "the store {} must not lie in {}, nor that in it; keep the store elsewhere",
            for_shell(store),
            for_shell(other)
        ),
        StartError::StoreOwner(store) => write!(
            f,
            "others than root may have written the store {}; mount with nosuid and nodev",
            for_shell(store)
        ),
        StartError::StoreShared(store) => write!(
            f,
            "others than root may have written the store {}, which says who may read what; mount without --allow-other, as the \
             user who owns the store, or with a store that only root may write",
            for_shell(store)
        ),
        StartError::StoreUnseen(store) => write!(
            f,
            "others than root may have written the store {}, and mmfs cannot find the mount that it was passed, to see whether that \
             has nosuid and nodev; use Linux 6.17 and the mount's namespace, or a store that only root may write",
            for_shell(store)
        ),
        StartError::StoreFiles(store, file) => write!(
            f,
            "others than root may write to {}, or have written it, and the store {} is root's; \
             give root all of it if what it says is to be trusted",
            for_shell(file),
            for_shell(store)
        ),
        _ => Ok(()),
    }
}

fn write_store_missing(f: &mut Formatter<'_>, store: &Path, error: &io::Error) -> Formatted {
    let name = for_shell(store);
    match (error.kind(), store.parent()) {
        (io::ErrorKind::NotFound, Some(parent)) => write!(
            f,
            "the store {name} cannot be made: there is no directory {}",
            for_shell(parent)
        ),
        (io::ErrorKind::NotADirectory, _) => write!(
            f,
            "the store {name} is not a directory; name one, or a name that is not there yet"
        ),
        _ => write!(f, "the store {name} cannot be made: {error}"),
    }
}

fn write_mount(f: &mut Formatter<'_>, path: &Path, errno: Errno) -> Formatted {
    write!(f, "cannot mount on {path:?}: {errno}")?;
    f.write_str(match errno {
        Errno::NODEV => "; this kernel has no FUSE, load it with: modprobe fuse",
        Errno::ACCESS => {
            "; a policy of this machine forbids mounting \
             (in a container: start it with --security-opt apparmor=unconfined)"
        }
        _ => "",
    })
}

fn write_device(f: &mut Formatter<'_>, errno: Errno) -> Formatted {
    match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => f.write_str(
            "/dev/fuse is missing; load the kernel's FUSE with: modprobe fuse \
             (in a container: start it with --device /dev/fuse)",
        ),
        Errno::ACCESS if !rustix::process::geteuid().is_root() => f.write_str(
            "/dev/fuse may not be opened by you; ask the administrator for: chmod 666 /dev/fuse",
        ),
        _ => write!(
            f,
            "/dev/fuse cannot be opened: {errno}; in a container, start it with --device /dev/fuse"
        ),
    }
}

fn write_helper(f: &mut Formatter<'_>, error: &StartError) -> Formatted {
    match error {
        StartError::Helper(words) if words.ends_with("Operation not permitted") => write!(
            f,
            "fusermount3 refused to mount: {words} \
             (in a container: start it with --cap-add SYS_ADMIN)"
        ),
        StartError::Helper(words) => write!(f, "fusermount3 refused to mount: {words}"),
        StartError::OthersForbidden => f.write_str(
            "allow_other and allow_root are open to ordinary users only when /etc/fuse.conf has a \
             line user_allow_other; ask the administrator to add it",
        ),
        _ => f.write_str(
            "fusermount3 is not installed, and without it only root can mount here \
             (in a container: with --cap-add SYS_ADMIN); install the package fuse3",
        ),
    }
}
