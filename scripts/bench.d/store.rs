//! Times of the store, without a mount: `cargo run --release --example store DIRECTORY [NODES]`.
//!
//! DIRECTORY lies on the filesystem to measure, and holds two stores and a file afterwards. What is compared is measured in turns.

use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mmfs::store::keeper::Keeper;
use mmfs::store::{
    Attributes, Base, Change, Directory, Kind, Name, Node, NodeId, Origin, SourceState, Store,
    Time, make,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ROUNDS: usize = 200;
/// In place of NODES: open the store DIRECTORY, and no more.
const OPEN: &str = "open";
const NOW: Time = Time {
    seconds: 1_700_000_000,
    nanoseconds: 0,
};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let place = args.next().ok_or("usage: store DIRECTORY [NODES]")?;
    let nodes = args.next();
    let place = Path::new(&place);
    if nodes.as_deref() == Some(OPEN) {
        return opening(place);
    }
    let nodes: u64 = nodes.map_or(Ok(1_000_000), |nodes| nodes.parse())?;
    let (small, large) = (place.join("small"), place.join("large"));
    let mut stores = Vec::new();
    for (path, nodes) in [(&small, 1000), (&large, nodes)] {
        fill(path, nodes)?;
        stores.push((open(path, nodes)?, nodes));
    }
    growth(&stores)?;
    syncs(place, &stores[0].0)?;
    creates_beside_syncs(&stores[0].0)?;
    Ok(())
}

fn open(path: &Path, nodes: u64) -> Result<Arc<Store>> {
    print!("open with {nodes} changed nodes: ");
    std::io::stdout().flush()?;
    // In a process of its own: this one has the memory of a store that was filled.
    let done = Command::new(std::env::current_exe()?)
        .arg(path)
        .arg(OPEN)
        .status()?;
    if !done.success() {
        return Err("the opening failed".into());
    }
    let (opened, _) = Store::open_directory(path, false).map_err(|error| error.sentence(path))?;
    Ok(Arc::new(opened.store))
}

fn opening(path: &Path) -> Result<()> {
    let begin = Instant::now();
    let (opened, _) = Store::open_directory(path, false).map_err(|error| error.sentence(path))?;
    println!("{:.2?}, {} KiB of memory", begin.elapsed(), anonymous()?);
    Ok(opened.store.close()?)
}

/// RssAnon of this process, in KiB.
fn anonymous() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    Ok(line
        .ok_or("no RssAnon")?
        .trim()
        .trim_end_matches(" kB")
        .parse()?)
}

fn origin(number: u64) -> Origin {
    Origin {
        filesystem: 1,
        number,
        identity: number
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_le_bytes()
            .to_vec(),
    }
}

/// A file of the source whose mode was changed.
fn changed(number: u64, root: NodeId, id: NodeId) -> Vec<Change> {
    let attributes = Attributes {
        mode: Some(0o600),
        ..Attributes::default()
    };
    let node = Node {
        origin: Some(origin(number)),
        attributes,
        links: 0,
        ..blank(Kind::File)
    };
    vec![
        Change::Make(id, Box::new(node)),
        name(root, &format!("file{number}"), id),
    ]
}

fn name(directory: NodeId, name: &str, to: NodeId) -> Change {
    Change::Name {
        directory,
        name: name.into(),
        to: Some(Name::Node(to)),
        replaces: false,
        since: None,
    }
}

