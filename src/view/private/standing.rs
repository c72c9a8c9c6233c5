//! What a change of names rests on. It is worked out while others change names, too, and looked at once more when it is recorded. So
//! the source is asked with no lock held: one that does not answer holds up its own clients only.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::{Errno, Result};

use super::layers::{Layers, errno, to_store};
use super::node::Node;
use crate::attr::Time;
use crate::store::{self, Attributes as Overrides, Change, NodeId};
use crate::view::Found;

/// How often a change is worked out, if others change what it rests on.
const MAX_TRIES: usize = 64;

/// Works out and records a change until `work` says that it is recorded.
///
/// # Errors
/// Those of `work`. EBUSY if others were first each time.
pub(super) fn until_recorded(work: impl Fn() -> Result<bool>) -> Result<()> {
    for tried in 0..MAX_TRIES {
        if work()? {
            return Ok(());
        }
        // Each time somebody else was faster. He may be so for long, if nobody lets anybody go first.
        std::thread::sleep(Duration::from_micros(tried as u64 * 20));
    }
    Err(Errno::BUSY)
}

/// A change of a directory's times, because its names change.
pub(super) fn dir_changed(directory: NodeId, now: Time) -> Change {
    let now = Some(to_store(now));
    let over = Overrides {
        mtime: now,
        ctime: now,
        ..Overrides::default()
    };
    Change::Attributes(directory, over)
}

/// A change of an inode's time of change.
pub(super) fn changed_at(id: NodeId, now: Time) -> Change {
    let over = Overrides {
        ctime: Some(to_store(now)),
        ..Overrides::default()
    };
    Change::Attributes(id, over)
}

/// An inode that is about to lose a name.
pub(super) struct Victim {
    pub place: Node,
    id: Option<NodeId>,
    /// What the store adds to its count of links.
    links: Option<i64>,
    nlink: u32,
    /// How many names had been made when it was found empty, if it is a directory.
    made: u64,
}

/// What becomes of an inode that loses a name.
#[derive(Default)]
pub(super) struct Unlinked {
    pub changes: Vec<Change>,
    /// It is an unchanged inode of the source, and this was its last name.
    pub is_gone: bool,
}

impl Layers {
    /// What there is to know of an inode that is about to lose the name by which it was found.
    ///
    /// # Errors
    /// ENOTEMPTY for a directory with names.
    pub fn victim(&self, found: &Found<Node>) -> Result<Victim> {
        let place = found.place.clone();
        let made = self.made.load(Relaxed);
        if place.kind == FileType::Directory {
            self.must_be_empty(&place)?;
        } else if found.attr.nlink > 1 {
            self.adopt(&place)?;
        }
        let id = self.id(&place)?;
        let links = self.links(id)?;
        // After the store's part, which is compared when the change is recorded.
        let nlink = self
            .attr(&place)
            .map_or(found.attr.nlink, |attr| attr.nlink);
        Ok(Victim {
            place,
            id,
            links,
            nlink,
            made,
        })
    }

    fn links(&self, id: Option<NodeId>) -> Result<Option<i64>> {
        let stored = id.map(|id| self.stored(id)).transpose()?;
        Ok(stored.map(|stored| stored.links))
    }

    /// What to record of an inode that loses a name. None: others have changed it. The caller holds the lock of recording.
    ///
    /// # Errors
    /// ENOTEMPTY for a directory in which something was made since.
    pub fn unlinked(&self, victim: &Victim, now: Time) -> Result<Option<Unlinked>> {
        let id = self.id(&victim.place)?;
        if id != victim.id || self.links(id)? != victim.links {
            return Ok(None);
        }
        let is_dir = victim.place.kind == FileType::Directory;
        let is_last = is_dir || victim.nlink <= 1;
        let Some(id) = id else {
            // Nothing of it need be recorded: the name is hidden.
            let is_gone = Unlinked {
                changes: Vec::new(),
                is_gone: true,
            };
            return Ok(is_last.then_some(is_gone));
        };
        if is_dir && victim.made != self.made.load(Relaxed) {
            self.must_have_no_names(id)?;
        }
        let less = match is_dir {
            true => -i64::from(victim.nlink),
            false => -1,
        };
        let mut changes = vec![Change::Links(id, less), changed_at(id, now)];
        if is_last {
            self.freeing.soon();
            self.conflicts.remove(id);
            changes.push(Change::Orphan(id, true));
        }
        Ok(Some(Unlinked {
            changes,
            is_gone: false,
        }))
    }

    /// Whether a name of a directory still leads to what was found. The caller holds the lock of recording.
    pub fn still_leads(
        &self,
        directory: NodeId,
        name: &OsStr,
        found: Option<&Node>,
    ) -> Result<bool> {
        let leads = self.store.name(directory, name.as_bytes()).map_err(errno)?;
        Ok(match (found, leads) {
            (None, leads) => !matches!(leads, Some(store::Name::Node(_))),
            (Some(_), Some(store::Name::Hidden)) => false,
            (Some(found), Some(store::Name::Node(id))) => self.id(found)? == Some(id),
            (Some(found), None) => found.source().is_some(),
        })
    }

    /// Checks that a directory was not removed. The caller holds the lock of recording.
    pub fn must_be_there(&self, directory: NodeId) -> Result<()> {
        match self.store.is_orphan(directory).map_err(errno)? {
            true => Err(Errno::NOENT),
            false => Ok(()),
        }
    }

    /// Checks that the store has no names in a directory.
    pub fn must_have_no_names(&self, directory: NodeId) -> Result<()> {
        let mut last = Vec::new();
        loop {
            let names = self.store.names(directory, &last, 256).map_err(errno)?;
            let Some((name, _)) = names.last() else {
                return Ok(());
            };
            last.clone_from(name);
            if names.iter().any(|(_, leads)| *leads != store::Name::Hidden) {
                return Err(Errno::NOTEMPTY);
            }
        }
    }

    /// Records names that lead somewhere. The caller holds the lock of recording.
    pub fn record_made(&self, changes: Vec<Change>) -> Result<()> {
        self.store.change(changes).map_err(errno)?;
        self.made.fetch_add(1, Relaxed);
        Ok(())
    }
}
