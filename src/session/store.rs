//! The store of a private view: found or made before the mount.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use crate::config::Config;
use crate::refusal::StartError;
use crate::store::opening::{OpenError, Rule};
use crate::store::{Base, Directory, Store, Time, make};
use crate::terminal::for_shell;

/// Opens the store in the directory `path`, and makes it if there is none. True: it was not closed, and is to be swept.
///
/// # Errors
/// The sentence that says why it cannot be used.
pub fn open_store(path: &Path, config: &Config) -> Result<(Store, bool), StartError> {
    let failed = |error| StartError::Store(path.into(), error);
    let base = base_of(&config.source).map_err(failed)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let opened = match Store::open_directory(path, false) {
        Err(OpenError::NotAStore) => {
            let directory = Directory::open(path).map_err(failed)?;
            match make(&directory, &base) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    Err(OpenError::NotAStore)
                }
                Err(error) => return Err(failed(error)),
                Ok(()) => Store::open_directory(path, false),
            }
        }
        opened => opened,
    };
    let (opened, found) = opened.map_err(|error| StartError::Verb(error.sentence(path)))?;
    if (&found.filesystem, found.root, found.born) != (&base.filesystem, base.root, base.born) {
        return Err(StartError::Verb(format!(
            "the store {} has changes to {}, not to {}",
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
    Ok((opened.store, recovery.rule != Rule::Closed))
}

/// What tells this source from others.
fn base_of(source: &Path) -> io::Result<Base> {
    let metadata = std::fs::metadata(source)?;
    let born = metadata.created().ok().and_then(|time| {
        let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Time {
            seconds: since.as_secs() as i64,
            nanoseconds: since.subsec_nanos(),
        })
    });
    let filesystem = rustix::fs::statvfs(source)?.f_fsid;
    Ok(Base {
        path: source.into(),
        filesystem: format!("{filesystem:x}"),
        root: metadata.ino(),
        born,
    })
}
