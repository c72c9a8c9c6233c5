//! What `mmfs check` looks at: each entry of the state, and what belongs to it.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::codec::damaged;
use super::content::{Chunk, Content};
use super::data;
use super::disk::{Directory, Disk, How};
use super::effects::decoded;
use super::format::{self, Base};
use super::key::{self, Key};
use super::node::{Kind, Name, Named, Node, NodeId, Xattr};
use super::opening::{OpenError, Options, Recovered, Recovery, lock, options};
use super::state::State;

/// More problems are counted, and not told.
const TOLD: usize = 20;

/// What a check found.
#[derive(Debug)]
pub struct Report {
    /// The source that the store belongs to.
    pub base: Option<Base>,
    /// What opening it would do.
    pub recovery: Recovery,
    /// How many entries of each kind there are.
    pub nodes: u64,
    /// Names that lead to a node.
    pub names: u64,
    /// Names of the source that are hidden.
    pub hidden: u64,
    /// Files with bytes in the store.
    pub files: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// What is wrong, a sentence each.
    pub problems: Vec<String>,
    /// Problems that are not among them.
    pub more: u64,
}

/// Checks the store in a directory. It takes the store's lock and changes nothing.
///
/// # Errors
/// Why the store cannot be opened.
pub fn check(path: &Path, after_power_cut: bool) -> Result<Report, OpenError> {
    let directory =
        Directory::open(path).map_err(|error| OpenError::Failed("the directory", error))?;
    let _lock = lock(&directory)?;
    let options = options(&directory, after_power_cut)?;
    Report::of(&directory, &options)
}

impl Report {
    /// Checks a store.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn of(disk: &dyn Disk, options: &Options) -> Result<Self, OpenError> {
        let found = Recovered::read(disk, options)?;
        let mut report = Self {
            base: format::read_base(disk).ok(),
            recovery: found.recovery.clone(),
            nodes: 0,
            names: 0,
            hidden: 0,
            files: 0,
            bytes: 0,
            problems: Vec::new(),
            more: 0,
        };
        if report.base.is_none() {
            report.problem("The file base is not as mmfs wrote it.".into());
        }
        for table in found.state.tables().iter() {
            let mut entries = table.entries();
            let mut count = 0;
            let read = loop {
                match entries.next() {
                    None => break Ok(count),
                    Some(Ok((key, _))) if entries.is_found(&key) => count += 1,
                    Some(Ok(_)) => break Err(damaged()),
                    Some(Err(error)) => break Err(error),
                }
            };
            match read {
                Ok(count) if count == table.count() => {}
                Ok(_) => report.problem(format!(
                    "Table {:x} has another number of entries than it says.",
                    table.number()
                )),
                Err(error) => report.problem(format!(
                    "Table {:x} cannot be read: {error}.",
                    table.number()
                )),
            }
        }
        if report.problems.is_empty() {
            let mut walk = Walk {
                disk,
                state: &found.state,
                next: found.next(),
                report: &mut report,
                chunks: (None, 0),
                places: HashMap::new(),
            };
            walk.entries().unwrap_or_else(|error| {
                report.problem(format!("The state cannot be read: {error}."))
            });
            if report.problems.is_empty() && report.bytes != found.used() {
                report.problem(format!(
                    "Files have {} bytes, and {} are counted for a limit.",
                    report.bytes,
                    found.used()
                ));
            }
        }
        report.missing_names(disk);
        Ok(report)
    }

    fn problem(&mut self, sentence: String) {
        if self.problems.len() < TOLD {
            self.problems.push(sentence)
        } else {
            self.more += 1
        }
    }

    fn missing_names(&mut self, disk: &dyn Disk) {
        for name in ["tables", "tails", "data"] {
            if let Err(error) = disk.list(Path::new(name)) {
                self.problem(format!("The directory {name} cannot be read: {error}."));
            }
        }
    }
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    state: &'a State,
    /// No node has a number as high.
    next: u64,
    report: &'a mut Report,
    /// Pages in the chunks of the node that was looked at last.
    chunks: (Option<NodeId>, u64),
    /// Directories whose way up was followed, and whether it leads in circles. None: it is being followed.
    places: HashMap<NodeId, Option<bool>>,
}

