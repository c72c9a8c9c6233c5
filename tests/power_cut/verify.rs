//! Compares what a power cut left with what was durable before it.

use mmfs::store::{Kind, Name, NodeId, Store};

use super::history::{Durable, History, Possible, SECTOR, SOURCE, Sector, sector_of};
use super::load::{Shared, sevens, time};

/// What a comparison found to compare.
#[derive(Debug, Default)]
pub struct Compared {
    pub files: u64,
    pub sectors: u64,
    /// Steps that were durable, and those that were kept beyond them.
    pub durable: u64,
    pub beyond: u64,
}

/// `durable`: as of a moment before the cut. All steps that are in the histories may have been made.
pub fn verify(store: &Store, shared: &Shared, durable: &[Durable]) -> Compared {
    let mut compared = Compared::default();
    let histories: Vec<History> = shared
        .histories
        .iter()
        .map(|history| history.lock().unwrap().clone())
        .collect();
    let kept: Vec<usize> = shared
        .directories
        .iter()
        .map(|id| kept_names(store, *id))
        .collect();
    for (thread, history) in histories.iter().enumerate() {
        let must = history.last_name(durable[thread].meta);
        assert!(
            kept[thread] >= must,
            "thread {thread}: names up to step {must} were durable, {} are kept",
            kept[thread]
        );
        assert!(
            kept[thread] <= history.ops.len(),
            "thread {thread}: names of the future"
        );
        compared.durable += must as u64;
        compared.beyond += (kept[thread] - must) as u64;
        prefix(&histories, &kept, thread);
        let names = names(store, shared.directories[thread]);
        let wanted: Vec<_> = history.names(kept[thread]).into_iter().collect();
        assert_eq!(
            names, wanted,
            "thread {thread}: names after step {}",
            kept[thread]
        );
        for (name, id) in names {
            let possible = history.may_be(id, &durable[thread], kept[thread]);
            compared.sectors += file(store, id, &possible, &format!("thread {thread}: {name}"));
            compared.files += 1;
        }
    }
    compared
}

/// How many steps of the thread its directory has seen.
fn kept_names(store: &Store, directory: NodeId) -> usize {
    let node = store
        .node(directory)
        .expect("a node")
        .expect("the directory is there");
    node.attributes
        .mtime
        .map_or(0, |time| time.seconds as usize)
}

/// What was answered before a step that was kept began was kept, too: in all threads.
fn prefix(histories: &[History], kept: &[usize], thread: usize) {
    let Some(last) = kept[thread].checked_sub(1) else {
        return;
    };
    for (other, answered) in histories[thread].before[last].iter().enumerate() {
        let must = histories[other].last_name(*answered);
        assert!(
            kept[other] >= must,
            "step {last} of thread {thread} is kept, and step {must} of thread {other} before it is not"
        );
    }
}

fn names(store: &Store, directory: NodeId) -> Vec<(String, NodeId)> {
    let (mut all, mut last) = (Vec::new(), Vec::new());
    loop {
        let found = store.names(directory, &last, 100).expect("a listing");
        let Some((name, _)) = found.last() else {
            return all;
        };
        last.clone_from(name);
        all.extend(found.into_iter().map(|(name, to)| match to {
            Name::Node(id) => (String::from_utf8(name).expect("a name of ours"), id),
            Name::Hidden => panic!("nothing is hidden"),
        }));
    }
}

/// Compares a file, and returns how many sectors it has.
fn file(store: &Store, id: NodeId, possible: &Possible, what: &str) -> u64 {
    let node = store
        .node(id)
        .expect("a node")
        .unwrap_or_else(|| panic!("{what}: no node"));
    assert_eq!(node.kind, Kind::File, "{what}");
    let content = store.content(id).expect("a content");
    let size = content.map_or(if node.origin.is_some() { SOURCE } else { 0 }, |content| {
        content.size
    });
    assert!(
        possible.sizes.contains(&size),
        "{what}: {size} bytes, not one of {:?}; {}",
        possible.sizes,
        possible.story
    );
    let mut bytes = vec![7; size as usize];
    if content.is_some() {
        let read = store.read(id, 0, &mut bytes, &mut sevens).expect("a read");
        assert_eq!(read, bytes.len(), "{what}");
    }
    for (at, bytes) in (0..).zip(bytes.chunks(SECTOR as usize)) {
        let found = sector_of(id, at, bytes).unwrap_or_else(|| {
            panic!(
                "{what}: sector {at} of {size} bytes has bytes that nobody wrote there: {:?}",
                &bytes[..32]
            )
        });
        assert!(
            possible.allows(at, found),
            "{what}: sector {at} is {found:?}, not one of {}",
            possible.told(at)
        );
    }
    // What lies behind the end in the data file does not come back.
    let grown = size + 3 * SECTOR;
    store
        .truncate(id, grown, None, time(1))
        .expect("a truncation");
    let mut behind = vec![1; 3 * SECTOR as usize];
    if store.content(id).expect("a content").is_some() && content.is_some() {
        store
            .read(id, size, &mut behind, &mut sevens)
            .expect("a read");
        assert_eq!(
            sector_of(id, 0, &behind),
            Some(Sector::Zero),
            "{what}: growth shows zeros"
        );
    }
    size / SECTOR
}
