//! Finds the processes that keep a mount busy, and those that serve it. It sends the mount no request, because the mount may be
//! dead or hang.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::{self, Display, Formatter};
use std::fs::{self, DirEntry};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::{device, top_mount};
use crate::mount_table::Mount;

/// How long the search for processes may take. Reading /proc/PID/maps can block while that process hangs.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(2);

/// A process: the number and the name that ps(1) shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    name: String,
}

impl Display for Process {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name.escape_debug(), self.pid)
    }
}

/// A process that has the /dev/fuse of a mount open.
#[derive(Debug)]
pub struct Server {
    /// The process. After its end, another process may get its id.
    pub process: Process,
    /// A pidfd, which becomes readable when the process ends.
    pub handle: OwnedFd,
    /// Whether its connection has ended. It may then be the daemon of an earlier mount: device numbers are reused.
    pub has_ended: bool,
}

impl Server {
    /// `None` if it has ended.
    fn new(process: Process, has_ended: bool) -> Option<Self> {
        let handle = pidfd_open(Pid::from_raw(process.pid)?, PidfdFlags::empty()).ok()?;
        Some(Self {
            process,
            handle,
            has_ended,
        })
    }
}

/// The processes that keep `mount` busy by an open file, a working or root directory, their program, or a mapping. An ordinary
/// user sees only processes of that user.
pub fn of(mount: &Mount) -> Vec<Process> {
    let (found, inbox) = channel();
    let mount = mount.clone();
    let search = move || {
        let all = processes();
        let ways: [fn(&Path, &Mount) -> bool; 2] = [has_it_open, has_it_mapped];
        for looks in ways {
            for place in all.iter().filter(|place| looks(place, &mount)) {
                // Fails after the timeout: then there is no receiver.
                let _ = found.send(describe(place));
            }
        }
    };
    if thread::Builder::new().spawn(search).is_err() {
        return Vec::new();
    }
    let deadline = Instant::now() + SEARCH_TIMEOUT;
    let mut holders = BTreeMap::new();
    loop {
        match inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Some(holder)) => drop(holders.insert(holder.pid, holder)),
            Ok(None) => {}
            Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => break,
        }
    }
    holders.into_values().collect()
}

/// The processes that have the /dev/fuse of `mount` open, usually its daemon. Before Linux 6.17 this is the one process with a
/// /dev/fuse whose command line may name the mount point. If there are several such processes, the result is empty. A process whose
/// connection has ended counts only if there is no other, and if its command line may name the mount point.
pub fn servers_of(mount: &Mount) -> Vec<Server> {
    let (mut known, mut ended, mut guessed) = (Vec::new(), Vec::new(), Vec::new());
    let is_guessed = !device::fdinfo_has_mount();
    let ours = Path::new("/proc").join(std::process::id().to_string());
    for place in processes().into_iter().filter(|place| *place != ours) {
        for session in descriptors(&place) {
            if fs::read_link(session.path()).ok() != Some("/dev/fuse".into()) {
                continue;
            }
            match device::device_in(&info_of(&place, &session)) {
                Some(device) if device == mount.device => match has_ended(&place, &session) {
                    false => known.extend(describe(&place)),
                    true => ended.push(place.clone()),
                },
                None if is_guessed => guessed.push(place.clone()),
                _ => {}
            }
        }
    }
    known.dedup();
    ended.dedup();
    guessed.dedup();
    let may_name_it = |place: &PathBuf| {
        let command = fs::read(place.join("cmdline")).unwrap_or_default();
        names(&command, &mount.mount_point)
    };
    guessed.retain(may_name_it);
    ended.retain(may_name_it);
    if let ([place], true) = (&guessed[..], known.is_empty()) {
        known.extend(describe(place));
    }
    let has_ended = known.is_empty();
    if has_ended {
        known.extend(ended.iter().filter_map(|place| describe(place)));
    }
    let server = |process| Server::new(process, has_ended);
    known.into_iter().filter_map(server).collect()
}

