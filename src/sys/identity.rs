//! The user as whom a thread acts on the source: filesystem ids, CAP_FSETID and umask. All of them belong to the thread.
//!
//! The mount's kernel has checked the caller's permissions already. The source's kernel still does the accounting (owner of new
//! files, quotas, reserved blocks), and applies the rules for suid and sgid bits. So the thread takes the caller's ids, and
//! keeps its capabilities. Changing ids costs system calls, so a thread keeps the ids until it acts for another user. Each
//! request sets its user first: see `actor`.

use parking_lot::{RwLock, RwLockWriteGuard};
use rustix::fs::Mode;
use rustix::io::{Errno, Result};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities, set_capabilities, unshare_unsafe};
use std::cell::Cell;
use std::sync::OnceLock;

/// A user for whom the daemon acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Filesystem user id.
    pub uid: u32,
    /// Filesystem group id.
    pub gid: u32,
}

#[derive(Clone, Copy)]
struct Current {
    caller: Caller,
    keeps_setid: bool,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
    static UMASK: Cell<Option<Umask>> = const { Cell::new(None) };
}

/// Whether this process may act for other users. Determined once.
pub fn privileged() -> bool {
    static PRIVILEGED: OnceLock<bool> = OnceLock::new();
    // Including the overriding ones: the thread has the caller's ids, but not the caller's supplementary groups.
    let needed = CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::FSETID
        | CapabilitySet::CHOWN
        | CapabilitySet::FOWNER
        | CapabilitySet::DAC_OVERRIDE;
    *PRIVILEGED.get_or_init(|| capabilities(None).is_ok_and(|sets| sets.effective.contains(needed)))
}

/// Makes this thread act for `caller`. With `keeps_setid` the source's kernel leaves suid and sgid bits alone, as it does for
/// root. Otherwise it removes them, as for any other user.
///
/// # Errors
/// EOVERFLOW if the id does not exist in the daemon's user namespace. EPERM if a seccomp filter refuses setfsuid(2) or
/// capset(2), and this thread acts for another user: a file made for `caller` must not get another owner.
pub fn act_for(caller: Caller, keeps_setid: bool) -> Result<()> {
    if !privileged() {
        return Ok(());
    }
    let now = current();
    if now.caller == caller && now.keeps_setid == keeps_setid {
        return Ok(());
    }
    set_identity(now, caller, keeps_setid)
}

/// As `act_for`, where suid and sgid bits do not matter. After an error the thread acts as the daemon itself.
pub fn act_for_or_as_daemon(caller: Caller) {
    if !privileged() {
        return;
    }
    let now = current();
    if now.caller == caller || set_identity(now, caller, true).is_ok() {
        return;
    }
    let (now, daemon_ids) = (current(), daemon_ids());
    if now.caller != daemon_ids {
        // It cannot fail: these ids exist, and a thread that had others may set ids.
        let _ = set_identity(now, daemon_ids, true);
    }
}

fn set_identity(now: Current, caller: Caller, keeps_setid: bool) -> Result<()> {
    CURRENT.set(None); // Unknown until all is set.
    let ids = match now.caller == caller {
        true => Ok(()),
        false => set_filesystem_ids(caller),
    };
    if let Err(errno) = ids.and_then(|()| raise_capabilities(keeps_setid)) {
        // The old ids could be set before. `current` reads the result.
        let _ = set_filesystem_ids(now.caller);
        return Err(errno);
    }
    CURRENT.set(Some(Current {
        caller,
        keeps_setid,
    }));
    Ok(())
}

/// The ids of this thread.
fn current() -> Current {
    if let Some(now) = CURRENT.get() {
        return now;
    }
    // A seccomp filter may refuse both calls. The thread then always acts as the daemon, and keeps CAP_SYS_RESOURCE: without
    // mmfs root may use reserved blocks, too.
    let _ = raise_capabilities(true);
    let now = Current {
        caller: filesystem_ids().unwrap_or_else(|_| daemon_ids()),
        keeps_setid: true,
    };
    CURRENT.set(Some(now));
    now
}

/// The user that the daemon runs as.
fn daemon_ids() -> Caller {
    static OURSELVES: OnceLock<Caller> = OnceLock::new();
    *OURSELVES.get_or_init(|| Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    })
}

