//! Attributes: showing and changing them.

use super::{Asker, Fs};
use crate::attr::{Attr, Time};
use crate::inode::Located;
use crate::source::proc_path;
use crate::sys::identity;
use crate::sys::truncate::truncate;
use rustix::fs::{self as sys, AtFlags, Gid, Mode, StatVfs, Timespec, Timestamps, UTIME_NOW};
use rustix::fs::{UTIME_OMIT, Uid};
use rustix::io::Result;
use std::os::fd::AsFd;

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The present, which whoever may write may set.
    Now,
    /// Any other, which is the owner's to set.
    To(Time),
}

/// What a SETATTR asks for; `None` leaves alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<SetTime>,
    /// Last change of the contents.
    pub mtime: Option<SetTime>,
}

impl SetAttr {
    fn is_nothing(&self) -> bool {
        *self == SetAttr::default()
    }
}

impl Fs {
    /// The attributes of an inode, through the handle it is open by if there is one.
    ///
    /// # Errors
    /// ESTALE when the inode is gone; those of statx(2).
    pub fn getattr(&self, node: u64, fh: Option<u64>) -> Result<Attr> {
        if self.inodes.is_veiled(node) {
            return Ok(veiled(node));
        }
        if let Some(handle) = fh.and_then(|fh| self.files.get(fh).ok()) {
            handle.mapping.settle();
            let mut attr = handle.mapping.stat(handle.any()?.as_fd())?;
            attr.ino = handle.node;
            return Ok(attr);
        }
        let inode = self.inodes.locate(node)?;
        if let Some(mapping) = &inode.mapping {
            mapping.settle();
        }
        let mut attr = inode.source.stat(inode.as_fd())?;
        if let Some(mapping) = &inode.mapping {
            mapping.compare(&attr);
        }
        attr.ino = node;
        Ok(attr)
    }

    /// Changes attributes and returns the new ones.
    ///
    /// # Errors
    /// Those of chown(2), chmod(2), truncate(2) and utimensat(2).
    pub fn setattr(
        &self,
        asker: &Asker,
        node: u64,
        fh: Option<u64>,
        set: &SetAttr,
    ) -> Result<Attr> {
        let inode = self.inodes.locate(node)?;
        let takes_setid = set.is_nothing() && owns(asker, &inode.source.stat(inode.as_fd())?);
        self.unchanged_in_bytes(node, &inode, || {
            if set.uid.is_some() || set.gid.is_some() || takes_setid {
                let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
                // Whether sgid survives depends on who acts, which else would be whoever this thread served last.
                identity::act_for(asker.caller, asker.keeps_setid())?;
                sys::chownat(&inode, c"", uid, gid, AtFlags::EMPTY_PATH)?;
            }
            if let Some(mode) = set.mode {
                identity::act_for(asker.caller, true)?;
                sys::chmod(proc_path(&inode), Mode::from_raw_mode(mode & 0o7777))?;
            }
            Ok(())
        })?;
        if let Some(size) = set.size {
            self.truncate(asker, node, fh, size)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            if let (Some(mapping), Some(_)) = (&inode.mapping, set.mtime) {
                mapping.cancel_times();
            }
            let times = Timestamps {
                last_access: timespec(set.atime),
                last_modification: timespec(set.mtime),
            };
            self.unchanged_in_bytes(node, &inode, || {
                sys::utimensat(&inode, c"", &times, AtFlags::EMPTY_PATH)
            })?;
        }
        self.getattr(node, fh)
    }

    fn truncate(&self, asker: &Asker, node: u64, fh: Option<u64>, size: u64) -> Result<()> {
        let handle = fh
            .and_then(|fh| self.files.get(fh).ok())
            .filter(|h| h.fd.is_some());
        identity::act_for(asker.caller, asker.keeps_setid())?;
        if let Some(handle) = handle {
            let fd = handle.writable()?;
            return handle.mapping.resize(size, || sys::ftruncate(fd, size));
        }
        // truncate(2) and not ftruncate(2): to the length a file has already, only the latter is a change.
        let inode = self.inodes.locate(node)?;
        let path = proc_path(&inode);
        match self.inodes.open_mapping(node) {
            Some(mapping) => mapping.resize(size, || truncate(&path, size)),
            None => truncate(&path, size),
        }
    }

    /// Runs a change of ours that leaves the bytes alone, so that the kernel's cache of them stays valid.
    pub(super) fn unchanged_in_bytes<T>(
        &self,
        node: u64,
        inode: &Located,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if let Some(mapping) = &inode.mapping {
            return mapping.altering(change);
        }
        if inode.kind != sys::FileType::RegularFile {
            return change();
        }
        let before = inode.source.stat(inode.as_fd())?.stamp();
        let outcome = change()?;
        // Without it the kernel's cache is dropped at the next open: no reason to deny a change that took place.
        if let Ok(after) = inode.source.stat(inode.as_fd()) {
            self.inodes.restamp(node, before, after.stamp());
        }
        Ok(outcome)
    }

    /// Usage of the filesystem an inode lives on.
    ///
    /// # Errors
    /// Those of fstatvfs(3).
    pub fn statfs(&self, node: u64) -> Result<StatVfs> {
        sys::fstatvfs(&self.inodes.locate(node)?.fd)
    }
}

/// A request to change nothing is what remains of two things: chown(2) to -1, -1, which takes suid and sgid
/// from a file of the caller's own, and of a write by anybody, which says so itself once more.
fn owns(asker: &Asker, attr: &Attr) -> bool {
    asker.caller.uid == 0 || asker.caller.uid == attr.uid
}

/// A mount of mmfs's own below the source: an empty directory nobody can write to.
fn veiled(node: u64) -> Attr {
    let none = Time::default();
    Attr {
        dev: 0,
        ino: node,
        size: 0,
        blocks: 0,
        atime: none,
        mtime: none,
        ctime: none,
        btime: None,
        mode: sys::FileType::Directory.as_raw_mode() | 0o555,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        mount_root: true,
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
