//! Threads that change a private view, and note each step before they make it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;

use mmfs::store::NodeId;
use rustix::fs::FallocateFlags;

use crate::history::{Durable, History, Op, SECTOR, own_name, slot_name, stamp};
use crate::survive::Rng;

pub const THREADS: usize = 3;
const SLOTS: usize = 4;
/// The longest file, in sectors.
const LONGEST: u64 = 400;

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// What all threads know.
pub struct Shared {
    /// One for each thread, below the mount point.
    pub directories: Vec<PathBuf>,
    pub histories: Vec<Mutex<History>>,
    pub answered: Vec<AtomicUsize>,
    pub durable: Vec<Mutex<Durable>>,
    /// Held for reading during a step.
    pub gate: RwLock<()>,
    root: PathBuf,
    /// Files of the source that nobody has taken yet.
    pool: Mutex<Vec<PathBuf>>,
    end: AtomicBool,
}

/// Threads at work. When the view dies, they end.
pub struct Load {
    pub shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// `name`: of directories that the view does not have yet. `pool`: names of files of the source.
    pub fn start(root: &Path, name: &str, pool: Vec<PathBuf>, rng: &mut Rng) -> Self {
        let directories: Vec<_> = (0..THREADS)
            .map(|thread| PathBuf::from(format!("{name}-{thread}")))
            .collect();
        for directory in &directories {
            fs::create_dir(root.join(directory)).expect("a directory");
        }
        let shared = Arc::new(Shared {
            directories,
            histories: (0..THREADS).map(|_| Mutex::default()).collect(),
            answered: (0..THREADS).map(|_| AtomicUsize::default()).collect(),
            durable: (0..THREADS).map(|_| Mutex::default()).collect(),
            gate: RwLock::default(),
            root: root.into(),
            pool: Mutex::new(pool),
            end: AtomicBool::default(),
        });
        let threads = (0..THREADS).map(|number| {
            let (shared, rng) = (Arc::clone(&shared), rng.fork());
            std::thread::spawn(move || Worker::new(shared, number, rng).work())
        });
        let threads = threads.collect();
        Self { shared, threads }
    }

    /// Ends the threads. Returns what they left of the pool, and how many steps were answered.
    pub fn end(mut self) -> (Vec<PathBuf>, usize) {
        self.shared.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread failed");
        }
        let answered = self.shared.answered().into_iter().sum();
        let left = std::mem::take(&mut *self.shared.pool.lock().unwrap());
        (left, answered)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        self.threads
            .drain(..)
            .for_each(|thread| drop(thread.join()));
    }
}

impl Shared {
    pub fn answered(&self) -> Vec<usize> {
        let answered = self.answered.iter();
        answered.map(|steps| steps.load(Ordering::SeqCst)).collect()
    }

    pub fn durable(&self) -> Vec<Durable> {
        let durable = self.durable.iter();
        durable.map(|one| one.lock().unwrap().clone()).collect()
    }
}

/// One thread: it has a directory and files of its own.
struct Worker {
    shared: Arc<Shared>,
    directory: PathBuf,
    number: usize,
    rng: Rng,
    slots: [Option<NodeId>; SLOTS],
    new: Vec<NodeId>,
}

impl Worker {
    fn new(shared: Arc<Shared>, number: usize, rng: Rng) -> Self {
        Self {
            directory: shared.root.join(&shared.directories[number]),
            shared,
            number,
            rng,
            slots: [None; SLOTS],
            new: Vec::new(),
        }
    }

    fn work(mut self) {
        while !self.shared.end.load(Ordering::Relaxed) {
            let shared = Arc::clone(&self.shared);
            // A comparison that failed ends the test.
            let Ok(_gate) = shared.gate.read() else {
                return;
            };
            match self.step() {
                Ok(()) => shared.answered[self.number].fetch_add(1, Ordering::SeqCst),
                Err(error) => {
                    let dead = [libc::ENOTCONN, libc::ECONNABORTED];
                    let code = error.raw_os_error().unwrap_or(0);
                    assert!(dead.contains(&code), "thread {}: {error}", self.number);
                    return;
                }
            };
        }
    }

    fn path(&self, id: NodeId) -> PathBuf {
        let slot = self.slots.iter().position(|slot| *slot == Some(id));
        let name = slot.map_or_else(|| own_name(id), slot_name);
        self.directory.join(name)
    }

