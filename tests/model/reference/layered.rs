//! A private view that is obviously right: the source and what is shown of it are two references. After each command, what it has
//! changed in the view is noted as the view's own. After each change of the source, all else is copied from the source again.

use std::collections::{BTreeMap, BTreeSet};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::super::Filesystem;
use super::super::command::{Answer, Bytes as Content, Command, Outcome, Place};
use super::super::inodes::bytes::PAGE;
use super::super::inodes::{Body, Ino, Inode, Inodes, ROOT};
use super::super::tree::Tree;
use super::Reference;
use super::stored::{Bytes, Edit, State};

/// What a page that cannot be read looks like.
pub const UNREADABLE: [u8; PAGE] = [0xee; PAGE];

pub struct Layered {
    source: Reference,
    view: Reference,
    /// By the view's inode: those of the source that the view has changed.
    changed: BTreeMap<Ino, Changed>,
    /// From the source's inode to the view's: those that the view has not changed.
    plain: BTreeMap<Ino, Ino>,
}

/// What the view has of an inode of the source.
struct Changed {
    origin: Ino,
    /// Where it was in the source when it was first changed.
    way: Vec<Vec<u8>>,
    /// It is not there any more.
    is_lost: bool,
    /// What it was when it was first changed.
    known: Inode,
    has_mode: bool,
    has_mtime: bool,
    xattrs: BTreeSet<Vec<u8>>,
    /// Names of a directory: whether something is shown under them.
    names: BTreeMap<Vec<u8>, bool>,
    more_links: i64,
    bytes: Bytes,
}

impl Layered {
    /// A view of this source, with no changes.
    pub fn over(source: Reference) -> Self {
        let mut this = Self {
            source,
            view: Reference::new(),
            changed: BTreeMap::new(),
            plain: BTreeMap::from([(ROOT, ROOT)]),
        };
        this.adopt(ROOT);
        this.refresh();
        this
    }

    pub fn into_source(self) -> Reference {
        self.source
    }

    /// What the source is now.
    pub fn source_tree(&self) -> Result<Tree, String> {
        self.source.tree()
    }

    /// How many inodes the view has that the source has lost, and how many files whose pages from the source cannot be read.
    pub fn conflicts(&self) -> (usize, usize) {
        let lost = self.changed.values().filter(|one| one.is_lost).count();
        let is_stopped = |ino: &&Ino| {
            let bytes = self.bytes(**ino);
            let len = self.view.inodes.size(**ino) as usize;
            self.is_stopped(**ino) && bytes.are_below(0, len)
        };
        (lost, self.changed.keys().filter(is_stopped).count())
    }

    fn behind(&mut self, command: &Command) -> Outcome {
        if self.is_unclear(command) {
            return Ok(Answer::Skipped);
        }
        let outcome = self.source.apply(command);
        self.refresh();
        outcome
    }

