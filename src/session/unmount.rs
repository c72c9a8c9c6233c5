//! `mmfs unmount`: unmounts a mount of mmfs, and waits until its daemon has ended.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};

use super::holders::{self, Process, Server};
use super::mount_point::MountPoint;
use super::probe;
use super::top_mount::{Identity, mount_id_of, open_path, path_of};
use crate::mount_table::{self, Mount};
use crate::refusal::{self, Role, StartError};
use crate::terminal::for_shell;

/// How long a busy mount is tried again. Other programs of the machine access mounts for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How long `mmfs unmount` waits for the end of the daemon, which takes one second at most (docs/semantics.md, S51).
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How many processes or mount points a sentence names.
const MAX_NAMED: usize = 8;

/// Unmounts the mount of mmfs at `path`. When this returns, its daemon has ended, if it was found, unless the same filesystem is also mounted
/// elsewhere.
///
/// # Errors
/// The sentence that says why it is still mounted, or why its daemon still holds the source.
pub fn unmount(path: &Path) -> Result<(), StartError> {
    let (place, id, identity) = locate(path)?;
    // The working directory may be in the mount and would keep it busy.
    rustix::process::chdir("/").map_err(|errno| system("leave the directory")(errno.into()))?;
    let table = mount_table::read().map_err(system("read the mount table"))?;
    let mount = choose(&table, id, &place)?;
    let servers = holders::servers_of(mount);
    unmount_or_refuse(mount, identity)?;
    // Only mounts that existed before: the kernel may already have reused the device number and the mount id.
    let had_it = |other: &&Mount| other.device == mount.device && other.id != mount.id;
    let before: Vec<u64> = table.iter().filter(had_it).map(|other| other.id).collect();
    let elsewhere = points(|other| other.device == mount.device && before.contains(&other.id));
    if !elsewhere.is_empty() {
        let elsewhere = list(&elsewhere);
        refusal::note(format_args!(
            "{place:?} is unmounted; the same filesystem is still mounted at {elsewhere}"
        ));
        return Ok(());
    }
    // The mount is not asked whether its daemon lives: a question without an answer would keep the mount busy.
    if servers.is_empty() {
        refusal::note(format_args!(
            "{place:?} is unmounted; no daemon of it was found here: it has died, or runs in another container and may hold \
             the source for a second more"
        ));
    }
    wait_for_end(&place, &servers)
}

fn system(what: &'static str) -> impl Fn(io::Error) -> StartError {
    move |error| StartError::System(what, error)
}

fn refuse<T>(sentence: String) -> Result<T, StartError> {
    Err(StartError::Verb(sentence))
}

/// The absolute path of a directory, and the id and identity of the mount on top. Another mount may get the same id a moment later,
/// but never the same identity. Of a mount that belongs to another user, the kernel shows no identity.
fn locate(path: &Path) -> Result<(PathBuf, u64, Option<Identity>), StartError> {
    // The path may lead through a mount that does not answer.
    let found = probe::ask(Role::MountPoint, path, |path| open_path(path).map(drop))?;
    let directory = found.and_then(|()| open_path(path));
    let all = |directory| {
        let (id, identity) = (mount_id_of(&directory), Identity::of(&directory).ok());
        Ok((path_of(&directory)?, id, identity))
    };
    let found = directory.and_then(all);
    // A directory that was removed or is in another mount namespace has another path here, or none.
    if let Ok((place, id, _)) = &found {
        if open_path(place).ok().and_then(mount_id_of) != *id {
            return Err(StartError::NoPath(Role::MountPoint, path.into()));
        }
    }
    match found {
        Ok((place, Some(id), identity)) => Ok((place, id, identity)),
        Ok((_, None, _)) => refuse(format!("/proc does not show the mount of {path:?}")),
        Err(Errno::NOENT) => refuse(format!("{path:?} does not exist; check the spelling")),
        Err(Errno::NOTDIR) => refuse(format!("{path:?} is not a directory; name a mount point")),
        Err(errno) if probe::is_dead(errno) => refuse(format!(
            "{path:?} lies in a FUSE mount whose daemon has died; name the mount point of that mount"
        )),
        Err(errno) => refuse(format!("{path:?} cannot be reached: {errno}")),
    }
}

