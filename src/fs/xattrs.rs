//! Extended attributes, POSIX ACLs among them.

use super::{Asker, Fs};
use crate::source::proc_path;
use crate::sys::identity;
use rustix::fs::{self as sys, XattrFlags};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of xattr(7), in bytes.
const LONGEST: usize = 64 << 10;

impl Fs {
    /// The value of an attribute.
    ///
    /// # Errors
    /// ENODATA when there is none; ERANGE when it is longer than `room`; those of getxattr(2).
    pub fn getxattr(&self, node: u64, name: &OsStr, room: usize) -> Result<Vec<u8>> {
        let inode = self.inodes.locate(node)?;
        let mut value = Vec::with_capacity(room.min(LONGEST));
        let space = rustix::buffer::spare_capacity(&mut value);
        sys::getxattr(proc_path(&inode), name, space).map_err(|e| no_acl(name, e))?;
        Ok(value)
    }

    /// The length of an attribute's value in bytes.
    ///
    /// # Errors
    /// ENODATA when there is none; those of getxattr(2).
    pub fn getxattr_size(&self, node: u64, name: &OsStr) -> Result<usize> {
        let inode = self.inodes.locate(node)?;
        sys::getxattr_query(proc_path(&inode), name).map_err(|e| no_acl(name, e))
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// Those of setxattr(2).
    pub fn setxattr(
        &self,
        asker: &Asker,
        node: u64,
        name: &OsStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        let inode = self.inodes.locate(node)?;
        let flags = XattrFlags::from_bits_retain(flags);
        let path = proc_path(&inode);
        let keeps_setid = name != "system.posix_acl_access" || self.keeps_sgid(asker, &inode);
        identity::act_for(asker.caller, keeps_setid)?;
        self.unchanged_in_bytes(node, &inode, || sys::setxattr(&path, name, value, flags))
    }

    /// Whether the sgid bit survives a new ACL: for root and for members of the file's group.
    fn keeps_sgid(&self, asker: &Asker, inode: &crate::inode::Located) -> bool {
        let group = sys::fstat(&inode.fd).map_or(u32::MAX, |s| s.st_gid);
        asker.keeps_setid()
            || asker.caller.gid == group
            || supplementary_groups(asker.pid).contains(&group)
    }

    /// The names of all attributes the caller may see, each followed by a zero byte.
    ///
    /// # Errors
    /// Those of listxattr(2).
    pub fn listxattr(&self, asker: &Asker, node: u64) -> Result<Vec<u8>> {
        let inode = self.inodes.locate(node)?;
        let mut list = Vec::with_capacity(1024);
        loop {
            match sys::listxattr(proc_path(&inode), rustix::buffer::spare_capacity(&mut list)) {
                Err(Errno::RANGE) if list.capacity() < LONGEST => list.reserve(LONGEST),
                outcome => break outcome.map(drop)?,
            }
        }
        if asker.caller.uid != 0 {
            list = list
                .split_inclusive(|&b| b == 0)
                .filter(|n| !n.starts_with(b"trusted."))
                .flatten()
                .copied()
                .collect();
        }
        Ok(list)
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// ENODATA when there is none; those of removexattr(2).
    pub fn removexattr(&self, asker: &Asker, node: u64, name: &OsStr) -> Result<()> {
        let inode = self.inodes.locate(node)?;
        identity::act_for(asker.caller, true)?;
        self.unchanged_in_bytes(node, &inode, || sys::removexattr(proc_path(&inode), name))
    }
}

/// A source without ACLs has none on this file: the kernel takes any other answer for a reason to refuse
/// whoever's permissions it is about to check.
fn no_acl(name: &OsStr, errno: Errno) -> Errno {
    match name.as_bytes().starts_with(b"system.posix_acl_") && errno == Errno::OPNOTSUPP {
        true => Errno::NODATA,
        false => errno,
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
