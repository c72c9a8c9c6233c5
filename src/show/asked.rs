//! Asks mounts for their status.

use crate::ask::{self, ANSWER_TIMEOUT, Asking, NoAnswer};
use crate::mount_table::Mount;
use crate::refusal::StartError;
use crate::report::{self, Status};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Minimum time for reading an answer, if other mounts have taken all of [`ANSWER_TIMEOUT`].
const MIN_WAIT: Duration = Duration::from_millis(20);

/// A mount and its answer.
#[derive(Debug)]
pub struct Asked {
    pub mount_point: PathBuf,
    pub answer: Result<Status, NoAnswer>,
}

/// Asks one mount. It is an error if it does not answer.
pub fn ask_one(path: &Path) -> Result<Asked, StartError> {
    let refused = |why: NoAnswer| StartError::NotAnswered(path.into(), why.to_string());
    Ok(Asked {
        answer: Ok(ask::status(path).map_err(refused)?),
        mount_point: ask::mount_point(path).map_err(refused)?,
    })
}

/// Asks all mounts, repeatedly. Some may not answer. Each question is a process that the kernel may be unable to end. So a mount
/// that has not answered yet is not asked again, and a user with [`MAX_NOT_ANSWERING`] such mounts is not asked any more.
#[derive(Debug, Default)]
pub struct All {
    /// Questions without an answer, by mount.
    open: HashMap<Key, Asking<Status>>,
    /// The result of [`ask::asked_in_vain`] at the first time.
    earlier: Option<HashMap<u32, HashSet<u32>>>,
}

/// The mount point and the id of a mount.
type Key = (PathBuf, u64);

/// Maximum number of mounts that are asked at once.
const MAX_AT_ONCE: usize = 64;

/// If this many mounts of a user do not answer, no further mount of that user is asked.
const MAX_NOT_ANSWERING: usize = 8;

impl All {
    /// The answers of all mounts. Each batch of mounts gets [`ANSWER_TIMEOUT`].
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub fn ask(&mut self) -> Result<Vec<Asked>, StartError> {
        let unread = |error| StartError::System("read the mount table", error);
        let mounts: Vec<Mount> = on_top(ask::mounts().map_err(unread)?).collect();
        self.earlier.get_or_insert_with(ask::asked_in_vain);
        self.open
            .retain(|key, _| mounts.iter().any(|mount| is_of(mount, key)));
        let mut not_answering: HashMap<Option<u32>, usize> = HashMap::new();
        let mut all = Vec::new();
        for some in mounts.chunks(MAX_AT_ONCE) {
            let begin = |mount| (mount, self.begin(mount, &not_answering));
            let asked: Vec<_> = some.iter().map(begin).collect();
            let until = Instant::now() + ANSWER_TIMEOUT;
            for (mount, (asking, wait)) in asked {
                let left = until.saturating_duration_since(Instant::now());
                let answer = self.end(mount, asking, left.max(MIN_WAIT).min(wait));
                if matches!(answer, Err(NoAnswer::TimedOut | NoAnswer::NotAsked)) {
                    *not_answering.entry(owner(mount)).or_default() += 1;
                }
                let mount_point = mount.mount_point.clone();
                all.push(Asked {
                    mount_point,
                    answer,
                });
            }
        }
        Ok(all)
    }

    /// Asks a mount unless a question to it is open. Returns the question, and how long its answer may take.
    fn begin(
        &mut self,
        mount: &Mount,
        not_answering: &HashMap<Option<u32>, usize>,
    ) -> (Result<Asking<Status>, NoAnswer>, Duration) {
        if let Some(asking) = self.open.remove(&key(mount)) {
            return (Ok(asking), Duration::ZERO);
        }
        let is_asked = self.earlier.as_ref().is_some_and(|earlier| {
            let by = earlier.get(&rustix::fs::minor(mount.device));
            let ours = rustix::process::geteuid().as_raw();
            let counts = |user: &u32| *user == 0 || *user == ours || Some(*user) == owner(mount);
            by.is_some_and(|by| by.iter().any(counts))
        });
        if is_asked || not_answering.get(&owner(mount)) >= Some(&MAX_NOT_ANSWERING) {
            return (Err(NoAnswer::NotAsked), Duration::ZERO);
        }
        (ask::asking_status(&mount.mount_point), ANSWER_TIMEOUT)
    }

    fn end(
        &mut self,
        mount: &Mount,
        asking: Result<Asking<Status>, NoAnswer>,
        wait: Duration,
    ) -> Result<Status, NoAnswer> {
        let mut asking = asking?;
        let answer = asking.wait(wait);
        if answer == Err(NoAnswer::TimedOut) {
            self.open.insert(key(mount), asking);
        }
        answer
    }
}

fn key(mount: &Mount) -> Key {
    (mount.mount_point.clone(), mount.id)
}

fn is_of(mount: &Mount, (mount_point, id): &Key) -> bool {
    mount.id == *id && mount.mount_point == *mount_point
}

fn owner(mount: &Mount) -> Option<u32> {
    mount.owner().map(|(user, _)| user)
}

/// For each mount point the mount on top, in the order of the mount table.
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
