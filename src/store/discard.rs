//! Giving up all changes at once.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::data;
use super::disk::{Directory, Disk, How, highest};
use super::garbage::is_full;
use super::journal;
use super::life::{self, random};
use super::manifest::Manifest;
use super::node::NodeId;
use super::open_error::at;
use super::opening::{OpenError, Options, SKIPPED, lock, options, uuid_of};
use super::table;
use super::tail::{self, Found};

/// A store whose changes are to be given up, as it lies on disk. It is not recovered, which a full disk may have no room for:
/// nothing of it will count.
pub struct Unwanted<D> {
    disk: D,
    uuid: [u8; 16],
    manifest: Manifest,
    cookies: Option<PathBuf>,
    _lock: Option<OwnedFd>,
}

impl Unwanted<Directory> {
    /// The store in a directory. Takes its lock.
    ///
    /// # Errors
    /// Why it is not one, or cannot be had. Nothing was changed then.
    pub fn open_directory(path: &Path) -> Result<Self, OpenError> {
        Self::open_checked(path, journal::check)
    }

    /// As `open_directory`, for a commit, whose journal is still there.
    ///
    /// # Errors
    /// As [`Unwanted::open_directory`].
    pub fn open_after_commit(path: &Path) -> Result<Self, OpenError> {
        Self::open_checked(path, |_| Ok(()))
    }

    fn open_checked(
        path: &Path,
        check: impl FnOnce(&Directory) -> Result<(), OpenError>,
    ) -> Result<Self, OpenError> {
        let directory =
            Directory::open(path).map_err(|error| OpenError::Failed("the directory", error))?;
        let lock = lock(&directory)?;
        check(&directory)?;
        let options = options(&directory, false)?;
        let unwanted = Self::open(directory, &options)?;
        Ok(Self {
            _lock: Some(lock),
            ..unwanted
        })
    }
}

impl<D: Disk> Unwanted<D> {
    /// The store on a disk, for tests: nothing is locked.
    ///
    /// # Errors
    /// Why it is not one.
    pub fn open(disk: D, options: &Options) -> Result<Self, OpenError> {
        let uuid = uuid_of(&disk)?;
        Ok(Self {
            manifest: Manifest::read(&disk, &uuid).map_err(at("state"))?,
            cookies: options.cookies.clone(),
            disk,
            uuid,
            _lock: None,
        })
    }

    /// Gives up all changes: the next opening finds the source as it is. A kill or a power cut leaves all of them or none.
    /// The numbers of nodes and data files are not used again.
    ///
    /// # Errors
    /// That of the call that failed. All changes still count then, unless the last sync was what failed: all or none may.
    pub fn discard(self) -> io::Result<()> {
        // If this ends before all files are gone, the next opening sweeps the data files.
        let mut empty = self.emptied()?;
        let mut done = empty.write(&self.disk, &self.uuid);
        if done.as_ref().is_err_and(is_full) {
            self.end_tails();
            done = empty.write(&self.disk, &self.uuid);
        }
        done?;
        empty.closed = true;
        let (changed, removed) = self.remove_all();
        if let Err(error) = removed
            .and_then(|()| self.sync_each(&changed))
            .and_then(|()| empty.write(&self.disk, &self.uuid))
        {
            log::warn!("a file of discarded changes stays in the store: {error}");
        }
        self.take_cookie_away();
        Ok(())
    }

    /// As `discard`, after all changes were committed. The journal of the commit keeps everybody else away until this has ended, so the
    /// files may go before they count no more. After a kill or a power cut this can be done again.
    ///
    /// # Errors
    /// That of the call that failed.
    pub fn end(self) -> io::Result<()> {
        let mut empty = self.emptied()?;
        let (changed, removed) = self.remove_all();
        if !self.disk.sync_filesystem()? {
            self.sync_each(&changed)?;
        }
        // What stays is swept by the next opening.
        empty.closed = removed.is_ok();
        empty.write(&self.disk, &self.uuid)?;
        self.take_cookie_away();
        Ok(())
    }

    /// Whether [`Unwanted::end`] was begun: tables go first, and a store that was closed has all changes in them.
    pub fn is_ending(&self) -> bool {
        let is_gone = |number: &u64| {
            let found = self.disk.open(&table::path(*number), How::Read);
            found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
        };
        self.manifest.closed && self.manifest.tables.iter().all(is_gone)
    }

    /// What the file `state` says when no change counts, until all files are gone.
    fn emptied(&self) -> io::Result<Manifest> {
        let old = &self.manifest;
        let skipped = if old.closed { 0 } else { SKIPPED };
        Ok(Manifest {
            tables: Vec::new(),
            // No tail has this number, so no record counts.
            tail: highest(&self.disk, "tails")?.max(old.tail) + 1,
            first: old.first,
            next: old.next.saturating_add(skipped),
            used: 0,
            closed: false,
            life: random()?,
        })
    }

    fn take_cookie_away(&self) {
        if let Some(cookies) = &self.cookies {
            life::take_away(cookies, &self.uuid);
        }
    }

    /// Gives back what tails have allocated beyond their records, which never counts. That is enough for the file `state`.
    fn end_tails(&self) {
        let names = self.disk.list(Path::new("tails")).unwrap_or_default();
        let number = |name: &OsString| u64::from_str_radix(name.to_str()?, 16).ok();
        for number in names.iter().filter_map(number) {
            let end = |found: Found| {
                let file = self.disk.open(&tail::path(number), How::Write)?;
                file.set_len(found.size())
            };
            // If there is no room afterwards either, that is told.
            let _ = Found::read(&self.disk, &self.uuid, number).and_then(end);
        }
    }

    /// Removes tables, tails and data files. Returns the directories in which something was removed.
    fn remove_all(&self) -> (Vec<PathBuf>, io::Result<()>) {
        let data = (0..data::DIRECTORIES).map(|number| data::directory(NodeId(number)));
        let state = ["tables", "tails"].map(PathBuf::from);
        let (mut changed, mut done) = (Vec::new(), Ok(()));
        for directory in state.into_iter().chain(data) {
            let (is_changed, emptied) = self.empty(&directory);
            done = done.and(emptied);
            if is_changed {
                changed.push(directory);
            }
        }
        (changed, done)
    }

    fn sync_each(&self, directories: &[PathBuf]) -> io::Result<()> {
        let mut directories = directories.iter();
        directories.try_for_each(|directory| self.disk.sync_directory(directory))
    }

    /// Removes what lies in a directory. Returns whether there was anything.
    fn empty(&self, directory: &Path) -> (bool, io::Result<()>) {
        let names = match self.disk.list(directory) {
            // Somebody has removed it. The next opening makes it.
            Err(error) if error.kind() == ErrorKind::NotFound => return (false, Ok(())),
            Err(error) => return (false, Err(error)),
            Ok(names) => names,
        };
        let is_data = |name: &str| data::parse(name).is_some();
        let ours = |name: &str| !directory.starts_with("data") || is_data(name);
        let (mut is_changed, mut done) = (false, Ok(()));
        for name in names.iter().filter(|name| name.to_str().is_some_and(ours)) {
            match self.disk.remove(&directory.join(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => done = done.and(Err(error)),
                _ => is_changed = true,
            }
        }
        (is_changed, done)
    }
}
