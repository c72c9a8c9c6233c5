//! Data files that the kernel has: it writes to them, and the store is not asked.

use std::path::Path;
use std::sync::Arc;

use mmfs::store::check::Report;
use mmfs::store::opening::Rule;
use mmfs::store::{Access, Attributes, Change, DiskFile, Kind, NodeId, Store, Time, Xattr};

use super::cuts::put_cookie;
use super::fake::FakeDisk;
use super::image::{Call, Cutter, Entry, Image, Random};
use super::place::time;
use super::setup::{new_image, node, options, to};

fn no_source(_: u64, _: &mut [u8]) -> std::io::Result<()> {
    panic!("nothing comes from a source");
}

/// A store with one file, on a disk that records calls.
struct Lender {
    disk: FakeDisk,
    start: Image,
    store: Store,
    root: NodeId,
    file: NodeId,
    /// What the kernel has.
    lent: Option<Arc<dyn DiskFile>>,
}

impl Lender {
    fn new(cookies: Option<&Path>) -> Self {
        let start = new_image();
        let disk = FakeDisk::of(start.clone());
        if let Some(cookies) = cookies {
            disk.set_cookies(cookies);
        }
        let opened = Store::open(Arc::new(disk.clone()), &options(cookies)).unwrap();
        let store = opened.store;
        let (root, file) = (store.new_number(), store.new_number());
        let changes = vec![
            Change::Make(root, node(Kind::Directory, 0)),
            Change::Make(file, node(Kind::File, 0)),
            to(root, b"file", file, false),
        ];
        store.change(changes).unwrap();
        Self {
            disk,
            start,
            store,
            root,
            file,
            lent: None,
        }
    }

    fn lend(&mut self, access: Access) {
        self.lent = Some(self.store.lend(self.file, access).unwrap().unwrap());
    }

    fn take_back(&mut self) {
        self.lent = None;
        self.store.take_back(self.file);
    }

    /// The kernel writes.
    fn write(&self, at: u64, bytes: &[u8]) {
        let lent = self.lent.as_ref().unwrap();
        lent.write_all_at(bytes, at).unwrap();
    }

    fn image(&self) -> Image {
        self.disk.image()
    }
}

/// All bytes of the file, as the store has them.
fn bytes_of(store: &Store, file: NodeId) -> Vec<u8> {
    let size = store
        .content(file)
        .unwrap()
        .map_or(0, |content| content.size);
    let mut bytes = vec![1; size as usize];
    if size > 0 {
        store.read(file, 0, &mut bytes, &mut no_source).unwrap();
    }
    bytes
}

fn after_power_cut(image: Image) -> Store {
    let opened = Store::open(Arc::new(FakeDisk::of(image)), &options(None)).unwrap();
    assert_eq!(opened.recovery.rule, Rule::PowerCut);
    opened.store
}

fn is_sound(disk: &FakeDisk) {
    let report = Report::of(disk, &options(None)).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
}

#[test]
fn after_a_kill_a_lent_file_is_as_long_as_the_kernel_made_it() {
    for barrier in [false, true] {
        let cookies = tempfile::tempdir().unwrap();
        let mut lender = Lender::new(Some(cookies.path()));
        lender.lend(Access::Writes);
        lender.write(0, &[7; 10_000]);
        if barrier {
            lender.store.barrier().unwrap();
        }
        lender.write(20_000, b"end");
        let (image, file) = (lender.image(), lender.file);
        drop(lender);
        let disk = FakeDisk::of(image);
        let opened = Store::open(Arc::new(disk.clone()), &options(Some(cookies.path()))).unwrap();
        assert_eq!(opened.recovery.rule, Rule::Killed);
        let mut wanted = vec![7; 10_000];
        wanted.resize(20_000, 0);
        wanted.extend(b"end");
        assert!(bytes_of(&opened.store, file) == wanted);
        assert!(!opened.store.is_lent(file));
        // What was recovered is durable.
        let again = after_power_cut(disk.image());
        assert!(bytes_of(&again, file) == wanted);
        is_sound(&disk);
    }
}

#[test]
fn what_was_taken_back_is_recorded() {
    let mut lender = Lender::new(None);
    assert!(
        lender
            .store
            .lend(lender.file, Access::Reads)
            .unwrap()
            .is_none()
    );
    lender.lend(Access::Writes);
    lender.lend(Access::Reads);
    lender.write(0, &[7; 5000]);
    lender.take_back();
    assert!(lender.store.is_lent(lender.file));
    lender.take_back();
    assert!(!lender.store.is_lent(lender.file));
    assert_eq!(
        lender.store.content(lender.file).unwrap().unwrap().size,
        5000
    );
    assert_eq!(lender.store.used(), 8192);
    lender.store.close().unwrap();
    let opened = Store::open(Arc::new(lender.disk.clone()), &options(None)).unwrap();
    assert_eq!(opened.recovery.rule, Rule::Closed);
    assert_eq!(bytes_of(&opened.store, lender.file), vec![7; 5000]);
    is_sound(&lender.disk);
}

