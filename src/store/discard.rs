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

    /// As `open_directory`, after a commit, whose journal is still there.
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
        let old = &self.manifest;
        let skipped = if old.closed { 0 } else { SKIPPED };
        let mut empty = Manifest {
            tables: Vec::new(),
            // No tail has this number, so no record counts.
            tail: highest(&self.disk, "tails")?.max(old.tail) + 1,
            first: old.first,
            next: old.next.saturating_add(skipped),
            used: 0,
            // If this ends before all files are gone, the next opening sweeps the data files.
            closed: false,
            life: random()?,
        };
        let mut done = empty.write(&self.disk, &self.uuid);
        if done.as_ref().is_err_and(is_full) {
            self.end_tails();
            done = empty.write(&self.disk, &self.uuid);
        }
        done?;
        empty.closed = true;
        if let Err(error) = self
            .remove_all()
            .and_then(|()| empty.write(&self.disk, &self.uuid))
        {
            log::warn!("a file of discarded changes stays in the store: {error}");
        }
        if let Some(cookies) = &self.cookies {
            life::take_away(cookies, &self.uuid);
        }
        Ok(())
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

    /// Removes tables, tails and data files, durably.
    fn remove_all(&self) -> io::Result<()> {
        let data = (0..data::DIRECTORIES).map(|number| data::directory(NodeId(number)));
        let state = ["tables", "tails"].map(PathBuf::from);
        let mut done = Ok(());
        for directory in state.into_iter().chain(data) {
            done = done.and(self.empty(&directory));
        }
        done
    }

    fn empty(&self, directory: &Path) -> io::Result<()> {
        let names = match self.disk.list(directory) {
            // Somebody has removed it. The next opening makes it.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            names => names?,
        };
        let is_data = |name: &str| data::parse(name).is_some();
        let ours = |name: &str| !directory.starts_with("data") || is_data(name);
        let mut done = Ok(());
        let mut is_changed = false;
        for name in names.iter().filter(|name| name.to_str().is_some_and(ours)) {
            match self.disk.remove(&directory.join(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => done = done.and(Err(error)),
                _ => is_changed = true,
            }
        }
        match is_changed {
            true => done.and(self.disk.sync_directory(directory)),
            false => done,
        }
    }
}
