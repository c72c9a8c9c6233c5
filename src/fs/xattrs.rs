//! Extended attributes, including POSIX ACLs.

use super::Fs;
use crate::actor::Actor;
use crate::view::Tree;
use rustix::fs::XattrFlags;
use rustix::io::{Errno, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

impl<T: Tree> Fs<T> {
    /// The value of an attribute.
    ///
    /// # Errors
    /// ENODATA if there is no such attribute. ERANGE if its value is longer than `room` bytes. Those of getxattr(2).
    pub fn getxattr(&self, node: u64, name: &OsStr, room: usize) -> Result<Vec<u8>> {
        let value = self.tree.xattr(&self.nodes.get(node)?, name, room);
        value.map_err(|errno| without_acls(name, errno))
    }

    /// The length of an attribute's value in bytes.
    ///
    /// # Errors
    /// ENODATA if there is no such attribute. Those of getxattr(2).
    pub fn getxattr_size(&self, node: u64, name: &OsStr) -> Result<usize> {
        let len = self.tree.xattr_len(&self.nodes.get(node)?, name);
        len.map_err(|errno| without_acls(name, errno))
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// Those of setxattr(2).
    pub fn setxattr(
        &self,
        by: &Actor,
        node: u64,
        name: &OsStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        self.changing()?;
        let flags = XattrFlags::from_bits_retain(flags);
        self.tree
            .set_xattr(by, &self.nodes.get(node)?, name, value, flags)
    }

    /// The names of all attributes that the caller may see, each followed by a zero byte. Only root sees `trusted.*`.
    ///
    /// # Errors
    /// Those of listxattr(2).
    pub fn listxattr(&self, by: &Actor, node: u64) -> Result<Vec<u8>> {
        let list = self.tree.xattr_names(&self.nodes.get(node)?)?;
        if by.is_root() {
            return Ok(list);
        }
        let names = list.split_inclusive(|&byte| byte == 0);
        let shown = names.filter(|name| !name.starts_with(b"trusted."));
        Ok(shown.flatten().copied().collect())
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// ENODATA if there is no such attribute. Those of removexattr(2).
    pub fn removexattr(&self, by: &Actor, node: u64, name: &OsStr) -> Result<()> {
        self.changing()?;
        self.tree.remove_xattr(by, &self.nodes.get(node)?, name)
    }
}

/// ENODATA instead of EOPNOTSUPP for an ACL. The kernel reads ACLs to check a caller's permissions, and treats every errno but
/// ENODATA as a refusal. EOPNOTSUPP means that the source's filesystem has no ACLs.
fn without_acls(name: &OsStr, errno: Errno) -> Errno {
    match name.as_bytes().starts_with(b"system.posix_acl_") && errno == Errno::OPNOTSUPP {
        true => Errno::NODATA,
        false => errno,
    }
}