    /// Whether it matters what the kernel knows, or by which of its names an inode was changed.
    fn is_unclear(&self, command: &Command) -> bool {
        let at = |path: &Place, follow| self.source.existing(path, follow).ok();
        let (touched, loses_name, arrives): (Vec<Option<Ino>>, bool, Option<&Place>) = match command
        {
            Command::WriteFile { path, .. }
            | Command::Truncate { path, .. }
            | Command::Touch { path, .. }
            | Command::Chmod { path, .. } => (vec![at(path, true)], false, None),
            Command::Unlink { path } | Command::Rmdir { path } | Command::Replace { path, .. } => {
                (vec![at(path, false)], true, None)
            }
            Command::Rename { from, to, .. } => {
                (vec![at(from, false), at(to, false)], true, Some(to))
            }
            Command::Link { from, to } => (vec![at(from, false)], false, Some(to)),
            Command::Mkdir { .. } => (vec![], false, None),
            _ => return true,
        };
        let is_held = |source: &Ino| {
            let mut held = self.view.handles.iter().flatten();
            held.any(|handle| self.origin(handle.ino) == Some(*source))
        };
        let is_dir = |ino: &Ino| self.source.inodes.is_dir(*ino);
        let has_links = |ino: &Ino| {
            self.source
                .inodes
                .get(*ino)
                .is_ok_and(|inode| inode.links > 1)
        };
        let holds_dir = || {
            let mut held = self.view.handles.iter().flatten();
            held.any(|handle| self.view.inodes.is_dir(handle.ino))
        };
        let is_same_size = match command {
            Command::Truncate { path, len } => at(path, true).is_some_and(|ino| {
                len.in_file_of(self.source.inodes.size(ino)) == self.source.inodes.size(ino)
            }),
            _ => false,
        };
        // Filesystems differ in whether it is a change.
        if is_same_size || matches!(command, Command::Mkdir { .. }) && holds_dir() {
            return true;
        }
        let mut touched = touched.into_iter().flatten();
        let holds_any = || self.view.handles.iter().flatten().next().is_some();
        let linked = || self.changed.values().any(|one| has_links(&one.origin));
        touched.any(|ino| {
            is_held(&ino)
                || loses_name && is_dir(&ino) && (holds_any() || linked())
                || loses_name
                    && has_links(&ino)
                    && self.changed.values().any(|one| one.origin == ino)
        }) || arrives.is_some_and(|place| self.is_own_name(place))
    }

    /// Whether the view shows something of its own here.
    fn is_own_name(&self, place: &Place) -> bool {
        let Ok(found) = self.source.locate(place, false) else {
            return false;
        };
        let dir = self.changed.values().find(|one| one.origin == found.dir);
        dir.is_some_and(|one| one.names.get(&found.name) == Some(&true))
    }

    /// The source's inode of one of the view's.
    fn origin(&self, ino: Ino) -> Option<Ino> {
        let plain = self.plain.iter().find(|(_, shown)| **shown == ino);
        let changed = self.changed.get(&ino).map(|one| one.origin);
        changed.or(plain.map(|(source, _)| *source))
    }

    /// Whether pages of the file that come from the source cannot be read.
    fn is_stopped(&self, ino: Ino) -> bool {
        let Some(one) = self.changed.get(&ino) else {
            return false;
        };
        match &one.bytes {
            Bytes::Follow => one.is_lost,
            Bytes::Stored(stored) => {
                one.is_lost || stored.state != State::of(&self.source, one.origin)
            }
        }
    }

    fn bytes(&self, ino: Ino) -> Bytes {
        let one = self.changed.get(&ino);
        one.map_or(Bytes::Follow, |one| one.bytes.clone())
    }

    /// Of a command on a file that is stopped: what it must come to, if it is not what a filesystem says.
    fn stopped(&self, command: &Command) -> Option<Outcome> {
        let len = |ino: Ino| self.view.inodes.size(ino) as usize;
        if let Some((ino, start, end)) = self.view.span_of(command) {
            if self.is_stopped(ino) && self.bytes(ino).are_below(start, end.min(len(ino))) {
                return Some(match command {
                    // EBADF comes first.
                    Command::Read { slot, .. } if !self.may_read(*slot) => return None,
                    Command::Read { .. } => Err(Errno::IO.raw_os_error()),
                    _ => Ok(Answer::Skipped),
                });
            }
        }
        let (ino, edit) = self.view.edit_of(command)?;
        let is_clear = match edit {
            Edit::Resize(0) => true,
            Edit::Resize(_) => matches!(self.bytes(ino), Bytes::Stored(_)) || len(ino) == 0,
            Edit::Write(start, end) | Edit::Zero(start, end, _) => {
                let bytes = self.bytes(ino);
                bytes.is_whole(len(ino))
                    || matches!(bytes, Bytes::Stored(_)) && !bytes.are_below(start, end)
            }
        };
        (self.is_stopped(ino) && !is_clear).then_some(Ok(Answer::Skipped))
    }

    fn may_read(&self, slot: usize) -> bool {
        let handle = &self.view.handles[slot];
        handle.is_some_and(|handle| handle.flags & OFlags::RWMODE != OFlags::WRONLY)
    }

