//! Threads that change files of one store, sync them now and then, and note what they did.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;

use mmfs::store::keeper::Keeper;
use mmfs::store::{
    Attributes, Base, Change, Directory, Kind, Name, Node, NodeId, Origin, SourceState, Store,
    Time, make,
};

use super::history::{Durable, History, Op, SECTOR, SOURCE, own_name, slot_name, stamp};
use crate::survive::Rng;

pub const THREADS: usize = 3;
const SLOTS: usize = 5;
/// The longest file, in sectors.
const LONGEST: u64 = 512;

/// The store under load.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    _keeper: Keeper,
}

pub struct Shared {
    store: Arc<Store>,
    pub directories: Vec<NodeId>,
    pub histories: Vec<Mutex<History>>,
    /// Steps that were answered, by thread.
    answered: Vec<AtomicUsize>,
    pub durable: Vec<Mutex<Durable>>,
    /// Who holds it for writing stops all threads between two steps.
    pub gate: RwLock<()>,
    end: AtomicBool,
}

pub fn time(step: usize) -> Time {
    Time {
        seconds: step as i64,
        nanoseconds: 0,
    }
}

fn node(kind: Kind) -> Node {
    let attributes = Attributes {
        mode: Some(0o644),
        uid: Some(0),
        gid: Some(0),
        mtime: Some(time(0)),
        ..Attributes::default()
    };
    Node {
        kind,
        origin: None,
        attributes,
        links: 1,
        opaque: false,
        device: 0,
        target: Vec::new(),
        reached: Vec::new(),
        known: Attributes::default(),
        known_size: 0,
        place: None,
    }
}

pub fn sevens(_: u64, to: &mut [u8]) -> std::io::Result<()> {
    to.fill(7);
    Ok(())
}

fn name(directory: NodeId, name: String, to: Option<NodeId>, replaces: bool) -> Change {
    Change::Name {
        directory,
        name: name.into_bytes(),
        to: to.map(Name::Node),
        replaces,
        since: None,
    }
}

