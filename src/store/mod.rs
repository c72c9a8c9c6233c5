//! The changes of a private view, on disk: they survive the daemon's death and power cuts.
//!
//! A change is a record in the tail, and then counts in the state: keys and values in memory over tables. A barrier writes what
//! is in memory into a table and begins a new tail. Bytes of files are in data files. docs/internals.md has the format and the rules.
//!
//! Lock order: a stripe of `stripes`, then `turn` (barriers), then `log`, then what `State` and `DataFiles` lock inside. `commit` is
//! never held together with `log`. Who waits for other syncs of a file (`syncing`) holds nothing.

mod bell;
mod bloom;
mod bytes;
pub mod check;
mod codec;
mod committing;
mod content;
mod data;
mod discard;
mod disk;
mod effects;
mod format;
mod garbage;
mod journal;
mod keep;
pub mod keeper;
mod key;
mod lent;
mod life;
mod loan;
mod looking;
mod manifest;
mod many;
mod node;
mod open_error;
pub mod opening;
mod orphans;
mod pieces;
mod record;
mod room;
mod snapshot;
mod state;
mod sync;
mod syncing;
mod table;
mod tail;
mod taken_back;
#[cfg(test)]
mod tests;
mod turn;
mod undurable;
mod writer;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

pub use content::{Content, From, PAGE, Piece, ReadSource, SourceState};
pub use discard::Unwanted;
pub use disk::{Directory, Disk, DiskFile, How, is_synced_as_a_whole};
pub use format::{Base, NAMES, make};
pub use journal::Journal;
pub use life::random;
pub use loan::Access;
pub use looking::Looked;
pub use many::Place;
pub use node::{Attributes, Kind, MAX_NAME, Name, Node, NodeId, Origin, Time, Xattr};
pub use pieces::Pieces;
pub use record::Change;

use data::DataFiles;
use effects::{Effects, decoded};
use life::Life;
use loan::Loans;
use node::Named;
use record::Record;
use room::Room;
use state::State;
use syncing::Syncing;
use tail::{Reserve, Tail};
use turn::{Commit, Purpose, Turn};
use undurable::Undurable;

/// So much in the tail or in memory, and the keeper makes a barrier, in bytes.
const BARRIER_AT: u64 = 8 << 20;
/// So much, and whoever changes something makes the barrier first: the memory of a store is bounded.
const WAIT_AT: u64 = 32 << 20;
/// The same for what frees something. It goes on if the barrier fails.
const WAIT_LONG: u64 = 48 << 20;

/// An open store. All functions can be called from many threads.
pub struct Store {
    disk: Arc<dyn Disk>,
    uuid: [u8; 16],
    state: State,
    log: Mutex<Log>,
    commit: Mutex<Commit>,
    committed: Condvar,
    syncing: Syncing,
    turn: Mutex<Turn>,
    data: DataFiles,
    loans: Loans,
    /// One for each set of files: who changes a file's bytes or length holds it.
    stripes: [Mutex<()>; 64],
    room: Room,
    /// The next number for a node or a data file.
    next: AtomicU64,
    life: Mutex<Option<Life>>,
    /// The last life was killed, and what it wrote into data files may not be durable.
    doubts: bool,
    /// syncfs(2) is to be had, and has not failed in this life.
    syncs_all: Mutex<bool>,
    bell: bell::Bell,
    /// The lock of a store on a real disk.
    _lock: Option<OwnedFd>,
}

/// The tail, and what of it is not durable.
struct Log {
    tail: Tail,
    /// The tail before it, until a barrier covers it.
    older: Option<Tail>,
    /// The store was closed: nothing changes any more.
    is_closed: bool,
    undurable: Undurable,
}

