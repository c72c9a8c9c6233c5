//! What a private view has changed, whether it is mounted or not.

use std::path::{Path, PathBuf};

use crate::ask::{self, NoAnswer};
use crate::config::{Config, StoreConfig};
use crate::difference::{Detail, Difference};
use crate::refusal::StartError;
use crate::session::{base_of, is_of};
use crate::store::{Base, Store};
use crate::terminal::for_shell;
use crate::view::private::{Unmounted, not_compared};

/// How a private view differs from its source, sorted by path. `object` is the directory of its store, or its mount point.
///
/// # Errors
/// The sentence that says why it cannot be told.
pub fn changes(object: &Path, detail: Detail) -> Result<Vec<Difference>, StartError> {
    let (directory, source) = match ask::status(object) {
        Ok(status) => {
            let path = |path: &crate::report::Path| path.path().unwrap_or_default();
            let source = path(&status.source.path);
            let store = status.store.as_ref().map(|store| path(&store.path));
            (store.ok_or_else(|| is_shared(object))?, Some(source))
        }
        Err(NoAnswer::NotOurs) => (object.to_owned(), None),
        Err(why) => return Err(StartError::NotAnswered(object.into(), why.to_string())),
    };
    let looked = Store::look(&directory);
    let looked = looked.map_err(|error| StartError::Verb(error.sentence(&directory)))?;
    owned(&directory, looked.dropped)?;
    let is_mounted = looked.in_use || source.is_some();
    let source = source.unwrap_or_else(|| looked.base.path.clone());
    must_be_source(&directory, &looked.base, (&source, is_mounted))?;
    let (config, wanted) = unmounted(&source, directory);
    let view = Unmounted::open(&config, &wanted, looked.store);
    let view = view.map_err(|error| StartError::Filesystem(source, error))?;
    let found = view.differences(detail);
    found.map_err(|failed| StartError::Verb(not_compared(&failed)))
}

/// Checks that a store belongs to this source.
pub(super) fn must_be_source(
    store: &Path,
    base: &Base,
    (source, is_mounted): (&Path, bool),
) -> Result<(), StartError> {
    let is_source = base_of(source).and_then(|now| is_of(base, &now));
    match is_source {
        Ok(true) => Ok(()),
        Ok(false) => Err(is_other(store, &base.path, is_mounted)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            Err(is_other(store, &base.path, true))
        }
        Err(error) => Err(StartError::Filesystem(source.into(), error)),
    }
}

/// A view of `source` that is looked at without a mount.
pub(super) fn unmounted(source: &Path, store: PathBuf) -> (Config, StoreConfig) {
    let wanted = StoreConfig::of_directory(store);
    (Config::unmounted(source.into()), wanted)
}

/// What counts after a kill, a file of the user's daemon tells: another user does not find it.
fn owned(store: &Path, dropped: u64) -> Result<(), StartError> {
    let owner = rustix::fs::stat(store).map_or(u32::MAX, |stat| stat.st_uid);
    if dropped == 0 || owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(StartError::Verb(format!(
        "the store {} was not closed, and only user {owner}, to whom it belongs, can tell which changes count",
        for_shell(store)
    )))
}

pub(super) fn is_shared(mount_point: &Path) -> StartError {
    StartError::Verb(format!(
        "{} shows its source itself; only a private view has changes of its own",
        for_shell(mount_point)
    ))
}

/// Refuses a store that has changes to another source than the one that is at its path now.
///
/// # Errors
/// The sentence that says so.
pub fn must_be_of(store: &Path, base: &Base) -> Result<(), StartError> {
    must_be_source(store, base, (&base.path, false))
}

fn is_other(store: &Path, source: &Path, is_mounted: bool) -> StartError {
    let (store, source) = (for_shell(store), for_shell(source));
    StartError::Verb(match is_mounted {
        true => format!(
            "the source {source} cannot be reached: it is gone, a mount covers it, or it lies in another mount namespace; \
             unmount, and name the store {store}"
        ),
        false => format!(
            "the store {store} has changes to another directory than the one that is {source} now; \
             if that was restored or cloned, mount it once with --base-moved"
        ),
    })
}
