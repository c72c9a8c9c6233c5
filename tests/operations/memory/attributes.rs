//! Attributes in memory, extended ones among them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use mmfs::actor::Actor;
use mmfs::attr::Attr;
use mmfs::request::{SetAttr, SetTime};
use mmfs::view::{Attributes, Xattrs};
use rustix::fs::{StatVfs, StatVfsMountFlags, XattrFlags};
use rustix::io::{Errno, Result};

use super::file::MemoryFile;
use super::{Contents, Memory};
use crate::inodes::{Ino, NAME_MAX, Stamp};

/// `XATTR_SIZE_MAX` of xattr(7), in bytes.
pub const LONGEST_VALUE: usize = 64 << 10;

/// The block size of statfs(2), in bytes.
pub const BLOCK: u64 = 4096;

impl Attributes for Memory {
    fn attr(&self, node: &Ino) -> Result<Attr> {
        self.called("attr", node)?;
        let contents = self.contents();
        let attr = contents.attr(*node)?;
        if let Some(open) = contents.open.get(node) {
            open.cache.seen(attr.stamp(), open.cache.changes());
        }
        Ok(attr)
    }

    fn set_attr(
        &self,
        by: &Actor,
        node: &Ino,
        open: Option<&MemoryFile>,
        set: &SetAttr,
    ) -> Result<()> {
        let way = open.map_or("by node", |_| "by handle");
        self.called("set_attr", format!("{node} {way}"))?;
        let keeps_bytes = set.size.is_none();
        self.change(*node, keeps_bytes, |contents| contents.set(by, *node, set))
    }

    fn statfs(&self, node: &Ino) -> Result<StatVfs> {
        self.called("statfs", node)?;
        let contents = self.contents();
        contents.inodes.get(*node)?;
        let free = contents.knobs.room.saturating_sub(contents.inodes.used()) / BLOCK;
        Ok(StatVfs {
            f_bsize: BLOCK,
            f_frsize: BLOCK,
            f_blocks: contents.knobs.room / BLOCK,
            f_bfree: free,
            f_bavail: free,
            f_files: contents.inodes.count(),
            f_ffree: 0,
            f_favail: 0,
            f_fsid: 0,
            f_flag: StatVfsMountFlags::empty(),
            f_namemax: NAME_MAX as u64,
        })
    }
}

impl Contents {
    fn set(&mut self, by: &Actor, ino: Ino, set: &SetAttr) -> Result<()> {
        if set.uid.is_some() || set.gid.is_some() {
            self.drop_setid(ino)?;
            self.inodes.change(ino, |inode| {
                inode.uid = set.uid.unwrap_or(inode.uid);
                inode.gid = set.gid.unwrap_or(inode.gid);
            })?;
        }
        if let Some(mode) = set.mode {
            self.inodes
                .change(ino, |inode| inode.mode = mode & 0o7777)?;
        }
        if let Some(size) = set.size {
            self.check_length(ino, size)?;
            self.inodes.resize(ino, size)?;
            if !by.is_root() {
                self.drop_setid(ino)?;
            }
        }
        self.set_times(ino, set)
    }

    fn set_times(&mut self, ino: Ino, set: &SetAttr) -> Result<()> {
        if set.atime.is_none() && set.mtime.is_none() {
            return Ok(());
        }
        let now = self.inodes.now();
        let given = |time| match time {
            SetTime::Now => now,
            SetTime::To(time) => (time.sec, time.nsec.into()),
        };
        self.inodes.change(ino, |inode| {
            inode.atime = set.atime.map_or(inode.atime, given);
            if let Some((seconds, nanoseconds)) = set.mtime.map(given) {
                inode.mtime = Stamp::Set(seconds, nanoseconds);
            }
        })
    }
}

impl Xattrs for Memory {
    fn xattr(&self, node: &Ino, name: &OsStr, room: usize) -> Result<Vec<u8>> {
        self.called("xattr", format!("{node} {}", name.to_string_lossy()))?;
        let contents = self.contents();
        match contents.inodes.xattr(*node, name.as_bytes())? {
            value if value.len() > room => Err(Errno::RANGE),
            value => Ok(value.to_vec()),
        }
    }

    fn xattr_len(&self, node: &Ino, name: &OsStr) -> Result<usize> {
        self.called("xattr_len", format!("{node} {}", name.to_string_lossy()))?;
        let contents = self.contents();
        let value = contents.inodes.xattr(*node, name.as_bytes())?;
        Ok(value.len())
    }

    fn xattr_names(&self, node: &Ino) -> Result<Vec<u8>> {
        self.called("xattr_names", node)?;
        let contents = self.contents();
        let names = contents.inodes.get(*node)?.xattrs.keys();
        Ok(names.flat_map(|name| [&name[..], &[0]].concat()).collect())
    }

    fn set_xattr(
        &self,
        _by: &Actor,
        node: &Ino,
        name: &OsStr,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        self.called("set_xattr", format!("{node} {}", name.to_string_lossy()))?;
        if name.len() > NAME_MAX {
            return Err(Errno::RANGE);
        }
        if value.len() > LONGEST_VALUE {
            return Err(Errno::TOOBIG);
        }
        let keeps_bytes = true;
        self.change(*node, keeps_bytes, |contents| {
            let inodes = &mut contents.inodes;
            inodes.set_xattr(*node, name.as_bytes(), value, flags)
        })
    }

    fn remove_xattr(&self, _by: &Actor, node: &Ino, name: &OsStr) -> Result<()> {
        self.called("remove_xattr", format!("{node} {}", name.to_string_lossy()))?;
        let keeps_bytes = true;
        self.change(*node, keeps_bytes, |contents| {
            contents.inodes.remove_xattr(*node, name.as_bytes())
        })
    }
}