impl Walk<'_> {
    fn entries(&mut self) -> io::Result<()> {
        let mut last: Option<Vec<u8>> = None;
        let mut pages: HashMap<NodeId, u64> = HashMap::new();
        loop {
            let found = self.state.scan(&[], last.as_deref(), 1024)?;
            let Some((key, _)) = found.last() else { break };
            last = Some(key.clone());
            for (key, value) in found {
                match self.entry(&key, &value, &mut pages) {
                    Ok(None) => {}
                    Ok(Some(sentence)) => self.report.problem(sentence),
                    Err(_) => self.report.problem(format!(
                        "The entry {} is none that mmfs writes.",
                        key.escape_ascii()
                    )),
                }
            }
        }
        for (id, _) in pages {
            self.report.problem(format!(
                "The page map of node {:x} does not fit its file.",
                id.0
            ));
        }
        Ok(())
    }

    /// A sentence if something is wrong. `pages`: what the maps that are still to come should hold.
    fn entry(
        &mut self,
        key: &[u8],
        value: &[u8],
        pages: &mut HashMap<NodeId, u64>,
    ) -> io::Result<Option<String>> {
        match Key::decode(key)? {
            Key::Node(id) => self.node(id, &decoded(value, Node::get)?),
            Key::Name(directory, name) => {
                self.name(directory, &name, decoded(value, Named::get)?.to)
            }
            Key::Content(id) => {
                let content = decoded(value, Content::get)?;
                if content.stored > 0 {
                    pages.insert(id, content.stored);
                }
                self.content(id, &content)
            }
            Key::Chunk(id, number) => {
                let chunk = Chunk::decode(value)?;
                self.chunk(id, number, &chunk, pages)
            }
            Key::Xattr(id, name) => {
                decoded(value, Xattr::get)?;
                Ok(self
                    .needs(id)?
                    .then(|| format!("The attribute {} belongs to no node.", name.escape_ascii())))
            }
            Key::Origin(_) => {
                let id = decoded(value, |from| NodeId::checked(from.u64()?))?;
                let node = self.get(id)?;
                let ours = node
                    .and_then(|node| node.origin)
                    .is_some_and(|origin| key::origin(&origin) == key);
                Ok((!ours).then(|| {
                    format!(
                        "An origin leads to node {:x}, which did not begin as it.",
                        id.0
                    )
                }))
            }
            Key::Orphan(id) => Ok(self.needs(id)?.then(|| {
                format!(
                    "Node {:x}, which was deleted while open, is not there.",
                    id.0
                )
            })),
            Key::Loan(id) => Ok(Some(format!(
                "Node {:x} is said to be written by the kernel, and nothing has the store open.",
                id.0
            ))),
            Key::Filesystem(_) => Ok(None),
        }
    }

    fn get(&self, id: NodeId) -> io::Result<Option<Node>> {
        self.state
            .get(&key::node(id))?
            .map(|bytes| decoded(&bytes, Node::get))
            .transpose()
    }

    fn needs(&self, id: NodeId) -> io::Result<bool> {
        Ok(self.get(id)?.is_none())
    }

    fn node(&mut self, id: NodeId, node: &Node) -> io::Result<Option<String>> {
        self.report.nodes += 1;
        if id.0 >= self.next {
            return Ok(Some(format!(
                "Node {:x} has a number that was never given away.",
                id.0
            )));
        }
        if let Some(origin) = &node.origin {
            let back = self.state.get(&key::origin(origin))?;
            if back.is_none_or(|bytes| bytes != id.0.to_le_bytes()) {
                return Ok(Some(format!("Node {:x} is not found by its origin.", id.0)));
            }
        }
        if node.kind == Kind::Directory && self.leads_in_circles(id)? {
            return Ok(Some(format!(
                "Directory {:x} lies in itself, or below one that does.",
                id.0
            )));
        }
        Ok(None)
    }

    /// Each directory is looked at once, however deep the others lie.
    fn leads_in_circles(&mut self, id: NodeId) -> io::Result<bool> {
        let (mut at, mut way) = (id, Vec::new());
        let circles = loop {
            match self.places.get(&at) {
                Some(known) => break known.unwrap_or(true),
                None => _ = self.places.insert(at, None),
            }
            way.push(at);
            match self.get(at)?.and_then(|node| node.place) {
                None => break false,
                Some((parent, _)) => at = parent,
            }
        };
        self.places
            .extend(way.into_iter().map(|at| (at, Some(circles))));
        Ok(circles)
    }

    fn name(&mut self, directory: NodeId, name: &[u8], leads: Name) -> io::Result<Option<String>> {
        let shown = name.escape_ascii();
        if self
            .get(directory)?
            .is_none_or(|node| node.kind != Kind::Directory)
        {
            return Ok(Some(format!("The name {shown} stands in no directory.")));
        }
        let Name::Node(id) = leads else {
            self.report.hidden += 1;
            return Ok(None);
        };
        self.report.names += 1;
        let Some(node) = self.get(id)? else {
            return Ok(Some(format!(
                "The name {shown} leads to node {:x}, which is not there.",
                id.0
            )));
        };
        let here = node
            .place
            .is_some_and(|(parent, place)| parent == directory && place == name);
        let wrong = node.kind == Kind::Directory && !here;
        Ok(wrong.then(|| format!("The directory {shown} has a second name.")))
    }

    fn content(&mut self, id: NodeId, content: &Content) -> io::Result<Option<String>> {
        if self.get(id)?.is_none_or(|node| node.kind != Kind::File) {
            return Ok(Some(format!("Node {:x} has bytes and is no file.", id.0)));
        }
        self.report.files += 1;
        self.report.bytes = self.report.bytes.saturating_add(content.bytes());
        match self.disk.open(&data::path(id, content.data), How::Read) {
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !content.filed => Ok(None),
            Err(error) => Ok(Some(format!(
                "The data file of node {:x} cannot be opened: {error}.",
                id.0
            ))),
        }
    }

    fn chunk(
        &mut self,
        id: NodeId,
        number: u64,
        chunk: &Chunk,
        pages: &mut HashMap<NodeId, u64>,
    ) -> io::Result<Option<String>> {
        if self.chunks.0 != Some(id) {
            self.chunks = (Some(id), 0);
        }
        let bytes = self.state.get(&key::content(id))?.ok_or_else(damaged)?;
        let content = decoded(&bytes, Content::get)?;
        self.chunks.1 += chunk.stored();
        if pages.get(&id) == Some(&self.chunks.1) {
            pages.remove(&id);
        }
        let beyond = content.is_whole()
            || number
                .checked_mul(Chunk::PAGES)
                .is_none_or(|first| first > 1 << 52);
        let wrong = beyond || self.chunks.1 > content.stored;
        Ok(wrong.then(|| format!("The page map of node {:x} does not fit its file.", id.0)))
    }
}

/// Opens the store and closes it again: what recovery would drop is dropped, durably.
///
/// # Errors
/// Why it cannot be opened.
pub fn repair(path: &Path, after_power_cut: bool) -> Result<Recovery, OpenError> {
    let (opened, _) = super::Store::open_directory(path, after_power_cut)?;
    let store = Arc::new(opened.store);
    let first = store.new_number().0;
    store
        .sweep(first)
        .map_err(|error| OpenError::Failed("removing data files that no file has", error))?;
    store
        .close()
        .map_err(|error| OpenError::Failed("closing the store", error))?;
    Ok(opened.recovery)
}
