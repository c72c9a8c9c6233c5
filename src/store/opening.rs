//! Opening a store, and what is left of it after a kill or a power cut.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Condvar, Mutex};

use super::data::{self, DataFiles};
use super::disk::{Directory, Disk, How, highest};
use super::effects::Effects;
use super::format::{self, Format};
use super::garbage::is_full;
use super::journal;
use super::keep::Keep;
use super::life::{self, Life, random};
use super::manifest::Manifest;
use super::node::NodeId;
pub use super::open_error::OpenError;
use super::open_error::at;
use super::record::Record;
use super::room::Room;
use super::state::State;
use super::table::Table;
use super::tail::{self, Found, Tail};
use super::taken_back::take_back;
use super::turn::{Commit, Purpose, Turn};
use super::undurable::{Garbage, Undurable};
use super::{Base, Log, Store};

/// Numbers that a life which ended too early may have given away.
pub(super) const SKIPPED: u64 = 1 << 24;
/// More memory is not taken for the records of tails. No store of mmfs needs it.
const MAX_REPLAY: u64 = 256 << 20;
/// Nor are more keys looked at for the records: it is half a minute. What a store that is in use looks at between two barriers is
/// far less.
const MAX_LOOKED_AT: u64 = 1 << 28;

/// How to open a store.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only what was synced counts, as after a power cut.
    pub after_power_cut: bool,
    /// The directory of cookies. None: each end but a close counts as a power cut.
    pub cookies: Option<PathBuf>,
    /// `st_dev` of the store.
    pub device: u64,
    /// A daemon has it open: all records count.
    pub in_use: bool,
}

/// How the last life of the store ended, and so which records count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// It was closed.
    Closed,
    /// The daemon ended, the machine went on: all records count.
    Killed,
    /// Records count up to the last sync.
    PowerCut,
}

/// What opening a store found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// How the last life ended.
    pub rule: Rule,
    /// Records of the tail that count.
    pub kept: u64,
    /// Records that do not.
    pub dropped: u64,
    /// Bytes of records that were not whole.
    pub torn: u64,
    /// Files that were deleted while open, and are gone now.
    pub orphans: u64,
}

/// A store that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: Store,
    /// What was found.
    pub recovery: Recovery,
}

/// A store as it lies on disk, with what recovery would keep: nothing was written.
pub(super) struct Recovered {
    pub uuid: [u8; 16],
    pub state: State,
    pub manifest: Manifest,
    pub recovery: Recovery,
    /// The number of the record after the last.
    next_record: u64,
    /// By how much the bytes that count for a limit grew.
    growth: i64,
    /// The number of the last tail that was found.
    last_tail: u64,
    /// Files with records of class D.
    dirty: Vec<(NodeId, u64)>,
    /// Files whose data file may be longer than they are.
    shorter: Vec<NodeId>,
    /// The tails that count, and where their records end, in bytes.
    tails: Vec<(u64, u64)>,
}

