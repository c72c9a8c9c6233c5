//! Who a request acts as. The kernel has checked the caller against the mount; what is left to decide here is as whom
//! this thread acts on a source, and whether suid and sgid bits survive what it does.
//!
//! A thread stays who it was after a request, so nothing is done on a source before it is said as whom:
//! - A request that has a caller begins as the caller (`begin`). What makes something, or may take suid and sgid bits, insists
//!   on it: `create`, `change` and the like.
//! - WRITE, FLUSH, FSYNC and RELEASE may be the kernel's own. They act as the opener of their handle.
//! - READ, FORGET and RELEASEDIR act on descriptors only, which carry their opener; a READ that asks another machine acts as the
//!   opener, too.
//! - Threads that serve no requests are the daemon itself.

use crate::sys::identity::{self, Caller};
use rustix::io::Result;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Who asked, as the kernel says.
#[derive(Debug, Clone, Copy)]
pub struct Actor {
    /// Filesystem ids of the caller.
    pub caller: Caller,
    /// Its process, 0 when it is in a namespace of its own.
    pub pid: u32,
}

impl Actor {
    /// Whether the caller is root, who keeps suid and sgid bits and sees all extended attributes. The kernel tells
    /// of CAP_FSETID for writes only; for the rest this is as good as it can be known from here.
    pub fn is_root(&self) -> bool {
        self.caller.uid == 0
    }

    /// Whether the caller owns what belongs to `uid`, or is root.
    pub fn owns(&self, uid: u32) -> bool {
        self.is_root() || self.caller.uid == uid
    }

    /// Makes this thread act as the caller in whatever suid and sgid bits do not depend on. Where the caller's ids cannot be
    /// had, it acts as the daemon itself: looking and removing make nothing that would be the daemon's.
    pub fn begin(&self) {
        identity::act_for_or_as_daemon(self.caller);
    }

    /// Makes this thread act as the caller where suid and sgid bits are the source kernel's to strip: chown, truncate,
    /// fallocate, copying.
    ///
    /// # Errors
    /// EOVERFLOW when the caller's ids do not exist in the daemon's user namespace; those of capset(2).
    pub fn change(&self) -> Result<()> {
        identity::act_for(self.caller, self.is_root())
    }

    /// Makes this thread act as the caller in what strips no bits natively: chmod, extended attributes.
    ///
    /// # Errors
    /// As [`Actor::change`].
    pub fn manage(&self) -> Result<()> {
        identity::act_for(self.caller, true)
    }

    /// Runs `create`, which makes something, as the caller would, under `umask`.
    ///
    /// # Errors
    /// As [`Actor::change`], and those of `create`.
    pub fn create<T>(&self, umask: u32, create: impl FnOnce() -> Result<T>) -> Result<T> {
        self.manage()?;
        identity::create_under(umask, create)
    }

    /// Makes this thread write as the caller; the kernel says of each write whether suid and sgid bits go.
    ///
    /// # Errors
    /// As [`Actor::change`].
    pub fn write(&self, keeps_setid: bool) -> Result<()> {
        identity::act_for(self.caller, keeps_setid)
    }

    /// Makes this thread act as the caller without any privilege over suid and sgid bits.
    ///
    /// # Errors
    /// As [`Actor::change`].
    pub fn without_setid(&self) -> Result<()> {
        identity::act_for(self.caller, false)
    }

    /// Makes this thread set an ACL of a file of group `group`: the sgid bit survives for root and for members of the
    /// group.
    ///
    /// # Errors
    /// As [`Actor::change`].
    pub fn set_acl(&self, group: u32) -> Result<()> {
        let keeps = self.is_root()
            || self.caller.gid == group
            || supplementary_groups(self.pid).contains(&group);
        identity::act_for(self.caller, keeps)
    }
}

/// The groups of a process as proc_pid_status(5) lists them; none when it is gone or hidden.
fn supplementary_groups(pid: u32) -> Vec<u32> {
    let status = std::fs::read(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .split(|&b| b == b'\n')
        .find_map(|line| line.strip_prefix(b"Groups:"))
        .map(|groups| {
            OsStr::from_bytes(groups)
                .to_string_lossy()
                .split_whitespace()
                .flat_map(str::parse)
                .collect()
        })
        .unwrap_or_default()
}