/// Whether the connection of a process's open /dev/fuse has ended: it was aborted, or its mount is gone. A stopped daemon keeps it open,
/// and another mount may have got the device number since. False if this cannot be found out: pidfd_getfd(2) needs the right to trace
/// the process.
fn has_ended(place: &Path, session: &DirEntry) -> bool {
    let number = |name: &OsStr| name.to_str()?.parse().ok();
    let held = || {
        let pid = Pid::from_raw(number(place.file_name()?)?)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        pidfd_getfd(
            process,
            number(&session.file_name())?,
            PidfdGetfdFlags::empty(),
        )
        .ok()
    };
    held().is_some_and(|session| {
        let mut asked = [PollFd::new(&session, PollFlags::empty())];
        let now = Timespec::default();
        poll(&mut asked, Some(&now)).is_ok() && asked[0].revents().contains(PollFlags::ERR)
    })
}

/// The directories of all processes in /proc, including this one: it may have inherited a descriptor of the mount.
fn processes() -> Vec<PathBuf> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .map(|pid| Path::new("/proc").join(pid.to_string()))
        .collect()
}

fn describe(place: &Path) -> Option<Process> {
    let pid: i32 = place.file_name()?.to_str()?.parse().ok()?;
    let name = fs::read(place.join("comm")).ok()?; // fails if the process has ended
    let name = match pid.unsigned_abs() == std::process::id() {
        true => "this command itself".into(),
        false => String::from_utf8_lossy(&name).trim_end().into(),
    };
    Some(Process { pid, name })
}

fn has_it_open(place: &Path, mount: &Mount) -> bool {
    let leads_there = |link: &Path| {
        // Following such a link sends no request to a filesystem.
        let target: Option<OwnedFd> = rustix::fs::open(
            place.join(link),
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok();
        target.and_then(top_mount::mount_id_of) == Some(mount.id)
    };
    let mut links = ["cwd", "root", "exe"].into_iter().map(Path::new);
    // A thread may have a working directory of its own.
    let tasks = fs::read_dir(place.join("task")).into_iter().flatten();
    let mut tasks = tasks.flatten().map(|task| task.path().join("cwd"));
    links.any(leads_there)
        || tasks.any(|link| leads_there(&link))
        || descriptors(place)
            .iter()
            .any(|fd| top_mount::mount_id_in(&info_of(place, fd)) == Some(mount.id))
}

fn has_it_mapped(place: &Path, mount: &Mount) -> bool {
    let maps = fs::read(place.join("maps")).unwrap_or_default();
    let (major, minor) = (
        rustix::fs::major(mount.device),
        rustix::fs::minor(mount.device),
    );
    // 7f0000000000-7f0000001000 r--s 00000000 00:2f 12 /mnt/file
    let device = format!("{major:02x}:{minor:02x}");
    let mut lines = maps.split(|&byte| byte == b'\n');
    lines.any(|line| line.split(|&byte| byte == b' ').nth(3) == Some(device.as_bytes()))
}

fn descriptors(place: &Path) -> Vec<DirEntry> {
    let all = fs::read_dir(place.join("fd")).into_iter().flatten();
    all.flatten().collect()
}

fn info_of(place: &Path, descriptor: &DirEntry) -> String {
    let info = place.join("fdinfo").join(descriptor.file_name());
    fs::read_to_string(info).unwrap_or_default()
}

/// Whether an argument of this command line may be the mount point. A relative path counts if the mount point ends with it,
/// because the working directory is not known.
fn names(command: &[u8], mount_point: &Path) -> bool {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let mut arguments = command.split(|&byte| byte == 0).skip(1);
    arguments.any(|argument| {
        let typed = Path::new(OsStr::from_bytes(argument));
        let left_out =
            |part: &Component<'_>| matches!(part, Component::CurDir | Component::ParentDir);
        let tail: PathBuf = typed.components().skip_while(left_out).collect();
        tail.file_name().is_some() && mount_point.ends_with(tail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_may_name_the_mount_point() {
        for (command, expected) in [
            (&b"mmfs\0-f\0/src\0/mnt/view\0"[..], true),
            (b"mmfs\0/src\0view\0", true),
            (b"mmfs\0src\0../mnt/view/\0", true),
            (b"mmfs\0/src\0/view\0", false),
            (b"mmfs\0/src\0./other\0", false),
            (b"mmfs\0..\0.\0\0", false),
            (b"view\0", false),
        ] {
            assert_eq!(
                names(command, Path::new("/mnt/view")),
                expected,
                "{:?}",
                String::from_utf8_lossy(command)
            );
        }
    }

    #[test]
    fn a_process_is_named_in_one_line() {
        let process = Process {
            pid: 7,
            name: "a\nb".into(),
        };
        assert_eq!(process.to_string(), r"a\nb (pid 7)");
    }
}