    fn note(
        &mut self,
        before: &Inodes,
        edit: Option<(Ino, Edit)>,
        command: &Command,
        outcome: &Outcome,
    ) {
        // A replacement that fails has made a file and removed it again.
        if outcome.is_err() && !matches!(command, Command::Replace { .. }) {
            return;
        }
        let all: Vec<Ino> = self.view.inodes.all().collect();
        let after = |this: &Self, ino: Ino| this.view.inodes.get(ino).ok().cloned();
        // First the inodes, so that each directory is there when a name in it is noted.
        for ino in &all {
            let (Some(now), Ok(was)) = (after(self, *ino), before.get(*ino)) else {
                continue;
            };
            let lives = now.links > 0 || now.links != was.links && was.links > 1;
            if now.changed != was.changed && lives {
                self.adopt(*ino);
            }
            if let (Body::Directory(now), Body::Directory(was)) = (&now.body, &was.body) {
                for (name, child) in now {
                    if was.get(name) != Some(child) {
                        self.adopt(*child);
                    }
                }
            }
        }
        for ino in &all {
            if let (Some(now), Ok(was)) = (after(self, *ino), before.get(*ino)) {
                self.note_inode(*ino, was, &now);
            }
        }
        if let Some((ino, edit)) = edit {
            let state = self.changed.get(&ino);
            let state = state.map(|one| State::of(&self.source, one.origin));
            let len = before.size(ino) as usize;
            if let (Some(one), Some(state)) = (self.changed.get_mut(&ino), state) {
                one.bytes.edit(edit, len, state);
                one.has_mtime |= matches!(one.bytes, Bytes::Stored(_));
            }
        }
        if let Command::SetXattr { path, name, .. } | Command::RemoveXattr { path, name } = command
        {
            let ino = self.view.existing(path, true).ok();
            if let Some(one) = ino.and_then(|ino| self.changed.get_mut(&ino)) {
                one.xattrs.insert(name.as_bytes().to_vec());
            }
        }
        let view = &self.view.inodes;
        self.changed.retain(|ino, _| view.get(*ino).is_ok());
        self.plain.retain(|_, ino| view.get(*ino).is_ok());
    }

    fn note_inode(&mut self, ino: Ino, was: &Inode, now: &Inode) {
        let below: BTreeSet<Vec<u8>> = match self.changed.get(&ino) {
            Some(one) if !one.is_lost => match self.source.inodes.entries(one.origin) {
                Ok(entries) => entries.keys().cloned().collect(),
                Err(_) => BTreeSet::new(),
            },
            _ => BTreeSet::new(),
        };
        let Some(one) = self.changed.get_mut(&ino) else {
            return;
        };
        one.has_mode |= was.mode != now.mode;
        let is_dir = matches!(now.body, Body::Directory(_));
        let is_touched = format!("{:?}", was.mtime) != format!("{:?}", now.mtime);
        one.has_mtime |= is_touched || is_dir && was.modified != now.modified;
        if let (Body::Directory(now), Body::Directory(was)) = (&now.body, &was.body) {
            for name in now.keys().chain(was.keys()) {
                match now.get(name) {
                    Some(child) if was.get(name) != Some(child) => {
                        one.names.insert(name.clone(), true);
                    }
                    None if below.contains(name) => _ = one.names.insert(name.clone(), false),
                    None => _ = one.names.remove(name),
                    Some(_) => {}
                }
            }
        } else {
            one.more_links += i64::from(now.links) - i64::from(was.links);
        }
    }

    /// The view has changed an inode of the source for the first time.
    fn adopt(&mut self, ino: Ino) {
        let plain = self.plain.iter().find(|(_, shown)| **shown == ino);
        let Some(origin) = plain.map(|(source, _)| *source) else {
            return;
        };
        self.plain.remove(&origin);
        let way = self.way(origin);
        if let Some((name, above)) = way.split_last() {
            let dir = self.walk(above).and_then(|dir| self.shown(dir));
            if let Some(dir) = dir {
                self.adopt(dir);
                if let Some(dir) = self.changed.get_mut(&dir) {
                    dir.names.entry(name.clone()).or_insert(true);
                }
            }
        }
        let Ok(known) = self.source.inodes.get(origin).cloned() else {
            return;
        };
        let one = Changed {
            origin,
            way,
            is_lost: false,
            known,
            has_mode: false,
            has_mtime: false,
            xattrs: BTreeSet::new(),
            names: BTreeMap::new(),
            more_links: 0,
            bytes: Bytes::Follow,
        };
        self.changed.insert(ino, one);
    }