/// The kernel's pages behind the length that was synced are in the data file, and do not show when the file grows.
#[test]
fn after_a_power_cut_a_lent_file_is_as_long_as_it_was_synced() {
    let mut lender = Lender::new(None);
    lender.lend(Access::Writes);
    lender.write(0, &[7; 5000]);
    lender.store.sync(lender.file, true).unwrap();
    lender.write(5000, &[8; 9000]);
    let store = after_power_cut(lender.image());
    assert_eq!(bytes_of(&store, lender.file), vec![7; 5000]);
    store.truncate(lender.file, 20_000, None, time(1)).unwrap();
    let mut wanted = vec![7; 5000];
    wanted.resize(20_000, 0);
    assert!(bytes_of(&store, lender.file) == wanted);
    // Nor when the kernel gets it.
    let store = after_power_cut(lender.image());
    let lent = store.lend(lender.file, Access::Writes).unwrap().unwrap();
    assert_eq!(lent.size().unwrap(), 5000);
}

/// With O_DSYNC the kernel syncs the data file, and the store learns of nothing.
#[test]
fn after_a_power_cut_a_synced_write_of_the_kernel_is_there() {
    for first in [Access::Writes, Access::SyncedWrites] {
        let mut lender = Lender::new(None);
        lender.lend(first);
        lender.write(0, &[7; 5000]);
        lender
            .store
            .lend_for(lender.file, Access::SyncedWrites)
            .unwrap();
        lender.write(5000, &[8; 100]);
        lender.lent.as_ref().unwrap().sync().unwrap();
        let mut cutter = Cutter::new(&lender.start, true);
        for entry in lender.disk.take_entries() {
            cutter.advance(&entry.call);
        }
        let store = after_power_cut(cutter.strict());
        assert_eq!(
            bytes_of(&store, lender.file),
            [vec![7; 5000], vec![8; 100]].concat()
        );
        // What was cut off is not to be found by the length.
        lender
            .store
            .truncate(lender.file, 10, None, time(1))
            .unwrap();
        for entry in lender.disk.take_entries() {
            cutter.advance(&entry.call);
        }
        let store = after_power_cut(cutter.strict());
        assert_eq!(bytes_of(&store, lender.file), vec![7; 10]);
    }
}

/// The end of a loan was in no sync, and so a table's loan counted: the length that the file got later, without a sync, stayed.
#[test]
fn after_a_power_cut_a_loan_that_ended_does_not_count() {
    let mut lender = Lender::new(None);
    lender.lend(Access::SyncedWrites);
    lender.write(0, &[7; 8192]);
    lender.store.barrier().unwrap();
    lender.take_back();
    lender.store.sync(lender.file, true).unwrap();
    let write = |at, bytes: &[u8]| {
        lender
            .store
            .write(lender.file, at, bytes, None, time(50), &mut no_source)
    };
    write(8192, &[8; 4096]).unwrap();
    // All calls so far have reached the disk, as if nothing had to be synced.
    let store = after_power_cut(lender.image());
    assert_eq!(bytes_of(&store, lender.file), [7; 8192]);
}

#[test]
fn a_lent_file_keeps_its_data_file_when_it_is_cut() {
    let mut lender = Lender::new(None);
    lender.lend(Access::Writes);
    let (store, file) = (&lender.store, lender.file);
    let data = store.content(file).unwrap().unwrap().data;
    lender.write(0, &[7; 50_000]);
    for size in [20_000, 3000, 0, 9000] {
        store.truncate(file, size, None, time(1)).unwrap();
        let content = store.content(file).unwrap().unwrap();
        assert!(content.is_whole() && content.data == data && content.size == size);
        assert_eq!(lender.lent.as_ref().unwrap().size().unwrap(), size);
    }
    store
        .punch(file, 0..9000, None, time(2), &mut no_source)
        .unwrap();
    store
        .write(file, 100, b"x", None, time(3), &mut no_source)
        .unwrap();
    lender.write(8999, b"yz");
    let mut wanted = vec![0; 9001];
    wanted[100] = b'x';
    wanted[8999..].copy_from_slice(b"yz");
    let size = store.content_now(file).unwrap().unwrap().size;
    assert_eq!(size, 9001);
    assert!(bytes_of(store, file) == wanted);
    store.barrier().unwrap();
    is_sound(&lender.disk);
}

