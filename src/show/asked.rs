//! Mounts, and what they have answered.

use crate::ask::{self, NoAnswer};
use crate::mount_table::Mount;
use crate::refusal::StartError;
use crate::report::{self, Status};
use serde::Serialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::thread;

/// A mount, and what it has answered.
#[derive(Debug)]
pub struct Asked {
    pub mount_point: PathBuf,
    pub answer: Result<Status, NoAnswer>,
}

/// Asks one mount, which must answer, or all, which need not.
pub fn ask_all(mount_point: Option<&Path>) -> Result<Vec<Asked>, StartError> {
    if let Some(path) = mount_point {
        let refused = |why: NoAnswer| StartError::NotAnswered(path.into(), why.to_string());
        return Ok(vec![Asked {
            answer: Ok(ask::status(path).map_err(refused)?),
            mount_point: ask::mount_point(path).map_err(refused)?,
        }]);
    }
    let mounts =
        ask::mounts().map_err(|error| StartError::System("read the mount table", error))?;
    // Each waits for itself: one that does not answer takes seconds.
    let asking = on_top(mounts).map(|mount| {
        thread::spawn(move || Asked {
            answer: ask::status(&mount.mount_point),
            mount_point: mount.mount_point,
        })
    });
    let asking: Vec<_> = asking.collect();
    Ok(asking
        .into_iter()
        .flat_map(thread::JoinHandle::join)
        .collect())
}

/// The mounts that a path leads to, in the order of the table.
fn on_top(mounts: Vec<Mount>) -> impl Iterator<Item = Mount> {
    let last = mounts
        .iter()
        .map(|mount| (mount.mount_point.clone(), mount.id));
    let last: HashMap<PathBuf, u64> = last.collect();
    let is_last = move |mount: &Mount| last.get(&mount.mount_point) == Some(&mount.id);
    mounts.into_iter().filter(is_last)
}

/// A mount in a list, as JSON.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    mount_point: report::Path,
    status: Option<&'a Status>,
    error: Option<String>,
}

impl<'a> Entry<'a> {
    pub fn new(asked: &'a Asked) -> Self {
        Entry {
            mount_point: report::Path::new(&asked.mount_point),
            status: asked.answer.as_ref().ok(),
            error: asked.answer.as_ref().err().map(NoAnswer::to_string),
        }
    }
}