    fn open(&self, id: NodeId) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(id))
    }

    fn any(&mut self) -> Option<NodeId> {
        let files: Vec<_> = self.slots.iter().flatten().chain(&self.new).collect();
        let at = self.rng.below(files.len().max(1) as u64) as usize;
        files.get(at).map(|id| **id)
    }

    /// Notes a step before it is made, and returns its number.
    fn note(&self, op: Op) -> usize {
        let before = self.shared.answered();
        let mut history = self.shared.histories[self.number].lock().unwrap();
        history.ops.push(op);
        history.before.push(before);
        history.ops.len() - 1
    }

    fn step(&mut self) -> io::Result<()> {
        let file = self.any();
        match (self.rng.below(20), file) {
            (0..2, _) | (_, None) if self.new.len() < 4 => self.create(),
            (0..11, Some(id)) => self.write(id),
            (11, Some(id)) => self.truncate(id),
            (12, Some(id)) => self.punch(id),
            (13..15, Some(_)) => self.place(),
            (15, Some(_)) => self.unlink(),
            (16..19, Some(id)) => self.sync(id),
            _ => self.sync_names(),
        }
    }

    fn create(&mut self) -> io::Result<()> {
        let id = NodeId(NUMBERS.fetch_add(1, Ordering::Relaxed));
        let from_source = (self.rng.below(2) == 0)
            .then(|| self.shared.pool.lock().unwrap().pop())
            .flatten();
        self.note(Op::Create(id, from_source.is_some()));
        match from_source {
            Some(name) => fs::rename(self.shared.root.join(name), self.path(id))?,
            None => drop(File::create_new(self.path(id))?),
        }
        self.new.push(id);
        Ok(())
    }

    fn write(&mut self, id: NodeId) -> io::Result<()> {
        let count = match self.rng.below(3) {
            0 => 1 + self.rng.below(8),
            1 => 8 * (1 + self.rng.below(8)),
            _ => 1 + self.rng.below(40),
        };
        let first = match self.rng.below(3) {
            0 => self.rng.below((LONGEST - count) / 8) * 8,
            1 => self.rng.below(LONGEST - count),
            _ => self.rng.below(40),
        };
        let step = self.note(Op::Write(id, first, count));
        let bytes: Vec<u8> = (first..first + count)
            .flat_map(|at| stamp(id, at, step))
            .collect();
        self.open(id)?.write_all_at(&bytes, first * SECTOR)
    }

    fn truncate(&mut self, id: NodeId) -> io::Result<()> {
        let size = match self.rng.below(3) {
            0 => 0,
            1 => self.rng.below(LONGEST) * SECTOR,
            _ => self.rng.below(LONGEST / 8) * 4096,
        };
        self.note(Op::Truncate(id, size));
        self.open(id)?.set_len(size)
    }

    fn punch(&mut self, id: NodeId) -> io::Result<()> {
        let (first, count) = (self.rng.below(LONGEST / 2), 1 + self.rng.below(100));
        self.note(Op::Punch(id, first, count));
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let file = self.open(id)?;
        rustix::fs::fallocate(&file, how, first * SECTOR, count * SECTOR)?;
        Ok(())
    }

    fn place(&mut self) -> io::Result<()> {
        let Some(id) = self.new.pop() else {
            return self.nothing();
        };
        let slot = self.rng.below(SLOTS as u64) as usize;
        self.note(match self.slots[slot] {
            Some(_) => Op::Place(id, slot),
            None => Op::Move(id, slot),
        });
        let (from, to) = (own_name(id), slot_name(slot));
        fs::rename(self.directory.join(from), self.directory.join(to))?;
        self.slots[slot] = Some(id);
        Ok(())
    }

    fn unlink(&mut self) -> io::Result<()> {
        let slot = self.rng.below(SLOTS as u64) as usize;
        if self.slots[slot].take().is_none() {
            return self.nothing();
        }
        self.note(Op::Unlink(slot));
        fs::remove_file(self.directory.join(slot_name(slot)))
    }

    fn nothing(&self) -> io::Result<()> {
        self.note(Op::Nothing);
        Ok(())
    }

    fn sync(&mut self, id: NodeId) -> io::Result<()> {
        self.note(Op::Nothing);
        let before = self.shared.answered();
        let file = self.open(id)?;
        match self.rng.below(2) {
            0 => file.sync_data()?,
            _ => file.sync_all()?,
        }
        let named = self.shared.histories[self.number].lock().unwrap().named(id);
        let mut durable = self.shared.durable[self.number].lock().unwrap();
        durable.files.insert(id, before[self.number]);
        // If nothing of the file had to be made durable, nothing else was.
        durable.meta = durable.meta.max(named);
        Ok(())
    }

    /// What was answered before it began is durable, once it has returned.
    fn sync_names(&mut self) -> io::Result<()> {
        self.note(Op::Nothing);
        let before = self.shared.answered();
        File::open(&self.directory)?.sync_all()?;
        for (durable, steps) in self.shared.durable.iter().zip(before) {
            let mut durable = durable.lock().unwrap();
            durable.meta = durable.meta.max(steps);
        }
        Ok(())
    }
}