/// Makes all permitted capabilities effective, except CAP_SYS_RESOURCE (so that reserved blocks and quotas count), and
/// CAP_FSETID unless `keeps_setid`.
fn raise_capabilities(keeps_setid: bool) -> Result<()> {
    let mut sets = capabilities(None)?;
    let before = sets.effective;
    sets.effective = sets.permitted - CapabilitySet::SYS_RESOURCE;
    sets.effective.set(
        CapabilitySet::FSETID,
        keeps_setid && sets.permitted.contains(CapabilitySet::FSETID),
    );
    match sets.effective == before {
        true => Ok(()),
        false => set_capabilities(None, sets),
    }
}

fn set_filesystem_ids(caller: Caller) -> Result<()> {
    // SAFETY: both calls take plain numbers and touch this thread's credentials only.
    unsafe {
        libc::setfsgid(caller.gid);
        libc::setfsuid(caller.uid);
    }
    // setfsuid(2) reports no error, so read the ids.
    match filesystem_ids()? == caller {
        true => Ok(()),
        false => Err(Errno::OVERFLOW),
    }
}

/// The filesystem ids of this thread. EPERM if a seccomp filter refuses the calls.
fn filesystem_ids() -> Result<Caller> {
    const NONE: u32 = u32::MAX;
    // SAFETY: an impossible id changes nothing; the present one is returned.
    let (uid, gid) = unsafe { (libc::setfsuid(NONE) as u32, libc::setfsgid(NONE) as u32) };
    match uid == NONE || gid == NONE {
        true => Err(Errno::PERM),
        false => Ok(Caller { uid, gid }),
    }
}

/// The umask for files that this thread creates.
#[derive(Clone, Copy)]
enum Umask {
    /// This thread has an umask of its own: this one.
    Own(u32),
    /// The process's: a seccomp filter refuses unshare(2), as those of container engines do.
    Shared,
}

/// The umask of all threads without one of their own. A thread that creates a file holds it shared. A thread that needs another
/// umask waits until none does.
static SHARED: RwLock<Shared> = RwLock::new(Shared {
    now: None,
    first: None,
});

struct Shared {
    now: Option<u32>,
    first: Option<u32>,
}

/// Runs `create`, which makes a file, under `umask`. Clearing the umask's bits in the mode is not the same: under a default ACL
/// the umask is ignored, and only the source knows whether there is one.
///
/// # Errors
/// Those of `create`.
pub fn create_under<T>(umask: u32, create: impl FnOnce() -> Result<T>) -> Result<T> {
    let umask = umask & 0o777;
    let now = UMASK.get().unwrap_or_else(umask_of_new_thread);
    match now {
        Umask::Own(now) => {
            if now != umask {
                rustix::process::umask(Mode::from_raw_mode(umask));
                UMASK.set(Some(Umask::Own(umask)));
            }
            create()
        }
        Umask::Shared => under_shared(umask, create),
    }
}

/// Runs `create`, which makes a file for the daemon itself, under the umask that the daemon was started with.
pub fn create_for_daemon<T>(create: impl FnOnce() -> T) -> T {
    let first = SHARED.read().first;
    match first {
        Some(first) => under_shared(first, create),
        None => create(),
    }
}

fn umask_of_new_thread() -> Umask {
    // SAFETY: only CLONE_FS is unshared: root, working directory and umask; no descriptor changes hands.
    let umask = match unsafe { unshare_unsafe(UnshareFlags::FS) } {
        Ok(()) => {
            rustix::process::umask(Mode::empty());
            Umask::Own(0)
        }
        Err(_) => Umask::Shared,
    };
    UMASK.set(Some(umask));
    umask
}

fn under_shared<T>(umask: u32, create: impl FnOnce() -> T) -> T {
    let mut held = SHARED.read();
    if held.now != Some(umask) {
        drop(held);
        let mut alone = SHARED.write();
        let before = rustix::process::umask(Mode::from_raw_mode(umask)).as_raw_mode();
        alone.first.get_or_insert(before);
        alone.now = Some(umask);
        held = RwLockWriteGuard::downgrade(alone);
    }
    let made = create();
    drop(held);
    made
}