    /// The view's inode for one of the source's.
    fn shown(&self, source: Ino) -> Option<Ino> {
        let is_it = |one: &&(&Ino, &Changed)| one.1.origin == source && !one.1.is_lost;
        let changed = self.changed.iter().find(|one| is_it(&one));
        let changed = changed.map(|(ino, _)| *ino);
        changed.or_else(|| self.plain.get(&source).copied())
    }

    /// The names from the source's root to an inode.
    fn way(&self, to: Ino) -> Vec<Vec<u8>> {
        fn find(inodes: &Inodes, at: Ino, to: Ino, way: &mut Vec<Vec<u8>>) -> bool {
            at == to
                || inodes.entries(at).is_ok_and(|entries| {
                    entries.iter().any(|(name, child)| {
                        way.push(name.clone());
                        let found = find(inodes, *child, to, way);
                        if !found {
                            way.pop();
                        }
                        found
                    })
                })
        }
        let mut way = Vec::new();
        find(&self.source.inodes, ROOT, to, &mut way);
        way
    }

    fn walk(&self, way: &[Vec<u8>]) -> Option<Ino> {
        way.iter().try_fold(ROOT, |at, name| {
            self.source.inodes.entries(at).ok()?.get(name).copied()
        })
    }

    /// Copies from the source what the view has not changed.
    fn refresh(&mut self) {
        let inos: Vec<Ino> = self.changed.keys().copied().collect();
        for ino in &inos {
            let one = &self.changed[ino];
            let now = self.walk(&one.way);
            let is_dir = |at: Ino| self.source.inodes.is_dir(at);
            // Directories merge by name. A file of the same name is another file.
            let is_there = now.filter(|now| {
                *now == one.origin || is_dir(*now) && matches!(one.known.body, Body::Directory(_))
            });
            if let Some(one) = self.changed.get_mut(ino) {
                one.is_lost = is_there.is_none();
                one.origin = is_there.unwrap_or(one.origin);
            }
        }
        let claimed: Vec<Ino> = self
            .changed
            .values()
            .filter(|one| !one.is_lost)
            .map(|one| one.origin)
            .collect();
        self.plain.retain(|source, _| !claimed.contains(source));
        for ino in inos {
            self.copy_changed(ino);
        }
        self.merge(ROOT);
    }

    /// Shows in a directory what the source has there now.
    fn merge(&mut self, dir: Ino) {
        let mut entries = match self.view.inodes.entries(dir) {
            Ok(entries) => entries.clone(),
            Err(_) => return,
        };
        let source = match self.changed.get(&dir) {
            Some(one) => {
                entries.retain(|name, _| one.names.get(name) == Some(&true));
                (!one.is_lost).then_some(one.origin)
            }
            None => {
                let source = self.origin(dir);
                if source.is_some() {
                    entries.clear();
                }
                source
            }
        };
        let below = source.and_then(|source| self.source.inodes.entries(source).ok().cloned());
        for (name, child) in below.unwrap_or_default() {
            let is_own = self
                .changed
                .get(&dir)
                .is_some_and(|one| one.names.contains_key(&name));
            if !is_own {
                let shown = self.plain_of(child);
                entries.insert(name, shown);
            }
        }
        let children: Vec<Ino> = entries.values().copied().collect();
        set(&mut self.view, dir, |inode| {
            inode.body = Body::Directory(entries)
        });
        for child in children {
            self.merge(child);
        }
    }