impl Store {
    /// A number for a new node or data file. No other gets it.
    pub fn new_number(&self) -> NodeId {
        NodeId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The node, if the store has one of this number.
    ///
    /// # Errors
    /// EUCLEAN for a damaged store, or that of a read; so in all functions that look something up.
    pub fn node(&self, id: NodeId) -> io::Result<Option<Node>> {
        self.state
            .get(&key::node(id))?
            .map(|bytes| decoded(&bytes, Node::get))
            .transpose()
    }

    /// The node that began as this inode of the source.
    pub fn by_origin(&self, origin: &Origin) -> io::Result<Option<NodeId>> {
        self.settled(|| {
            let Some(bytes) = self.state.get(&key::origin(origin))? else {
                return Ok(None);
            };
            let id = decoded(&bytes, |from| NodeId::checked(from.u64()?))?;
            match self.node(id)? {
                Some(node) if node.origin.as_ref() == Some(origin) => Ok(Some(id)),
                _ => Err(codec::damaged()),
            }
        })
    }

    /// Looks once more, with no change under way, if what was found does not fit together: a change between the two halves of a
    /// look-up looks like damage.
    fn settled<T>(&self, look: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match look() {
            Err(error) if error.raw_os_error() == codec::damaged().raw_os_error() => {
                let _log = self.log.lock();
                look()
            }
            done => done,
        }
    }

    /// The number of the next record: while it is the same, nothing has changed.
    pub fn next_record(&self) -> u64 {
        self.log.lock().tail.next()
    }

    /// Whether nothing changes any more: it was closed, or is only looked at.
    pub fn is_closed(&self) -> bool {
        self.log.lock().is_closed
    }

    /// What the store says of a name. None: nothing, and the source's entry shows, if there is one.
    pub fn name(&self, directory: NodeId, name: &[u8]) -> io::Result<Option<Name>> {
        self.settled(|| {
            let Some(bytes) = self.state.get(&key::name(directory, name))? else {
                return Ok(None);
            };
            self.checked_name(directory, name, &bytes).map(Some)
        })
    }

    /// Since when the source's entry of a name does not show, because of what the store says of the name. None: it may show, or the
    /// store is of a version that does not record it.
    pub fn hidden_since(&self, directory: NodeId, name: &[u8]) -> io::Result<Option<Time>> {
        let bytes = self.state.get(&key::name(directory, name))?;
        let named = bytes.map(|bytes| decoded(&bytes, Named::get)).transpose()?;
        Ok(named.and_then(|named| named.since))
    }

    /// The next names of the directory after `after`, sorted by their bytes: about `limit` at most, none at the end.
    pub fn names(
        &self,
        directory: NodeId,
        after: &[u8],
        limit: usize,
    ) -> io::Result<Vec<(Vec<u8>, Name)>> {
        let prefix = key::names(directory);
        let after = key::name(directory, after);
        let entry = |(key, value): (Vec<u8>, Vec<u8>)| {
            let name = node::check_name(&key[prefix.len()..])?.to_vec();
            let leads = self.checked_name(directory, &name, &value)?;
            Ok((name, leads))
        };
        self.settled(|| {
            let found = self.state.scan(&prefix, Some(&after), limit)?;
            found.into_iter().map(entry).collect()
        })
    }

    /// A directory has one name only: a store in which it had two could lead in circles.
    fn checked_name(&self, directory: NodeId, name: &[u8], bytes: &[u8]) -> io::Result<Name> {
        let leads = decoded(bytes, Named::get)?.to;
        let Name::Node(id) = leads else {
            return Ok(leads);
        };
        let node = self.node(id)?.ok_or_else(codec::damaged)?;
        let here = node
            .place
            .is_some_and(|(parent, place)| parent == directory && place == name);
        if node.kind == Kind::Directory && !here {
            Err(codec::damaged())
        } else {
            Ok(leads)
        }
    }

    /// What the store says of an extended attribute. None: nothing, and the origin's shows, if there is one.
    pub fn xattr(&self, id: NodeId, name: &[u8]) -> io::Result<Option<Xattr>> {
        self.state
            .get(&key::xattr(id, name))?
            .map(|bytes| decoded(&bytes, Xattr::get))
            .transpose()
    }

    /// All extended attributes of which the store says something, sorted.
    pub fn xattrs(&self, id: NodeId) -> io::Result<Vec<(Vec<u8>, Xattr)>> {
        let prefix = key::xattrs(id);
        let (mut all, mut last) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let found = self.state.scan(&prefix, last.as_deref(), 64)?;
            let Some((key, _)) = found.last() else {
                return Ok(all);
            };
            last = Some(key.clone());
            for (key, value) in found {
                let name = node::check_xattr_name(&key[prefix.len()..])?.to_vec();
                all.push((name, decoded(&value, Xattr::get)?));
            }
        }
    }

    /// What the store has of a file's bytes. None: nothing, and the origin's bytes show.
    pub fn content(&self, id: NodeId) -> io::Result<Option<Content>> {
        self.state
            .get(&key::content(id))?
            .map(|bytes| decoded(&bytes, Content::get))
            .transpose()
    }

    /// Whether the node goes with its last open.
    pub fn is_orphan(&self, id: NodeId) -> io::Result<bool> {
        Ok(self.state.get(&key::orphan(id))?.is_some())
    }

    /// Filesystems of the source: the store's number for each, and what identifies it.
    pub fn filesystems(&self) -> io::Result<Vec<(u32, Vec<u8>)>> {
        let number = |(key, identity): (Vec<u8>, Vec<u8>)| match key::Key::decode(&key)? {
            key::Key::Filesystem(number) => Ok((number, identity)),
            _ => Err(codec::damaged()),
        };
        self.state
            .scan(key::FILESYSTEMS, None, usize::MAX)?
            .into_iter()
            .map(number)
            .collect()
    }

