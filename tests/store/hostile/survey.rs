//! Everything that a view may ask of a store, on one that may be hostile: each answer is a value or an errno that fits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mmfs::store::check::{check, repair};
use mmfs::store::opening::{OpenError, Rule};
use mmfs::store::{
    Attributes, Base, Change, Content, From, Kind, Name, NodeId, SourceState, Store, Xattr,
};

use super::encode::FIRST;
use super::good::{NOW, named, node, sevens, source};

/// What a damaged store may answer. Not EIO, which is the disk's, and not EBADF, EFAULT or ENOMEM, which are mistakes.
const SENSIBLE: [i32; 14] = [
    libc::EUCLEAN,
    libc::ENOENT,
    libc::EEXIST,
    libc::EINVAL,
    libc::ENOTDIR,
    libc::EISDIR,
    libc::ELOOP,
    libc::ENXIO,
    libc::EXDEV,
    libc::ENOSPC,
    libc::EFBIG,
    libc::E2BIG,
    libc::EOPNOTSUPP,
    libc::EACCES,
];

/// Answers by question: a digest of the value, or the errno.
pub type Answers = BTreeMap<String, Result<u32, i32>>;

/// The files of a case may take so many bytes.
const LIMIT: u64 = 16 << 20;

/// So many nodes are asked about, beside those that the test knows.
const MOST: usize = 40;

fn errno(what: &str, error: &io::Error) -> i32 {
    match error.raw_os_error() {
        Some(errno) if SENSIBLE.contains(&errno) => errno,
        _ => panic!("{what}: {error:?} does not fit a damaged store"),
    }
}

fn note<T: Debug>(answers: &mut Answers, question: String, answer: io::Result<T>) -> Option<T> {
    let (told, value) = match answer {
        Ok(value) => (
            Ok(crc32fast::hash(format!("{value:?}").as_bytes())),
            Some(value),
        ),
        Err(error) => (Err(errno(&question, &error)), None),
    };
    answers.insert(question, told);
    value
}

/// Reads all there is. `is_sound`: a check found nothing wrong.
pub fn answers(store: &Store, known: &[NodeId], is_sound: bool) -> Answers {
    let mut to = Answers::new();
    note(&mut to, "filesystems".into(), store.filesystems());
    note(&mut to, "free".into(), store.free().map(drop));
    let (mut waiting, mut seen): (Vec<NodeId>, BTreeSet<NodeId>) =
        (known.to_vec(), BTreeSet::new());
    waiting.extend((0..8).map(|n| NodeId(FIRST + n)));
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) || seen.len() > MOST {
            continue;
        }
        let found = note(&mut to, format!("node {:x}", id.0), store.node(id));
        if let Some(origin) = found.flatten().and_then(|node| node.origin) {
            note(
                &mut to,
                format!("origin {:x}", id.0),
                store.by_origin(&origin),
            );
        }
        listing(&mut to, store, id, &mut waiting);
        xattrs(&mut to, store, id, is_sound);
        if let Some(content) =
            note(&mut to, format!("content {:x}", id.0), store.content(id)).flatten()
        {
            bytes(&mut to, store, id, &content);
        }
    }
    to
}

fn listing(to: &mut Answers, store: &Store, id: NodeId, waiting: &mut Vec<NodeId>) {
    let mut last = Vec::new();
    // A listing that goes round in a circle would have no end.
    for part in 0.. {
        let names = note(
            to,
            format!("names {:x} {part}", id.0),
            store.names(id, &last, 61),
        );
        let Some(names) = names.filter(|names| !names.is_empty()) else {
            return;
        };
        for (name, leads) in &names {
            assert!(*name > last, "a listing goes on");
            assert!(
                !name.is_empty() && name.len() < 256 && !name.contains(&b'/') && !name.contains(&0)
            );
            last.clone_from(name);
            if let Name::Node(id) = leads {
                waiting.push(*id);
            }
        }
        note(to, format!("name {:x} {part}", id.0), store.name(id, &last));
    }
}

