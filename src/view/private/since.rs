//! Since when a name of the view hides what the source has there, and whether the source has changed that afterwards.

use rustix::io::Result;
use rustix::time::{ClockId, clock_gettime};

use super::layers::{Layers, errno, to_store};
use crate::attr::Attr;
use crate::difference::{Difference, Kind};
use crate::store::{self, NodeId};

/// Nanoseconds. The kernel stamps files by a clock that moves with its ticks, 100 to 1,000 times a second. So a change may bear a time
/// before the one of a name that was recorded up to a tick earlier.
const TICK: i128 = 10_000_000;

/// Now. Not by the clock that stamps files: that one stands still between two ticks.
pub(super) fn precise_now() -> store::Time {
    let now = clock_gettime(ClockId::Realtime);
    store::Time {
        seconds: now.tv_sec,
        nanoseconds: now.tv_nsec as u32,
    }
}

fn nanoseconds(time: store::Time) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)
}

/// Whether an inode of the source was changed since. No: nobody knows since when. A time of modification in the future was set by
/// somebody, and only the time of change tells when.
pub(super) fn is_later(attr: &Attr, since: Option<store::Time>) -> bool {
    let Some(since) = since.map(nanoseconds) else {
        return false;
    };
    let (modified, changed) = (to_store(attr.mtime), to_store(attr.ctime));
    let is_after = |time| nanoseconds(time) > since - TICK;
    // A commit of other changes moves the time of change of directories, and of files with several names. It puts times of modification back.
    let counts = !attr.is_dir() && attr.nlink < 2;
    counts && is_after(changed) || is_after(modified) && modified <= precise_now()
}

/// The source's entry in a directory that another one of the source stands for is changed as well as what the view shows there: of two
/// lines for one path, one is left. They are sorted.
pub(super) fn merge_conflicts(found: &mut Vec<Difference>) {
    found.dedup_by(|other, one| {
        let is_conflict = [&*one, &*other].map(|of| of.kind == Kind::Conflict);
        let is_one = one.path == other.path
            && one.now.is_some()
            && other.now.is_some()
            && is_conflict != [false; 2];
        if is_one {
            // The other one may know more.
            if one.from.is_none() && one.ranges.is_empty() {
                std::mem::swap(one, other);
            }
            one.kind = Kind::Conflict;
        }
        is_one
    });
}

impl Layers {
    /// Since when a name hides the source's. `directory`: since when the whole directory does.
    pub fn hidden_since(
        &self,
        directory: Option<store::Time>,
        id: NodeId,
        name: &[u8],
    ) -> Result<Option<store::Time>> {
        match directory {
            None => self.store.hidden_since(id, name).map_err(errno),
            since => Ok(since),
        }
    }

    /// Since when a name was removed in a directory that was removed later. None: the store knows no more than that.
    pub fn removed_since(&self, id: Option<NodeId>, name: &[u8]) -> Result<Option<store::Time>> {
        let since = id.map(|id| self.store.hidden_since(id, name));
        since.transpose().map(Option::flatten).map_err(errno)
    }
}
