//! Renaming in a private view: one record, whatever lies below a directory.

use std::collections::HashSet;
use std::ffi::OsStr;

use rustix::fs::{FileType, RenameFlags};
use rustix::io::{Errno, Result};
use rustix::process::{getegid, geteuid};

use super::layers::{Layers, errno};
use super::names::{made_by, new_node};
use super::node::Node;
use super::standing::{Victim, changed_at, dir_changed};
use crate::attr::Time;
use crate::inode::Place;
use crate::store::{self, Change, NodeId};
use crate::view::{Found, Name};

impl Layers {
    /// renameat2(2). False: others have changed what a name leads to.
    pub fn rename(
        &self,
        from: Name<'_, Node>,
        to: Name<'_, Node>,
        flags: RenameFlags,
    ) -> Result<bool> {
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
            return Ok(true);
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
    ) -> Result<bool> {
        let is_dir = moved.place.kind == FileType::Directory;
        let mut was_dir = false;
        if let Some(target) = &target {
            was_dir = target.place.kind == FileType::Directory;
            match (is_dir, was_dir) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) | (false, false) => {}
            }
        }
        let victim = target.map(|target| self.victim(&target)).transpose()?;
        let (old, new) = (self.adopt(from.0)?, self.adopt(to.0)?);
        let id = self.adopt(&moved.place)?;
        let now = Time::now();
        let replaces = victim.is_some() && !is_dir;
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
        let _recording = self.recording.lock();
        self.must_be_there(new)?;
        if is_dir {
            self.must_not_lie_in(new, id)?;
        }
        let leads = |victim: &Victim| victim.place.clone();
        if !self.still_leads(old, from.1, Some(&moved.place))?
            || !self.still_leads(new, to.1, victim.as_ref().map(leads).as_ref())?
        {
            return Ok(false);
        }
        let mut is_gone = false;
        if let Some(victim) = &victim {
            let Some(unlinked) = self.unlinked(victim, now)? else {
                return Ok(false);
            };
            changes.extend(unlinked.changes);
            is_gone = unlinked.is_gone;
        }
        self.record_made(changes)?;
        if let Some(victim) = victim.filter(|_| is_gone) {
            self.gone.lock().insert(victim.place.key());
        }
        Ok(true)
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
    ) -> Result<bool> {
        let ((from, moved), (to, target)) = (one, other);
        let (old, new) = (self.adopt(from.0)?, self.adopt(to.0)?);
        let (first, second) = (self.adopt(&moved.place)?, self.adopt(&target.place)?);
        let is_dir = |found: &Found<Node>| found.place.kind == FileType::Directory;
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
        let _recording = self.recording.lock();
        self.must_be_there(old)?;
        self.must_be_there(new)?;
        if is_dir(&moved) {
            self.must_not_lie_in(new, first)?;
        }
        if is_dir(&target) {
            self.must_not_lie_in(old, second)?;
        }
        if !self.still_leads(old, from.1, Some(&moved.place))?
            || !self.still_leads(new, to.1, Some(&target.place))?
        {
            return Ok(false);
        }
        self.record_made(changes)?;
        Ok(true)
    }

    /// A directory is not moved below itself. The kernel has checked it for what it knows.
    fn must_not_lie_in(&self, directory: NodeId, moved: NodeId) -> Result<()> {
        let mut at = Some(directory);
        let mut passed = HashSet::new();
        while let Some(id) = at {
            if id == moved {
                return Err(Errno::INVAL);
            }
            // In a store that mmfs has not written, directories may lie in each other.
            if !passed.insert(id) {
                return Err(Errno::LOOP);
            }
            let stored = self.store.node(id).map_err(errno)?;
            at = stored.and_then(|node| node.place).map(|(parent, _)| parent);
        }
        Ok(())
    }
}