impl Recovered {
    /// Reads a store.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn read(disk: &dyn Disk, options: &Options) -> Result<Self, OpenError> {
        let uuid = uuid_of(disk)?;
        let manifest = Manifest::read(disk, &uuid).map_err(at("state"))?;
        let tables: io::Result<Vec<_>> = manifest
            .tables
            .iter()
            .map(|number| Table::open(disk, *number).map(Arc::new))
            .collect();
        let state = State::new(tables.map_err(at("tables"))?);
        let goes_on =
            |cookies: &PathBuf| life::goes_on(cookies, &uuid, options.device, manifest.life);
        let rule = match (manifest.closed, options.after_power_cut) {
            (true, _) => Rule::Closed,
            (_, true) => Rule::PowerCut,
            _ if options.in_use => Rule::Killed,
            _ if options.cookies.as_ref().is_some_and(goes_on) => Rule::Killed,
            _ => Rule::PowerCut,
        };
        let recovery = Recovery {
            rule,
            kept: 0,
            dropped: 0,
            torn: 0,
            orphans: 0,
        };
        let (next_record, last_tail) = (manifest.first, manifest.tail);
        let mut recovered = Self {
            uuid,
            state,
            manifest,
            recovery,
            next_record,
            growth: 0,
            last_tail,
            dirty: Vec::new(),
            shorter: Vec::new(),
            tails: Vec::new(),
        };
        recovered.replay(disk)?;
        Ok(recovered)
    }

    /// Lets the records of the tails count, as far as they do.
    fn replay(&mut self, disk: &dyn Disk) -> Result<(), OpenError> {
        let tails = self.tails(disk)?;
        let (mut most, mut looked_at) = (MAX_REPLAY, 0u64);
        let keep = Keep::of(&tails, self.recovery.rule == Rule::Killed).map_err(at("tails"))?;
        for (number, payload) in tails.iter().flat_map(Found::records) {
            let record = Record::decode(payload).map_err(at("tails"))?;
            if !keep.has(number, &record) {
                self.recovery.dropped += u64::from(!matches!(record, Record::Sync { .. }));
                continue;
            }
            let effects = Effects::of(&self.state, &record).map_err(at("tails"))?;
            self.growth = self.growth.saturating_add(effects.growth);
            looked_at += effects.looked_at();
            self.shorter.extend(effects.shorter);
            self.state.put(effects.puts);
            self.recovery.kept += u64::from(!matches!(record, Record::Sync { .. }));
            self.dirty.extend(record.data_files());
            if self.state.size() > most {
                // One removal may take many keys away that are in tables.
                let gone = self.state.gone_from_tables().map_err(at("tables"))?;
                most = self.state.size() + MAX_REPLAY / 8;
                if self.state.size() > MAX_REPLAY + gone {
                    return Err(OpenError::Damaged("tails"));
                }
            }
            if looked_at > MAX_LOOKED_AT {
                return Err(OpenError::Damaged("tails"));
            }
        }
        // A close leaves only what it found no room for.
        let all = self.recovery.rule != Rule::PowerCut;
        let back = take_back(&self.state, disk, all).map_err(at("tables"))?;
        self.growth = self.growth.saturating_add(back.growth);
        self.dirty.extend(back.dirty);
        self.recovery.torn = tails.iter().map(Found::torn).sum();
        Ok(())
    }

    /// The tails that count, each going on where the one before it ends.
    fn tails(&mut self, disk: &dyn Disk) -> Result<Vec<Found>, OpenError> {
        let (mut tails, mut size): (Vec<Found>, u64) = (Vec::new(), 0);
        if self.manifest.closed {
            return Ok(tails);
        }
        loop {
            let number = self
                .manifest
                .tail
                .checked_add(tails.len() as u64)
                .ok_or(OpenError::Damaged("state"))?;
            let found = Found::read(disk, &self.uuid, number).map_err(at("tails"))?;
            if found.first != Some(self.next_record) {
                return Ok(tails);
            }
            let count = found.records().count() as u64;
            self.next_record = self
                .next_record
                .checked_add(count)
                .ok_or(OpenError::Damaged("tails"))?;
            self.last_tail = number;
            self.tails.push((number, found.size()));
            size += found.size();
            tails.push(found);
            if size > MAX_REPLAY {
                return Err(OpenError::Damaged("tails"));
            }
        }
    }
}

impl Store {
    /// Opens the store in a directory, and takes its lock.
    ///
    /// # Errors
    /// Why it is not opened. Nothing was changed then, unless a call failed.
    pub fn open_directory(path: &Path, after_power_cut: bool) -> Result<(Opened, Base), OpenError> {
        Self::open_checked(path, after_power_cut, journal::check)
    }

    pub(super) fn open_checked(
        path: &Path,
        after_power_cut: bool,
        check: impl FnOnce(&Directory) -> Result<(), OpenError>,
    ) -> Result<(Opened, Base), OpenError> {
        let directory =
            Directory::open(path).map_err(|error| OpenError::Failed("the directory", error))?;
        let lock = lock(&directory)?;
        check(&directory)?;
        let options = options(&directory, after_power_cut)?;
        let base = format::read_base(&directory).map_err(at("base"))?;
        let opened = Self::open_locked(Arc::new(directory), &options, Some(lock))?;
        Ok((opened, base))
    }

