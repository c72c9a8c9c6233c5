//! Renaming in a private view: one record, whatever lies below a directory.

use std::ffi::OsStr;

use rustix::fs::{FileType, RenameFlags};
use rustix::io::{Errno, Result};
use rustix::process::{getegid, geteuid};

use super::layers::{Layers, errno};
use super::names::{changed_at, dir_changed, made_by, new_node};
use super::node::Node;
use crate::attr::Time;
use crate::inode::Place;
use crate::store::{self, Change, NodeId};
use crate::view::{Found, Name};

impl Layers {
    /// renameat2(2). The caller holds the lock of names.
    pub fn rename(
        &self,
        from: Name<'_, Node>,
        to: Name<'_, Node>,
        flags: RenameFlags,
    ) -> Result<()> {
        let alone = RenameFlags::NOREPLACE | RenameFlags::WHITEOUT;
        if flags != RenameFlags::EXCHANGE && !alone.contains(flags) {
            return Err(Errno::INVAL);
        }
        let moved = self.lookup(from.0, from.1)?;
        let target = match self.lookup(to.0, to.1) {
            Err(Errno::NOENT) => None,
            found => Some(found?),
        };
        if flags.contains(RenameFlags::NOREPLACE) && target.is_some() {
            return Err(Errno::EXIST);
        }
        if target
            .as_ref()
            .is_some_and(|target| target.place == moved.place)
        {
            return Ok(());
        }
        let target_attr = self.attr(to.0)?;
        if target_attr.nlink == 0 {
            return Err(Errno::NOENT);
        }
        match (target, flags.contains(RenameFlags::EXCHANGE)) {
            (None, true) => Err(Errno::NOENT),
            (Some(target), true) => self.exchange((from, moved), (to, target)),
            (target, false) => {
                let leaves = flags.contains(RenameFlags::WHITEOUT);
                self.move_to((from, leaves), moved, to, target)
            }
        }
    }

    /// `leaves`: a whiteout has the old name afterwards.
    fn move_to(
        &self,
        (from, leaves): (Name<'_, Node>, bool),
        moved: Found<Node>,
        to: Name<'_, Node>,
        target: Option<Found<Node>>,
    ) -> Result<()> {
        let is_dir = moved.place.kind == FileType::Directory;
        let mut was_dir = false;
        if let Some(target) = &target {
            was_dir = target.place.kind == FileType::Directory;
            match (is_dir, was_dir) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) => self.must_be_empty(&target.place)?,
                (false, false) => {}
            }
        }
        let (old, new) = (self.adopt(from.0)?, self.adopt(to.0)?);
        let id = self.adopt(&moved.place)?;
        if is_dir {
            self.must_not_lie_in(new, id)?;
        }
        let now = Time::now();
        let replaces = target.is_some() && !is_dir;
        let mut changes = match leaves {
            true => self.whiteout(old, from.1, now),
            false => vec![self.unnamed(from.0, old, from.1)?],
        };
        changes.extend([
            self.named(new, to.1, Some(store::Name::Node(id)), replaces),
            changed_at(id, now),
            dir_changed(old, now),
            dir_changed(new, now),
        ]);
        if is_dir {
            changes.push(Change::Links(old, -1));
            changes.push(Change::Links(new, 1));
        }
        if was_dir {
            changes.push(Change::Links(new, -1));
        }
        let unlinked = match &target {
            Some(target) => self.unlinked(target, now)?,
            None => Default::default(),
        };
        changes.extend(unlinked.changes);
        self.store.change(changes).map_err(errno)?;
        if let Some(target) = target.filter(|_| unlinked.is_gone) {
            self.gone.lock().insert(target.place.key());
        }
        Ok(())
    }

    /// Gives a name to a new whiteout: a device with the number 0. As in the shared view, it belongs to who runs mmfs.
    fn whiteout(&self, directory: NodeId, name: &OsStr, now: Time) -> Vec<Change> {
        let id = self.store.new_number();
        let attributes = made_by(geteuid().as_raw(), getegid().as_raw(), now);
        let node = store::Node {
            links: 1,
            ..new_node(store::Kind::CharDevice, attributes)
        };
        vec![
            Change::Make(id, Box::new(node)),
            self.named(directory, name, Some(store::Name::Node(id)), false),
        ]
    }

    fn exchange(
        &self,
        one: (Name<'_, Node>, Found<Node>),
        other: (Name<'_, Node>, Found<Node>),
    ) -> Result<()> {
        let ((from, moved), (to, target)) = (one, other);
        let (old, new) = (self.adopt(from.0)?, self.adopt(to.0)?);
        let (first, second) = (self.adopt(&moved.place)?, self.adopt(&target.place)?);
        let is_dir = |found: &Found<Node>| found.place.kind == FileType::Directory;
        if is_dir(&moved) {
            self.must_not_lie_in(new, first)?;
        }
        if is_dir(&target) {
            self.must_not_lie_in(old, second)?;
        }
        let now = Time::now();
        let mut changes = vec![
            self.named(
                old,
                from.1,
                Some(store::Name::Node(second)),
                !is_dir(&target),
            ),
            self.named(new, to.1, Some(store::Name::Node(first)), !is_dir(&moved)),
            changed_at(first, now),
            changed_at(second, now),
            dir_changed(old, now),
            dir_changed(new, now),
        ];
        let more = i64::from(is_dir(&moved)) - i64::from(is_dir(&target));
        if more != 0 {
            changes.push(Change::Links(new, more));
            changes.push(Change::Links(old, -more));
        }
        self.store.change(changes).map_err(errno)
    }

    /// A directory is not moved below itself. The kernel has checked it for what it knows.
    fn must_not_lie_in(&self, directory: NodeId, moved: NodeId) -> Result<()> {
        let mut at = Some(directory);
        while let Some(id) = at {
            if id == moved {
                return Err(Errno::INVAL);
            }
            let stored = self.store.node(id).map_err(errno)?;
            at = stored.and_then(|node| node.place).map(|(parent, _)| parent);
        }
        Ok(())
    }
}