/// The mount with this id. Refuses if `place` is not its root, if it is not a mount of mmfs, or if unmounting it is bound to fail.
fn choose<'a>(table: &'a [Mount], id: u64, place: &Path) -> Result<&'a Mount, StartError> {
    let top = table.iter().find(|mount| mount.id == id);
    let Some(top) = top.filter(|mount| mount.mount_point == place) else {
        return refuse(match top {
            Some(mount) if is_ours(mount) => format!(
                "{place:?} lies in the mount at {}; name that mount point",
                for_shell(&mount.mount_point)
            ),
            _ => format!("nothing is mounted on {place:?}; {}", known(table)),
        });
    };
    let kind = top.fs_type.to_string_lossy();
    if !is_ours(top) {
        let covered = table
            .iter()
            .any(|mount| mount.mount_point == place && is_ours(mount));
        return refuse(match covered {
            true => format!("a mount of type {kind} covers {place:?}; unmount that first"),
            false => format!("the mount at {place:?} has the type {kind}, and is not one of mmfs"),
        });
    }
    let below = table.iter().filter(|mount| mount.parent == id);
    let below: Vec<&Path> = below.map(|mount| mount.mount_point.as_path()).collect();
    if !below.is_empty() {
        let below = list(&below);
        return refuse(format!(
            "{place:?} has other mounts in it; unmount these first: {below}"
        ));
    }
    let user = rustix::process::geteuid();
    match top.owner().map(|(user, _)| u64::from(user)) {
        Some(owner) if !user.is_root() && owner != u64::from(user.as_raw()) => refuse(format!(
            "{place:?} was mounted by user {owner}; only that user and root may unmount it"
        )),
        _ => Ok(top),
    }
}

/// Whether a mount is one of mmfs: it has the mark of mmfs, or the type `fuse.mmfs` because another program has made it.
pub(super) fn is_ours(mount: &Mount) -> bool {
    mount.is_mmfs() || mount.fs_type == "fuse.mmfs"
}

fn known(table: &[Mount]) -> String {
    let ours = table.iter().filter(|mount| is_ours(mount));
    let ours: Vec<&Path> = ours.map(|mount| mount.mount_point.as_path()).collect();
    match ours.is_empty() {
        true => "mmfs has no mounts here".into(),
        false => format!("mmfs has mounts at {}", list(&ours)),
    }
}

fn list<T: AsRef<Path>>(paths: &[T]) -> String {
    some(paths.iter().map(for_shell))
}