impl Load {
    /// Makes a store in this directory, and begins.
    pub fn start(path: &Path, rng: &mut Rng) -> Self {
        std::fs::create_dir(path).expect("the store's directory");
        let base = Base {
            path: "/source".into(),
            filesystem: "1234".into(),
            root: 2,
            born: None,
        };
        make(&Directory::open(path).expect("a directory"), &base).expect("a store");
        let store = Store::open_directory(path, false)
            .expect("the store opens")
            .0
            .store;
        let store = Arc::new(store);
        let directories: Vec<_> = (0..THREADS).map(|_| store.new_number()).collect();
        for id in &directories {
            let made = Change::Make(*id, Box::new(node(Kind::Directory)));
            store.change(vec![made]).expect("a directory");
        }
        store.barrier().expect("a barrier");
        let shared = Arc::new(Shared {
            store: Arc::clone(&store),
            directories,
            histories: (0..THREADS).map(|_| Mutex::default()).collect(),
            answered: (0..THREADS).map(|_| AtomicUsize::default()).collect(),
            durable: (0..THREADS).map(|_| Mutex::default()).collect(),
            gate: RwLock::default(),
            end: AtomicBool::default(),
        });
        let threads = (0..THREADS).map(|number| {
            let (shared, rng) = (Arc::clone(&shared), rng.fork());
            std::thread::spawn(move || Worker::new(shared, number, rng).work())
        });
        Self {
            threads: threads.collect(),
            _keeper: Keeper::start(&store, false).expect("a thread"),
            shared,
        }
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Ends the threads, and drops the store as a kill would. Returns how many steps they made.
    pub fn end(mut self) -> usize {
        self.shared.end.store(true, Ordering::Relaxed);
        let ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        assert!(ended.iter().all(Result::is_ok), "a thread failed");
        let answered = self.shared.answered.iter();
        answered.map(|steps| steps.load(Ordering::Relaxed)).sum()
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
    fn answered(&self) -> Vec<usize> {
        self.answered
            .iter()
            .map(|steps| steps.load(Ordering::SeqCst))
            .collect()
    }

    /// What was answered before a sync began is durable, once that has returned. `all`: bytes of all files, too.
    fn names_durable(&self, before: &[usize], all: bool) {
        for (durable, steps) in self.durable.iter().zip(before) {
            let mut durable = durable.lock().unwrap();
            durable.meta = durable.meta.max(*steps);
            if all {
                durable.all = durable.all.max(*steps);
            }
        }
    }
}

/// One thread: it has a directory and files of its own.
struct Worker {
    shared: Arc<Shared>,
    number: usize,
    rng: Rng,
    slots: [Option<NodeId>; SLOTS],
    new: Vec<NodeId>,
}

impl Worker {
    fn new(shared: Arc<Shared>, number: usize, rng: Rng) -> Self {
        Self {
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
            self.step();
            shared.answered[self.number].fetch_add(1, Ordering::SeqCst);
        }
    }

    fn files(&self) -> Vec<NodeId> {
        self.slots
            .iter()
            .flatten()
            .chain(&self.new)
            .copied()
            .collect()
    }

    fn any(&mut self) -> Option<NodeId> {
        let files = self.files();
        let at = self.rng.below(files.len() as u64) as usize;
        files.get(at).copied()
    }

    /// Notes a step before it is made, and returns its number.
    fn note(&self, op: Op) -> usize {
        let before = self.shared.answered();
        let mut history = self.shared.histories[self.number].lock().unwrap();
        history.ops.push(op);
        history.before.push(before);
        history.ops.len() - 1
    }

    /// A change with the number of its step in the directory's time: it tells how far names were kept.
    fn change(&self, step: usize, mut changes: Vec<Change>) {
        let stamp = Attributes {
            mtime: Some(time(step + 1)),
            ..Attributes::default()
        };
        let directory = self.shared.directories[self.number];
        changes.push(Change::Attributes(directory, stamp));
        self.shared.store.change(changes).expect("a change");
    }

    fn step(&mut self) {
        let file = self.any();
        match (self.rng.below(20), file) {
            (0..2, _) | (_, None) if self.new.len() < 4 => self.create(),
            (0..10, Some(id)) => self.write(id),
            (10, Some(id)) => self.truncate(id),
            (11, Some(id)) => self.punch(id),
            (12..15, Some(_)) => self.place(),
            (15, Some(_)) => self.unlink(),
            (16..18, Some(id)) => self.sync(id),
            (18, Some(_)) => self.sync_names(),
            _ => self.barrier(),
        }
    }

    fn create(&mut self) {
        let shared = Arc::clone(&self.shared);
        let id = shared.store.new_number();
        let from_source = self.rng.below(2) == 0;
        let mut made = node(Kind::File);
        if from_source {
            made.origin = Some(Origin {
                filesystem: 1,
                number: id.0,
                identity: Vec::new(),
            });
        }
        let step = self.note(Op::Create(id, from_source));
        let name = name(
            shared.directories[self.number],
            own_name(id),
            Some(id),
            false,
        );
        self.change(step, vec![Change::Make(id, Box::new(made)), name]);
        self.new.push(id);
    }

    /// The source's file, for a file that began as one.
    fn source(&self, id: NodeId) -> Option<SourceState> {
        let node = self.shared.store.node(id).expect("a node").expect("a node");
        node.origin.map(|_| SourceState {
            size: SOURCE,
            mtime: time(1),
        })
    }

    fn write(&mut self, id: NodeId) {
        let count = match self.rng.below(4) {
            0 => 1 + self.rng.below(8),
            1 => 8,
            2 => 8 * (1 + self.rng.below(8)),
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
        let (at, source) = (first * SECTOR, self.source(id));
        let written = self
            .shared
            .store
            .write(id, at, &bytes, source, time(step), &mut sevens);
        written.expect("a write");
    }

    fn truncate(&mut self, id: NodeId) {
        let size = match self.rng.below(3) {
            0 => 0,
            1 => self.rng.below(LONGEST) * SECTOR,
            _ => self.rng.below(LONGEST / 8) * 4096,
        };
        let step = self.note(Op::Truncate(id, size));
        let cut = self
            .shared
            .store
            .truncate(id, size, self.source(id), time(step));
        cut.expect("a truncation");
    }

    fn punch(&mut self, id: NodeId) {
        let (first, count) = (self.rng.below(LONGEST / 2), 1 + self.rng.below(100));
        let step = self.note(Op::Punch(id, first, count));
        let range = first * SECTOR..(first + count) * SECTOR;
        let punched = self
            .shared
            .store
            .punch(id, range, self.source(id), time(step), &mut sevens);
        punched.expect("a hole");
    }

    fn place(&mut self) {
        let Some(id) = self.new.pop() else {
            return self.barrier_seldom();
        };
        let slot = self.rng.below(SLOTS as u64) as usize;
        let step = self.note(Op::Place(id, slot));
        let directory = self.shared.directories[self.number];
        let mut changes = vec![
            name(directory, own_name(id), None, false),
            name(directory, slot_name(slot), Some(id), true),
        ];
        changes.extend(self.slots[slot].map(Change::Remove));
        self.change(step, changes);
        self.slots[slot] = Some(id);
    }

    fn unlink(&mut self) {
        let slot = self.rng.below(SLOTS as u64) as usize;
        let Some(id) = self.slots[slot].take() else {
            return self.barrier_seldom();
        };
        let step = self.note(Op::Unlink(slot));
        let directory = self.shared.directories[self.number];
        let gone = name(directory, slot_name(slot), None, false);
        self.change(step, vec![gone, Change::Remove(id)]);
    }

    fn sync(&mut self, id: NodeId) {
        self.note(Op::Nothing);
        let before = self.shared.answered();
        let data_only = self.rng.below(2) == 0;
        self.shared.store.sync(id, data_only).expect("a sync");
        let named = self.shared.histories[self.number].lock().unwrap().named(id);
        let mut durable = self.shared.durable[self.number].lock().unwrap();
        durable.files.insert(id, before[self.number]);
        // If nothing of the file had to be made durable, nothing else was.
        durable.meta = durable.meta.max(named);
    }

    fn sync_names(&mut self) {
        self.note(Op::Nothing);
        let before = self.shared.answered();
        self.shared.store.sync_names().expect("a sync");
        self.shared.names_durable(&before, false);
    }

    fn barrier_seldom(&mut self) {
        if self.rng.below(4) == 0 {
            self.barrier();
        } else {
            self.note(Op::Nothing);
        }
    }

    fn barrier(&mut self) {
        self.note(Op::Nothing);
        let before = self.shared.answered();
        self.shared.store.barrier().expect("a barrier");
        self.shared.names_durable(&before, true);
    }
}