fn xattrs(to: &mut Answers, store: &Store, id: NodeId, is_sound: bool) {
    let digest = |value: &Xattr| match value {
        Xattr::Hidden => None,
        Xattr::Set(bytes) => Some(crc32fast::hash(bytes)),
    };
    let all = store.xattrs(id);
    let all = all.map(|all| all.into_iter().map(|(name, value)| (name, digest(&value))));
    let all = all.map(Iterator::collect::<Vec<_>>);
    let all = note(to, format!("xattrs {:x}", id.0), all);
    if let Some((name, value)) = all.and_then(|all| all.into_iter().next()) {
        let one = store
            .xattr(id, &name)
            .map(|one| one.map(|one| digest(&one)));
        let one = note(to, format!("xattr {:x}", id.0), one);
        // A table whose filter or index lies hides from a look-up what a listing shows. A check tells.
        assert!(!is_sound || one.is_none_or(|one| one == Some(value)));
    }
}

fn bytes(to: &mut Answers, store: &Store, id: NodeId, content: &Content) {
    let size = content.size;
    let all = note(
        to,
        format!("pieces {:x}", id.0),
        store
            .pieces(id, content, 0..u64::MAX)
            .collect::<std::io::Result<Vec<_>>>(),
    );
    let mut end = 0;
    for piece in all.unwrap_or_default() {
        assert!(
            piece.range.start == end && piece.range.end > end,
            "pieces adjoin"
        );
        assert!(piece.from != From::Source || piece.range.end <= content.source_limit);
        end = piece.range.end;
        assert!(end <= size, "pieces end with the file");
    }
    note(
        to,
        format!("file {:x}", id.0),
        store.data_file(id, content).map(|file| file.is_some()),
    );
    let near = [
        0,
        size / 2,
        size.saturating_sub(100),
        content.source_limit.saturating_sub(50),
        size,
    ];
    for at in near {
        let mut buffer = vec![0; 9000];
        let read = store.read(id, at, &mut buffer, &mut sevens);
        let read = read.map(|n| (n, crc32fast::hash(&buffer[..n])));
        note(to, format!("read {:x} {at}", id.0), read);
    }
}

/// What came of one case.
#[derive(Debug, Default)]
pub struct Seen {
    pub answers: Option<Answers>,
    pub rule: Option<Rule>,
    pub refused: Option<String>,
    pub operations: u64,
    pub errors: BTreeMap<i32, u64>,
}

/// Says why a store was not opened; fails for an error that does not fit.
pub fn refusal(error: &OpenError) -> String {
    if let OpenError::Failed(what, error) = error {
        errno(what, error);
    }
    format!("{error:?}")
}

/// Checks the store, opens it, reads all, changes some, and closes it.
pub fn survey(path: &Path, known: &[NodeId], after_power_cut: bool, base: bool) -> Seen {
    let mut seen = Seen::default();
    let checked = check(path, after_power_cut);
    let (opened, _): (_, Base) = match Store::open_directory(path, after_power_cut) {
        Ok(opened) => opened,
        Err(error) => {
            seen.refused = Some(refusal(&error));
            return seen;
        }
    };
    let report = checked.expect("what opens can be checked");
    assert!(report.base.is_some() || !base);
    let store = opened.store;
    seen.rule = Some(opened.recovery.rule);
    // What the store says that it uses is no measure: a lie would be the limit.
    store.set_limit(Some(store.used().min(LIMIT / 2) + LIMIT / 2));
    let answers = answers(&store, known, report.problems.is_empty());
    for answer in answers.values() {
        seen.operations += 1;
        if let Err(errno) = answer {
            *seen.errors.entry(*errno).or_default() += 1;
        }
    }
    seen.answers = Some(answers);
    let mut told = |what: &str, done: io::Result<()>| {
        seen.operations += 1;
        if let Err(error) = &done {
            *seen.errors.entry(errno(what, error)).or_default() += 1;
        }
        done.is_ok()
    };
    let before = taken(path);
    for id in known.iter().take(14) {
        changes(&store, *id, &mut told);
        copied_whole(&store, *id, &mut told);
        let more = taken(path).saturating_sub(before);
        // Beside the files there are tables and tails.
        assert!(more <= 2 * LIMIT, "{id:?}: {} KiB are taken", more >> 10);
        made_short(&store, *id, &mut told);
    }
    let made = last_words(&store, known, &mut told);
    told("barrier", store.barrier());
    let closed = told("close", store.close());
    drop(store);
    if closed {
        let (again, _) = Store::open_directory(path, after_power_cut)
            .unwrap_or_else(|error| panic!("what was closed opens again: {error:?}"));
        assert_eq!(again.recovery.rule, Rule::Closed);
        if let Some(id) = made {
            let mut buffer = [0; 5];
            let read = again.store.read(id, 0, &mut buffer, &mut sevens);
            assert_eq!(read.expect("what was written is there"), 5);
            assert_eq!(&buffer, b"hello");
        }
        told("close", again.store.close());
    }
    seen
}

