//! POSIX ACLs, as extended attributes hold them (acl(5), linux/posix_acl_xattr.h): what the kernel does with them for a
//! filesystem of its own.

use rustix::io::{Errno, Result};

/// The attribute of an ACL that decides on access.
pub const ACCESS: &str = "system.posix_acl_access";
/// The attribute of an ACL that new files of a directory get.
pub const DEFAULT: &str = "system.posix_acl_default";

/// The ACLs, and the names by which the store knows those of an inode of the source as of its first change. Nobody else can use these
/// names.
pub const KNOWN: [(&str, &str); 2] = [
    (ACCESS, "mmfs.posix_acl_access"),
    (DEFAULT, "mmfs.posix_acl_default"),
];

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// An ACL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

impl Acl {
    /// The ACL of an attribute's value.
    ///
    /// # Errors
    /// EINVAL if it is none.
    pub fn parse(value: &[u8]) -> Result<Self> {
        let (version, entries) = value.split_first_chunk::<4>().ok_or(Errno::INVAL)?;
        if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
            return Err(Errno::INVAL);
        }
        let entry = |bytes: &[u8]| Entry {
            tag: u16::from_le_bytes([bytes[0], bytes[1]]),
            permissions: u16::from_le_bytes([bytes[2], bytes[3]]),
            id: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        };
        Ok(Self(entries.chunks_exact(8).map(entry).collect()))
    }

    /// The value of an attribute.
    pub fn value(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            value.extend(entry.tag.to_le_bytes());
            value.extend(entry.permissions.to_le_bytes());
            value.extend(entry.id.to_le_bytes());
        }
        value
    }

    fn of(&self, tag: u16) -> Option<u16> {
        let entry = self.0.iter().find(|entry| entry.tag == tag)?;
        Some(entry.permissions)
    }

    /// The nine permission bits that it stands for.
    pub fn mode(&self) -> u32 {
        let bits = |tag| u32::from(self.of(tag).unwrap_or(0) & 7);
        let group = if self.of(MASK).is_some() {
            bits(MASK)
        } else {
            bits(GROUP_OBJ)
        };
        bits(USER_OBJ) << 6 | group << 3 | bits(OTHER)
    }

    /// Whether it says no more than permission bits do.
    pub fn is_mode(&self) -> bool {
        self.0
            .iter()
            .all(|entry| matches!(entry.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    /// chmod(2): the bits go into the entries of owner, others, and mask or group.
    pub fn set_mode(&mut self, mode: u32) {
        let group = if self.of(MASK).is_some() {
            MASK
        } else {
            GROUP_OBJ
        };
        for entry in &mut self.0 {
            let bits = match entry.tag {
                USER_OBJ => mode >> 6,
                OTHER => mode,
                tag if tag == group => mode >> 3,
                _ => continue,
            };
            entry.permissions = (bits & 7) as u16;
        }
    }

    /// What a new inode with these permission bits gets from its directory's default ACL: it allows no more than both.
    pub fn inherited(&self, mode: &mut u32) -> Self {
        let mut acl = self.clone();
        let allowed = acl.mode() & *mode & 0o777;
        *mode = (*mode & !0o777) | allowed;
        acl.set_mode(allowed);
        acl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16)]) -> Acl {
        let entry = |&(tag, permissions): &(u16, u16)| Entry {
            tag,
            permissions,
            id: u32::MAX,
        };
        Acl(entries.iter().map(entry).collect())
    }

    #[test]
    fn a_new_file_is_allowed_what_both_allow() {
        let default = acl(&[
            (USER_OBJ, 7),
            (0x02, 6),
            (GROUP_OBJ, 5),
            (MASK, 6),
            (OTHER, 1),
        ]);
        let mut mode = 0o4765;
        let new = default.inherited(&mut mode);
        assert_eq!(mode, 0o4761);
        assert_eq!(new.of(MASK), Some(6));
        assert_eq!(new.of(GROUP_OBJ), Some(5));
        assert!(!new.is_mode());
    }

    #[test]
    fn bytes_are_an_acl_and_an_acl_is_bytes() {
        let one = acl(&[(USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 0)]);
        assert_eq!(Acl::parse(&one.value()), Ok(one.clone()));
        assert_eq!(one.mode(), 0o640);
        assert!(one.is_mode());
        assert_eq!(Acl::parse(b"\x02\0\0\0\x01"), Err(Errno::INVAL));
    }
}