/// What is written without mmfs being asked takes suid, sgid and capabilities away, also after a kill.
#[test]
fn what_the_kernel_writes_takes_privileges_away() {
    let cookies = tempfile::tempdir().unwrap();
    for killed in [false, true] {
        let mut lender = Lender::new(Some(cookies.path()));
        lender.lend(Access::Writes);
        lender.write(0, b"before");
        let file = lender.file;
        lender.store.refresh(file).unwrap();
        let mode = Attributes {
            mode: Some(0o6755),
            mtime: Some(time(5)),
            ..Attributes::default()
        };
        let capability = b"security.capability".to_vec();
        let set = Change::Xattr(file, capability.clone(), Some(Xattr::Set(vec![1])));
        let changes = vec![Change::Attributes(file, mode), set];
        lender.store.change(changes).unwrap();
        lender.store.refresh(file).unwrap();
        let now = lender.store.node(file).unwrap().unwrap().attributes;
        assert_eq!((now.mode, now.mtime), (Some(0o6755), Some(time(5))));
        assert_eq!(lender.store.content(file).unwrap().unwrap().mtime, None);
        lender.write(0, b"after");
        let store = if killed {
            let disk = Arc::new(FakeDisk::of(lender.image()));
            let opened = Store::open(disk, &options(Some(cookies.path()))).unwrap();
            assert_eq!(opened.recovery.rule, Rule::Killed);
            opened.store
        } else {
            lender.store.refresh(file).unwrap();
            lender.store
        };
        assert_eq!(
            store.node(file).unwrap().unwrap().attributes.mode,
            Some(0o755)
        );
        assert_eq!(store.xattr(file, &capability).unwrap(), Some(Xattr::Hidden));
        assert_ne!(store.content(file).unwrap().unwrap().mtime, None);
    }
}

/// A full disk: what the kernel has written has no record, and shows nevertheless.
#[test]
fn a_length_that_cannot_be_recorded_shows() {
    let mut lender = Lender::new(None);
    lender.lend(Access::Writes);
    lender.store.barrier().unwrap();
    lender.write(0, &[7; 5000]);
    let taken = |lender: &Lender| lender.disk.calls();
    let calls = taken(&lender);
    for failing in 0..6 {
        lender.write(0, &[8; 5000]);
        lender
            .disk
            .fail(failing, super::fake::Failure::Errno(libc::ENOSPC));
        let content = lender.store.content_now(lender.file);
        if let Ok(content) = content {
            assert_eq!(content.unwrap().size, 5000);
        }
    }
    assert!(taken(&lender) > calls);
    lender.take_back();
    lender.store.barrier().unwrap();
    assert_eq!(bytes_of(&lender.store, lender.file), vec![8; 5000]);
}

/// What the file was after each operation, and since which the power cut cannot take it back.
struct History {
    states: Vec<Vec<u8>>,
    /// Of each operation: the state that is durable once it is answered.
    durable: Vec<usize>,
    /// The kernel synced what it wrote, at some time.
    is_synced: bool,
}

fn random_life(lender: &mut Lender, random: &mut Random) -> History {
    let mut now = Vec::new();
    let mut history = History {
        states: vec![now.clone()],
        durable: vec![0],
        is_synced: false,
    };
    let file = lender.file;
    for op in 1..=24 {
        lender.disk.set_op(op);
        let mut durable = history.durable[op - 1];
        let is_lent = lender.lent.is_some();
        let size = random.below(20_000);
        let at = random.below(1 + now.len() as u64 * 5 / 4);
        match random.below(12) {
            0..=3 if is_lent => {
                let bytes = vec![op as u8; 1 + random.below(9000) as usize];
                lender.write(at, &bytes);
                let end = at as usize + bytes.len();
                now.resize(now.len().max(end), 0);
                now[at as usize..end].copy_from_slice(&bytes);
            }
            4 => {
                lender
                    .store
                    .write(file, at, &[op as u8], None, time(9), &mut no_source)
                    .unwrap();
                now.resize(now.len().max(at as usize + 1), 0);
                now[at as usize] = op as u8;
            }
            5 | 6 => {
                let size = random.of(&[size, at, 0]);
                let is_cut = size < now.len() as u64;
                lender.store.truncate(file, size, None, time(9)).unwrap();
                now.resize(size as usize, 0);
                if is_lent && is_cut {
                    durable = op;
                }
            }
            7 => {
                lender.store.sync(file, random.chance(50)).unwrap();
                durable = op;
            }
            8 => {
                lender.store.barrier().unwrap();
                durable = op;
            }
            9 => {
                let name = [op as u8 + b'a'];
                lender
                    .store
                    .change(vec![to(lender.root, &name, file, true)])
                    .unwrap();
                lender.store.sync_names().unwrap();
                durable = op;
            }
            10 => _ = lender.store.content_now(file).unwrap(),
            _ if is_lent => lender.take_back(),
            _ => {
                let none = || Time::default();
                lender
                    .store
                    .make_whole(file, None, none(), &mut no_source)
                    .unwrap();
                let access = random.of(&[Access::Writes, Access::Writes, Access::SyncedWrites]);
                lender.lend(access);
                if access == Access::SyncedWrites {
                    durable = op;
                    history.is_synced = true;
                }
            }
        }
        history.states.push(now.clone());
        history.durable.push(durable);
    }
    lender.disk.set_op(usize::MAX);
    history
}

