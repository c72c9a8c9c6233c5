//! suid and sgid.

use crate::attr::Attr;
use crate::store::Attributes as Overrides;

pub(super) const SUID: u32 = 0o4000;
pub(super) const SGID: u32 = 0o2000;

/// The mode after a change that takes suid and sgid away (`setattr_should_drop_suidgid` of Linux). `in_group`: the user may keep
/// sgid.
pub(super) fn stripped(mode: u32, in_group: bool) -> u32 {
    let executable = mode & 0o010 != 0;
    let sgid = if executable || !in_group { SGID } else { 0 };
    mode & !(SUID | sgid)
}

/// suid and sgid count together with the owner that they were given with.
pub(super) fn with_owner(over: &mut Overrides, attr: &Attr) {
    if !attr.is_dir() && over.mode.is_some_and(|mode| mode & (SUID | SGID) != 0) {
        over.uid.get_or_insert(attr.uid);
        over.gid.get_or_insert(attr.gid);
    }
}
