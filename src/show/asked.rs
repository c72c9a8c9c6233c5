//! Mounts, and what they have answered.

use crate::ask::{self, ANSWER_TIMEOUT, Asking, NoAnswer};
use crate::mount_table::Mount;
use crate::refusal::StartError;
use crate::report::{self, Status};
use serde::Serialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For a long answer to be read, where others have taken all the time.
const LEAST_WAIT: Duration = Duration::from_millis(20);

/// A mount, and what it has answered.
#[derive(Debug)]
pub struct Asked {
    pub mount_point: PathBuf,
    pub answer: Result<Status, NoAnswer>,
}

/// Asks one mount, which must answer.
pub fn ask_one(path: &Path) -> Result<Asked, StartError> {
    let refused = |why: NoAnswer| StartError::NotAnswered(path.into(), why.to_string());
    Ok(Asked {
        answer: Ok(ask::status(path).map_err(refused)?),
        mount_point: ask::mount_point(path).map_err(refused)?,
    })
}

/// Asks all mounts, which need not answer, as often as one likes. A mount that has not answered yet is not asked again: each question
/// is a process that may be impossible to end.
#[derive(Debug, Default)]
pub struct All(HashMap<(PathBuf, u64), Asking<Status>>);

impl All {
    /// What each says within the limit for one.
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub fn ask(&mut self) -> Result<Vec<Asked>, StartError> {
        let unread = |error| StartError::System("read the mount table", error);
        let mounts = on_top(ask::mounts().map_err(unread)?);
        let mut open = std::mem::take(&mut self.0);
        let ask = |mount: Mount| {
            let key = (mount.mount_point, mount.id);
            let asking = open
                .remove(&key)
                .map_or_else(|| ask::asking_status(&key.0), Ok);
            (key, asking)
        };
        let asking: Vec<_> = mounts.map(ask).collect();
        let until = Instant::now() + ANSWER_TIMEOUT;
        let heard = asking.into_iter().map(|(key, asking)| {
            let answer = asking.and_then(|mut asking| {
                let left = until.saturating_duration_since(Instant::now());
                let answer = asking.wait(left.max(LEAST_WAIT));
                if answer == Err(NoAnswer::TimedOut) {
                    self.0.insert(key.clone(), asking);
                }
                answer
            });
            let mount_point = key.0;
            Asked {
                mount_point,
                answer,
            }
        });
        Ok(heard.collect())
    }
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
