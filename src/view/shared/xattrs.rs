//! Extended attributes of the source's inodes, POSIX ACLs among them.

use super::node::Node;
use super::view::Shared;
use crate::actor::Actor;
use crate::source::proc_path;
use crate::view::Xattrs;
use rustix::fs::{self as sys, XattrFlags};
use rustix::io::{Errno, Result};
use std::ffi::OsStr;

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of xattr(7), in bytes.
const MAX_VALUE: usize = 64 << 10;

impl Xattrs for Shared {
    fn xattr(&self, node: &Node, name: &OsStr, room: usize) -> Result<Vec<u8>> {
        let inode = self.locate(node)?;
        let mut value = Vec::with_capacity(room.min(MAX_VALUE));
        let space = rustix::buffer::spare_capacity(&mut value);
        sys::getxattr(proc_path(&inode), name, space)?;
        Ok(value)
    }

    fn xattr_len(&self, node: &Node, name: &OsStr) -> Result<usize> {
        let inode = self.locate(node)?;
        sys::getxattr_query(proc_path(&inode), name)
    }

    fn xattr_names(&self, node: &Node) -> Result<Vec<u8>> {
        let inode = self.locate(node)?;
        let mut list = Vec::with_capacity(1024);
        loop {
            match sys::listxattr(proc_path(&inode), rustix::buffer::spare_capacity(&mut list)) {
                Err(Errno::RANGE) if list.capacity() < MAX_VALUE => list.reserve(MAX_VALUE),
                outcome => return outcome.map(|_| list),
            }
        }
    }

    fn set_xattr(
        &self,
        by: &Actor,
        node: &Node,
        name: &OsStr,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        let inode = self.locate(node)?;
        let path = proc_path(&inode);
        match name == "system.posix_acl_access" {
            true => {
                by.set_acl(sys::fstat(&inode).map_or(u32::MAX, |s| s.st_gid))?;
                if let Some(mapping) = &inode.mapping {
                    mapping.before_permission_change();
                }
            }
            false => by.manage()?,
        }
        self.unchanged_in_bytes(node, &inode, || sys::setxattr(&path, name, value, flags))
    }

    fn remove_xattr(&self, by: &Actor, node: &Node, name: &OsStr) -> Result<()> {
        let inode = self.locate(node)?;
        by.manage()?;
        self.unchanged_in_bytes(node, &inode, || sys::removexattr(proc_path(&inode), name))
    }
}