fn blank(kind: Kind) -> Node {
    let attributes = Attributes {
        mode: Some(0o755),
        uid: Some(0),
        gid: Some(0),
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

fn root() -> NodeId {
    NodeId(NodeId::FIRST)
}

fn fill(path: &Path, nodes: u64) -> Result<()> {
    fs::create_dir(path)?;
    let base = Base {
        path: "/source".into(),
        filesystem: String::new(),
        root: 2,
        born: None,
    };
    make(&Directory::open(path)?, &base)?;
    let store = Arc::new(
        Store::open_directory(path, false)
            .map_err(|error| error.sentence(path))?
            .0
            .store,
    );
    let keeper = Keeper::start(&store, false)?;
    assert_eq!(store.new_number(), root());
    store.change(vec![Change::Make(root(), Box::new(blank(Kind::Directory)))])?;
    for number in 1..nodes {
        let id = store.new_number();
        store.change(changed(number, root(), id))?;
    }
    drop(keeper);
    Ok(store.close()?)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A record and a lookup, in a small and in a large store.
fn growth(stores: &[(Arc<Store>, u64)]) -> Result<()> {
    let mut records = vec![Vec::new(); stores.len()];
    let (mut found, mut missing) = (records.clone(), records.clone());
    let mut random = 1u64;
    for round in 0..20_000u64 {
        for (which, (store, nodes)) in stores.iter().enumerate() {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let number = (random >> 33) % (nodes - 1) + 1;
            let begin = Instant::now();
            store
                .by_origin(&origin(number))?
                .ok_or("a node is not found")?;
            found[which].push(begin.elapsed());
            let begin = Instant::now();
            assert_eq!(store.by_origin(&origin(number + (1 << 40)))?, None);
            missing[which].push(begin.elapsed());
            let id = store.new_number();
            let change = vec![
                Change::Make(id, Box::new(blank(Kind::File))),
                name(root(), &format!("new{round}"), id),
            ];
            let begin = Instant::now();
            store.change(change)?;
            records[which].push(begin.elapsed());
        }
    }
    for (which, (_, nodes)) in stores.iter().enumerate() {
        println!(
            "{nodes} nodes: a record {:.2?}, a lookup of a node {:.2?}, of none {:.2?}",
            median(&mut records[which]),
            median(&mut found[which]),
            median(&mut missing[which])
        );
    }
    Ok(())
}

fn syncs(place: &Path, store: &Store) -> Result<()> {
    let plain = File::create(place.join("plain"))?;
    plain.write_all_at(&vec![1; 64 << 20], 0)?;
    plain.sync_all()?;
    let file = store.new_number();
    store.change(changed(1 << 50, root(), file))?;
    let source = Some(SourceState {
        size: 1 << 30,
        mtime: NOW,
    });
    let mut nothing = |_: u64, to: &mut [u8]| -> std::io::Result<()> {
        to.fill(0);
        Ok(())
    };
    store.write(file, 0, &[2; 4096], source, NOW, &mut nothing)?;
    store.barrier()?;
    let (mut of_plain, mut has, mut first) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        plain.write_all_at(&[round as u8; 4096], (round % 64) << 20)?;
        let begin = Instant::now();
        plain.sync_data()?;
        of_plain.push(begin.elapsed());
        store.write(file, 0, &[round as u8; 4096], source, NOW, &mut nothing)?;
        let begin = Instant::now();
        store.sync(file, true)?;
        has.push(begin.elapsed());
        store.write(
            file,
            (round + 1) << 16,
            &[3; 4096],
            source,
            NOW,
            &mut nothing,
        )?;
        let begin = Instant::now();
        store.sync(file, true)?;
        first.push(begin.elapsed());
    }
    let (plain, has, first) = (median(&mut of_plain), median(&mut has), median(&mut first));
    let ratio = |time: Duration| time.as_secs_f64() / plain.as_secs_f64();
    println!(
        "fdatasync of a plain file {plain:.2?}; fsync of a page the map has {has:.2?} ({:.2}), of a first page {first:.2?} ({:.2})",
        ratio(has),
        ratio(first)
    );
    Ok(())
}

/// How long creates take while another thread syncs a file in a loop.
fn creates_beside_syncs(store: &Arc<Store>) -> Result<()> {
    let (done, syncing) = (Arc::new(AtomicBool::new(false)), Arc::clone(store));
    let file = store.new_number();
    store.change(changed(1 << 51, root(), file))?;
    let ends = Arc::clone(&done);
    let keeper = Keeper::start(store, false)?;
    let syncs = std::thread::spawn(move || -> std::io::Result<u64> {
        let mut count = 0;
        while !ends.load(Ordering::Relaxed) {
            syncing.write(file, count << 12, &[1; 4096], None, NOW, &mut |_, _| Ok(()))?;
            syncing.sync(file, false)?;
            count += 1;
        }
        Ok(count)
    });
    let mut times = Vec::new();
    for number in 0..100_000 {
        let id = store.new_number();
        let change = vec![
            Change::Make(id, Box::new(blank(Kind::File))),
            name(root(), &format!("beside{number}"), id),
        ];
        let begin = Instant::now();
        store.change(change)?;
        times.push(begin.elapsed());
        std::thread::sleep(Duration::from_micros(20));
    }
    done.store(true, Ordering::Relaxed);
    let count = syncs.join().map_err(|_| "the thread that syncs")??;
    drop(keeper);
    times.sort_unstable();
    println!(
        "100000 creates beside {count} syncs: median {:.2?}, p99 {:.2?}, longest {:.2?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        times[times.len() - 1]
    );
    Ok(())
}
