//! A store with everything in it, kept in memory, and put back before each case.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use mmfs::store::keeper::Keeper;
use mmfs::store::{
    Attributes, Base, Change, Directory, Kind, Name, Node, NodeId, Origin, SourceState, Store,
    Time, Xattr, make,
};
use tempfile::TempDir;

use super::encode;

pub const NOW: Time = Time {
    seconds: 1_000_000_000,
    nanoseconds: 5,
};

/// The source's file of every node: sevens.
pub fn sevens(_: u64, to: &mut [u8]) -> std::io::Result<()> {
    to.fill(7);
    Ok(())
}

pub fn source(pages: u64) -> Option<SourceState> {
    Some(SourceState {
        size: pages * 4096 - 100,
        mtime: NOW,
    })
}

pub fn node(kind: Kind) -> Box<Node> {
    let attributes = Attributes {
        mode: Some(0o644),
        uid: Some(1),
        gid: Some(2),
        mtime: Some(NOW),
        ..Attributes::default()
    };
    Box::new(Node {
        kind,
        origin: None,
        attributes,
        links: 1,
        opaque: false,
        device: 0x103,
        target: Vec::new(),
        reached: Vec::new(),
        known: Attributes::default(),
        known_size: 0,
        place: None,
    })
}

pub fn named(directory: NodeId, name: &str, to: Option<Name>) -> Change {
    Change::Name {
        directory,
        name: name.into(),
        to,
        replaces: false,
        since: None,
    }
}

/// The store as it lies on disk, beside files of others that nothing may touch.
pub struct Good {
    base: TempDir,
    pub store: PathBuf,
    /// What others have. Links in hostile stores lead here.
    pub canary: PathBuf,
    pub files: Vec<(PathBuf, Vec<u8>)>,
    pub ids: Vec<NodeId>,
    pub state: encode::State,
    cookie: Option<(PathBuf, Vec<u8>)>,
}

impl Good {
    /// In memory if the machine has a place for that: thousands of barriers need no disk.
    pub fn new() -> Self {
        let fast = Path::new("/dev/shm");
        let mut named = tempfile::Builder::new();
        let named = named.prefix("mmfs-hostile-");
        let base = named.tempdir_in(fast).or_else(|_| named.tempdir());
        let base = base.expect("a temporary directory");
        let (store, canary) = (base.path().join("store"), base.path().join("canary"));
        for directory in [&store, &canary, &canary.join("directory")] {
            let made = fs::DirBuilder::new().mode(0o700).create(directory);
            made.expect("a directory");
        }
        fs::write(canary.join("file"), vec![b'c'; 5000]).expect("a file of others");
        fs::write(canary.join("directory/inner"), b"inner").expect("a file of others");
        let ids = fill(&store);
        let mut files = Vec::new();
        collect(&store, Path::new(""), &mut files);
        let state = file_of(&files, "state").to_vec();
        let mut good = Self {
            base,
            store,
            canary,
            files,
            ids,
            state: encode::State::parse(&state),
            cookie: None,
        };
        let uuid: String = good.state.uuid.map(|byte| format!("{byte:02x}")).concat();
        let cookies = match rustix::process::geteuid().is_root() {
            true => Some(PathBuf::from("/run/mmfs")),
            false => std::env::var_os("XDG_RUNTIME_DIR").map(|at| PathBuf::from(at).join("mmfs")),
        };
        good.cookie = cookies.and_then(|at| {
            let bytes = fs::read(at.join(&uuid)).ok()?;
            Some((at.join(uuid), bytes))
        });
        good
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.store.join(name)
    }

    /// The bytes of a file as it was.
    pub fn file(&self, name: &str) -> &[u8] {
        file_of(&self.files, name)
    }

    /// The names of the tables, the newest first.
    pub fn tables(&self) -> Vec<String> {
        let name = |number: &u64| format!("tables/{number:x}");
        self.state.tables.iter().map(name).collect()
    }

    /// The name of the tail.
    pub fn tail(&self) -> String {
        format!("tails/{:x}", self.state.tail)
    }

    /// Puts everything back.
    pub fn restore(&self) {
        clear(&self.store, Path::new(""));
        for (path, bytes) in &self.files {
            fs::write(self.store.join(path), bytes).expect("the store is written");
        }
        if let Some((path, bytes)) = &self.cookie {
            fs::write(path, bytes).expect("the cookie is written");
        }
    }