impl History {
    /// Whether these bytes can be what a power cut leaves after operation `answered`, while the next one may be under way.
    fn allows(&self, answered: usize, found: &[u8]) -> bool {
        let last = self.states.len() - 1;
        let states = &self.states[self.durable[answered]..=last.min(answered + 1)];
        // A byte that reads as zero was cut off, and the file grew again. Where it grew, its filesystem may have made the length
        // durable before the bytes.
        let zero = |at: usize| {
            let cut = states.iter().position(|state| state.len() <= at);
            cut.is_some_and(|cut| states[cut..].iter().any(|state| state.len() > at))
        };
        let fits = |at: usize| {
            let was = |state: &Vec<u8>| state.get(at) == Some(&found[at]);
            states.iter().any(was) || found[at] == 0 && zero(at)
        };
        let len = found.len();
        // The length of a part of a write: with O_DSYNC the data file tells.
        let part = |pair: &[Vec<u8>]| (pair[0].len()..pair[1].len()).contains(&len);
        let has_len = states.iter().any(|state| state.len() == len)
            || self.is_synced && states.windows(2).any(part);
        has_len && (0..len).all(fits)
    }
}

fn told(entries: &[Entry], seed: u64, calls: usize) -> String {
    let near = entries[calls.saturating_sub(8)..calls].iter();
    let call = |entry: &Entry| match &entry.call {
        Call::Write { ino, at, bytes } => format!("{} write {ino} {at} {}", entry.op, bytes.len()),
        call => format!("{} {call:?}", entry.op),
    };
    format!(
        "seed {seed}, after {calls}: {:?}",
        near.map(call).collect::<Vec<_>>()
    )
}

/// The kernel and the store write, cut and sync at random, and the power is cut, or the daemon is killed, at each call.
#[test]
fn a_lent_file_survives_power_cuts_and_kills() {
    for seed in 0..super::cuts::setting("MMFS_LENT", 6) {
        let cookies = tempfile::tempdir().unwrap();
        let mut random = Random(seed);
        let mut lender = Lender::new(Some(cookies.path()));
        lender.store.barrier().unwrap();
        let history = random_life(&mut lender, &mut random);
        let (entries, file) = (lender.disk.take_entries(), lender.file);
        let Lender { start, store, .. } = lender;
        drop(store);
        let mut cutter = Cutter::new(&start, true);
        for calls in 1..=entries.len() {
            cutter.advance(&entries[calls - 1].call);
            let next = entries
                .get(calls)
                .map_or(history.states.len(), |entry| entry.op);
            if next == 0 {
                continue;
            }
            let answered = (next - 1).min(history.states.len() - 1);
            for order in 0..4 {
                let image = match order {
                    0 => cutter.strict(),
                    1 => cutter.landed(),
                    2 => cutter.torn(&mut random),
                    _ => cutter.random(&mut random),
                };
                let found = bytes_of(&after_power_cut(image), file);
                let why = || format!("order {order}, {}", told(&entries, seed, calls));
                assert!(history.allows(answered, &found), "{}", why());
            }
            put_cookie(cookies.path(), entries[calls - 1].cookie.as_ref());
            let disk = Arc::new(FakeDisk::of(cutter.landed()));
            let opened = Store::open(disk, &options(Some(cookies.path()))).unwrap();
            let found = bytes_of(&opened.store, file);
            let under_way = history.states.get(answered + 1);
            let right = found == history.states[answered] || Some(&found) == under_way;
            assert!(right, "killed: {}", told(&entries, seed, calls));
        }
    }
}
