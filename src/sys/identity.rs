//! As whom a thread acts on the source: filesystem ids, CAP_FSETID and umask, all of them per thread.
//!
//! The kernel has checked the caller against the mount already. What is left to the source's kernel is
//! accounting (owner of new files, quotas, reserved blocks) and the rules for suid and sgid bits. So the
//! thread takes the caller's ids and keeps its capabilities. Changing ids costs system calls; a thread
//! therefore stays who it is until somebody else is acted for. Whoever is acted for says so first: see `actor`.

use parking_lot::{RwLock, RwLockWriteGuard};
use rustix::fs::Mode;
use rustix::io::{Errno, Result};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities, set_capabilities, unshare_unsafe};
use std::cell::Cell;
use std::sync::OnceLock;

/// Somebody the daemon acts for.
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

/// Whether this process may act for others, found out once.
pub fn privileged() -> bool {
    static PRIVILEGED: OnceLock<bool> = OnceLock::new();
    // The overriding ones too: the thread has the caller's ids, not the caller's other groups.
    let needed = CapabilitySet::SETUID
        | CapabilitySet::SETGID
        | CapabilitySet::FSETID
        | CapabilitySet::CHOWN
        | CapabilitySet::FOWNER
        | CapabilitySet::DAC_OVERRIDE;
    *PRIVILEGED.get_or_init(|| capabilities(None).is_ok_and(|sets| sets.effective.contains(needed)))
}

/// Makes this thread act for `caller`. With `keeps_setid` the source's kernel leaves suid and sgid bits
/// alone as it does for root; without it strips them as it does for everybody else.
///
/// # Errors
/// EOVERFLOW when the id does not exist in the daemon's user namespace. EPERM when a seccomp filter refuses
/// setfsuid(2) or capset(2) and this thread is somebody else: what others make must not become ours.
pub fn act_for(caller: Caller, keeps_setid: bool) -> Result<()> {
    if !privileged() {
        return Ok(());
    }
    let now = current();
    if now.caller == caller && now.keeps_setid == keeps_setid {
        return Ok(());
    }
    become_other(now, caller, keeps_setid)
}

/// As `act_for`, where suid and sgid bits do not come into it; as the daemon itself where `caller` cannot be had.
pub fn act_for_or_as_ourselves(caller: Caller) {
    if !privileged() {
        return;
    }
    let now = current();
    if now.caller == caller || become_other(now, caller, true).is_ok() {
        return;
    }
    let (now, ourselves) = (current(), ourselves());
    if now.caller != ourselves {
        // They exist, and who was another before may set ids.
        let _ = become_other(now, ourselves, true);
    }
}

fn become_other(now: Current, caller: Caller, keeps_setid: bool) -> Result<()> {
    CURRENT.set(None); // unknown until all is set
    let ids = match now.caller == caller {
        true => Ok(()),
        false => set_filesystem_ids(caller),
    };
    if let Err(errno) = ids.and_then(|()| raise_capabilities(keeps_setid)) {
        // Those it had can be had again; `current` does the rest.
        let _ = set_filesystem_ids(now.caller);
        return Err(errno);
    }
    CURRENT.set(Some(Current {
        caller,
        keeps_setid,
    }));
    Ok(())
}

/// What this thread is.
fn current() -> Current {
    if let Some(now) = CURRENT.get() {
        return now;
    }
    // A filter may refuse both calls. Nobody else can be acted for then, and root may use reserved blocks natively.
    let _ = raise_capabilities(true);
    let now = Current {
        caller: filesystem_ids().unwrap_or_else(|_| ourselves()),
        keeps_setid: true,
    };
    CURRENT.set(Some(now));
    now
}

/// Whom the daemon runs as.
fn ourselves() -> Caller {
    static OURSELVES: OnceLock<Caller> = OnceLock::new();
    *OURSELVES.get_or_init(|| Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    })
}

/// All permitted capabilities but CAP_SYS_RESOURCE (reserved blocks and quotas count) and, unless wanted,
/// CAP_FSETID.
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
    // They report nothing (setfsuid(2)): ask.
    match filesystem_ids()? == caller {
        true => Ok(()),
        false => Err(Errno::OVERFLOW),
    }
}

/// The filesystem ids of this thread; EPERM where a seccomp filter refuses the calls.
fn filesystem_ids() -> Result<Caller> {
    const NONE: u32 = u32::MAX;
    // SAFETY: an impossible id changes nothing; the present one is returned.
    let (uid, gid) = unsafe { (libc::setfsuid(NONE) as u32, libc::setfsgid(NONE) as u32) };
    match uid == NONE || gid == NONE {
        true => Err(Errno::PERM),
        false => Ok(Caller { uid, gid }),
    }
}

/// The umask that files are created under.
#[derive(Clone, Copy)]
enum Umask {
    /// This thread has one of its own, and this is it.
    Own(u32),
    /// It is the process's: a seccomp filter refuses unshare(2), as those of container engines do.
    Shared,
}

/// The umask of all threads that have none of their own. Whoever creates holds it shared, so that it stays; whoever needs
/// another one waits until nobody does.
static SHARED: RwLock<Shared> = RwLock::new(Shared {
    now: None,
    first: None,
});

struct Shared {
    now: Option<u32>,
    first: Option<u32>,
}

/// Runs `create`, which makes something, under `umask`. To leave its bits out of the mode instead would not do: where
/// there is a default ACL it does not count, and only the source knows, at the moment of creation.
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

/// Runs `create`, which makes a file of the daemon's own, under the umask that the daemon was started with.
pub fn create_for_ourselves<T>(create: impl FnOnce() -> T) -> T {
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