/// A new file. Some, if all of it was answered well.
fn last_words(
    store: &Store,
    known: &[NodeId],
    told: &mut dyn FnMut(&str, io::Result<()>) -> bool,
) -> Option<NodeId> {
    let id = store.new_number();
    let name = named(known[0], "last words", Some(Name::Node(id)));
    let made = store.change(vec![Change::Make(id, node(Kind::File)), name]);
    let made = told("make", made);
    let written = store.write(id, 0, b"hello", None, NOW, &mut sevens);
    let written = told("write", written);
    let synced = told("sync", store.sync(id, false));
    told("sync names", store.sync_names());
    (made && written && synced).then_some(id)
}

fn changes(store: &Store, id: NodeId, told: &mut dyn FnMut(&str, io::Result<()>) -> bool) {
    let mode = Attributes {
        mode: Some(0o640),
        mtime: Some(NOW),
        ..Attributes::default()
    };
    let other = NodeId(FIRST);
    for change in [
        Change::Attributes(id, mode),
        Change::Links(id, 1),
        Change::Opaque(id, true),
        Change::Reset(id),
        Change::Xattr(id, b"user.new".to_vec(), Some(Xattr::Set(b"new".to_vec()))),
        named(id, "new", Some(Name::Hidden)),
        named(other, "other", Some(Name::Node(id))),
    ] {
        told("change", store.change(vec![change]));
    }
    let size = store
        .content(id)
        .ok()
        .flatten()
        .map_or(0, |content| content.size);
    let state: Option<SourceState> = source(10);
    for at in [0, 5000, size.saturating_sub(10), (1 << 40) + 3] {
        let text = [b'h'; 300];
        told("write", store.write(id, at, &text, state, NOW, &mut sevens));
    }
    for range in [0..4096, 10..20_000, size / 2..u64::MAX] {
        told("punch", store.punch(id, range, state, NOW, &mut sevens));
    }
}

/// The file as it is now, whole.
fn copied_whole(store: &Store, id: NodeId, told: &mut dyn FnMut(&str, io::Result<()>) -> bool) {
    let whole = store.make_whole(id, source(10), NOW, &mut sevens);
    told("whole", whole);
    told("sync", store.sync(id, true));
}

fn made_short(store: &Store, id: NodeId, told: &mut dyn FnMut(&str, io::Result<()>) -> bool) {
    let state = source(10);
    let size = store
        .content(id)
        .ok()
        .flatten()
        .map_or(0, |content| content.size);
    for size in [size / 2, 9000, 100, 0] {
        told("truncate", store.truncate(id, size, state, NOW));
    }
    told("write", store.write(id, 3, b"hey", state, NOW, &mut sevens));
    told("sync", store.sync(id, false));
    if id.0 % 2 == 1 {
        told("orphan", store.change(vec![Change::Orphan(id, true)]));
    } else if id != NodeId(FIRST) {
        told("remove", store.change(vec![Change::Remove(id)]));
    }
}

/// What the files of a directory take of the disk, in bytes.
fn taken(path: &Path) -> u64 {
    let (mut bytes, mut waiting) = (0, vec![path.to_path_buf()]);
    while let Some(path) = waiting.pop() {
        // A case may have put anything there, or nothing.
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        bytes += meta.blocks() * 512;
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            waiting.extend(entries.map(|entry| entry.path()));
        }
    }
    bytes
}

/// Repairs the store: afterwards it opens, unless it was refused.
pub fn repaired(path: &Path, after_power_cut: bool) {
    match repair(path, after_power_cut) {
        Ok(_) => {
            let report = check(path, after_power_cut).expect("what was repaired can be checked");
            assert_eq!(report.recovery.rule, Rule::Closed);
        }
        Err(error) => drop(refusal(&error)),
    }
}