/// The first [`MAX_NAMED`] words, separated by commas, and the number of further ones.
fn some(words: impl ExactSizeIterator<Item = String>) -> String {
    let more = words.len().saturating_sub(MAX_NAMED);
    let text = words.take(MAX_NAMED).collect::<Vec<_>>().join(", ");
    match more {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

fn points(wanted: impl Fn(&Mount) -> bool) -> Vec<PathBuf> {
    // An unreadable table counts as empty.
    let table = mount_table::read().unwrap_or_default();
    let found = table.into_iter().filter(wanted);
    found.map(|mount| mount.mount_point).collect()
}

fn unmount_or_refuse(mount: &Mount, identity: Option<Identity>) -> Result<(), StartError> {
    let place = &mount.mount_point;
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        let point = MountPoint::hold(place).ok();
        let Some(point) = point.filter(|point| is_on_top(mount, identity, point)) else {
            let covered =
                || format!("another mount has just covered {place:?}; unmount that first");
            return unless_gone(mount, covered);
        };
        match point.unmount(false) {
            Ok(()) => return Ok(()),
            Err(error) if is_busy(&error) && Instant::now() < deadline => {
                thread::sleep(RETRY_INTERVAL);
            }
            Err(error) => return unless_gone(mount, || why_not(mount, &error)),
        }
    }
}

/// Refuses with `sentence`, unless another process has unmounted or moved the mount meanwhile.
fn unless_gone(mount: &Mount, sentence: impl FnOnce() -> String) -> Result<(), StartError> {
    let place = &mount.mount_point;
    match whereabouts(mount) {
        None => Ok(()),
        Some(other) if other != *place => refuse(format!(
            "the mount at {place:?} was moved to {}; name that mount point",
            for_shell(other)
        )),
        Some(_) => refuse(sentence()),
    }
}

fn why_not(mount: &Mount, error: &io::Error) -> String {
    let place = &mount.mount_point;
    if is_busy(error) {
        return busy(mount);
    }
    if error.kind() == io::ErrorKind::NotFound {
        return format!(
            "cannot unmount {place:?}: fusermount3 is not installed, and without it only root can unmount; \
             install the package fuse3"
        );
    }
    if error.to_string().contains("/etc/mtab") && !Path::new("/etc/mtab").exists() {
        return format!(
            "cannot unmount {place:?}: {error}; fusermount3 needs it, ask the administrator for: \
             ln -s /proc/self/mounts /etc/mtab"
        );
    }
    format!("cannot unmount {place:?}: {error}")
}

/// Whether the mount on top is still `mount`. The kernel shows no identity of other users' mounts. For those, the mount id and the
/// entry of the mount table are compared.
fn is_on_top(mount: &Mount, identity: Option<Identity>, point: &MountPoint) -> bool {
    match identity {
        Some(identity) => point.identity() == Ok(identity),
        None => {
            point.open().ok().and_then(mount_id_of) == Some(mount.id)
                && whereabouts(mount).as_ref() == Some(&mount.mount_point)
        }
    }
}

/// The present mount point. The mount may have been moved, or a directory above it renamed.
fn whereabouts(mount: &Mount) -> Option<PathBuf> {
    // Without the options, which a remount changes.
    let key = |mount: &Mount| {
        let kind = (mount.fs_type.clone(), mount.source.clone());
        (mount.id, mount.device, kind)
    };
    match mount_table::find(|other| key(other) == key(mount)) {
        Ok(found) => found.map(|mount| mount.mount_point),
        // If the table cannot be read, the mount counts as unchanged.
        Err(_) => Some(mount.mount_point.clone()),
    }
}

/// Whether the error means EBUSY: umount2(2) returns the number, fusermount3 prints the text.
fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
        || error.to_string().ends_with("Device or resource busy")
}

fn busy(mount: &Mount) -> String {
    let place = &mount.mount_point;
    let root = rustix::process::geteuid().is_root();
    let detach = if root { "umount -l" } else { "fusermount3 -uz" };
    let cure = format!(
        "end its users, or detach it with: {detach} {}",
        for_shell(place)
    );
    match &holders::of(mount)[..] {
        [] if root => format!(
            "{place:?} is busy, but no process has a file of it open; a process may wait for an answer of it, or a loop device \
             (losetup -a) or a swap file may use it; {cure}"
        ),
        [] => {
            format!("{place:?} is busy, but no process of yours has a file of it open; {cure}")
        }
        [holder] => format!("{place:?} is busy: {holder} uses it; {cure}"),
        holders => {
            let holders = some(holders.iter().map(Process::to_string));
            format!("{place:?} is busy: {holders} use it; {cure}")
        }
    }
}

/// Waits for the end of the processes that served the mount. Their end closes their files of the source. A process whose connection had
/// ended may have served another mount, so it is no reason to refuse.
fn wait_for_end(place: &Path, servers: &[Server]) -> Result<(), StartError> {
    let deadline = Instant::now() + END_TIMEOUT;
    for server in servers {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| system("wait")(Errno::INVAL.into()))?;
        let ended = || {
            let mut handle = [PollFd::new(&server.handle, PollFlags::IN)];
            poll(&mut handle, Some(&left))
        };
        if retry_on_intr(ended).map_err(|errno| system("wait")(errno.into()))? > 0 {
            continue;
        }
        let process = &server.process;
        if !server.has_ended {
            return refuse(format!(
                "{place:?} is unmounted, but {process} still has its /dev/fuse open and may hold the source: it is mounted in \
                 another mount namespace as well (a container's), its source does not answer, or the process is stopped"
            ));
        }
        refusal::note(format_args!(
            "{place:?} is unmounted; no daemon of it was found here but {process}, whose connection to the kernel was cut before: \
             it may have served another mount, or may hold the source"
        ));
    }
    Ok(())
}