    /// Makes a store for this source in an empty directory, and opens it. The lock is held from the beginning: two that make one
    /// in the same directory would destroy it.
    ///
    /// # Errors
    /// [`OpenError::NotAStore`] if something else lies in the directory, or why it cannot be made.
    pub fn make_directory(path: &Path, base: &Base) -> Result<(Opened, Base), OpenError> {
        let directory =
            Directory::open(path).map_err(|error| OpenError::Failed("the directory", error))?;
        let names = directory.list(Path::new(""));
        let names = names.map_err(|error| OpenError::Failed("the directory", error))?;
        if !names
            .iter()
            .all(|name| format::NAMES.iter().any(|known| name == known))
        {
            return Err(OpenError::NotAStore);
        }
        let lock = take(&directory)?;
        sync_parent(path).map_err(|error| OpenError::Failed("making it", error))?;
        match format::make(&directory, base) {
            // Another was first, and has ended already.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            made => made.map_err(|error| OpenError::Failed("making it", error))?,
        }
        let options = options(&directory, false)?;
        let base = format::read_base(&directory).map_err(at("base"))?;
        let opened = Self::open_locked(Arc::new(directory), &options, Some(lock))?;
        Ok((opened, base))
    }

    /// Whether the store in a directory is open nowhere. None: there is no store.
    pub fn is_unused(path: &Path) -> Option<bool> {
        let directory = Directory::open(path).ok()?;
        match lock(&directory) {
            Ok(_) => Some(true),
            Err(OpenError::InUse) => Some(false),
            Err(_) => None,
        }
    }

    /// Opens the store on a disk, for tests: nothing is locked.
    ///
    /// # Errors
    /// As [`Store::open_directory`].
    pub fn open(disk: Arc<dyn Disk>, options: &Options) -> Result<Opened, OpenError> {
        Self::open_locked(disk, options, None)
    }

    fn open_locked(
        disk: Arc<dyn Disk>,
        options: &Options,
        lock: Option<OwnedFd>,
    ) -> Result<Opened, OpenError> {
        let mut found = Recovered::read(&*disk, options)?;
        data::make_missing(&*disk).map_err(at("data"))?;
        let turn = found.turn(&*disk)?;
        let killed = found.recovery.rule == Rule::Killed;
        // Its error is told once: what it was about, the syncs of the files have to show.
        let synced = if killed {
            disk.sync_filesystem()
        } else {
            Ok(true)
        };
        let lost_all = synced.is_err();
        let mut store = found.store(disk, turn, lock);
        store.doubts = killed && !matches!(synced, Ok(true));
        store.syncs_all = Mutex::new(!lost_all);
        {
            let mut log = store.log.lock();
            for (node, data) in &found.dirty {
                log.undurable.landed(*node, *data, true);
            }
            for node in found.shorter {
                log.undurable.put_garbage(Garbage::Longer(node));
            }
        }
        store.begin(&mut found.recovery, &found.tails, options)?;
        Ok(Opened {
            store,
            recovery: found.recovery,
        })
    }

    /// Makes what was recovered durable, before anybody sees it, and leaves the cookie.
    fn begin(
        &self,
        recovery: &mut Recovery,
        tails: &[(u64, u64)],
        options: &Options,
    ) -> Result<(), OpenError> {
        {
            let mut turn = self.turn.lock();
            let mut done = self.barrier_of(&mut turn, Purpose::Open);
            if done.as_ref().is_err_and(is_full) {
                // What the tails have allocated beyond their records is needed for the next one.
                tails.iter().for_each(|tail| self.end_tail(tail));
                done = self.barrier_of(&mut turn, Purpose::Open);
            }
            done.map_err(|error| OpenError::Failed("the first barrier", error))?;
            self.sweep_state(&turn)
                .map_err(|error| OpenError::Failed("removing old files", error))?;
            if let Some(cookies) = &options.cookies {
                match Life::begin(cookies, &self.uuid, options.device, turn.manifest.life) {
                    Ok(life) => *self.life.lock() = Some(life),
                    Err(error) => log::warn!(
                        "{}: {error}: if mmfs is killed, changes that were not synced are lost",
                        cookies.display()
                    ),
                }
            }
        }
        let removed = self.remove_deleted();
        recovery.orphans = removed.map_err(at("a file that was deleted while open"))?;
        Ok(())
    }

    /// Gives back what a tail has allocated beyond its records, which never counts.
    fn end_tail(&self, (number, end): &(u64, u64)) {
        let file = self.disk.open(&tail::path(*number), How::Write);
        if let Err(error) = file.and_then(|file| file.set_len(*end)) {
            log::warn!("a tail keeps its room: {error}");
        }
    }
}