    /// All that lies outside of the store.
    pub fn outside(&self) -> Vec<String> {
        let mut all: Vec<String> = fs::read_dir(self.base.path())
            .expect("the base is listed")
            .map(|entry| format!("{:?}", entry.expect("an entry").file_name()))
            .collect();
        let mut waiting = vec![self.canary.clone()];
        while let Some(path) = waiting.pop() {
            let meta = fs::symlink_metadata(&path).expect("what others have");
            let text = if meta.is_dir() {
                let entries = fs::read_dir(&path).expect("the directory is listed");
                waiting.extend(entries.map(|entry| entry.expect("an entry").path()));
                String::new()
            } else {
                format!("{:?}", fs::read(&path).map(|bytes| crc32fast::hash(&bytes)))
            };
            let (time, mode) = (meta.mtime_nsec(), meta.mode());
            all.push(format!("{path:?} {mode:o} {time} {text}"));
        }
        all.sort();
        all
    }
}

impl Drop for Good {
    fn drop(&mut self) {
        // A case that was not closed leaves it.
        if let Some((path, _)) = &self.cookie {
            let _ = fs::remove_file(path);
        }
    }
}

fn file_of<'a>(files: &'a [(PathBuf, Vec<u8>)], name: &str) -> &'a [u8] {
    let found = files.iter().find(|(path, _)| path == Path::new(name));
    &found.unwrap_or_else(|| panic!("the store has {name}")).1
}

/// The directories that a store has.
fn is_directory(path: &Path) -> bool {
    let known = ["", "tables", "tails", "data"].map(Path::new);
    known.contains(&path) || path.parent() == Some(Path::new("data"))
}

fn collect(store: &Path, at: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(store.join(at)).expect("the store is listed") {
        let path = at.join(entry.expect("an entry").file_name());
        if is_directory(&path) {
            collect(store, &path, files);
        } else {
            let bytes = fs::read(store.join(&path)).expect("the store is read");
            files.push((path, bytes));
        }
    }
}

/// Leaves the directories of a store, and nothing in them.
fn clear(store: &Path, at: &Path) {
    for entry in fs::read_dir(store.join(at)).expect("the store is listed") {
        let path = at.join(entry.expect("an entry").file_name());
        let full = store.join(&path);
        let kind = fs::symlink_metadata(&full).expect("what is listed");
        if kind.is_dir() && is_directory(&path) && names_of_data(&path) {
            clear(store, &path);
        } else if kind.is_dir() {
            fs::remove_dir_all(&full).expect("the directory goes");
        } else {
            fs::remove_file(&full).expect("the file goes");
        }
    }
    if at == Path::new("") {
        let data = (0..256).map(|number| format!("data/{number:02x}"));
        for name in ["tables", "tails", "data"]
            .map(String::from)
            .into_iter()
            .chain(data)
        {
            match fs::create_dir(store.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    panic!("{error}")
                }
                _ => {}
            }
        }
    }
}

fn names_of_data(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    path.parent() != Some(Path::new("data")) || name.len() == 2
}

/// Nodes of all kinds, three tables, and a tail with records of both classes. The store ends as after a kill.
fn fill(path: &Path) -> Vec<NodeId> {
    let base = Base {
        path: "/some/where".into(),
        filesystem: "1234".into(),
        root: 2,
        born: Some(NOW),
    };
    make(&Directory::open(path).expect("a directory"), &base).expect("a store");
    let (opened, _) = Store::open_directory(path, false).expect("the store opens");
    let store = opened.store;
    let ids: Vec<_> = (0..12).map(|_| store.new_number()).collect();
    tree(&store, &ids);
    for number in 0..300 {
        let id = store.new_number();
        let name = format!("{number}-{}", "n".repeat(40));
        let changes = vec![
            Change::Make(id, node(Kind::File)),
            named(ids[0], &name, Some(Name::Node(id))),
        ];
        store.change(changes).expect("a file");
    }
    store.barrier().expect("a barrier");
    bytes(&store, &ids, 0);
    for number in 0..40 {
        let hidden = format!("hidden-{number}-{}", "h".repeat(40));
        let change = named(ids[0], &hidden, Some(Name::Hidden));
        store.change(vec![change]).expect("a hidden name");
    }
    store.barrier().expect("a barrier");
    store.change(vec![Change::Links(ids[2], 1)]).expect("links");
    store.barrier().expect("a barrier");
    bytes(&store, &ids, 1);
    tail(&store, &ids);
    // A view has a keeper: what it removes is gone before the end.
    drop(Keeper::start(&std::sync::Arc::new(store), true).expect("a thread"));
    ids
}

