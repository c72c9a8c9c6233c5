//! As whom a thread acts on the source: filesystem ids, CAP_FSETID and umask, all of them per thread.
//!
//! The kernel has checked the caller against the mount already. What is left to the source's kernel is
//! accounting (owner of new files, quotas, reserved blocks) and the rules for suid and sgid bits. So the
//! thread takes the caller's ids and keeps its capabilities. Changing ids costs system calls; a thread
//! therefore stays who it is until a request needs somebody else.

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
    umask: u32,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

/// Whether this process may act for others, found out once.
pub fn privileged() -> bool {
    static PRIVILEGED: OnceLock<bool> = OnceLock::new();
    // The overriding ones too: most requests run as whoever the thread served last, which is harmless with
    // them only.
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
/// EOVERFLOW when the id does not exist in the daemon's user namespace; see setfsuid(2), capset(2).
pub fn act_for(caller: Caller, keeps_setid: bool) -> Result<()> {
    if !privileged() {
        return Ok(());
    }
    let now = current()?;
    if now.caller == caller && now.keeps_setid == keeps_setid {
        return Ok(());
    }
    if now.caller != caller {
        CURRENT.set(None); // unknown until both ids are set
        set_filesystem_ids(caller)?;
    }
    raise_capabilities(keeps_setid)?;
    CURRENT.set(Some(Current {
        caller,
        keeps_setid,
        ..now
    }));
    Ok(())
}

/// Makes this thread create files under `umask`.
///
/// # Errors
/// Those of unshare(2), once per thread.
pub fn create_under(umask: u32) -> Result<()> {
    let now = current()?;
    if now.umask != umask {
        rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
        CURRENT.set(Some(Current { umask, ..now }));
    }
    Ok(())
}

/// What this thread is; a new thread is first given a umask of its own.
fn current() -> Result<Current> {
    if let Some(now) = CURRENT.get() {
        return Ok(now);
    }
    // SAFETY: only CLONE_FS is unshared: root, working directory and umask; no descriptor changes hands.
    unsafe { unshare_unsafe(UnshareFlags::FS)? };
    rustix::process::umask(Mode::empty());
    let caller = Caller {
        uid: filesystem_uid(),
        gid: filesystem_gid(),
    };
    if privileged() {
        raise_capabilities(true)?;
    }
    let now = Current {
        caller,
        keeps_setid: true,
        umask: 0,
    };
    CURRENT.set(Some(now));
    Ok(now)
}

/// All permitted capabilities but CAP_SYS_RESOURCE (reserved blocks and quotas count) and, unless wanted,
/// CAP_FSETID.
fn raise_capabilities(keeps_setid: bool) -> Result<()> {
    let mut sets = capabilities(None)?;
    sets.effective = sets.permitted - CapabilitySet::SYS_RESOURCE;
    sets.effective.set(
        CapabilitySet::FSETID,
        keeps_setid && sets.permitted.contains(CapabilitySet::FSETID),
    );
    set_capabilities(None, sets)
}

fn set_filesystem_ids(caller: Caller) -> Result<()> {
    // SAFETY: both calls take plain numbers and touch this thread's credentials only.
    unsafe {
        libc::setfsgid(caller.gid);
        libc::setfsuid(caller.uid);
    }
    // They report nothing (setfsuid(2)): ask.
    let reached = Caller {
        uid: filesystem_uid(),
        gid: filesystem_gid(),
    };
    if reached == caller {
        Ok(())
    } else {
        Err(Errno::OVERFLOW)
    }
}

fn filesystem_uid() -> u32 {
    // SAFETY: an impossible id changes nothing; the present one is returned.
    unsafe { libc::setfsuid(u32::MAX) as u32 }
}

fn filesystem_gid() -> u32 {
    // SAFETY: an impossible id changes nothing; the present one is returned.
    unsafe { libc::setfsgid(u32::MAX) as u32 }
}
