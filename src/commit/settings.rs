//! Attributes of an inode that a commit sets.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::{Errno, Result};
use rustix::process::{getegid, geteuid, getgroups};
use serde::{Deserialize, Serialize};

use super::path::as_text;
use super::tree::stat;
use crate::attr::{Attr, Time};
use crate::source::proc_path;

/// The longest value of an extended attribute and the longest list of names, in bytes: XATTR_SIZE_MAX and XATTR_LIST_MAX of Linux.
const MAX_XATTR: usize = 64 << 10;

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xattr {
    #[serde(with = "as_text")]
    name: Vec<u8>,
    #[serde(with = "as_text")]
    value: Vec<u8>,
}

/// What an inode gets. None: it keeps what it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Permission bits.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// When it was read, in seconds and nanoseconds.
    pub atime: Option<(i64, u32)>,
    /// When its bytes or names were changed.
    pub mtime: Option<(i64, u32)>,
    /// All of its extended attributes.
    pub xattrs: Option<Vec<Xattr>>,
}

/// What whoever runs mmfs may not set, as words of a sentence.
pub type Lacking = Vec<&'static str>;

pub fn time(time: Time) -> (i64, u32) {
    (time.sec, time.nsec)
}

impl Settings {
    /// Extended attributes.
    pub fn all_xattrs(all: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<Xattr> {
        let all = all.into_iter().filter(|(name, _)| !is_second(name));
        all.map(|(name, value)| Xattr { name, value }).collect()
    }

    /// The times of an inode with these attributes.
    pub fn times(attr: &Attr) -> Self {
        Self {
            atime: Some(time(attr.atime)),
            mtime: Some(time(attr.mtime)),
            ..Self::default()
        }
    }

    /// The extended attributes alone, without ACLs: these say who may use it.
    pub fn xattrs_without_acls(&self) -> Self {
        let all = self.xattrs.iter().flatten();
        let all = all.filter(|one| !one.name.starts_with(b"system."));
        Self {
            xattrs: Some(all.cloned().collect()),
            ..Self::default()
        }
    }

    /// Whether there is nothing but times to set.
    pub fn is_times(&self) -> bool {
        let times = Self {
            atime: self.atime,
            mtime: self.mtime,
            ..Self::default()
        };
        *self == times
    }

    /// Whether there is nothing to set.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// What of them the user may not set, as far as it is known before. `now`: the inode. None: the user has made it.
    pub fn lacks(&self, now: Option<&Attr>) -> Lacking {
        let mut lacking = Lacking::new();
        let (euid, egid) = (geteuid().as_raw(), getegid().as_raw());
        if geteuid().is_root() {
            return lacking;
        }
        let is_mine = now.is_none_or(|now| now.uid == euid);
        let differs = |wanted: Option<u32>, now: u32| wanted.is_some_and(|wanted| wanted != now);
        let may_have = |gid: u32| {
            gid == egid || getgroups().is_ok_and(|all| all.contains(&Gid::from_raw(gid)))
        };
        if differs(self.uid, now.map_or(euid, |now| now.uid)) {
            lacking.push("owner");
        }
        if differs(self.gid, now.map_or(egid, |now| now.gid))
            && !(is_mine && self.gid.is_none_or(may_have))
        {
            lacking.push("group");
        }
        let is_set =
            |one: &Xattr| one.name.starts_with(b"trusted.") || one.name.starts_with(b"security.");
        let xattrs = self.xattrs.as_ref();
        if xattrs.is_some_and(|all| !is_mine || all.iter().any(is_set)) {
            lacking.push("extended attributes");
        }
        if !is_mine && self.mode.is_some() {
            lacking.push("mode");
        }
        if !is_mine && (self.atime.is_some() || self.mtime.is_some()) {
            lacking.push("times");
        }
        lacking
    }

    /// Sets them. What the user may not set, or the filesystem does not have, is told, and the rest is set.
    ///
    /// # Errors
    /// Others than those.
    pub fn apply(&self, fd: &OwnedFd) -> Result<Lacking> {
        let mut lacking = Lacking::new();
        let mut tried = |what, done: Result<()>| match done {
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL) => {
                lacking.push(what);
                Ok(())
            }
            done => done,
        };
        let now = stat(fd)?;
        let is_link = now.kind().is_symlink();
        let uid = self.uid.filter(|uid| *uid != now.uid).map(Uid::from_raw);
        let gid = self.gid.filter(|gid| *gid != now.gid).map(Gid::from_raw);
        if uid.is_some() {
            tried("owner", chown(fd, uid, None))?;
        }
        if gid.is_some() {
            tried("group", chown(fd, None, gid))?;
        }
        if let Some(all) = &self.xattrs {
            tried("extended attributes", set_xattrs(fd, all))?;
        }
        let owner = stat(fd)?;
        let lacking_owner = self.uid.is_some_and(|uid| uid != owner.uid)
            || self.gid.is_some_and(|gid| gid != owner.gid);
        // Both before may take bits away.
        if let Some(mode) = self.mode.filter(|_| !is_link) {
            // Who is not the owner that was meant gets no rights of his.
            let mode = match lacking_owner {
                true => mode & !0o6000,
                false => mode,
            };
            if stat(fd)?.mode & 0o7777 != mode {
                let chmod = || fs::chmod(proc_path(fd), Mode::from_raw_mode(mode));
                tried("mode", chmod())?;
                if stat(fd)?.mode & 0o7777 != mode {
                    tried("mode", Err(Errno::PERM))?;
                }
            }
        }
        if self.atime.is_some() || self.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(self.atime),
                last_modification: timespec(self.mtime),
            };
            tried("times", fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH))?;
        }
        lacking.dedup();
        Ok(lacking)
    }
}

/// XFS shows root each ACL by a second name. That one would bring the old ACL back.
fn is_second(name: &[u8]) -> bool {
    name.starts_with(b"trusted.SGI_ACL_")
}

fn chown(fd: &OwnedFd, uid: Option<Uid>, gid: Option<Gid>) -> Result<()> {
    fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)
}

fn timespec(time: Option<(i64, u32)>) -> Timespec {
    let (tv_sec, tv_nsec) = time.map_or((0, UTIME_OMIT), |(sec, nsec)| (sec, nsec.into()));
    Timespec { tv_sec, tv_nsec }
}

/// Gives an inode these extended attributes and no others. It goes on after an error, and returns the first.
fn set_xattrs(fd: &OwnedFd, all: &[Xattr]) -> Result<()> {
    let path = proc_path(fd);
    let mut list = Vec::with_capacity(MAX_XATTR);
    match fs::listxattr(&*path, rustix::buffer::spare_capacity(&mut list)) {
        Err(Errno::OPNOTSUPP) if all.is_empty() => return Ok(()),
        listed => listed?,
    };
    let mut done = Ok(());
    let names = list.split(|byte| *byte == 0);
    for name in names.filter(|name| !name.is_empty() && !is_second(name)) {
        if !all.iter().any(|one| one.name == name) {
            done = done.and(fs::removexattr(&*path, std::ffi::OsStr::from_bytes(name)));
        }
    }
    for one in all {
        let name = std::ffi::OsStr::from_bytes(&one.name);
        let mut value = Vec::with_capacity(MAX_XATTR);
        let found = fs::getxattr(&*path, name, rustix::buffer::spare_capacity(&mut value));
        if found.is_err() || value != one.value {
            done = done.and(fs::setxattr(&*path, name, &one.value, XattrFlags::empty()));
        }
    }
    done
}
