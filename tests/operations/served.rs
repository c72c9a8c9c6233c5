//! A view in memory, served.

use std::ffi::{OsStr, OsString};
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use mmfs::actor::Actor;
use mmfs::cache::Kernel;
use mmfs::chores::Chores;
use mmfs::config::{Access, Config, LogConfig, MountFlags, WritePath};
use mmfs::fs::{Entry, Fs, Opened, Writing};
use mmfs::inode::ROOT;
use mmfs::sys::identity::Caller;
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use crate::inodes::{self, Body, Ino, Inode};
use crate::memory::Memory;

/// The operations, and the view that they are served from.
pub struct Served {
    fs: Arc<Fs<Memory>>,
    pub memory: Memory,
    /// Where a view leaves what is to be done later.
    pub chores: Chores,
}

/// What the kernel was told, with the node.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    DropPages(u64),
    ExpireAttributes(u64),
    /// Bytes of a page, in this range.
    Replace(u64, Range<u64>),
}

struct Recorder(Sender<Told>);

impl Kernel for Recorder {
    fn drop_pages(&self, node: u64) {
        // The test may have ended.
        let _ = self.0.send(Told::DropPages(node));
    }

    fn replace(&self, node: u64, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        let _ = self.0.send(Told::Replace(node, offset..end));
    }

    fn expire_attributes(&self, node: u64) {
        let _ = self.0.send(Told::ExpireAttributes(node));
    }

    fn drop_name(&self, _: u64, _: &[u8]) {}
}

impl Deref for Served {
    type Target = Fs<Memory>;

    fn deref(&self) -> &Fs<Memory> {
        &self.fs
    }
}

/// Serves an empty root, as `mmfs` does without options; names and attributes are believed for a minute.
pub fn serve() -> Served {
    serve_with(|_| {})
}

/// As `serve`, with changes to the configuration.
pub fn serve_with(change: impl FnOnce(&mut Config)) -> Served {
    let mut config = config();
    change(&mut config);
    let mut opened = None;
    let fs = Fs::new(&config, |reporter| {
        let chores = reporter.chores.clone();
        let (memory, nodes) = Memory::new(reporter);
        opened = Some((memory.clone(), chores));
        Ok((memory, nodes))
    });
    let fs = fs.expect("memory opens");
    let (memory, chores) = opened.expect("it was opened");
    Served { fs, memory, chores }
}

fn config() -> Config {
    Config {
        store: None,
        source: "/nowhere".into(),
        mount_point: "/nowhere".into(),
        foreground: true,
        access: Access::default(),
        auto_unmount: false,
        threads: 1,
        window_size: 1 << 20,
        map_budget: None,
        write_path: WritePath::default(),
        sync_on_close: false,
        attr_timeout: Duration::from_secs(60),
        entry_timeout: Duration::from_secs(60),
        direct_io: false,
        passthrough: false,
        flags: MountFlags::default(),
        fsname: OsString::from("memory"),
        subtype: OsString::from("mmfs"),
        log: LogConfig::default(),
        pid_file: None,
    }
}

impl Served {
    /// Begins the session, and returns the notifications to the kernel from then on.
    pub fn begin(&self) -> Receiver<Told> {
        let (sender, told) = channel();
        self.fs.begin(Recorder(sender)).expect("threads start");
        told
    }

    /// Puts an inode into the root, without a word to the operations.
    pub fn put(&self, name: &str, body: Body) -> Ino {
        self.put_into(inodes::ROOT, name, body)
    }

    /// As `put`, into another directory.
    pub fn put_into(&self, dir: Ino, name: &str, body: Body) -> Ino {
        let inode = Inode::new(body, 0o644);
        let made = self
            .memory
            .behind(|inodes| inodes.make((dir, name.as_bytes()), inode));
        made.expect("the name is free")
    }

    /// Puts a file into the root, looks it up once, and returns its node.
    pub fn file(&self, name: &str, bytes: &[u8]) -> u64 {
        self.put(name, Body::File(bytes.to_vec()));
        self.look(name)
    }

    /// As `file`, with an empty directory.
    pub fn directory(&self, name: &str) -> u64 {
        self.put(name, Body::directory());
        self.look(name)
    }

    /// Puts a file into the root and looks it up once.
    pub fn lookup_of(&self, name: &str, bytes: &[u8]) -> Entry {
        self.put(name, Body::File(bytes.to_vec()));
        self.lookup(&USER, ROOT, OsStr::new(name))
            .expect("it is there")
    }

    /// Removes a name from the root, without a word to the operations.
    pub fn remove_behind(&self, name: &str) {
        let at = (inodes::ROOT, name.as_bytes());
        let removed = self.memory.behind(|inodes| inodes.remove(at, false));
        assert_eq!(removed, Ok(()));
    }

    /// Looks a name in the root up.
    pub fn look(&self, name: &str) -> u64 {
        let entry = self.lookup(&USER, ROOT, OsStr::new(name));
        entry.expect("it is there").attr.ino
    }

    /// Opens a directory and returns its handle, and whether the kernel's memory of its last listing is true.
    pub fn opendir(&self, node: u64) -> Result<(u64, bool)> {
        self.fs.opendir(node, OFlags::RDONLY)
    }

    /// Opens a file as an ordinary user and returns its handle.
    pub fn handle(&self, node: u64, flags: OFlags) -> u64 {
        self.opened(node, flags).fh
    }

    /// As `handle`, with all notifications to the kernel.
    pub fn opened(&self, node: u64, flags: OFlags) -> Opened<<Memory as mmfs::view::View>::Open> {
        self.open(&USER, node, flags).expect("it opens")
    }

    /// The bytes of an open file, from its beginning.
    pub fn bytes(&self, fh: u64) -> Result<Vec<u8>> {
        self.read(fh, 0, 1 << 20, OFlags::empty(), |lent| {
            lent.map(<[u8]>::to_vec)
        })
    }

    /// The names in a directory that is open, without those of itself and its parent.
    pub fn names(&self, fh: u64) -> Vec<String> {
        let mut names = Vec::new();
        let listed = self.readdir(fh, 0, |entry| {
            names.push(entry.name.to_str().expect("in UTF-8").to_owned());
            true
        });
        listed.expect("it can be listed");
        names.split_off(2)
    }

    /// Fails unless exactly `count` lookups of a node are counted; takes them all back.
    #[track_caller]
    pub fn assert_lookups(&self, node: u64, count: u64) {
        self.forget(node, count - 1);
        assert!(
            self.memory.nodes().get(node).is_ok(),
            "fewer than {count} lookups are counted"
        );
        self.forget(node, 1);
        assert_eq!(
            self.memory.nodes().get(node),
            Err(Errno::STALE),
            "more than {count} lookups are counted"
        );
    }

    /// Changes a file behind the operations.
    pub fn change_behind(&self, node: u64) {
        let ino = self.memory.nodes().get(node).expect("it is remembered");
        let written = self.memory.behind(|inodes| inodes.write(ino, 0, b"behind"));
        assert_eq!(written, Ok(6));
    }
}

/// Root, who keeps suid and sgid bits and sees all extended attributes.
pub const ADMIN: Actor = actor(0);
/// Anybody else.
pub const USER: Actor = actor(1000);

const fn actor(id: u32) -> Actor {
    Actor {
        caller: Caller { uid: id, gid: id },
        pid: id + 1,
    }
}

/// A write through write(2) to a descriptor with no flags, which leaves suid and sgid bits.
pub const PLAIN: Writing = Writing {
    flags: OFlags::empty(),
    from_mapping: false,
    drop_setid: false,
};

/// A name.
pub fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}
