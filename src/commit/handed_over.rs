//! Data files of the store that become files of the source: nothing is copied.
//!
//! The data file gets a further name beside the source's files, and loses that in the store when the store forgets it. Until the steps
//! are recorded nothing of it is changed: its attributes are set by a step.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, CWD};
use rustix::io::{Errno, Result};

use super::bytes::has_all;
use crate::source::proc_path;
use crate::store::{Content, is_synced_as_a_whole};
use crate::view::private::{Changed, Unmounted};

/// Gives the data file of a file its name in a directory, if that has just the file's bytes. False: they have to be copied.
///
/// # Errors
/// Those of the store, or EEXIST.
pub fn is_handed_over(
    view: &Unmounted,
    one: &Changed,
    (directory, name): (&OwnedFd, &OsStr),
) -> io::Result<bool> {
    let Some(content) = view.content(one)? else {
        return Ok(false);
    };
    let data = view.data_file(one, &content)?;
    let Some(data) = data.as_ref().and_then(|file| file.descriptor()) else {
        return Ok(false);
    };
    if !(is_alone(data, &content)? && has_all(view, one, &content, data)?) {
        return Ok(false);
    }
    let from = proc_path(data);
    match fs::linkat(CWD, from, directory, name, AtFlags::SYMLINK_FOLLOW) {
        Err(Errno::EXIST) => Err(Errno::EXIST.into()),
        // Another filesystem, another quota, too many links.
        done => Ok(done.is_ok()),
    }
}

/// Whether a data file is as long as the file, and has no attributes that would come with it.
fn is_alone(data: BorrowedFd<'_>, content: &Content) -> Result<bool> {
    let stat = fs::fstat(data)?;
    let is_bare = matches!(
        fs::flistxattr(data, &mut [0_u8; 0][..]),
        Ok(0) | Err(Errno::OPNOTSUPP)
    );
    Ok(u64::try_from(stat.st_size) == Ok(content.size)
        && is_bare
        // Elsewhere names may be durable before attributes are.
        && is_synced_as_a_whole(data))
}
