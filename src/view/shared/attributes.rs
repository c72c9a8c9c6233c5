//! Reading and changing attributes of the source's inodes.

use super::content::OpenFile;
use super::find::Located;
use super::node::Node;
use super::view::Shared;
use crate::actor::Actor;
use crate::attr::{Attr, MountId, Time};
use crate::chores::PendingTimes;
use crate::request::{SetAttr, SetTime};
use crate::source::{Kind, proc_path};
use crate::sys::truncate::truncate;
use crate::view::{Attributes, Content};
use rustix::fs::{self as sys, AtFlags, FileType, Gid, Mode, StatVfs, Timespec, Timestamps};
use rustix::fs::{UTIME_NOW, UTIME_OMIT, Uid};
use rustix::io::Result;
use std::os::fd::AsFd;

/// The owner's permissions that opening for writing requires.
const OWNER_WRITES: u32 = 0o600;

impl Attributes for Shared {
    fn attr(&self, node: &Node) -> Result<Attr> {
        if node.kind() == Kind::OwnMount {
            return Ok(own_mount());
        }
        let inode = self.locate(node)?;
        match &inode.mapping {
            Some(mapping) => {
                mapping.apply_times();
                mapping.attr(inode.as_fd())
            }
            None => inode.source.stat(inode.as_fd()),
        }
    }

    fn set_attr(
        &self,
        by: &Actor,
        node: &Node,
        open: Option<&OpenFile>,
        set: &SetAttr,
    ) -> Result<()> {
        let inode = self.locate(node)?;
        // A request without a change has two reasons. One is chown(2) to -1, -1, which clears suid and sgid of a file that the
        // caller owns. The other is a write by any user, which clears them itself.
        let takes_setid = set.is_nothing() && by.owns(inode.source.stat(inode.as_fd())?.uid);
        self.unchanged_in_bytes(node, &inode, || {
            if set.uid.is_some() || set.gid.is_some() || takes_setid {
                let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
                // Whether sgid is kept depends on the user. Without this the thread may still act for an earlier one.
                by.change()?;
                sys::chownat(&inode, c"", uid, gid, AtFlags::EMPTY_PATH)?;
            }
            if let Some(mode) = set.mode {
                by.manage()?;
                if let (Some(mapping), true) = (&inode.mapping, mode & OWNER_WRITES != OWNER_WRITES)
                {
                    mapping.before_permission_change();
                }
                sys::chmod(proc_path(&inode), Mode::from_raw_mode(mode & 0o7777))?;
            }
            Ok(())
        })?;
        if let Some(size) = set.size {
            self.resize(by, node, &inode, open, size)?;
        }
        self.change_times(node, &inode, set)
    }

    fn statfs(&self, node: &Node) -> Result<StatVfs> {
        sys::fstatvfs(self.locate(node)?)
    }
}

impl Shared {
    fn resize(
        &self,
        by: &Actor,
        node: &Node,
        inode: &Located,
        open: Option<&OpenFile>,
        size: u64,
    ) -> Result<()> {
        if let Some(open) = open.filter(|open| open.is_writable()) {
            let fd = open.writable()?;
            by.change()?;
            return open.mapping().resize(size, || sys::ftruncate(&*fd, size));
        }
        by.change()?;
        // truncate(2) and not ftruncate(2): to the present length, only the latter counts as a change.
        let path = proc_path(inode);
        match self.in_use.mapping(&node.life()) {
            Some(mapping) => mapping.resize(size, || truncate(&path, size)),
            None => truncate(&path, size),
        }
    }

    fn change_times(&self, node: &Node, inode: &Located, set: &SetAttr) -> Result<()> {
        if set.atime.is_none() && set.mtime.is_none() {
            return Ok(());
        }
        if let (Some(mapping), Some(_)) = (&inode.mapping, set.mtime) {
            mapping.cancel_times();
        }
        let times = Timestamps {
            last_access: timespec(set.atime),
            last_modification: timespec(set.mtime),
        };
        self.unchanged_in_bytes(node, inode, || {
            sys::utimensat(inode, c"", &times, AtFlags::EMPTY_PATH)
        })
    }

    /// Runs a change by mmfs that does not change the bytes, so that the kernel's cached bytes stay valid.
    pub(super) fn unchanged_in_bytes<T>(
        &self,
        node: &Node,
        inode: &Located,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if let Some(mapping) = &inode.mapping {
            return mapping.altering(change);
        }
        if node.kind() != Kind::Source(FileType::RegularFile) {
            return change();
        }
        let before = inode.source.stat(inode.as_fd())?.stamp();
        let outcome = change()?;
        // After an error the kernel's cache is dropped at the next open. The change itself has succeeded.
        if let Ok(after) = inode.source.stat(inode.as_fd()) {
            self.stamp_moved(node, before, after.stamp());
        }
        Ok(outcome)
    }
}

/// mmfs's own mount below the source: an empty directory without write permission.
fn own_mount() -> Attr {
    let none = Time::default();
    Attr {
        dev: 0,
        ino: 0,
        size: 0,
        blocks: 0,
        atime: none,
        mtime: none,
        ctime: none,
        btime: None,
        mode: FileType::Directory.as_raw_mode() | 0o555,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        mount_root: true,
        mount: MountId::default(),
    }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        Some(SetTime::Now) => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        },
        Some(SetTime::To(t)) => Timespec {
            tv_sec: t.sec,
            tv_nsec: t.nsec.into(),
        },
    }
}
