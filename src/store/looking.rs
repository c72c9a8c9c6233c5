//! Looking at a store that may be open elsewhere.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::disk::{Directory, Disk};
use super::format::{self, Base};
use super::journal;
use super::manifest::Manifest;
use super::open_error::at;
use super::opening::{OpenError, Options, Recovered, options};
use super::{DataFiles, How, Store};

/// So often a store is read anew that changed its files meanwhile.
const TRIES: u32 = 100;
/// The same for one that is not open elsewhere.
const TRIES_UNUSED: u32 = 5;
/// So long it is left alone before.
const PAUSE: Duration = Duration::from_millis(10);

/// A store that is only looked at.
#[derive(Debug)]
pub struct Looked {
    /// The store.
    pub store: Store,
    /// The source that it belongs to.
    pub base: Base,
    /// It is open elsewhere.
    pub in_use: bool,
    /// Changes that do not count, because power was cut, or because only its owner can know that it was not.
    pub dropped: u64,
}

impl Store {
    /// The store in a directory as it is at one moment, whether it is open elsewhere or not. Nothing is written: each change fails with
    /// ESHUTDOWN. Bytes of files are read when they are asked for, and may be newer.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn look(path: &Path) -> Result<Looked, OpenError> {
        let directory =
            Directory::open(path).map_err(|error| OpenError::Failed("the directory", error))?;
        journal::check(&directory)?;
        let mut tries = 0;
        let (found, in_use) = loop {
            let in_use = directory.is_locked().map_err(at("lock"))?;
            let options = Options {
                in_use,
                ..options(&directory, false)?
            };
            let found = Recovered::read(&directory, &options).and_then(|found| {
                // Tails that a barrier has removed in between would be missed.
                let is_same = is_still(&found, &directory).map_err(at("state"))?;
                Ok((found, is_same))
            });
            tries += 1;
            // A mount may just have begun, and replace files.
            let is_last = tries >= if in_use { TRIES } else { TRIES_UNUSED };
            match found {
                Ok((found, true)) => break (found, in_use),
                Err(error @ (OpenError::NotAStore | OpenError::Version(_))) => return Err(error),
                Err(error) if is_last => return Err(error),
                Ok(_) if is_last => return Err(OpenError::InUse),
                _ => std::thread::sleep(PAUSE),
            }
        };
        let base = format::read_base(&directory).map_err(at("base"))?;
        let dropped = found.recovery.dropped;
        let store = found.looked_at(Arc::new(directory), None)?;
        Ok(Looked {
            store,
            base,
            in_use,
            dropped,
        })
    }
}

impl Recovered {
    /// A store of what was found, in which nothing is changed.
    pub fn looked_at(
        mut self,
        disk: Arc<dyn Disk>,
        lock: Option<OwnedFd>,
    ) -> Result<Store, OpenError> {
        let turn = self.turn(&*disk)?;
        let mut store = self.store(disk, turn, lock);
        store.data = DataFiles::new(How::Read);
        store.log.get_mut().is_closed = true;
        Ok(store)
    }
}

fn is_still(found: &Recovered, directory: &Directory) -> io::Result<bool> {
    Ok(Manifest::read(directory, &found.uuid)? == found.manifest)
}
