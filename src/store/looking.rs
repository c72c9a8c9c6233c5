//! Looking at a store that may be open elsewhere.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::disk::{Directory, Disk};
use super::format::{self, Base};
use super::manifest::Manifest;
use super::open_error::at;
use super::opening::{OpenError, Options, Recovered, lock, options};
use super::{DataFiles, How, Store};

/// So often a store is read anew that changed its files meanwhile, and so long it is left alone before.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

impl Store {
    /// The store in a directory as it is at one moment, whether it is open elsewhere or not. Nothing is written: each change fails with
    /// ESHUTDOWN. Bytes of files are read when they are asked for, and may be newer.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn look(path: &Path) -> Result<(Self, Base), OpenError> {
        let directory =
            Directory::open(path).map_err(|error| OpenError::Failed("the directory", error))?;
        let mut tries = 0;
        let mut found = loop {
            let in_use = match lock(&directory) {
                Err(OpenError::InUse) => true,
                locked => locked.map(|_| false)?,
            };
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
            match found {
                Ok((found, true)) => break found,
                Err(error) if !in_use || tries == TRIES => return Err(error),
                Ok(_) if tries == TRIES => return Err(OpenError::InUse),
                _ => std::thread::sleep(PAUSE),
            }
        };
        let base = format::read_base(&directory).map_err(at("base"))?;
        let disk: Arc<dyn Disk> = Arc::new(directory);
        let turn = found.turn(&*disk)?;
        let mut store = found.store(disk, turn, None);
        store.data = DataFiles::new(How::Read);
        store.log.get_mut().is_closed = true;
        Ok((store, base))
    }
}

fn is_still(found: &Recovered, directory: &Directory) -> io::Result<bool> {
    Ok(Manifest::read(directory, &found.uuid)? == found.manifest)
}