    /// Changes names and attributes. When this returns, the change survives the daemon's death; a sync or the next barrier makes
    /// it durable.
    ///
    /// # Errors
    /// ENOSPC or EDQUOT: there is no room, or the limit is reached. ENOENT: a node that is not there. EEXIST: a node that is there.
    /// E2BIG, EINVAL: a value that no store takes, or a truncation. ESHUTDOWN: the store was closed. EUCLEAN: a damaged store. Else that of the write. Nothing is changed then.
    pub fn change(&self, changes: Vec<Change>) -> io::Result<()> {
        changes.iter().try_for_each(check_change)?;
        if changes.len() > Record::MAX_CHANGES {
            return Err(Errno::TOOBIG.into());
        }
        let any = |is: fn(&Change) -> bool| changes.iter().any(is);
        let frees = any(|change| {
            matches!(
                change,
                Change::Remove(_) | Change::Orphan(..) | Change::Reset(_)
            )
        });
        let hides = any(
            |change| matches!(change, Change::Name { to, .. } if !matches!(to, Some(Name::Node(_)))),
        );
        let names = any(
            |change| matches!(change, Change::Name { to, .. } if matches!(to, Some(Name::Node(_)))),
        );
        // Before a name of the source can be hidden, its directory has to be known.
        let adopts = any(
            |change| matches!(change, Change::Make(_, node) if node.origin.is_some() && node.kind == Kind::Directory),
        );
        let reserve = match (frees, hides, names) {
            (true, ..) | (_, true, false) => Reserve::Most,
            (_, true, true) => Reserve::Half,
            _ if adopts => Reserve::Half,
            _ => Reserve::None,
        };
        self.refresh_placed(&changes)?;
        let record = Record::Meta(changes);
        self.with_room(|| self.append(&record, reserve).map(drop))
    }

    /// Writes a record, lets it count and returns its number. `reserve`: what it may use of it.
    fn append(&self, record: &Record, reserve: Reserve) -> io::Result<u64> {
        let frees = reserve != Reserve::None;
        let payload = record.encode();
        if payload.len() > tail::MAX_PAYLOAD {
            return Err(Errno::TOOBIG.into());
        }
        let mut log = self.log.lock();
        if self.pending(&log) > if frees { WAIT_LONG } else { WAIT_AT } {
            drop(log);
            let done = self.barrier_of(&mut self.turn.lock(), Purpose::Sync);
            // What frees something goes on: it may be what the barrier lacks.
            if !frees {
                done?;
            }
            log = self.log.lock();
        }
        if log.is_closed {
            return Err(Errno::SHUTDOWN.into());
        }
        let effects = Effects::of(&self.state, record)?;
        self.room.check(effects.growth, frees)?;
        let number = log.tail.append(&payload, reserve)?;
        log.undurable.note(number, record, &effects);
        self.room.add(effects.growth);
        self.state.put(effects.puts);
        if self.pending(&log) > BARRIER_AT {
            self.bell.ring();
        }
        Ok(number)
    }

    /// What the next barrier has to write, in bytes of the tail or of memory, whichever are more.
    fn pending(&self, log: &Log) -> u64 {
        log.tail.size().max(self.state.size())
    }

    /// Bytes of files may not grow beyond `limit`. None: as far as the disk goes. One MiB more can be used by what frees space.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.room.set_limit(limit);
    }

    /// Bytes of files in the store.
    pub fn used(&self) -> u64 {
        self.room.used()
    }

    /// Bytes that can still be written: what the limit leaves, or the disk, whichever is less.
    ///
    /// # Errors
    /// That of statvfs(2).
    pub fn free(&self) -> io::Result<u64> {
        Ok(self.disk.free()?.min(self.room.left()))
    }

    /// From now on the store belongs to this source: one that was restored or cloned anew.
    ///
    /// # Errors
    /// That of the write.
    pub fn set_base(&self, base: &Base) -> io::Result<()> {
        format::write_base(&*self.disk, base)
    }

    /// The store's disk.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }
}

fn check_change(change: &Change) -> io::Result<()> {
    let sound = match change {
        Change::Make(id, node) => NodeId::checked(id.0).is_ok() && node.is_sound(),
        Change::Name { name, since, .. } => {
            node::check_name(name).is_ok() && since.is_none_or(Time::is_sound)
        }
        Change::Xattr(_, name, value) => {
            value.as_ref().map_or(Ok(()), node::check_xattr)?;
            node::check_xattr_name(name).is_ok()
        }
        Change::Attributes(_, set) => set.is_sound(),
        // Store::truncate makes it.
        Change::Truncate { .. } => false,
        Change::Filesystem(_, identity) => identity.len() <= Origin::MAX_IDENTITY,
        _ => true,
    };
    if sound {
        Ok(())
    } else {
        Err(Errno::INVAL.into())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("next", &self.next.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}
