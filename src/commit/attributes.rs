//! The attributes that a view gives an inode.

use rustix::io::Result;

use super::settings::{Settings, time};
use crate::view::private::{Changed, Unmounted};

/// All attributes that the view shows.
pub fn all_settings(view: &Unmounted, one: &Changed) -> Result<Settings> {
    let attr = &one.attr;
    Ok(Settings {
        mode: Some(attr.mode & 0o7777),
        uid: Some(attr.uid),
        gid: Some(attr.gid),
        atime: Some(time(attr.atime)),
        mtime: Some(time(attr.mtime)),
        xattrs: Some(Settings::all_xattrs(view.xattrs(one)?)),
    })
}

/// Attributes that the view has for itself.
pub fn own_settings(view: &Unmounted, one: &Changed) -> Result<Settings> {
    let own = view.overrides(one)?;
    let xattrs = match view.has_xattrs(one)? {
        true => Some(Settings::all_xattrs(view.xattrs(one)?)),
        false => None,
    };
    Ok(Settings {
        mode: own.mode,
        uid: own.uid,
        gid: own.gid,
        atime: own.atime.map(time),
        mtime: own.mtime.map(time),
        xattrs,
    })
}
