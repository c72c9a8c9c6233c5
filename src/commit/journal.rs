//! The journal of a commit: the file `commit` in the store. While it is there, nobody else opens the store.

use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::path::as_text;
use super::steps::Step;
use crate::store::{Journal, NodeId};
use crate::view::private::{Kept, forget};

/// A path, for JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathText(#[serde(with = "as_text")] pub Vec<u8>);

/// How far a commit has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// What is new is being made under these temporary names. Nothing that was there is changed, but the times of their directories:
    /// these steps set them as they were. So they do with data files of the store that may have attributes of the view's files.
    Making(Vec<PathText>, Vec<Step>),
    /// All is made. These steps are done from the first on until the last one is; each may have been done.
    Stepping(Vec<Step>, Forgets),
    /// The source is as it is to be, durably. The store is to forget what was committed.
    Done(Forgets),
}

/// What the store forgets after a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forgets {
    /// Everything.
    All,
    /// These names. Then the source's directories stand for those directories.
    Names(Vec<Item>, Vec<KeptItem>),
}

/// A name of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    directory: u64,
    #[serde(with = "as_text")]
    name: Vec<u8>,
    node: Option<u64>,
    /// What is added to the links of directories that stay in the store: the source counts them now.
    links: Vec<(u64, i64)>,
}

/// A directory that keeps something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptItem {
    #[serde(with = "as_text")]
    path: Vec<u8>,
    node: u64,
    is_new: bool,
    committed: Vec<PathText>,
}

impl KeptItem {
    pub fn new(kept: Kept) -> Self {
        Self {
            path: kept.path,
            node: kept.node.0,
            is_new: kept.is_new,
            committed: kept.committed.into_iter().map(PathText).collect(),
        }
    }

    pub fn for_view(self) -> Kept {
        Kept {
            path: self.path,
            node: NodeId(self.node),
            is_new: self.is_new,
            committed: self.committed.into_iter().map(|name| name.0).collect(),
        }
    }
}

impl Item {
    /// A name of a directory. `node`: what it leads to, if it leads to something. `links`: links of directories that the store has counted, and the
    /// source counts now.
    pub fn new(
        (directory, name): &(NodeId, Vec<u8>),
        node: Option<NodeId>,
        links: &[(NodeId, i64)],
    ) -> Self {
        let links = links.iter().filter(|(_, counted)| *counted != 0);
        Self {
            directory: directory.0,
            name: name.clone(),
            node: node.map(|node| node.0),
            links: links.map(|(id, counted)| (id.0, -counted)).collect(),
        }
    }

    /// The same for the store.
    pub fn for_store(self) -> forget::Item {
        let links = self.links.into_iter();
        forget::Item {
            directory: NodeId(self.directory),
            name: self.name,
            node: self.node.map(NodeId),
            links: links.map(|(id, more)| (NodeId(id), more)).collect(),
        }
    }
}

/// What stands in the file: a line with the sum of the second line.
fn encode(state: &State) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(state)?;
    let mut all = format!("mmfs commit 1 {:08x}\n", crc32fast::hash(&text)).into_bytes();
    all.extend(text);
    Ok(all)
}

/// Records how far the commit has come, durably.
///
/// # Errors
/// That of the call that failed.
pub fn write(journal: &Journal, state: &State) -> io::Result<()> {
    journal.write(&encode(state)?)
}

/// What was recorded last. None: no commit was cut short.
///
/// # Errors
/// EUCLEAN if no commit has written it, or that of the read.
pub fn read(journal: &Journal) -> io::Result<Option<State>> {
    let Some(all) = journal.read()? else {
        return Ok(None);
    };
    let damaged = || io::Error::from(Errno::UCLEAN);
    let line = all
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(damaged)?;
    let state: State = serde_json::from_slice(&all[line + 1..]).map_err(|_| damaged())?;
    match encode(&state)? == all {
        true => Ok(Some(state)),
        false => Err(damaged()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_comes_back() {
        let state = State::Making(vec![PathText(b"a/\xff\n\"".to_vec())], Vec::new());
        let all = encode(&state).expect("bytes");
        let text = std::str::from_utf8(&all).expect("text");
        assert!(text.starts_with("mmfs commit 1 "), "{text}");
        assert_eq!(text.matches('\n').count(), 1);
    }
}