fn tree(store: &Store, ids: &[NodeId]) {
    let with = |change: &dyn Fn(&mut Node), kind| {
        let mut node = node(kind);
        change(&mut node);
        node
    };
    let origin = |number: u64| Origin {
        filesystem: 1,
        number,
        identity: b"a handle".to_vec(),
    };
    let kinds = [
        with(&|_| {}, Kind::Directory),
        with(&|node| node.opaque = true, Kind::Directory),
        with(&|_| {}, Kind::File),
        with(&|node| node.origin = Some(origin(3)), Kind::File),
        with(&|node| node.target = b"target".to_vec(), Kind::Symlink),
        with(&|_| {}, Kind::Fifo),
        with(&|_| {}, Kind::CharDevice),
        with(&|_| {}, Kind::BlockDevice),
        with(&|_| {}, Kind::Socket),
        with(&|node| node.origin = Some(origin(9)), Kind::Directory),
        with(&|node| node.origin = Some(origin(10)), Kind::File),
        with(&|_| {}, Kind::File),
    ];
    let mut changes = vec![Change::Filesystem(1, b"an identity".to_vec())];
    for (number, (id, node)) in ids.iter().zip(kinds).enumerate() {
        changes.push(Change::Make(*id, node));
        if number > 0 {
            let parent = if number > 8 { ids[1] } else { ids[0] };
            changes.push(named(parent, &format!("n{number}"), Some(Name::Node(*id))));
        }
    }
    changes.push(named(ids[9], "second", Some(Name::Node(ids[2]))));
    let large = Xattr::Set(vec![b'x'; 65536]);
    for (name, value) in [
        ("user.set", Xattr::Set(b"value".to_vec())),
        ("user.hidden", Xattr::Hidden),
        ("user.large", large),
    ] {
        changes.push(Change::Xattr(ids[3], name.into(), Some(value)));
    }
    store.change(changes).expect("the tree");
    let orphan = vec![named(ids[1], "n11", None), Change::Orphan(ids[11], true)];
    store.change(orphan).expect("an orphan");
}

/// A whole file, one with a page map, one that became whole.
fn bytes(store: &Store, ids: &[NodeId], turn: u8) {
    let text = [b'a' + turn; 6000];
    let at = u64::from(turn) * 9000;
    let write = |id, at, source| store.write(id, at, &text, source, NOW, &mut sevens);
    write(ids[2], at, None).expect("a write");
    write(ids[3], at, source(100)).expect("a write");
    write(ids[3], at + 150_000, source(100)).expect("a write");
    write(ids[11], at, None).expect("a write");
    let hole = 200_000 + at..230_000 + at;
    let punched = store.punch(ids[3], hole, source(100), NOW, &mut sevens);
    punched.expect("a hole");
    write(ids[10], at, source(10)).expect("a write");
    let whole = store.make_whole(ids[10], source(10), NOW, &mut sevens);
    whole.expect("a whole file");
}

fn tail(store: &Store, ids: &[NodeId]) {
    store.sync(ids[2], false).expect("a sync");
    store.truncate(ids[2], 3000, None, NOW).expect("a cut");
    store
        .truncate(ids[10], 0, None, NOW)
        .expect("a cut to nothing");
    store
        .write(ids[10], 5, b"new", None, NOW, &mut sevens)
        .expect("a write");
    store.sync_names().expect("a sync");
    let renamed = vec![
        named(ids[0], "n2", Some(Name::Hidden)),
        named(ids[0], "renamed", Some(Name::Node(ids[2]))),
        Change::Attributes(
            ids[3],
            Attributes {
                mode: Some(0o600),
                ..Attributes::default()
            },
        ),
        Change::Xattr(ids[3], b"user.set".to_vec(), None),
    ];
    store.change(renamed).expect("a rename");
    store
        .write(ids[3], 40_000, b"not synced", source(100), NOW, &mut sevens)
        .expect("a write");
    store
        .change(vec![Change::Opaque(ids[9], true)])
        .expect("a change");
}
