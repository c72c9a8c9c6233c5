//! The user as whom a thread acts on the source. The kernel has already checked the caller's permissions on the mount. This
//! module sets the thread's filesystem ids, and decides whether suid and sgid bits survive a change.
//!
//! The ids stay set after a request. So each request sets them before its first operation on the source:
//! - A request with a caller begins as the caller (`begin`). Operations that create an inode or may strip suid and sgid bits
//!   fail if the thread cannot act as the caller: `create`, `change` and the other methods that return a `Result`.
//! - WRITE, FLUSH, FSYNC and RELEASE may come from the kernel itself. They act as the opener of their handle.
//! - READ, FORGET and RELEASEDIR use descriptors only, which carry the credentials of their opener. A READ of a file on a
//!   network filesystem sets the opener's ids, too.
//! - Threads that serve no requests act as the daemon.

use crate::sys::identity::{self, Caller};
use rustix::io::Result;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The caller of a request, from the request's header.
#[derive(Debug, Clone, Copy)]
pub struct Actor {
    /// Filesystem ids of the caller.
    pub caller: Caller,
    /// Process id of the caller. 0 if the caller is in a pid namespace that the daemon does not see.
    pub pid: u32,
}

impl Actor {
    /// Whether the caller is root. Root keeps suid and sgid bits and sees all extended attributes. The kernel reports
    /// CAP_FSETID for writes only, so other requests use the user id instead.
    pub fn is_root(&self) -> bool {
        self.caller.uid == 0
    }

    /// Whether the caller is `uid` or root.
    pub fn owns(&self, uid: u32) -> bool {
        self.is_root() || self.caller.uid == uid
    }

    /// Makes this thread act as the caller, for operations that do not affect suid and sgid bits. If the caller's ids cannot be
    /// set, the thread acts as the daemon. Lookups and removals create no inode that the daemon would then own.
    pub fn begin(&self) {
        identity::act_for_or_as_daemon(self.caller);
    }

    /// Makes this thread act as the caller, for operations on which the source's filesystem strips suid and sgid bits: chown,
    /// truncate, fallocate, copy_file_range.
    ///
    /// # Errors
    /// EOVERFLOW when the caller's ids do not exist in the daemon's user namespace; those of capset(2).
    pub fn change(&self) -> Result<()> {
        identity::act_for(self.caller, self.is_root())
    }

    /// Makes this thread act as the caller, for operations that strip no suid and sgid bits: chmod, extended attributes.
    ///
    /// # Errors
    /// As [`Actor::change`].
    pub fn manage(&self) -> Result<()> {
        identity::act_for(self.caller, true)
    }

    /// Runs `create`, which creates an inode, as the caller and with `umask`.
    ///
    /// # Errors
    /// As [`Actor::change`], and those of `create`.
    pub fn create<T>(&self, umask: u32, create: impl FnOnce() -> Result<T>) -> Result<T> {
        self.manage()?;
        identity::create_under(umask, create)
    }

    /// Makes this thread write as the caller. The WRITE request says whether suid and sgid bits are kept.
    ///
    /// # Errors
    /// As [`Actor::change`].
    pub fn write(&self, keeps_setid: bool) -> Result<()> {
        identity::act_for(self.caller, keeps_setid)
    }

    /// Makes this thread act as the caller without CAP_FSETID.
    ///
    /// # Errors
    /// As [`Actor::change`].
    pub fn without_setid(&self) -> Result<()> {
        identity::act_for(self.caller, false)
    }

    /// Makes this thread act as the caller, to set an ACL on a file of group `group`. The sgid bit is kept if the caller is root
    /// or a member of the group.
    ///
    /// # Errors
    /// As [`Actor::change`].
    pub fn set_acl(&self, group: u32) -> Result<()> {
        identity::act_for(self.caller, self.is_in_group(group))
    }

    /// Whether the caller is root or a member of the group: such callers keep sgid bits.
    pub fn is_in_group(&self, group: u32) -> bool {
        self.is_root()
            || self.caller.gid == group
            || supplementary_groups(self.pid).contains(&group)
    }
}

/// The supplementary groups of a process, from proc_pid_status(5). Empty if the process has ended or is hidden.
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
