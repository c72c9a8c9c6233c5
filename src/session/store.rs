//! The store of a private view: found or made before the mount.

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::store_place;
use crate::config::{Config, StoreConfig};
use crate::refusal::StartError;
use crate::store::opening::{OpenError, Opened, Rule};
use crate::store::{Base, Store, Time, random};
use crate::sys::uuid::filesystem_uuid;
use crate::terminal::for_shell;

/// What the directories of stores that go with their mounts are called, before a random part.
const EPHEMERAL: &str = "mmfs-ephemeral-";
/// A directory of this name without a store in it is left alone so long: somebody may be about to make one.
const MAKING: Duration = Duration::from_secs(3600);
/// How long a start waits for a store in use. After an unmount the daemon still makes everything durable.
const CLOSING: Duration = Duration::from_secs(5);

/// The store of a mount.
#[derive(Debug)]
pub struct Kept {
    /// The store.
    pub store: Store,
    /// It was not closed, and has data files that nothing needs.
    pub sweeps: bool,
    /// Its directory, if it goes with the mount.
    goes: Option<PathBuf>,
    /// Its directory.
    pub directory: PathBuf,
}

/// Removes the store when it goes with the mount.
#[derive(Debug)]
pub struct Removal(Option<PathBuf>);

impl Kept {
    /// What is to do when the mount has ended.
    pub fn removal(&mut self) -> Removal {
        Removal(self.goes.take())
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            if let Err(error) = std::fs::remove_dir_all(&path) {
                log::warn!("the store {} is not removed: {error}", for_shell(&path));
            }
        }
    }
}

/// Opens the store of a private view, and makes it if there is none.
///
/// # Errors
/// The sentence that says why it cannot be used.
pub fn open_store(wanted: &StoreConfig, config: &Config) -> Result<Kept, StartError> {
    let mut kept = match &wanted.directory {
        Some(path) => open_directory(path, config, wanted.base_moved)?,
        None => {
            remove_ended(&wanted.temporary);
            let random = random().map_err(|error| StartError::System("get random bytes", error))?;
            let path = wanted.temporary.join(format!("{EPHEMERAL}{random:016x}"));
            // What is there already is somebody else's.
            let made = DirBuilder::new().mode(0o700).create(&path);
            made.map_err(|error| StartError::Store(path.clone(), error))?;
            let mut kept = open_directory(&path, config, false)?;
            kept.goes = Some(path);
            kept
        }
    };
    kept.store.set_limit(wanted.limit);
    kept.sweeps &= kept.goes.is_none();
    Ok(kept)
}

/// Removes stores that should have gone with mounts whose daemon was killed.
fn remove_ended(temporary: &Path) {
    let ours = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(temporary).into_iter().flatten().flatten() {
        let is_ours = |metadata: &Metadata| metadata.is_dir() && metadata.uid() == ours;
        let Some(metadata) = entry.metadata().ok().filter(is_ours) else {
            continue;
        };
        if !entry
            .file_name()
            .as_bytes()
            .starts_with(EPHEMERAL.as_bytes())
        {
            continue;
        }
        let is_old = || {
            metadata
                .modified()
                .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > MAKING))
        };
        if Store::is_unused(&entry.path()).unwrap_or_else(is_old) {
            drop(Removal(Some(entry.path())));
        }
    }
}

/// Opens a store, also one whose mount was unmounted a moment ago.
fn open_closed(path: &Path) -> Result<(Opened, Base), OpenError> {
    let began = Instant::now();
    loop {
        match Store::open_directory(path, false) {
            Err(OpenError::InUse) if began.elapsed() < CLOSING => {
                std::thread::sleep(Duration::from_millis(20));
            }
            opened => return opened,
        }
    }
}

fn open_directory(path: &Path, config: &Config, base_moved: bool) -> Result<Kept, StartError> {
    let failed = |error| StartError::Store(path.into(), error);
    let base = base_of(&config.source).map_err(failed)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let looked_into = store_place::look_into(path)?;
    let opened = match open_closed(path) {
        Err(OpenError::NotAStore) => Store::make_directory(path, &base),
        opened => opened,
    };
    let (opened, found) = opened.map_err(|error| StartError::Verb(error.sentence(path)))?;
    store_place::check_again(path, &looked_into, &opened.store, config)?;
    let is_other = !is_of(&found, &base).map_err(failed)?;
    if is_other && base_moved {
        opened.store.set_base(&base).map_err(failed)?;
    } else if is_other {
        return Err(StartError::Verb(format!(
            "the store {} has changes to {}, not to {}; if that was restored or cloned, use --base-moved",
            for_shell(path),
            for_shell(&found.path),
            for_shell(&config.source)
        )));
    }
    let recovery = &opened.recovery;
    if recovery.rule == Rule::PowerCut && recovery.dropped > 0 {
        log::warn!(
            "the store {}: {} changes that were not synced when power was cut are lost",
            for_shell(path),
            recovery.dropped
        );
    }
    let sweeps = recovery.rule != Rule::Closed;
    Ok(Kept {
        store: opened.store,
        sweeps,
        goes: None,
        directory: path.into(),
    })
}

/// Whether a store that was made for `found` has changes to `base`.
///
/// # Errors
/// Those of statvfs(2).
pub fn is_of(found: &Base, base: &Base) -> io::Result<bool> {
    let is_there = found.filesystem == base.filesystem
        || found.filesystem == number_of_filesystem(&base.path)?;
    Ok(is_there && (found.root, found.born) == (base.root, base.born))
}

/// The UUID of the source's filesystem, in hexadecimal.
fn uuid_of_filesystem(source: &Path) -> Option<String> {
    let directory = std::fs::File::open(source).ok()?;
    let uuid = filesystem_uuid(directory.as_fd()).ok()?;
    Some(uuid.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `f_fsid` of statvfs(3). Some filesystems make it of the device's number, which may be another after a boot.
fn number_of_filesystem(source: &Path) -> io::Result<String> {
    Ok(format!("{:x}", rustix::fs::statvfs(source)?.f_fsid))
}

/// What tells this source from others.
///
/// # Errors
/// Those of stat(2) and statvfs(2).
pub fn base_of(source: &Path) -> io::Result<Base> {
    let metadata = std::fs::metadata(source)?;
    let born = metadata.created().ok().and_then(|time| {
        let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Time {
            seconds: since.as_secs() as i64,
            nanoseconds: since.subsec_nanos(),
        })
    });
    Ok(Base {
        path: source.into(),
        filesystem: match uuid_of_filesystem(source) {
            Some(uuid) => uuid,
            None => number_of_filesystem(source)?,
        },
        root: metadata.ino(),
        born,
    })
}