impl Recovered {
    /// Bytes that count for a limit.
    pub fn used(&self) -> u64 {
        self.manifest.used.saturating_add_signed(self.growth)
    }

    /// No node and no data file has a number as high.
    pub fn next(&self) -> u64 {
        self.manifest.next.saturating_add(SKIPPED)
    }

    /// A store of what was found. Nothing was written.
    pub fn store(
        &mut self,
        disk: Arc<dyn Disk>,
        (turn, stand_in): (Turn, Arc<dyn super::DiskFile>),
        lock: Option<OwnedFd>,
    ) -> Store {
        let skipped = match self.recovery.rule {
            Rule::Closed => 0,
            Rule::Killed | Rule::PowerCut => SKIPPED,
        };
        Store {
            uuid: self.uuid,
            log: Mutex::new(Log {
                // The first tail of this life is begun by the first barrier. Until then there is none to write to.
                tail: Tail::unwritten(self.last_tail, self.next_record, stand_in),
                older: None,
                is_closed: false,
                undurable: Undurable::new(self.next_record - 1),
            }),
            commit: Mutex::new(Commit::new(self.next_record - 1)),
            committed: Condvar::new(),
            syncing: super::syncing::Syncing::default(),
            turn: Mutex::new(turn),
            data: DataFiles::new(How::Write),
            loans: Default::default(),
            stripes: [const { Mutex::new(()) }; 64],
            room: Room::new(self.used()),
            next: AtomicU64::new(self.manifest.next.saturating_add(skipped)),
            life: Mutex::new(None),
            doubts: false,
            syncs_all: Mutex::new(true),
            bell: super::bell::Bell::default(),
            state: std::mem::take(&mut self.state),
            _lock: lock,
            disk,
        }
    }

    /// What the first barrier begins with, and a file that stands for the tail until then.
    pub fn turn(&self, disk: &dyn Disk) -> Result<(Turn, Arc<dyn super::DiskFile>), OpenError> {
        let next_table = highest(disk, "tables").map_err(at("tables"))? + 1;
        let highest_tail = highest(disk, "tails").map_err(at("tails"))?;
        let next_tail = highest_tail.max(self.last_tail) + 1;
        let life = random().map_err(|error| OpenError::Failed("getrandom(2)", error))?;
        let manifest = Manifest {
            life,
            ..self.manifest.clone()
        };
        let stand_in = disk
            .open(Path::new("state"), How::Read)
            .map_err(at("state"))?;
        Ok((
            Turn {
                unfinished: None,
                next_table,
                next_tail,
                manifest,
            },
            stand_in,
        ))
    }
}

/// The UUID of the store on a disk, if this mmfs can read it.
pub(super) fn uuid_of(disk: &dyn Disk) -> Result<[u8; 16], OpenError> {
    match format::read_format(disk).map_err(at("format"))? {
        Format::Ours(uuid) => Ok(uuid),
        Format::Other(line) => Err(OpenError::Version(line)),
        Format::None => Err(OpenError::NotAStore),
    }
}

/// Makes the directory's own name durable. Where its parent may not be read, or is on a filesystem that syncs no directories,
/// that is left to the filesystem.
fn sync_parent(path: &Path) -> io::Result<()> {
    match std::fs::File::open(path.join("..")).and_then(|parent| parent.sync_all()) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => Ok(()),
        done => done,
    }
}

/// Takes the lock of a store.
pub(super) fn lock(directory: &Directory) -> Result<OwnedFd, OpenError> {
    // In a directory that is no store, not even a lock is left.
    format::read_format(directory)
        .map_err(at("format"))
        .and_then(|format| match format {
            Format::None => Err(OpenError::NotAStore),
            _ => Ok(()),
        })?;
    take(directory)
}

fn take(directory: &Directory) -> Result<OwnedFd, OpenError> {
    directory
        .lock()
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EWOULDBLOCK) => OpenError::InUse,
            _ => at("lock")(error),
        })
}

/// What is known of a store on a real disk.
pub(super) fn options(directory: &Directory, after_power_cut: bool) -> Result<Options, OpenError> {
    let stat = rustix::fs::fstat(directory)
        .map_err(|error| OpenError::Failed("fstat(2)", error.into()))?;
    Ok(Options {
        after_power_cut,
        cookies: life::cookies(),
        device: stat.st_dev,
        in_use: false,
    })
}