    /// The view's inode for one of the source's, as the source has it.
    fn plain_of(&mut self, source: Ino) -> Ino {
        if let Some(shown) = self
            .changed
            .iter()
            .find(|(_, one)| one.origin == source && !one.is_lost)
        {
            return *shown.0;
        }
        let Ok(inode) = self.source.inodes.get(source).cloned() else {
            return ROOT;
        };
        let shown = match self.plain.get(&source) {
            Some(shown) => *shown,
            None => {
                let empty = Inode::new(Body::directory(), 0);
                let shown = self.view.inodes.add(empty);
                self.plain.insert(source, shown);
                shown
            }
        };
        set(&mut self.view, shown, |one| {
            (one.mode, one.mtime, one.links) = (inode.mode, inode.mtime, inode.links);
            one.xattrs = inode.xattrs;
            match (&one.body, &inode.body) {
                (Body::Directory(_), Body::Directory(_)) => {}
                _ => one.body = inode.body,
            }
        });
        shown
    }

    fn copy_changed(&mut self, ino: Ino) {
        let one = &self.changed[&ino];
        let from = match one.is_lost {
            true => one.known.clone(),
            false => match self.source.inodes.get(one.origin) {
                Ok(inode) => inode.clone(),
                Err(_) => return,
            },
        };
        let (is_lost, has_bytes) = (one.is_lost, matches!(one.bytes, Bytes::Stored(_)));
        let links = if is_lost { 1 } else { i64::from(from.links) };
        let links = (links + one.more_links).max(1) as u32;
        let (has_mode, has_mtime, xattrs) = (one.has_mode, one.has_mtime, one.xattrs.clone());
        set(&mut self.view, ino, |inode| {
            // It has lost its last name in the view, and is open.
            let links = if inode.links == 0 { 0 } else { links };
            if !has_mode {
                inode.mode = from.mode;
            }
            if !has_mtime {
                inode.mtime = from.mtime;
            }
            inode.xattrs.retain(|name, _| xattrs.contains(name));
            let shown = from
                .xattrs
                .iter()
                .filter(|(name, _)| !is_lost && !xattrs.contains(*name));
            inode
                .xattrs
                .extend(shown.map(|(name, value)| (name.clone(), value.clone())));
            match (&from.body, &inode.body) {
                (Body::Directory(_), _) => {}
                (Body::File(_), _) if has_bytes => inode.links = links,
                (body, _) => (inode.body, inode.links) = (body.clone(), links),
            }
        });
    }
}

/// Changes an inode without dating it.
fn set(view: &mut Reference, ino: Ino, change: impl FnOnce(&mut Inode)) {
    // The counters do not matter here: they are compared over one command only.
    view.inodes
        .change(ino, change)
        .expect("an inode of the view");
}

impl Filesystem for Layered {
    fn apply(&mut self, command: &Command) -> Outcome {
        if let Command::Behind(command) = command {
            return self.behind(command);
        }
        if let Some(outcome) = self.stopped(command) {
            return outcome;
        }
        let before = self.view.inodes.clone();
        let edit = self.view.edit_of(command);
        let outcome = self.view.apply(command);
        let is_skipped = matches!(outcome, Ok(Answer::Skipped));
        if !is_skipped {
            let edit = edit.filter(|_| outcome.is_ok());
            self.note(&before, edit, command, &outcome);
        }
        outcome
    }

    fn tree(&self) -> Result<Tree, String> {
        let mut tree = self.view.tree()?;
        for (path, node) in &mut tree {
            let Ok(ino) = self.view.existing(path, false) else {
                continue;
            };
            let (bytes, len) = (self.bytes(ino), node.content.0.len());
            if matches!(
                self.view.inodes.get(ino),
                Ok(Inode {
                    body: Body::File(_),
                    ..
                })
            ) && self.is_stopped(ino)
                && bytes.are_below(0, len)
            {
                let pages = node.content.0.chunks(PAGE).enumerate();
                let page = |(page, bytes_of): (usize, &[u8])| match bytes.is_below(page) {
                    true => UNREADABLE.to_vec(),
                    false => bytes_of.to_vec(),
                };
                node.content = Content(pages.flat_map(page).collect());
            }
        }
        Ok(tree)
    }
}
